"""What of a model is explained: how well an image fits metadata, or a probe's log-odds of a class.

Axis names: n = images, d = width of the image embeddings, p = width of the projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from slimp.data.batches import LevelBatch
from slimp.data.cohort import Cohort
from slimp.data.encoding import Rows
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError
from slimp.evaluation.logistic import LinearProbe
from slimp.features.encode import as_model_reads, encode_table, table_read
from slimp.models.nested import Slimp


@dataclass(frozen=True, kw_only=True)
class Match:
    """Cosine of projected images with the projected metadata of their own lesion or patient.

    It is what pre-training makes large (method section of SLIMP, the pairs of InfoNCE), for one
    image at a time: each stands for its lesion alone.
    """

    model: Slimp
    level: LevelName
    rows: dict[LevelName, Rows]
    """Metadata of each image at this level and the finer ones that the model has."""

    def __len__(self) -> int:
        return len(self.rows[self.level])

    def __call__(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The cosine of each image, in the order of `rows`."""
        alone = torch.arange(len(embeddings), device=embeddings.device)
        levels = [
            LevelBatch(name=name, rows=rows, groups=None, parent=alone, count=len(alone))
            for name, rows in self.rows.items()
        ]
        encoded = {name: self.model.encode_rows(name, rows) for name, rows in self.rows.items()}
        pairs = self.model.climb(embeddings, levels, lambda level, _: encoded[level.name])
        pair = next(pair for pair in pairs if pair.name == self.level)
        return F.cosine_similarity(pair.anchor, pair.target, dim=-1)

    def __getitem__(self, index: Int[Tensor, " m"]) -> Match:
        device = next(self.model.parameters()).device
        rows = {name: rows[index].to(device) for name, rows in self.rows.items()}
        return replace(self, rows=rows)

    def with_rows(self, rows: Rows) -> Match:
        """The same images with other metadata at the level."""
        return replace(self, rows={**self.rows, self.level: rows})


@dataclass(frozen=True, kw_only=True, eq=False)
class LogOdds:
    """The part of a linear probe's log-odds of a class, against the mean class, that images move.

    A probe is linear in its columns, so metadata beside the image shift every map's score, and no
    map.
    """

    slope: Float[Tensor, "*n d"]
    """Of all images, or of each."""

    @classmethod
    def of(cls, probe: LinearProbe, label: str | Sequence[str]) -> LogOdds:
        """Of a fitted probe and one of its classes, or one for each image.

        Raises:
            UserError: no such class, or the probe reads no image, or more than one of a patient.
        """
        if compared := {"relative", "outlier"} & set(probe.blocks):
            raise UserError(
                f"the probe ('{probe.features}') compares an image with the patient's others "
                f"(block '{min(compared)}'), so no map of one image explains it. Make one with: "
                "slimp probe --features full."
            )
        labels = [label] if isinstance(label, str) else label
        if unknown := set(labels) - set(probe.classes):
            raise UserError(
                f"no class '{min(unknown)}' in the probe: {', '.join(probe.classes)}. Pass one of "
                "them as --label."
            )
        at = [probe.classes.index(name) for name in labels]
        start = 0
        for name, width in probe.blocks.items():
            if name == "image":
                coef = probe.coef[:, start : start + width] / probe.scale[start : start + width]
                slope = coef[at[0] if isinstance(label, str) else at] - coef.mean(axis=0)
                return cls(slope=torch.from_numpy(slope.astype(np.float32)))
            start += width
        raise UserError(f"the probe ('{probe.features}') reads no image features.")

    def __call__(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The log-odds of each image, up to a constant."""
        return (embeddings * self.slope.to(embeddings)).sum(dim=-1)

    def __getitem__(self, index: Int[Tensor, " m"]) -> LogOdds:
        """The same for some of the images."""
        return self if self.slope.ndim == 1 else replace(self, slope=self.slope[index])


def match_of(
    model: Slimp,
    cohort: Cohort,
    images: Sequence[int],
    level: LevelName | None = None,
    *,
    column: str | None = None,
) -> Match:
    """The match of images of a cohort with the metadata of one level.

    Args:
        model: a pre-trained model.
        cohort: with the metadata.
        images: rows of `cohort.images`.
        level: None: the finest whose pairs the model was trained on, and which reads `column`.
        column: one that the match must read; a level reads its own columns and those of finer ones.

    Raises:
        UserError: the model has no trained pairs at this level, or the level does not read the
            column, or the cohort has no metadata.
    """
    cohort = as_model_reads(model, cohort)
    encodings, weights = model.encodings_of(cohort), model.config.weights
    trained = [name for name in LEVELS if name in encodings and weights[name] > 0]
    if not trained:
        raise UserError(
            f"the run was not trained to match images with metadata that '{cohort.info.name}' has. "
            "Explain a class of a probe, with --probe and --label."
        )
    if level not in (None, *trained):
        raise UserError(
            f"the run was not trained to match images with metadata of level '{level}'. "
            f"Pass --level {' or '.join(trained)}."
        )
    fit = trained
    if column is not None:
        of = {c: n for n in encodings for f in encodings[n].features for c in f.columns}[column]
        fit = [name for name in trained if LEVELS.index(name) >= LEVELS.index(of)]
        if not fit or level not in (None, *fit):
            remedy = f"Pass --level {' or '.join(fit)}" if fit else "Name a column of a finer level"
            raise UserError(
                f"column '{column}' is {of} metadata, and the match with {level or trained[-1]} "
                f"metadata does not read it. {remedy}."
            )
    name = level or fit[0]
    at = np.asarray(images)
    lesions = cohort.lesion_of_image[at]
    row_of = {"image": at, "lesion": lesions, "patient": cohort.patient_of_lesion[lesions]}
    upto = [n for n in LEVELS[: LEVELS.index(name) + 1] if n in encodings]
    whole = {n: encode_table(encodings[n], table_read(model, cohort, n)) for n in upto}
    rows = {n: whole[n][torch.from_numpy(row_of[n])] for n in upto}
    return Match(model=model, level=name, rows=rows)

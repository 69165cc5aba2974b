"""Multinomial logistic regression on blocks of features, with a penalty for each block.

An embedding of a thousand columns and a table of sixty do not bear the same penalty. So each block
is brought to one scale and has a C of its own, all chosen on training patients only: by the
log-loss of patient-disjoint folds, without class weights, which keeps the probabilities calibrated
to the class frequencies of the cohort. How a class is decided on is another matter: see `decide`.

Axis names: n = rows, d = columns, r = columns after projection, k = classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from threadpoolctl import ThreadpoolController

from slimp.data.encoding import Encoding
from slimp.data.files import new_file, read_json, write_json
from slimp.errors import CheckpointError, UserError
from slimp.evaluation.blocks import (
    TOLERANCE,
    Fit,
    Reduced,
    Search,
    encoded,
    side_by_side,
    standardise,
    start_of,
)
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.metrics import Array
from slimp.evaluation.probe_config import Decision, ProbeConfig
from slimp.features.design import Design

FORMAT = 3
"""Version of `probe.json`."""
TENSORS = ("mean", "scale", "coef", "intercept", "priors")


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe:
    """A fitted probe: a linear map of the blocks side by side, projections folded in."""

    classes: tuple[str, ...]
    features: str = ""
    """The feature set that it was fitted on."""
    blocks: Mapping[str, int]
    """Block -> columns, in their order; the table is last."""
    encodings: tuple[Encoding, ...] = ()
    """Of the table's levels: what was learned about the columns from the training rows."""
    mean: Float[Array, " d"]
    scale: Float[Array, " d"]
    """Standard deviation of the training rows; 1 where it is 0, and in the table."""
    coef: Float[Array, "k d"]
    intercept: Float[Array, " k"]
    priors: Float[Array, " k"]
    """Class frequencies of the training rows."""
    decision: Decision = "balanced"
    strengths: Mapping[str, float] = field(default_factory=dict)
    """Block or part of one -> scikit-learn's C, the inverse of the penalty, for columns of
    variance 1."""
    converged: bool = True
    """The fit reached its optimum."""
    blanked_copies: int = 0
    """Copies of each training row with metadata cells blanked at random."""

    def columns(self, design: Design) -> Float[Array, "n d"]:
        """The blocks of a design side by side; without a table all of its cells are missing.

        Raises:
            UserError: they are not those of the probe.
        """
        columns = side_by_side(design, self.encodings)
        widths = {name: values.shape[1] for name, values in columns.items()}
        if self.blocks and widths != dict(self.blocks):
            raise UserError(
                f"the probe was fitted on {dict(self.blocks)} columns ('{self.features}'), got "
                f"{widths}. Use the model and the feature set it was fitted with."
            )
        return np.hstack([*columns.values()])

    def predict_proba(self, x: Design | Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Probability per row and class where classes are as frequent as in training."""
        if isinstance(x, Design):
            x = self.columns(x)
        if x.shape[1] != len(self.mean):
            raise UserError(
                f"the probe was fitted on {len(self.mean)} columns ('{self.features}'), "
                f"got {x.shape[1]}. Use the model and the feature set it was fitted with."
            )
        z = standardise(x.astype(np.float64), self.mean, self.scale)
        return np.asarray(softmax(z @ self.coef.T + self.intercept, axis=1))

    def decide(self, probabilities: Float[Array, "n k"]) -> Int[Array, " n"]:
        """Class per row by the probe's rule."""
        return decide(probabilities, self.priors, self.decision)

    def save(self, folder: str | Path) -> None:
        """Writes `probe.json` and `probe.safetensors`."""
        folder = Path(folder)
        with new_file(folder / "probe.safetensors") as partial:
            tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in TENSORS}
            save_file(tensors, partial)
        content = {name: value for name, value in vars(self).items() if name not in TENSORS}
        content["encodings"] = [encoding.to_dict() for encoding in self.encodings]
        write_json(folder / "probe.json", {"format": FORMAT, **content})

    @classmethod
    def load(cls, folder: str | Path) -> LinearProbe:
        """The inverse of `save`.

        Raises:
            CheckpointError: the folder holds no probe, or a damaged one.
        """
        record, path = Path(folder) / "probe.json", Path(folder) / "probe.safetensors"
        if not record.is_file():
            raise CheckpointError(
                f"{folder}: no logistic probe here (no probe.json). Make one with: slimp probe."
            )
        content = read_json(record)
        if content.pop("format", None) != FORMAT:
            raise CheckpointError(f"{record}: written by another version. Make the probe again.")
        try:
            content["classes"] = tuple(content["classes"])
            content["encodings"] = tuple(map(Encoding.from_dict, content["encodings"]))
            tensors: dict[str, Any] = load_file(path)
            return cls(**content, **tensors)
        except Exception as error:  # safetensors raises many kinds for damaged files
            raise CheckpointError(f"{path}: missing or damaged ({error}).") from None


def decide(
    probabilities: Float[Array, "n k"], priors: Float[Array, " k"], rule: Decision
) -> Int[Array, " n"]:
    """Class per row: `likeliest`, or `balanced`: the most probable one relative to its frequency.

    Of calibrated probabilities `balanced` maximises the expected balanced accuracy, `likeliest`
    the expected accuracy. Of two classes the former decides on one from its frequency upwards.
    """
    if rule == "balanced":
        probabilities = probabilities / np.where(priors > 0, priors, 1)
    return np.asarray(probabilities.argmax(axis=1))


def fit_logistic(
    design: Design,
    y: Int[Array, " n"],
    groups: Shaped[Array, " n"],
    classes: tuple[str, ...],
    config: ProbeConfig,
    *,
    seed: int,
) -> LinearProbe:
    """The probe of these rows, a C per block chosen from `config.strengths`.

    The search begins at a C that is often good and moves each block's in turn, while the log-loss
    over out-of-fold predictions falls.

    Args:
        design: the training rows.
        y: class per row; a class without rows gets probability 0.
        groups: patient per row; the folds are disjoint in it. If no class has two patients nothing
            can be chosen, and the search ends where it begins.
        classes: name per class.
        config: strengths, folds, feature set and decision.
        seed: of the folds.
    """
    encodings = encoded(design)
    reduced = Reduced.of(side_by_side(design, encodings), projection=design.projection)
    ladder, k = tuple(sorted(config.strengths)), len(classes)
    chosen = start_of(reduced.parts, ladder)
    # Thousands of small products: threads of BLAS that wait for each other take ten times as long.
    with _threads().limit(limits=1):
        if max(len(np.unique(groups[y == c])) for c in np.unique(y)) > 1:
            fold = grouped_folds(y, groups, config.folds, seed=seed)
            search = Search(reduced, y, groups, fold, ladder=ladder, classes=k)
            chosen = search.run(chosen)
        strengths = [ladder[i] for i in chosen]
        fit = Fit(reduced.z, y, [*reduced.parts.values()], k, TOLERANCE)
        coef, intercept = fit.at(strengths)
    return LinearProbe(
        classes=classes,
        features=config.features,
        blocks=reduced.blocks,
        encodings=encodings,
        mean=reduced.mean,
        scale=reduced.scale,
        coef=reduced.expand(coef),
        intercept=intercept,
        priors=np.bincount(y, minlength=k) / len(y),
        decision=config.decision,
        strengths=dict(zip(reduced.parts, strengths, strict=True)),
        converged=fit.converged,
    )


@cache
def _threads() -> ThreadpoolController:
    """Found once: looking through all loaded libraries takes longer than many a fit."""
    return ThreadpoolController()

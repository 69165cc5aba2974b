"""Maps of the images of a cohort, their scores, and what each metadata feature contributes.

Axis names: n = images explained, y and x = rows and columns of a map's grid, t = features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from slimp.data.cohort import Cohort
from slimp.data.files import write_json
from slimp.data.images import IntArray, Pictures, centre
from slimp.data.in_order import Progress
from slimp.data.schema import LevelName
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate
from slimp.evaluation.logistic import LinearProbe
from slimp.explain.columns import (
    attended,
    counterfactuals,
    feature_names,
    feature_tables,
    left_out,
    rank_correlation,
    with_field,
)
from slimp.explain.config import ExplainConfig, Method
from slimp.explain.maps import Score, default_methods, relevance, upsampled
from slimp.explain.masks import find_masks, read_mask
from slimp.explain.scores import (
    MEASURES,
    area_scores,
    centre_map,
    deletion_and_insertion,
    estimates,
    known,
    mask_scores,
)
from slimp.explain.targets import LogOdds, Match, match_of
from slimp.features.encode import evaluating
from slimp.models.image_encoder import ImageEncoder
from slimp.models.nested import Slimp

Array = np.ndarray[Any, np.dtype[Any]]
IDS = ("image_id", "lesion_id", "patient_id", "label")


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What `explain` found."""

    words: str
    """What was explained."""
    rows: IntArray
    """Of `cohort.images`."""
    maps: Mapping[str, Float[Array, "n y x"]]
    """By method."""
    by_image: pd.DataFrame
    """A row per image: ids, `score`, and a column `METHOD MEASURE` per figure; NaN: no mask."""
    figures: Mapping[str, Mapping[str, Estimate]]
    """Method, or `area` or `centre` -> measure -> mean over images; `minus_centre_MEASURE` are
    paired differences from the spot in the middle."""
    features: pd.DataFrame
    """A row per metadata feature: `feature known`; `fall fall_low fall_high`, the mean fall of the
    score when it is hidden; `attention ...`, its share in the attention of its row times the
    gradient; `shift ...`, how far the map moves when its value is another's; of a probe
    `permutation ...`, see `slimp.explain.probe_features`."""
    cells: pd.DataFrame
    """The same per image: `image_id feature` and a column per figure, NaN where missing."""
    masks: Mapping[str, Path] = field(default_factory=dict)
    """Image id -> file."""
    level: LevelName | None = None
    """Level whose metadata the images are matched with; None: a class of a probe is explained."""
    left_out: int = 0
    """Images of the cohort with a label that is no class of the probe."""
    beside: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Other models on the same images, see `slimp.explain.beside`."""

    def save(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Writes `maps.npz`, `metrics.json`, `config.json` and the tables into a folder."""
        ids = self.by_image["image_id"].to_numpy(dtype=str)
        arrays: dict[str, Any] = {"image_id": ids, **self.maps}
        np.savez_compressed(folder / "maps.npz", **arrays)
        self.by_image.to_csv(folder / "images.csv", index=False)
        self.features.to_csv(folder / "features.csv", index=False)
        self.cells.to_csv(folder / "rows.csv", index=False)
        if len(self.beside):
            self.beside.to_csv(folder / "beside.csv", index=False)
        found = {
            method: {name: estimate.to_dict(per_seed=False) for name, estimate in of.items()}
            for method, of in self.figures.items()
        }
        write_json(folder / "metrics.json", found)
        write_json(folder / "config.json", dict(record))


def explain(
    model: Slimp,
    cohort: Cohort,
    config: ExplainConfig | None = None,
    *,
    probe: tuple[LinearProbe, str | None] | None = None,
    masks: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Explanation:
    """Maps of images of a cohort, with their scores; the model is left as it was found.

    Args:
        model: a pre-trained model.
        cohort: whose images and metadata.
        config: methods, level, number of images.
        probe: explain its log-odds of a class, or (None) of the class that each image has; without
            a probe: the match of images with their own metadata.
        masks: folder of lesion masks; None: maps are not scored against any.
        device: where the encoders run.
        progress: called with (images done, images in all).

    Raises:
        UserError: method, masks, metadata or class do not fit the encoder, images or model.
    """
    config = config or ExplainConfig()
    files = find_masks(masks, cohort.images["image_id"].tolist()) if masks else {}
    rows, lacking = _drawn(cohort, config, files, probe)
    target, own = _targets(model, cohort, rows, config, probe)
    methods = cast("tuple[Method, ...]", config.methods) or default_methods(model.image_encoder)
    work = _Work(model, _random_twin(model, config.seed), config, methods, torch.device(device))
    others = []
    if config.shift and isinstance(target, Match) and methods[0] != "rollout":
        others = counterfactuals(target, config.seed)
    parts: list[dict[str, Any]] = []
    with evaluating(model, work.device):
        for index in np.array_split(np.arange(len(rows)), -(-len(rows) // config.batch_size)):
            pixels, inside = _images(cohort, rows[index], files, model.image_spec.size)
            pixels, at = pixels.to(work.device), torch.from_numpy(index)
            parts.append(work.of_images(pixels, inside, target[at]))
            work.compare(pixels, parts[-1], None if own is None else own[at])
            parts[-1]["shift"] = work.shifts(pixels, parts[-1], [m[at] for m, _ in others])
            if progress is not None:
                progress(int(index[-1]) + 1, len(rows))
        ids = cohort.images[[*IDS]].iloc[rows].reset_index(drop=True)
        worth = work.worth(target, parts, [c for _, c in others])
    by_image = ids.join(pd.concat([part["figures"] for part in parts], ignore_index=True))
    features, cells = feature_tables(ids, worth)
    return Explanation(
        words=_words(target, config, probe),
        rows=rows,
        maps={m: np.concatenate([part["maps"][m].numpy() for part in parts]) for m in methods},
        by_image=by_image,
        figures=_summary(by_image),
        features=features,
        cells=cells,
        masks=files,
        level=target.level if isinstance(target, Match) else None,
        left_out=lacking,
    )


@dataclass(frozen=True)
class _Work:
    """What is computed of some images at a time."""

    model: Slimp
    twin: ImageEncoder
    """The same architecture with random weights."""
    config: ExplainConfig
    methods: tuple[Method, ...]
    device: torch.device

    def of_images(
        self, pixels: UInt8[Tensor, "n 3 s s"], inside: Array, target: Match | LogOdds
    ) -> dict[str, Any]:
        encoder, size = self.model.image_encoder, pixels.shape[-1]
        with torch.no_grad():
            embeddings = encoder(pixels)
            figures = {"score": target(embeddings).cpu().numpy()}
        maps = {m: relevance(encoder, pixels, target, m) for m in self.methods}
        for m, found in maps.items():
            chance = relevance(self.twin.to(self.device), pixels, target, m)
            figures[f"{m} randomised_correlation"] = rank_correlation(found, chance)
        shown: dict[str, Tensor] = {m: upsampled(found, size) for m, found in maps.items()}
        middle = torch.from_numpy(centre_map(size)).float().to(self.device)
        shown["centre"] = middle.expand(len(pixels), -1, -1)
        scored = {name: mask_scores(x.cpu().numpy(), inside) for name, x in shown.items()}
        for name, scores in {**scored, "area": area_scores(inside)}.items():
            figures |= {f"{name} {measure}": scores[measure].to_numpy() for measure in MEASURES}
        for name, x in shown.items() if self.config.deletion else ():
            curves = deletion_and_insertion(encoder, pixels, target, x)
            figures[f"{name} deletion"], figures[f"{name} insertion"] = curves
        return {
            "maps": {m: x.cpu() for m, x in maps.items()},
            "figures": pd.DataFrame(figures),
            "embeddings": embeddings.cpu(),
        }

    def shifts(
        self, pixels: UInt8[Tensor, "n 3 s s"], part: Mapping[str, Any], others: Sequence[Score]
    ) -> Float[Array, "n t"]:
        """1 minus the rank correlation of the first method's map with each other target's."""
        method, encoder = self.methods[0], self.model.image_encoder
        own = part["maps"][method]
        found = [1 - rank_correlation(own, relevance(encoder, pixels, o, method)) for o in others]
        return np.stack(found, axis=1) if found else np.empty((len(pixels), 0))

    def compare(
        self, pixels: UInt8[Tensor, "n 3 s s"], part: dict[str, Any], own: Match | None
    ) -> None:
        """Adds the score with the images' own metadata, and how far each map is from theirs."""
        if own is None:
            return
        with torch.no_grad():
            part["figures"]["own_score"] = own(part["embeddings"].to(self.device)).cpu().numpy()
        for method in self.methods:
            theirs = relevance(self.model.image_encoder, pixels, own, method)
            shift = 1 - rank_correlation(part["maps"][method], theirs)
            part["figures"][f"{method} counterfactual_shift"] = shift

    def worth(
        self,
        target: Match | LogOdds,
        parts: Sequence[Mapping[str, Any]],
        changed: Sequence[Array],
    ) -> dict[str, pd.DataFrame]:
        """Figure -> a row per image, a column per feature; `changed` as in `counterfactuals`."""
        if not isinstance(target, Match):
            return {}
        embeddings = torch.cat([part["embeddings"] for part in parts]).to(self.device)
        match = target[torch.arange(len(embeddings))]
        found = {"fall": left_out(match, embeddings), "attention": attended(match, embeddings)}
        if changed:
            shift = np.concatenate([part["shift"] for part in parts])
            found["shift"] = np.where(np.stack(changed, axis=1), shift, np.nan)
        names = feature_names(match)
        return {kind: pd.DataFrame(values, columns=names) for kind, values in found.items()}


def _targets(
    model: Slimp,
    cohort: Cohort,
    rows: IntArray,
    config: ExplainConfig,
    probe: tuple[LinearProbe, str | None] | None,
) -> tuple[Match | LogOdds, Match | None]:
    """What is explained; and the match with own metadata where that is with changed ones."""
    if probe is not None:
        own = cohort.images["label"].iloc[rows].tolist()
        return LogOdds.of(probe[0], own if probe[1] is None else probe[1]), None
    if config.counterfactual is None:
        return match_of(model, cohort, rows.tolist(), config.level), None
    changed = with_field(cohort, model.encodings, config.counterfactual)
    column = config.counterfactual.partition("=")[0]
    match = match_of(model, cohort, rows.tolist(), config.level, column=column)
    return match_of(model, changed, rows.tolist(), match.level), match


def _drawn(
    cohort: Cohort,
    config: ExplainConfig,
    masks: Mapping[str, Path],
    probe: tuple[LinearProbe, str | None] | None,
) -> tuple[IntArray, int]:
    """Rows of the images to explain, in order; and how many have a class that the probe lacks."""
    classes = () if probe is None or probe[1] is not None else probe[0].classes
    labels = cohort.images["label"]
    of_probe = labels.isin([*classes]).to_numpy()
    fit = np.ones(len(cohort), dtype=bool)
    if masks:
        fit &= cohort.images["image_id"].isin(list(masks)).to_numpy()
    if classes:
        fit &= of_probe
    if not fit.any():
        raise UserError(
            f"cohort '{cohort.info.name}' has no image to explain: none has a label "
            f"of the probe ({', '.join(classes)}){' and a mask' if masks else ''}. Name one "
            "with --label."
        )
    rows = np.flatnonzero(fit)
    drawn = np.random.default_rng(config.seed).permutation(rows)[: config.images]
    return np.sort(drawn), int((labels.notna() & ~of_probe).sum()) if classes else 0


def _images(
    cohort: Cohort, rows: IntArray, masks: Mapping[str, Path], size: int
) -> tuple[UInt8[Tensor, "n 3 s s"], Array]:
    """The images as the encoder sees them, and their (n, s, s) masks, empty where there is none."""
    pictures, inside = Pictures(cohort), np.zeros((len(rows), size, size), dtype=bool)
    names, pixels = cohort.images["image_id"].iloc[rows].tolist(), []
    for k, (row, name) in enumerate(zip(rows.tolist(), names, strict=True)):
        picture = pictures.read(row, size)
        pixels.append(centre(picture, size))
        if name in masks:
            inside[k] = read_mask(masks[name], picture.size, size)
    return torch.stack(pixels), inside


def _random_twin(model: Slimp, seed: int) -> ImageEncoder:
    """An encoder as the model's, with random weights (Adebayo et al., 2018)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = ImageEncoder(model.config).eval()
    twin.normalise_as(model.image_spec.mean, model.image_spec.std)
    return twin


def _words(
    target: Match | LogOdds, config: ExplainConfig, probe: tuple[LinearProbe, str | None] | None
) -> str:
    if isinstance(target, Match):
        whose = f"the {target.level} metadata of its own {target.level}"
        changed = f", changed to {config.counterfactual}" if config.counterfactual else ""
        return f"cosine of each image with {whose}{changed}"
    label = probe[1] if probe else None
    what = "the class of each image" if label is None else label
    return f"the image's part of a probe's log-odds of {what}, up to a constant"


def _summary(by_image: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """Means over images of every figure, and of the differences from the spot in the middle."""
    figures = {str(c): by_image[c].to_numpy(float) for c in by_image if " " in str(c)}
    for name, values in dict(figures).items():
        method, measure = name.split(" ")
        if method not in ("centre", "area") and f"centre {measure}" in figures:
            figures[f"{method} minus_centre_{measure}"] = values - figures[f"centre {measure}"]
    out: dict[str, dict[str, Estimate]] = {name.split(" ")[0]: {} for name in figures}
    for name, estimate in estimates(known(figures), by_image["patient_id"].to_numpy()).items():
        method, measure = name.split(" ")
        out.setdefault(method, {})[measure] = estimate
    return out

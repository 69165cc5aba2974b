"""The page of an explanation: figures with their baselines, features, and maps over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from PIL import Image

from slimp.checks.report import cautions
from slimp.data.cohort import Cohort
from slimp.data.images import Pictures, centre
from slimp.evaluation.bootstrap import FEWEST_PATIENTS, Estimate
from slimp.explain import columns
from slimp.explain.explain import Explanation
from slimp.explain.maps import shaded, upsampled
from slimp.explain.masks import read_mask
from slimp.report.examples import data_uri
from slimp.report.html import DASH, percent, write_page

UNTOLD = f"cannot be told from fewer than {FEWEST_PATIENTS} patients"
SHOWN = 24
"""Images with their maps, at most one per patient."""
SIDE = 144
"""Of a shown image, px."""
MEASURES = {
    "mass_ratio": "Mass in the lesion ÷ its area",
    "rank_accuracy": "Rank accuracy",
    "pointing_game": "Pointing game",
    "auroc": "AUROC against the mask",
    "deletion": "Deletion",
    "insertion": "Insertion",
    "randomised_correlation": "Correlation with random weights",
    "counterfactual_shift": "Shift from the map for own metadata",
}
BESIDE_MEASURES = {
    "balanced_accuracy": "Balanced accuracy of the probe",
    **{name: words for name, words in MEASURES.items() if name not in ("deletion", "insertion")},
    "minus_centre_mass_ratio": "Mass in the lesion ÷ its area, less the centre's",
    "minus_centre_auroc": "AUROC against the mask, less the centre's",
}
BESIDE_HEADS = ("Figure", "Map", "Model", "#Mean", "#First model less this one")
SHORT = ("mass_ratio", "minus_centre_mass_ratio")
SHORT_HEADS = (
    *("Model", "Map", "#Balanced accuracy of the probe", "#Mass in the lesion ÷ its area"),
    *("#Less the centre's", "#First model less this one"),
)
FEATURE_HEADS = {
    "fall": "Fall of the score when hidden",
    "attention": "Share of attention times gradient",
    "shift": "Shift of the map when changed",
    "permutation": "Fall of balanced accuracy when permuted",
}
FEATURE_WORDS = {
    "fall": "Fall: how much the score falls when the feature is hidden.",
    "attention": "Share: of the attention over the row's tokens, times its gradient; shares of a "
    "row add up to 1.",
    "shift": "Shift: 1 minus the rank correlation of the map with that for another image's value "
    "of the feature; 0 where the map stays.",
    "permutation": "Permuted: the probe's balanced accuracy, less that when the patients it was "
    "tested on swap the feature; image: the features of the image, as one.",
}


def write_explanation_report(
    target: Path,
    found: Explanation,
    cohort: Cohort,
    *,
    warnings: Sequence[str] = (),
    images: bool = True,
    command: str = "",
    date: datetime | None = None,
) -> Path:
    """Writes the page: one HTML file that needs nothing else."""
    measures = [m for m in MEASURES if any(m in of for of in found.figures.values())]
    return write_page(
        target,
        "explanation.html.j2",
        title=f"{cohort.info.name}: {found.words}, explained",
        lead=verdict(found),
        cautions=[*cautions(cohort), *warnings],
        command=command,
        date=date,
        heads=["Map", *(f"#{MEASURES[m]}" for m in measures)],
        figures=[
            [method, *(of.get(m, np.nan) for m in measures)] for method, of in found.figures.items()
        ],
        feature_heads=feature_heads(found),
        features=feature_rows(found),
        beside_heads=BESIDE_HEADS,
        beside=beside_rows(found.beside),
        short_heads=SHORT_HEADS,
        short=short_rows(found.beside),
        movement=movement(found),
        feature_words=" ".join(
            FEATURE_WORDS[kind] for kind in FEATURE_WORDS if kind in found.features
        ),
        cases=_cases(found, cohort) if images else [],
        methods=list(found.maps),
        n=len(found.rows),
        patients=found.by_image["patient_id"].nunique(),
        unit=cohort.unit,
        masks=len(found.masks),
    )


def verdict(found: Explanation) -> str:
    """Whether each map finds lesions better than a spot in the middle does, a sentence each."""
    if all("mass_ratio" not in found.figures[method] for method in found.maps):
        return "No lesion masks were given, so nothing says whether the maps show the lesion."
    said = " ".join(_verdict(method, found.figures[method]) for method in found.maps)
    if empty := int(found.by_image["area mass_ratio"].isna().sum()):
        said += f" {empty} of the {len(found.rows)} masks are empty, or full, and say nothing."
    return said


def feature_heads(found: Explanation) -> list[str]:
    """Of the table of `feature_rows`."""
    kinds = (f"#{FEATURE_HEADS[kind]}" for kind in FEATURE_HEADS if kind in found.features)
    return ["Feature", "#Known", *kinds]


def feature_rows(found: Explanation) -> list[list[Any]]:
    """What each metadata feature is worth, with intervals."""
    kinds = [kind for kind in FEATURE_HEADS if kind in found.features]
    return [
        [
            row["feature"],
            DASH if np.isnan(row["known"]) else percent(row["known"]),
            *(_interval(row, kind) for kind in kinds),
        ]
        for row in found.features.to_dict("records")
    ]


def beside_rows(table: pd.DataFrame) -> list[list[Any]]:
    """The rows of `Explanation.beside`, figure by figure, for a table with `BESIDE_HEADS`."""
    if table.empty:
        return []
    order = list(BESIDE_MEASURES)
    table = table[table["figure"].isin(order)]
    table = table.sort_values("figure", key=lambda f: f.map(order.index), kind="stable")
    return [
        [BESIDE_MEASURES[row["figure"]], row["map"] or DASH, row["model"]]
        + [_interval(row, kind) for kind in ("mean", "difference")]
        for row in table.to_dict("records")
    ]


def short_rows(table: pd.DataFrame) -> list[list[Any]]:
    """A row per model and map, for a table with `SHORT_HEADS`."""
    if table.empty:
        return []
    at = {
        (r["model"], r["map"], r["figure"]): r for r in table.fillna({"map": ""}).to_dict("records")
    }
    pairs = dict.fromkeys((model, name) for model, name, _ in at if name)
    return [
        [model, name, _interval(at[model, "", "balanced_accuracy"], "mean")]
        + [_interval(at[model, name, figure], "mean") for figure in SHORT]
        + [_interval(at[model, name, SHORT[0]], "difference")]
        for model, name in pairs
    ]


def movement(found: Explanation) -> str:
    """Whether the map moves with the features that matter, in a sentence; empty if not measured."""
    moved = columns.movement(found.features, found.cells, found.by_image)
    if not moved:
        return ""
    fall = found.features["fall_low"]
    n, others = int((fall > 0).sum()), int((fall <= 0).sum())
    low, high = moved["difference"].ci95
    if np.isnan(low):
        return f"Whether the map moves with the features that matter {UNTOLD}."
    moves = "moves more" if low > 0 else "moves less" if high < 0 else "does not clearly move more"
    relevant, other, difference = (moved[k].mean for k in ("relevant", "other", "difference"))
    return (
        f"The map {moves} when a feature changes that the score rests on than when another does: "
        f"{relevant:.3f} for these (number: {n}), {other:.3f} for the others (number: "
        f"{others}), difference {difference:+.3f} "
        f"(95 % interval {low:+.3f} to {high:+.3f})."
    )


def _verdict(method: str, of: Mapping[str, Estimate]) -> str:
    difference = of["minus_centre_mass_ratio"]
    low, high = difference.ci95
    against = f"{difference.mean:+.2f} (95 % interval {low:+.2f} to {high:+.2f})"
    ratio = of["mass_ratio"].mean
    found = (
        f"Maps by {method} put {ratio:.2f} times as much into the lesion as its area alone would"
    )
    if np.isnan(low):
        return f"{found}. Whether that is more than a spot in the middle {UNTOLD}."
    if low > 0:
        return f"{found}, more than a spot in the middle: {against}."
    if high < 0:
        return f"{found}, less than a spot in the middle: {against}."
    return f"{found}, which cannot be told from a spot in the middle: {against}."


def overlay(picture: Image.Image, relevance: Float[np.ndarray[Any, Any], "s s"]) -> Image.Image:
    """A map over its image."""
    shade = shaded(relevance)
    return Image.composite(shade.convert("RGB"), picture, shade.getchannel("A"))


def outlined(picture: Image.Image, inside: Bool[np.ndarray[Any, Any], "s s"]) -> Image.Image:
    """The image with the rim of its mask drawn in white and black."""
    pixels = np.asarray(picture).copy()
    near = [np.roll(inside, shift, axis) for axis in (0, 1) for shift in (-1, 1)]
    inner = inside & ~np.logical_and.reduce(near)
    pixels[np.logical_or.reduce(near) & ~inside] = 0
    pixels[inner] = 255
    return Image.fromarray(pixels)


def _cases(found: Explanation, cohort: Cohort) -> list[dict[str, Any]]:
    first = found.by_image.drop_duplicates("patient_id").index[:SHOWN]
    pictures, cases = Pictures(cohort), []
    for k in first.tolist():
        row, name = int(found.rows[k]), str(found.by_image["image_id"].iloc[k])
        whole = pictures.read(row, SIDE)
        picture = Image.fromarray(centre(whole, SIDE).permute(1, 2, 0).numpy())
        plain = picture
        if name in found.masks:
            plain = outlined(picture, read_mask(found.masks[name], whole.size, SIDE))
        maps = [torch.from_numpy(of[k : k + 1]) for of in found.maps.values()]
        shown = [plain, *(overlay(picture, upsampled(m, SIDE)[0].numpy()) for m in maps)]
        score = float(found.by_image["score"].iloc[k])
        cases.append(
            {"id": name, "score": score, "images": [data_uri(image, quality=85) for image in shown]}
        )
    return cases


def _interval(row: dict[Any, Any], kind: str) -> Estimate:
    of = "" if kind == "mean" else f"{kind}_"
    ends = (row[f"{of}low"], row[f"{of}high"])
    return Estimate(mean=row[kind], ci95=ends, per_seed=())

"""The page of a retrieval: whether to trust it first, then what it imputed and where it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from slimp.checks.report import cautions as audit_cautions
from slimp.data.schema import LevelName
from slimp.report.examples import thumbnail
from slimp.report.figures import neighbour_figure
from slimp.report.html import estimate, number, percent, value, write_page
from slimp.report.sections import similarity
from slimp.retrieval.abstention import NEIGHBOURS
from slimp.retrieval.agreement import Agreement, Compared
from slimp.retrieval.result import Retrieval


def write_retrieval_report(target: Path, result: Retrieval, *, command: str = "") -> Path:
    """Where the page lies: one HTML file that needs nothing else; `command` is for the footer."""
    return write_page(
        target,
        "retrieval.html.j2",
        r=result,
        title=f"Metadata of {result.target.info.name}, imputed from {result.reference.info.name}",
        lead=_lead(result),
        cautions=_cautions(result),
        similarity=similarity(result.calibration.matching),
        figures=[_neighbour_figure(result, level) for level in result.imputed],
        tables=[
            ("On the target", _agreement_rows(result.agreement), result.target.unit),
            (
                f"On {result.reference.unit} of the reference, their own metadata hidden",
                _agreement_rows(result.reference_agreement),
                result.reference.unit,
            ),
        ],
        bins=[
            (
                part["level"],
                f"{number(part['low'])} to {number(part['high'])}",
                *(part["n"], part["agreement"]),
            )
            for part in result.bins
        ],
        groups=[tuple(group.values()) for group in result.groups],
        neighbours=NEIGHBOURS,
        truth=bool(result.compared),
        cases=[_shown(result, *case) for case in result.cases],
        command=command,
    )


def _lead(result: Retrieval) -> str:
    """What is retrieved better than by chance, shift, and abstention, before anything else."""
    route = "image → lesion → patient" if result.config.route == "ilp" else "image → image"
    return (
        f"{_skill(result)}{result.verdict} {' and '.join(result.imputed).capitalize()} metadata of "
        f"{result.lacking_images} are imputed by retrieval ({route}), not observed; "
        f"{percent(result.abstention_rate)} of these are out of distribution, and nothing is "
        f"imputed for them. {_abstention(result)}".rstrip()
    )


def _skill(result: Retrieval) -> str:
    """How many columns are retrieved better than by chance; empty if none can be compared."""
    found = result.agreement or result.reference_agreement
    if not found:
        return ""
    lows = np.array([one.beyond_chance.ci95[0] for one in found])
    where = "" if result.agreement else f" of held-out {result.reference.unit} of the reference"
    said = f"{(lows > 0).sum()} of {len(found)} columns{where} are retrieved better than by chance"
    untold = int(np.isnan(lows).sum())
    return f"{said}; of {untold} it cannot be told. " if untold else f"{said}. "


def _abstention(result: Retrieval) -> str:
    """Whether it helps to impute nothing for dissimilar images; empty if that was not measured."""
    sides: dict[str, list[str]] = {}
    for level, rho in result.rank_correlation.items():
        low, high = rho.ci95
        word = "helps" if low > 0 else "harms" if high < 0 else "makes no clear difference"
        word = "cannot be told to help" if np.isnan(low) else word
        sides.setdefault(word, []).append(level)
    if not sides:
        return ""
    answer = " and ".join(f"{w} for {' and '.join(of)} metadata" for w, of in sides.items())
    shown = ", ".join(f"{level} {estimate(x)}" for level, x in result.rank_correlation.items())
    return (
        f"Abstaining from dissimilar images {answer} (rank correlation of similarity and "
        f"agreement: {shown})."
    )


def _cautions(result: Retrieval) -> list[str]:
    found = []
    if result.shift is not None and result.shift.flagged:
        found.append(
            "The images of the target can be told from those of the reference. The figures below "
            "about the reference may not hold for this target."
        )
    found += [*result.cautions, *audit_cautions(result.reference)]
    if not result.compared:
        found.append(
            "The target has no metadata of its own to compare with, so how much of what is imputed "
            "is true cannot be measured here. Name features that mean the same with --rename, if "
            "there are any."
        )
    return found


def _agreement_rows(found: Sequence[Agreement]) -> list[tuple[Any, ...]]:
    """The columns that are retrieved best first."""
    ranked = sorted(found, key=lambda one: -np.nan_to_num(one.beyond_chance.mean, nan=-np.inf))
    return [
        (
            *(one.name, one.beyond_chance, one.n, one.n_patients, one.measure, one.headline),
            *(one.figures["chance"].mean, percent(one.unknown_to_reference)),
        )
        for one in ranked
    ]


def _shown(result: Retrieval, image: int, neighbour: int, similarity: float) -> dict[str, Any]:
    """An image beside its neighbour, as data URIs, and their values."""
    target, reference = result.target, result.reference
    return {
        "image_id": str(target.images["image_id"].iloc[image]),
        "neighbour_id": str(reference.images["image_id"].iloc[neighbour]),
        "image": thumbnail(target.read_image(image)),
        "neighbour": thumbnail(reference.read_image(neighbour)),
        "similarity": similarity,
        "rows": [_beside(one, image) for one in result.compared if pd.notna(one.truth.iloc[image])],
    }


def _beside(column: Compared, row: int) -> tuple[str, str, str, bool]:
    """(column, retrieved, true, whether they agree)."""
    given, truth = (_rounded(of.iloc[row]) for of in (column.given, column.truth))
    same = column.agrees[row]
    return column.imputed.name, value(given), value(truth), bool(np.isnan(same) or same)


def _rounded(cell: Any) -> Any:
    """A number as its three leading digits: a mean of neighbours has no more to say."""
    return float(f"{cell:.3g}") if isinstance(cell, float | np.floating) else cell


def _neighbour_figure(result: Retrieval, level: LevelName) -> Markup | None:
    calibration = result.calibration.similarity[level]
    target = result.retrieved.nearest[level]
    target, calibration = target[np.isfinite(target)], calibration[np.isfinite(calibration)]
    if not len(target) or not len(calibration):
        return None
    return neighbour_figure(level, target, calibration, result.abstention.thresholds[level])

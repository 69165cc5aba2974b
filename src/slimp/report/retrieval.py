"""The page of a retrieval: whether to trust it first, then what it lent and where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from slimp.data.files import new_file
from slimp.data.schema import LevelName
from slimp.evaluation.bootstrap import Estimate
from slimp.report.examples import thumbnail
from slimp.report.figures import loan_figure, similarity_figure
from slimp.report.page import DASH
from slimp.retrieval.abstention import NEIGHBOURS
from slimp.retrieval.agreement import Compared
from slimp.retrieval.failure_analysis import LoanCase
from slimp.retrieval.result import Retrieval
from slimp.training.run_folder import versions


@dataclass(frozen=True, kw_only=True)
class ShownCase:
    """An image beside its lender."""

    image_id: str
    lender_id: str
    image: str
    """JPEG, as a data URI."""
    lender: str
    similarity: float
    agreement: float
    rows: tuple[tuple[str, str, str, bool], ...]
    """(column, lent, true, whether they agree)."""


def write_retrieval_report(
    target: Path,
    result: Retrieval,
    *,
    command: str = "",
    date: datetime | None = None,
    images: bool = True,
) -> Path:
    """Where the page lies: one HTML file that needs nothing else.

    Args:
        target: file to write, replaced if it exists.
        result: what it tells.
        command: the line that made it, for the footer.
        date: shown in the footer; now, unless given.
        images: show images of patients. Switch it off for a page that may leave the house.
    """
    page = render_retrieval(result, command=command, date=date or datetime.now(UTC), images=images)
    with new_file(target) as partial:
        partial.write_text(page, encoding="utf-8")
    return target


def render_retrieval(result: Retrieval, *, command: str, date: datetime, images: bool) -> str:
    """The page; the same result gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("slimp", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "estimate": _estimate, "percent": _percent}
    return environment.get_template("retrieval.html.j2").render(
        r=result,
        title=f"{result.reference.info.name} lends metadata to {result.target.info.name}",
        lead=_lead(result),
        cautions=_cautions(result),
        similarities=[
            (level, found, similarity_figure(level, found))
            for level, found in result.similarity.items()
        ],
        loans=[_loan_figure(result, level) for level in result.imputed],
        tables=[
            ("On the target", result.agreement),
            (
                "On patients of the reference, their own rows hidden",
                result.reference_agreement,
            ),
        ],
        neighbours=NEIGHBOURS,
        truth=bool(result.compared),
        cases=[_shown(result, case) for case in result.cases] if images else [],
        images=images,
        command=command,
        date=date,
        versions=versions(),
    )


def _lead(result: Retrieval) -> str:
    """Shift, abstention and what was lent, before anything else."""
    return (
        f"{result.verdict} {' and '.join(result.imputed).capitalize()} metadata of "
        f"{len(result.target):,} images are lent by route "
        f"{'image → lesion → patient' if result.config.route == 'ilp' else 'image → image'}, not "
        f"known; {_percent(result.abstention_rate)} of the images are too far from every case of "
        "the reference and are lent nothing."
    )


def _cautions(result: Retrieval) -> list[str]:
    found = []
    if result.shift is not None and result.shift.flagged:
        found.append(
            "The images of the target can be told from those of the reference. Whatever stands "
            "below about the reference need not hold for this target."
        )
    found += result.cautions
    if not result.compared:
        found.append(
            "Nothing of what is lent is known for the target, so nobody can say here how much of "
            "it is true. Name features that mean the same with --rename, if there are any."
        )
    return found


def _shown(result: Retrieval, case: LoanCase) -> ShownCase:
    ids = result.target.images["image_id"], result.reference.images["image_id"]
    return ShownCase(
        image_id=str(ids[0].iloc[case.image]),
        lender_id=str(ids[1].iloc[case.lender]),
        image=thumbnail(result.target.read_image(case.image)),
        lender=thumbnail(result.reference.read_image(case.lender)),
        similarity=case.similarity,
        agreement=case.agreement,
        rows=tuple(_beside(column, case.image) for column in result.compared),
    )


def _beside(column: Compared, row: int) -> tuple[str, str, str, bool]:
    given, truth = column.given.iloc[row], column.truth.iloc[row]
    same = column.agrees[row]
    return column.imputed.name, _cell(given), _cell(truth), bool(np.isnan(same) or same)


def _loan_figure(result: Retrieval, level: LevelName) -> Markup | None:
    calibration = result.calibration_similarity[level]
    target = result.loans.levels[level].similarity[:, 0]
    target, calibration = target[np.isfinite(target)], calibration[np.isfinite(calibration)]
    if not len(target) or not len(calibration):
        return None
    return loan_figure(level, target, calibration, result.abstention.thresholds[level])


def _number(value: float | None) -> str:
    return DASH if value is None or not np.isfinite(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _estimate(found: Estimate | None) -> str:
    if found is None or not np.isfinite(found.mean):
        return DASH
    low, high = (_number(x) for x in found.ci95)
    return f"{_number(found.mean)} ({low} to {high})"  # a dash would read as a minus


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "not known"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)

"""The page of a retrieval: whether to trust it first, then what it lent and where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from markupsafe import Markup

from slimp.data.schema import LevelName
from slimp.report.examples import thumbnail
from slimp.report.figures import neighbour_figure, similarity_figure
from slimp.report.html import percent, render_page, value, write_page
from slimp.retrieval.abstention import NEIGHBOURS
from slimp.retrieval.agreement import Compared
from slimp.retrieval.failure_analysis import LoanCase
from slimp.retrieval.result import Retrieval


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
    page = render_retrieval(result, command=command, date=date, images=images)
    return write_page(target, page)


def render_retrieval(
    result: Retrieval, *, command: str, date: datetime | None, images: bool
) -> str:
    """The page; the same result gives the same bytes."""
    return render_page(
        "retrieval.html.j2",
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
    )


def _lead(result: Retrieval) -> str:
    """Shift, abstention and what was lent, before anything else."""
    return (
        f"{result.verdict} {' and '.join(result.imputed).capitalize()} metadata of "
        f"{len(result.target):,} images are lent by route "
        f"{'image → lesion → patient' if result.config.route == 'ilp' else 'image → image'}, not "
        f"known; {percent(result.abstention_rate)} of the images are too far from every case of "
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
    return column.imputed.name, value(given), value(truth), bool(np.isnan(same) or same)


def _loan_figure(result: Retrieval, level: LevelName) -> Markup | None:
    calibration = result.calibration_similarity[level]
    target = result.loans.levels[level].similarity[:, 0]
    target, calibration = target[np.isfinite(target)], calibration[np.isfinite(calibration)]
    if not len(target) or not len(calibration):
        return None
    return neighbour_figure(level, target, calibration, result.abstention.thresholds[level])

"""The page and the tables of an audit: findings first, then what they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.checks.finding import SEVERITIES, count_of
from slimp.checks.hierarchy import size_in_words
from slimp.checks.ranking import ACQUISITION, CONTENT, Ranked
from slimp.checks.report import CheckReport
from slimp.checks.subgroups import FEW
from slimp.data.cohort import Cohort
from slimp.data.files import new_folder, write_json
from slimp.evaluation.bootstrap import Estimate
from slimp.report.examples import thumbnail
from slimp.report.html import render_page
from slimp.training.run_folder import versions

MOST_PAIRS = 24
"""Pairs of duplicates on the page; all of them are in near_duplicates.csv."""
MOST_COLUMNS = 60
"""Rows of the ranking on the page; all of them are in columns.csv."""
QUANTILES = {"least": 0.0, "1 %": 0.01, "median": 0.5, "99 %": 0.99, "most": 1.0}
FACTS = {
    "width": "Width, px",
    "height": "Height, px",
    "bytes_per_pixel": "Bytes per pixel",
    "sharpness": "Sharpness (variance of the Laplacian at 128 px)",
    "brightness": "Brightness (0 to 255)",
    "spread": "Contrast (standard deviation of the grey levels)",
    "colour": "Colourfulness (0 in a grey picture)",
    "overexposed": "White pixels, share",
    "underexposed": "Black pixels, share",
    "frame": "Area in frames, share",
    "dark_corners": "Dark corners, of 4",
}
"""Columns of `CheckReport.images` -> heading."""


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """Two images that are one, or nearly."""

    pair: Any
    """A row of `CheckReport.duplicates`."""
    first: str
    """JPEG, as a data URI."""
    second: str
    caution: bool
    """Different patients, parts or labels."""


def write_audit(
    target: Path,
    report: CheckReport,
    cohort: Cohort,
    *,
    config: Mapping[str, Any],
    images: bool = True,
    overwrite: bool = False,
    command: str = "",
    date: datetime | None = None,
) -> Path:
    """Where the folder lies: a page, the tables behind it, and what they were made with.

    Args:
        target: folder to write.
        report: what was found in `cohort`.
        cohort: for the pictures of duplicates.
        config: settings of the check, for config.json.
        images: show pictures of patients. Switch it off for a page that may leave the house.
        overwrite: replace what this package wrote there before.
        command: the line that made it, for the footer.
        date: shown in the footer; now, unless given.

    Raises:
        UserError: as `storage.check_output`.
    """
    page = render_audit(report, cohort, images=images, command=command, date=date)
    with new_folder(target, overwrite=overwrite) as partial:
        (partial / "report.html").write_text(page, encoding="utf-8")
        for name, table in audit_tables(report).items():
            table.to_csv(partial / f"{name}.csv", index=False)
        report.images.drop(columns="pixels").to_parquet(partial / "images.parquet", index=False)
        write_json(partial / "metrics.json", report.to_dict())
        write_json(partial / "config.json", {**config, "versions": versions()})
    return target


def audit_tables(report: CheckReport) -> dict[str, pd.DataFrame]:
    """Findings, columns, pairs of duplicates and subgroups as tables, by file name."""
    fields = ["severity", "code", "count", "message", "example", "remedy"]
    subgroups = [
        {"column": table.column, "class": label, "group": group, "patients": count}
        for table in report.subgroups
        for label, row in table.counts.iterrows()
        for group, count in row.items()
    ]
    return {
        "findings": pd.DataFrame([asdict(f) for f in report.findings], columns=fields),
        "columns": pd.DataFrame([row.to_dict() for row in report.ranking]),
        "near_duplicates": report.duplicates.drop(columns=["first", "second"]),
        "subgroups": pd.DataFrame(subgroups, columns=["column", "class", "group", "patients"]),
    }


def render_audit(
    report: CheckReport, cohort: Cohort, *, images: bool, command: str, date: datetime | None
) -> str:
    """The page; the same report gives the same bytes."""
    shown = _pairs(report, cohort) if images else []
    return render_page(
        "audit.html.j2",
        title=f"Audit of {report.cohort}",
        lead=_lead(report),
        command=command,
        date=date,
        r=report,
        totals={s: sum(f.severity == s for f in report.findings) for s in SEVERITIES},
        few=FEW,
        ranking=[_ranked(row) for row in report.ranking[:MOST_COLUMNS]],
        facts=_facts(report),
        gaps=_gaps(report),
        pairs=shown,
        images=images,
    )


def _lead(report: CheckReport) -> str:
    size = size_in_words(report.counts)
    totals = [
        count_of(sum(f.severity == severity for f in report.findings), severity)
        for severity in SEVERITIES
    ]
    verdict = "can be used" if report.usable else "cannot be used as it is"
    return f"The cohort of {size} {verdict}: {totals[0]}, {totals[1]} and {totals[2]}."


def _ranked(row: Ranked) -> tuple[Ranked, str, Estimate, Estimate]:
    """(row, heading, information in bits, balanced accuracy)."""
    heading = (ACQUISITION | CONTENT)[row.name] if row.kind == "picture" else row.name
    link = row.link
    information = Estimate(mean=link.information, ci95=link.information_ci95, per_seed=())
    accuracy = Estimate(mean=link.balanced_accuracy, ci95=link.accuracy_ci95, per_seed=())
    return row, heading, information, accuracy


def _facts(report: CheckReport) -> list[tuple[str, list[float]]]:
    good = report.images[report.images["problem"] == ""]
    if good.empty:
        return []
    return [
        (heading, [float(good[name].quantile(q)) for q in QUANTILES.values()])
        for name, heading in FACTS.items()
    ]


def _gaps(report: CheckReport) -> list[tuple[str, float, list[bool]]]:
    """(column, share missing, whether each pattern lacks it), the emptiest first."""
    found = report.missingness
    rows = [
        (name, share, [name in pattern.missing for pattern in found.patterns])
        for name, share in found.shares.items()
    ]
    return sorted((row for row in rows if row[1] > 0), key=lambda row: (-row[1], row[0]))


def _pairs(report: CheckReport, cohort: Cohort) -> list[ShownPair]:
    """Those that matter most: other parts or patients or labels, then the most alike."""
    pairs = report.duplicates
    other = pairs["first_label"] != pairs["second_label"]
    other &= pairs["first_label"].notna() & pairs["second_label"].notna()
    if "first_split" in pairs:
        other |= pairs["first_split"] != pairs["second_split"]
    caution = other | ~pairs["same_patient"]
    order = pairs.assign(caution=caution).sort_values(
        ["caution", "same_lesion", "likeness"], ascending=[False, True, False], kind="stable"
    )
    rows = {image_id: row for row, image_id in enumerate(cohort.images["image_id"])}
    return [
        ShownPair(
            pair=pair,
            first=thumbnail(cohort.read_image(rows[str(pair.first_id)])),
            second=thumbnail(cohort.read_image(rows[str(pair.second_id)])),
            caution=bool(pair.caution),
        )
        for pair in order.head(MOST_PAIRS).itertuples()
    ]

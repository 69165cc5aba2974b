"""The page and the tables of an audit: findings first, then what they rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.checks.hierarchy import size_in_words
from slimp.checks.image_statistics import MEASURES
from slimp.checks.ranking import Ranked
from slimp.checks.report import CheckReport
from slimp.checks.subgroups import FEW, UNKNOWN
from slimp.data.cohort import Cohort
from slimp.data.files import new_folder, write_json
from slimp.evaluation.bootstrap import Estimate
from slimp.report.examples import thumbnail
from slimp.report.html import count, estimate, figure, percent, render_page, track
from slimp.training.run_folder import versions

MOST_PAIRS = 24
"""Pairs of duplicates on the page; all of them are in near_duplicates.csv."""
MOST_COLUMNS = 60
"""Rows of the ranking on the page; all of them are in columns.csv."""
QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)


def write_audit(
    target: Path,
    report: CheckReport,
    cohort: Cohort,
    *,
    config: Mapping[str, Any],
    images: bool = True,
    overwrite: bool = False,
    command: str = "",
) -> Path:
    """The folder written: a page, the tables behind it, and what they were made with.

    Args:
        target: folder to write.
        report: what was found in `cohort`.
        cohort: for the images of duplicates.
        config: settings of the check, for config.json.
        images: show images of patients. Switch it off for a page to be shared.
        overwrite: replace what this package wrote there before.
        command: the line that made it, for the footer.

    Raises:
        UserError: as `check_output`.
    """
    page = render_audit(report, cohort, images=images, command=command)
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
        {"column": column, "class": label, "group": group, "patients": patients}
        for column, counts in report.subgroups.items()
        for label, row in counts.iterrows()
        for group, patients in row.items()
    ]
    return {
        "findings": pd.DataFrame([asdict(f) for f in report.findings], columns=fields),
        "columns": pd.DataFrame([row.to_dict() for row in report.ranking]),
        "near_duplicates": report.duplicates.drop(columns=["first", "second"]),
        "subgroups": pd.DataFrame(subgroups, columns=["column", "class", "group", "patients"]),
    }


def render_audit(
    report: CheckReport,
    cohort: Cohort,
    *,
    images: bool,
    command: str = "",
    date: datetime | None = None,
) -> str:
    """The page; the same report gives the same bytes."""
    verdict = "can be used" if report.usable else "cannot be used as it is"
    errors, warnings, notes = report.totals
    found = report.missingness
    return render_page(
        "audit.html.j2",
        title=f"Audit of {report.cohort}",
        lead=f"The cohort of {size_in_words(report.counts)} {verdict}: {errors}, {warnings} and "
        f"{notes}.",
        command=command,
        date=date,
        r=report,
        few=FEW,
        unknown=UNKNOWN,
        counts=[
            (heading, [(name, *map(count, _units(n))) for name, n in units.items()])
            for heading, units in (
                ("Class", report.counts["classes"]),
                ("Part of the split", report.counts.get("parts", {})),
            )
            if units
        ],
        ranking=[_ranked(row) for row in report.ranking[:MOST_COLUMNS]],
        facts=list(_facts(report.images[report.images["problem"] == ""])),
        gaps=[
            (name, share, [name in missing for missing, _ in found.patterns])
            for name, share in sorted(found.shares.items(), key=lambda item: (-item[1], item[0]))
            if share > 0
        ],
        pairs=list(_pairs(report, cohort)) if images else [],
        images=images,
    )


def _units(counts: Mapping[str, int]) -> list[int]:
    return [counts[unit] for unit in ("patients", "lesions", "images")]


def _ranked(row: Ranked) -> tuple[object, ...]:
    """A row of the ranking: heading, role, share known, bits, balanced accuracy twice."""
    found = row.found
    role = {"values": row.role, "gaps": f"gaps, {row.role}", "image": "image"}[row.kind]
    accuracy = Estimate(mean=found.balanced_accuracy, ci95=found.accuracy_ci95, per_seed=())
    return (
        MEASURES[row.name] if row.kind == "image" else row.name,
        role,
        percent(row.known),
        f"{found.information:.3f}",
        estimate(accuracy),
        track(accuracy, found.chance),
    )


def _facts(good: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """A measurement and its quantiles."""
    if len(good):
        for name, heading in MEASURES.items():
            yield heading, *(figure(float(good[name].quantile(q))) for q in QUANTILES)


def _pairs(report: CheckReport, cohort: Cohort) -> Iterator[tuple[Any, str, str]]:
    """(row of `duplicates`, both images as data URIs) of the pairs that matter most.

    `caution` in the row: they differ in patient, part or label. Those first, then the most alike.
    """
    pairs = report.duplicates
    other = pairs["first_label"] != pairs["second_label"]
    other &= pairs["first_label"].notna() & pairs["second_label"].notna()
    if "first_split" in pairs:
        other |= pairs["first_split"] != pairs["second_split"]
    order = pairs.assign(caution=other | ~pairs["same_patient"]).sort_values(
        ["caution", "same_lesion", "likeness"], ascending=[False, True, False], kind="stable"
    )
    rows = {image_id: row for row, image_id in enumerate(cohort.images["image_id"])}
    for pair in order.head(MOST_PAIRS).itertuples():
        first, second = (
            thumbnail(cohort.read_image(rows[str(name)]))
            for name in (pair.first_id, pair.second_id)
        )
        yield pair, first, second

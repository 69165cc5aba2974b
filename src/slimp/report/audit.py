"""The page and the tables of an audit: findings first, then what they rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from slimp.checks.hierarchy import size_in_words
from slimp.checks.images import MEASURES
from slimp.checks.label_leaks import Ranked
from slimp.checks.report import CheckReport
from slimp.checks.subgroups import FEW, UNKNOWN
from slimp.data.cohort import Cohort
from slimp.data.files import new_folder, write_json
from slimp.evaluation.bootstrap import Estimate
from slimp.report.examples import thumbnail
from slimp.report.html import bar, count, percent, render_page, track
from slimp.training.run_folder import versions

MOST_PAIRS = 24
"""Pairs of duplicates on the page; all of them are in near_duplicates.csv."""
MOST_COLUMNS = 60
"""Rows of the ranking on the page; all of them are in columns.csv."""
UNITS = ("patients", "lesions", "images")
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

    `config` goes into config.json, `command` into the footer. Without `images` the page shows no
    image of a patient, and can be shared.

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
    good = report.images[report.images["problem"] == ""]
    units = UNITS if cohort.has_patient_ids else UNITS[1:]
    return render_page(
        "audit.html.j2",
        title=f"Audit of {report.cohort}",
        lead=f"The cohort of {size_in_words(report.counts)} {verdict}: {errors}, {warnings} and "
        f"{notes}.",
        command=command,
        date=date,
        r=report,
        counts=[
            (heading, [(name, *map(n.get, units)) for name, n in report.counts[key].items()])
            for heading, key in (("Class", "classes"), ("Part of the split", "parts"))
            if report.counts.get(key)
        ],
        units=units,
        heads=[f"#{unit.capitalize()}" for unit in units],
        few=FEW,
        subgroups=[_subgroups(column, table) for column, table in report.subgroups.items()],
        ranking=[_ranked(row) for row in report.ranking[:MOST_COLUMNS]],
        facts=[
            (heading, *(f"{float(good[name].quantile(q)):.4g}" for q in QUANTILES))
            for name, heading in MEASURES.items()
            if len(good)
        ],
        gaps=[
            (name, bar(share))
            for name, share in sorted(report.counts["missing"].items(), key=lambda item: -item[1])
            if share
        ],
        pairs=list(_pairs(report, cohort)) if images else [],
        images=images,
    )


def _subgroups(column: str, patients: pd.DataFrame) -> tuple[str, list[str], list[list[object]]]:
    """Column, headings and rows; cells of few patients are marked."""
    few = Markup('<span class="rare">{}<span class="hidden"> (few)</span></span>')
    rows = [
        [
            label,
            *(
                few.format(count(n)) if n < FEW and group != UNKNOWN else int(n)
                for group, n in row.items()
            ),
        ]
        for label, row in patients.iterrows()
    ]
    return column, ["Class", *(f"#{group}" for group in patients.columns)], rows


def _ranked(row: Ranked) -> tuple[object, ...]:
    """A row of the ranking: heading, role, share known, bits, balanced accuracy twice."""
    found = row.found
    role = {"values": row.role, "gaps": f"gaps, {row.role}", "image": "image"}[row.kind]
    accuracy = Estimate(mean=found.balanced_accuracy, ci95=found.accuracy_ci95, per_seed=())
    return (
        MEASURES[row.name] if row.kind == "image" else row.name,
        *(role, percent(row.known), found.information),
        *(accuracy, track(accuracy, found.chance)),
    )


def _pairs(report: CheckReport, cohort: Cohort) -> Iterator[dict[str, Any]]:
    """Images and words of the pairs that matter most.

    Those that differ in patient, part or label come first, then the most alike.
    """
    pairs = report.duplicates.assign(other_split=False)
    for column in ("lesion_id", "patient_id", "label", "split"):
        if f"first_{column}" in pairs:
            first, second = pairs[f"first_{column}"], pairs[f"second_{column}"]
            pairs[f"other_{column}"] = (first != second) & first.notna() & second.notna()
    pairs["caution"] = pairs[["other_patient_id", "other_label", "other_split"]].any(axis=1)
    order = pairs.sort_values(
        ["caution", "other_lesion_id", "likeness"], ascending=[False, False, False], kind="stable"
    )
    rows = {image_id: row for row, image_id in enumerate(cohort.images["image_id"])}
    for pair in order.head(MOST_PAIRS).to_dict("records"):
        ids = [pair["first_image_id"], pair["second_image_id"]]
        owners = "two lesions"
        if cohort.has_patient_ids:
            owners = "two patients" if pair["other_patient_id"] else "two lesions of one patient"
        what = f"likeness {pair['likeness']:.3f}, {pair['distance']} of 255 bits, {pair['turn']}"
        labels = [pair["first_label"], pair["second_label"]]
        yield {
            "images": [(name, thumbnail(cohort.read_image(rows[name]))) for name in ids],
            "what": "pixel-identical" if pair["kind"] == "exact" else what,
            "owners": owners if pair["other_lesion_id"] else "one lesion",
            "labels": " / ".join("no label" if pd.isna(label) else label for label in labels),
            "caution": pair["caution"],
        }

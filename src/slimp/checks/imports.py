"""What the import met and settled, told again from the cohort's import report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slimp.checks.finding import Finding, count_of, name_list
from slimp.data.schema import Schema


def import_findings(report: Mapping[str, Any], schema: Schema) -> Iterator[Finding]:
    """Rows lost on the way, rows without ids, values that disagreed, spellings of missing."""
    yield from _lost_images(report)
    for level in ("lesion", "patient"):
        if count := int(report.get(f"missing_{level}_ids", 0)):
            yield Finding(
                severity="warning",
                code="empty-id",
                message=f"{count_of(count, 'row')} without a {level} id.",
                remedy=f"Each became a {level} of its own; fill the cells if that is wrong.",
                count=count,
            )
    if count := int(report.get("duplicate_rows", 0)):
        yield Finding(
            severity="note",
            code="duplicate-row",
            message=f"{count_of(count, 'row')} repeated another to the letter.",
            remedy="Nothing to do: the import kept one of each.",
            count=count,
        )
    ages = {c for f in schema.features if f.unit in ("year", "years") for c in f.columns}
    for entry in report.get("disagreements", ()):
        remedy = (
            f"Correct the table if it is wrong, or move the column to a finer level if it "
            f"truly varies within a {entry['level']}."
        )
        if entry["column"] in ages:
            remedy = (
                "A patient seen over years has several ages: nothing to do where they span no "
                "more than that; look where they lie decades apart. Where the age at each "
                "picture matters, move the column to a finer level."
            )
        yield Finding(
            severity="note",
            code="level-disagreement",
            message=(
                f"column '{entry['column']}' differs within "
                f"{count_of(entry['count'], entry['level'])}; "
                f"the import took the {entry['rule']} value."
            ),
            example=str(entry["example"]),
            remedy=remedy,
            count=int(entry["count"]),
        )
    yield from _missing_spellings(report.get("missing_spellings", {}))


def _lost_images(report: Mapping[str, Any]) -> Iterator[Finding]:
    rows = report.get("rows", "?")
    if count := int(report.get("corrupt", 0)):
        yield Finding(
            severity="warning",
            code="dropped-image",
            message=f"{count_of(count, 'image')} of {rows} rows corrupt; the import dropped them.",
            example=name_list(report.get("corrupt_examples", ())[:3]),
            remedy="Replace the files and import again, or do without them.",
            count=count,
        )
    if count := int(report.get("absent", 0)):
        yield Finding(
            severity="note",
            code="absent-image",
            message=f"{count_of(count, 'row')} of {rows} without an image file; they were dropped.",
            example=name_list(report.get("absent_examples", ())[:3]),
            remedy="Fetch the files and import again, or do without them.",
            count=count,
        )


def _missing_spellings(spellings: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    cells: dict[str, int] = {}
    for counts in spellings.values():
        for spelling, count in counts.items():
            if count:
                cells[spelling] = cells.get(spelling, 0) + int(count)
    if len(cells) < 2:
        return
    mixed = sorted(
        name for name, counts in spellings.items() if sum(map(bool, counts.values())) > 1
    )
    told = []
    for spelling in sorted(cells):
        columns = sum(bool(counts.get(spelling)) for counts in spellings.values())
        where = f"{count_of(cells[spelling], 'cell')} of {count_of(columns, 'column')}"
        told.append(f"{_spell(spelling)} ({where})")
    yield Finding(
        severity="note",
        code="missing-spellings",
        message=f"the published table writes missing in {len(cells)} ways: {name_list(told)}.",
        example=f"several ways in one column: {name_list(mixed)}" if mixed else "",
        remedy="Nothing to do if all of them mean the same: they all became missing.",
        count=len(cells),
    )


def _spell(spelling: str) -> str:
    return f"'{spelling}'" if spelling else "empty cells"

"""What the import met and resolved, repeated from the cohort's import report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slimp.checks.finding import Finding, Severity, count_of, name_list
from slimp.data.schema import Schema


def import_findings(report: Mapping[str, Any], schema: Schema) -> Iterator[Finding]:
    """Rows lost on the way, rows without ids, values that disagreed, spellings of missing."""
    rows = report.get("rows", "?")
    counted: list[tuple[Severity, str, str, str, str, str]] = [
        (
            "warning",
            "dropped-image",
            "corrupt",
            "image",
            f" of {rows} rows corrupt; the import dropped them.",
            "Replace the files and import again, or do without them.",
        ),
        (
            "note",
            "absent-image",
            "absent",
            "row",
            f" of {rows} without an image file; they were dropped.",
            "Fetch the files and import again, or do without them.",
        ),
        (
            "note",
            "duplicate-row",
            "duplicate_rows",
            "row",
            " repeated another to the letter.",
            "Nothing to do: the import kept one of each.",
        ),
    ]
    counted += [
        (
            "warning",
            "empty-id",
            f"missing_{level}_ids",
            "row",
            f" without a {level} id.",
            f"Each became a {level} of its own; fill the cells if that is wrong.",
        )
        for level in ("lesion", "patient")
    ]
    for severity, code, key, noun, what, remedy in counted:
        if count := int(report.get(key, 0)):
            yield Finding(
                severity,
                code,
                f"{count_of(count, noun)}{what}",
                example=name_list(report.get(f"{key}_examples", ())[:3]),
                remedy=remedy,
                count=count,
            )
    for text in (*report.get("assumed", ()), *report.get("warnings", ())):
        yield Finding("note", "import-note", f"import: {text}", "Look whether it is right.")
    yield from _disagreements(report.get("disagreements", ()), schema)
    yield from _missing_spellings(report.get("missing_spellings", {}))


def _disagreements(entries: Any, schema: Schema) -> Iterator[Finding]:
    ages = {c for f in schema.features if f.unit in ("year", "years") for c in f.columns}
    for entry in entries:
        level, column = entry["level"], entry["column"]
        yield Finding(
            "note",
            "level-disagreement",
            f"column '{column}' differs within {count_of(entry['count'], level)}; the import took "
            f"the {entry['rule']} value.",
            example=str(entry["example"]),
            remedy=(
                "A patient seen over years has several ages: look only where they lie decades "
                "apart. Where the age at each image matters, move the column to a finer level."
                if column in ages
                else "Correct the table if it is wrong, or move the column to a finer level if it "
                f"truly varies within a {level}."
            ),
            count=int(entry["count"]),
        )


def _missing_spellings(columns: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    cells: dict[str, list[int]] = {}
    for counts in columns.values():
        for spelling, count in counts.items():
            if count:
                cells.setdefault(spelling, []).append(int(count))
    if len(cells) < 2:
        return
    mixed = sorted(name for name, counts in columns.items() if sum(map(bool, counts.values())) > 1)
    ways = [
        f"{f'{spelling!r}' if spelling else 'empty cells'} "
        f"({count_of(sum(found), 'cell')} of {count_of(len(found), 'column')})"
        for spelling, found in sorted(cells.items())
    ]
    yield Finding(
        "note",
        "missing-spellings",
        f"the published table writes missing in {len(cells)} ways: {name_list(ways)}.",
        example=f"several ways in one column: {name_list(mixed)}" if mixed else "",
        remedy="Nothing to do if all of them mean the same: they all became missing.",
        count=len(cells),
    )

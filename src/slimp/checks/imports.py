"""What the import met and settled, told again from the cohort's import report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slimp.checks.finding import Finding, count_of, name_list


def import_findings(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Rows lost on the way, values that disagreed within a group, spellings of missing."""
    for entry in report.get("disagreements", ()):
        yield Finding(
            severity="note",
            code="level-disagreement",
            message=(
                f"column '{entry['column']}' differs within "
                f"{count_of(entry['count'], entry['level'])}; "
                f"the import took the {entry['rule']} value."
            ),
            example=str(entry["example"]),
            remedy=(
                f"Correct the table if it is wrong, or move the column to a finer level if it "
                f"truly varies within a {entry['level']}."
            ),
            count=int(entry["count"]),
        )
    yield from _missing_spellings(report.get("missing_spellings", {}))


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
        message=f"missing is written in {len(cells)} ways: {name_list(told)}.",
        example=f"both in {name_list(mixed)}" if mixed else "",
        remedy="Nothing to do if all of them mean the same: they all became missing.",
        count=len(cells),
    )


def _spell(spelling: str) -> str:
    return f"'{spelling}'" if spelling else "empty cells"

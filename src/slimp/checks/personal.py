"""Columns that seem to hold personal data: e-mail addresses, telephones, dates, names, free text.

A cohort keeps every published column, and folders are passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from slimp.checks.finding import Finding, Severity
from slimp.checks.published import Published
from slimp.sources.personal_data import personal_kind


def personal_findings(columns: Sequence[Published]) -> Iterator[Finding]:
    """A finding per column of text that looks like personal data."""
    for column in columns:
        found = personal_kind(column.own)
        if found is not None:
            kind, example = found
            is_input = column.role == "feature"
            severity: Severity = "note" if kind == "dates" and not is_input else "warning"
            yield Finding(
                severity=severity,
                code="personal-data",
                message=f"column '{column.name}' seems to hold {kind}"
                + (", and is a feature." if is_input else "."),
                example=_masked(example),
                remedy=(
                    "A cohort keeps all published columns and is passed on with them: drop the "
                    "column from the table, or replace it by what is needed (an age, a "
                    "pseudonym), and import again."
                ),
            )


def _masked(text: str) -> str:
    """The value's shape, so that the report does not spread what it warns of."""
    short = text if len(text) <= 40 else text[:40] + " ..."
    return "like '" + re.sub(r"\d", "9", re.sub(r"[^\W\d_]", "x", short)) + "'"

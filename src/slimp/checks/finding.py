"""One thing that a check found, in words a user can act on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the gravest: an error makes the cohort unusable, a warning makes results doubtful, a note
states what was found and already taken care of, or needs no more than a look."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong, how often, one example with ids, and what to do."""

    severity: Severity
    code: str
    """A stable short name, such as 'leak'; `docs/check.md` has a paragraph for each."""
    message: str
    example: str = ""
    """Ids and values of one case, so that it can be looked up."""
    remedy: str = ""
    count: int = 1
    """How many images, groups, cells or columns, as the message says."""


def name_list(names: Iterable[str], *, most: int = 8) -> str:
    """The names as prose: 'a, b and c', or 'a, b, c and 9 more'."""
    items = list(names)
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def count_of(count: int, noun: str, plural: str = "") -> str:
    """How many, in words that agree: '1 set', '3 sets'."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def by_weight(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings, gravest first, then by code and text: independent of the order of rows."""
    return tuple(
        sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.code, f.message, f.example))
    )

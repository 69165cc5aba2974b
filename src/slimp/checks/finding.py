"""One thing that a check found, in words a user can act on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the gravest: an error makes the cohort unusable, a warning makes results doubtful, a note
states what was found and already taken care of, or needs no more than a look."""


@dataclass(frozen=True)
class Finding:
    """What is wrong, how often, one example with ids, and what to do."""

    severity: Severity
    code: str
    """A stable short name, such as 'leak'; `docs/check.md` has a paragraph for each."""
    message: str
    remedy: str = ""
    example: str = ""
    """Ids and values of one case, so that it can be looked up."""
    count: int = 1
    """How many images, groups, cells or columns, as the message says."""

    @property
    def weight(self) -> tuple[int, str, str, str]:
        """For sorting, gravest first, independent of the order of rows."""
        return SEVERITIES.index(self.severity), self.code, self.message, self.example


def name_list(names: Iterable[str], *, most: int = 8) -> str:
    """The names as prose: 'a, b and c', or 'a, b, c and 9 more'."""
    items = list(names)
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def count_of(count: int, noun: str, plural: str = "") -> str:
    """How many, in words that agree: '1 set', '3 sets'."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"

"""One thing that a check found, in words a user can act on."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import Any, Literal, get_args

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the gravest: an error makes the cohort unusable, a warning makes results doubtful, a note
states what was found and already taken care of, or needs no more than a look."""

MOST_IDS = 500


@cache
def kinds() -> dict[str, tuple[Severity, str, str]]:
    """Code -> severity, message and remedy, as format strings: the content of `findings.toml`."""
    texts = tomllib.loads(Path(__file__).with_name("findings.toml").read_text(encoding="utf-8"))
    return {
        code: (severity, text["message"], text["remedy"])
        for severity in SEVERITIES
        for code, text in texts[severity].items()
    }


@dataclass(frozen=True)
class Finding:
    """What is wrong, how often, one example with ids, and what to do."""

    severity: Severity
    code: str
    """A stable short name, such as 'leak'; `docs/check.md` has a paragraph for each."""
    message: str
    remedy: str
    example: str = ""
    """Ids and values of one case, so that it can be looked up."""
    count: int = 1
    """How many images, groups, cells or columns, as the message says."""
    ids: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Images, lesions or patients that it is about, for opening them; at most `MOST_IDS`."""

    @property
    def weight(self) -> tuple[int, str, str, str]:
        """For sorting, gravest first, independent of the order of rows."""
        return SEVERITIES.index(self.severity), self.code, self.message, self.example


class _Counting(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if len(format_spec) > 1 and format_spec.isalpha():
            return count_of(value, format_spec)
        return str(super().format_field(value, format_spec))


def finding(
    code: str,
    *,
    severity: Severity | None = None,
    prefix: str = "",
    example: str = "",
    count: int = 1,
    ids: Iterable[str] = (),
    **words: Any,
) -> Finding:
    """A finding of `kinds`, its severity as there unless given.

    Example:
        >>> finding("one-class", label="NEV").message
        "every label is 'NEV'."
    """
    usual, *texts = kinds()[code]
    words["count"] = count
    message, remedy = (_Counting().vformat(text, (), words) for text in texts)
    some = tuple(map(str, islice(ids, MOST_IDS)))
    return Finding(severity or usual, prefix + code, message, remedy, example, count, some)


def name_list(names: Iterable[str], *, most: int = 8) -> str:
    """The names as prose: 'a, b and c', or 'a, b, c and 9 more'."""
    items = list(names)
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def count_of(count: int, noun: str) -> str:
    """How many, in words that agree: '1 set', '3 sets', '2 classes'."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} {noun if count == 1 else plural}"

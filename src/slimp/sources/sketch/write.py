"""A proposal as the text of a schema file, doubts as comments above the line they are about."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slimp.data.schema import LEVELS
from slimp.sources.sketch.propose import Line, Proposal

WIDTH = 100


def render(
    top: Sequence[Line], table: Sequence[Line], proposal: Proposal, head: Sequence[str]
) -> str:
    """The schema file.

    Args:
        top: image, ids, label and split.
        table: settings of `[table]`, but for the columns to drop.
        proposal: everything else; label names are a line of `top` called `label_names`.
        head: sentences to begin with.
    """
    decimal = _usual_decimal(proposal)
    missing = _usual_missing(proposal)
    lines = [*_comments(head), ""]
    for line in top:
        if line.key != "label_names":
            lines += _line(line)
    if missing:
        lines.append(f"missing = {value_text(missing)}")
    for line in top:
        if line.key == "label_names":
            lines += ["", *_comments(line.doubts), "[label_names]"]
            lines += [f"{key_text(key)} = {value_text(v)}" for key, v in line.value.items()]
    settings = [*table, *([Line(key="decimal", value=",")] if decimal == "," else [])]
    if settings or proposal.drop:
        lines += ["", "[table]"]
        for line in settings:
            lines += _line(line)
        lines += _drop(proposal.drop)
    for level in LEVELS:
        if proposal.features[level]:
            lines += ["", f"[{level}_metadata]"]
            for line in proposal.features[level]:
                lines += _line(_without_defaults(line, decimal, missing))
    if proposal.refused:
        lines += ["", "[refused]"]
        for line in proposal.refused:
            lines += _line(line)
    if proposal.left:
        lines += ["", *_comments(["Columns that are no use as they are:"])]
        lines += _comments([f"- {line.key}: {line.value}." for line in proposal.left])
    return "\n".join(lines) + "\n"


def _usual_decimal(proposal: Proposal) -> str:
    """The comma, if it is what some column of numbers writes for certain; else the point."""
    marks = Counter(
        line.value["decimal"]
        for level in LEVELS
        for line in proposal.features[level]
        if "decimal" in line.value and not line.unclear
    )
    return "," if marks[","] else "."


def _usual_missing(proposal: Proposal) -> list[str]:
    """The words that mean missing in two columns or more, numbers aside."""
    words = Counter(
        word
        for level in LEVELS
        for line in proposal.features[level]
        for word in line.value.get("missing", ())
    )
    return [word for word, times in words.items() if times > 1 and not re.search(r"\d", word)]


def _without_defaults(line: Line, decimal: str, missing: Sequence[str]) -> Line:
    entry = dict(line.value)
    own_mark = "thousands" in entry or line.unclear
    if entry.get("decimal", decimal) == decimal or not own_mark:
        entry.pop("decimal", None)
    if decimal == "," and entry.get("thousands") == ",":
        entry["decimal"] = "."
    own = [word for word in entry.get("missing", ()) if word not in missing]
    entry.pop("missing", None)
    if own:
        entry["missing"] = own
    return Line(key=line.key, value=entry, doubts=line.doubts)


def _line(line: Line) -> Iterator[str]:
    yield from _comments(line.doubts)
    if line.key:  # else there is only something to say
        yield f"{key_text(line.key)} = {value_text(line.value)}"


def _drop(lines: Sequence[Line]) -> Iterator[str]:
    if not lines:
        return
    yield from _comments(["personal data, never copied:"])
    yield "drop = ["
    for line in lines:
        yield from (f"  {comment}" for comment in _comments([f"{line.value}"]))
        yield f"  {value_text(line.key)},"
    yield "]"


def _comments(sentences: Sequence[str]) -> Iterator[str]:
    for sentence in sentences:
        plain = " ".join(
            re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", " ", sentence).split()
        )
        yield from textwrap.wrap(plain, WIDTH, initial_indent="# ", subsequent_indent="#   ")


def key_text(key: str) -> str:
    """The key as TOML has it."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else value_text(key)


def value_text(value: Any) -> str:
    """The value as TOML has it, in one line."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key_text(str(k))} = {value_text(v)}" for k, v in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)

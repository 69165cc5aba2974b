"""A proposal as the text of a schema file, doubts as comments above the line they are about."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slimp.data.schema import LEVELS
from slimp.sources.sketch.propose import Line

WIDTH = 100
METADATA = tuple(f"{level}_metadata" for level in LEVELS)


def render(
    head: Sequence[str],
    top: Sequence[Line],
    settings: Sequence[Line],
    sections: Mapping[str, Sequence[Line]],
) -> str:
    """The schema file.

    Args:
        head: sentences to begin with.
        top: image, ids, label and split.
        settings: of `[table]`; those called `join` are a `[[table.join]]` each.
        sections: everything else; see `propose.propose`.
    """
    features = [line for name in METADATA for line in sections[name]]
    marks = {line.value.get("decimal") for line in features if not line.unclear}
    decimal = "," if "," in marks else "."
    spelled = Counter(word for line in features for word in line.value.get("missing", ()))
    missing = [word for word, n in spelled.items() if n > 1 and not re.search(r"\d", word)]
    table = [line for line in settings if line.key != "join"]
    table += [Line(key="decimal", value=",")] if decimal == "," else []
    if drop := sections["drop"]:
        doubts = ("personal data, never copied:", *(f"{one.key}: {one.value}." for one in drop))
        table.append(Line(key="drop", value=[line.key for line in drop], doubts=doubts))
    own = {
        name: [_without_defaults(line, decimal, missing) for line in sections[name]]
        for name in METADATA
    }
    text = [*_comments(head), ""]
    for line in [*top, *([Line(key="missing", value=missing)] if missing else [])]:
        text += _line(line)
    for name, lines in {"table": table, **sections, **own}.items():
        if lines and name not in ("drop", "unused"):
            text += ["", f"[{name}]", *(part for line in lines for part in _line(line))]
        for join in (line for line in settings if name == "table" and line.key == "join"):
            text += ["", *_comments(join.doubts), "[[table.join]]"]
            text += [f"{key} = {value_text(value)}" for key, value in join.value.items()]
    if sections["unused"]:
        unused = [f"- {line.key}: {line.value}." for line in sections["unused"]]
        text += ["", *_comments(["Columns that are of no use as they are:", *unused])]
    return "\n".join(text) + "\n"


def _without_defaults(line: Line, decimal: str, missing: Sequence[str]) -> Line:
    entry = dict(line.value)
    own_mark = "thousands" in entry or line.unclear
    if entry.get("decimal", decimal) == decimal or not own_mark:
        entry.pop("decimal", None)
    if decimal == "," and entry.get("thousands") == ",":
        entry["decimal"] = "."
    own = [word for word in entry.pop("missing", ()) if word not in missing]
    return replace(line, value=entry | ({"missing": own} if own else {}))


def _line(line: Line) -> Iterator[str]:
    yield from _comments(line.doubts)
    if line.key:  # else there is only something to say
        kind = line.value.get("kind") if isinstance(line.value, Mapping) else None
        asked = "  # unit = ?" if kind == "continuous" and "unit" not in line.value else ""
        yield f"{_key_text(line.key)} = {value_text(line.value)}{asked}"


def _comments(sentences: Sequence[str]) -> Iterator[str]:
    for sentence in sentences:
        plain = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", " ", sentence)
        wrapped = " ".join(plain.split())
        yield from textwrap.wrap(wrapped, WIDTH, initial_indent="# ", subsequent_indent="#   ")


def _key_text(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else value_text(key)


def value_text(value: Any) -> str:
    """The value as TOML has it, in one line."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key_text(str(k))} = {value_text(v)}" for k, v in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

"""A proposal as the text of a schema file, doubts as comments above the line they are about."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the schema file, and what is in doubt about it."""

    key: str = ""
    """'': none, there is only something to say."""
    value: Any = None
    doubts: tuple[str, ...] = ()


def render(head: Sequence[str], sections: Mapping[str, Sequence[Line]]) -> str:
    """The schema file: sentences, then sections by name, '' being the top and `unused` comments."""
    text = [*_comments(head)]
    for name, lines in sections.items():
        if name == "unused" and lines:
            said = [f"- {line.key}: {line.value}." for line in lines]
            text += ["", *_comments(["Columns that are of no use as they are:", *said])]
        elif lines:
            title = f"[[{name}]]" if name == "table.join" else f"[{name}]" if name else ""
            text += ["", title] if title else [""]
            text += [part for line in lines for part in _line(line)]
    return "\n".join(text) + "\n"


def _line(line: Line) -> Iterator[str]:
    yield from _comments(line.doubts)
    if line.key:
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

"""Settings from TOML files: each value is checked, and a wrong one is named with its place."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slimp.errors import TableError


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a schema file, unchecked.

    Raises:
        TableError: it is missing, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TableError(f"{path}: no such schema file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: not a valid TOML file: {error}.") from None


Reader = Callable[[object, str], Any]
"""(value in the file, the words that name its place) -> the value here; raises `TableError`."""


def read_entry(
    content: object, keys: Mapping[str, tuple[str, Reader]], where: str
) -> dict[str, Any]:
    """The settings of one TOML table, by the names of their dataclass fields.

    Args:
        content: the parsed table.
        keys: key in the file -> (field, reader of the value).
        where: for messages.

    Raises:
        TableError: it is no table, or a key is unknown or has a wrong type.
    """
    entry = mapping(content, where)
    if unknown := sorted(set(entry) - set(keys)):
        raise TableError(f"{where}: unknown key '{unknown[0]}'; it has: {', '.join(sorted(keys))}.")
    return {keys[key][0]: keys[key][1](value, f"{where}: '{key}'") for key, value in entry.items()}


def mapping(value: object, where: str) -> Mapping[str, Any]:
    """The value if it is a TOML table."""
    if not isinstance(value, Mapping):
        raise TableError(f"{where} must be a table ({{ key = value }}), got {value!r}.")
    return value


def text(value: object, where: str) -> str:
    """The value if it is a string."""
    if not isinstance(value, str):
        raise TableError(f"{where} must be a string, got {value!r}.")
    return value


def column_name(value: object, where: str) -> str:
    """The value if it is a string that is not empty."""
    if value == "":
        raise TableError(f"{where} must name a column. Leave it out if the table has none.")
    return text(value, where)


def one_of(*allowed: str) -> Reader:
    """A reader of one of these words."""

    def read(value: object, where: str) -> str:
        if value not in allowed:
            raise TableError(f"{where} is one of {', '.join(allowed)}; got {value!r}.")
        return str(value)

    return read


def texts(value: object, where: str) -> tuple[str, ...]:
    """A list of strings; whole numbers count as their digits."""
    if not isinstance(value, list | tuple) or not all(isinstance(v, str | int) for v in value):
        raise TableError(f"{where} must be a list of strings, got {value!r}.")
    return tuple(str(v) for v in value)


def names(value: object, where: str) -> dict[str, str]:
    """A TOML table of texts."""
    return {str(key): str(entry) for key, entry in mapping(value, where).items()}


def number(value: object, where: str) -> float:
    """The value if it is a number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TableError(f"{where} must be a number, got {value!r}.")
    return float(value)


def numbers(value: object, where: str) -> dict[str, float]:
    """A TOML table of numbers."""
    return {str(key): number(entry, where) for key, entry in mapping(value, where).items()}

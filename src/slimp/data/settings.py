"""Settings from TOML and JSON files, read by the fields of dataclasses; a wrong one is named."""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from slimp.errors import TableError

Kind = TypeVar("Kind")
_hints = cache(get_type_hints)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a schema file, unchecked.

    Raises:
        TableError: it is missing, or no TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows write a byte-order mark
        return tomllib.loads(unicodedata.normalize("NFC", text))
    except FileNotFoundError:
        raise TableError(f"{path}: no such schema file.") from None
    except OSError as error:
        raise TableError(f"{path}: cannot be read as a schema file ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: not a valid TOML file: {error}.") from None


def read_settings(
    kind: type[Kind],
    content: object,
    where: str,
    *,
    keys: Mapping[str, str] | None = None,
    **given: Any,
) -> Kind:
    """A dataclass from a TOML table, whose keys are its fields.

    Args:
        kind: the dataclass.
        content: the parsed table.
        where: the words that name it in messages.
        keys: key in the file -> field, where they differ.
        given: fields that the table does not set.

    Raises:
        TableError: it is no table, or a key is unknown, absent or has a value of a wrong type.
    """
    entry, hints = as_table(content, where), _hints(cast(Any, kind))
    known = {name: name for name in hints if name not in {*given, *(keys or {}).values()}}
    known |= keys or {}
    if unknown := sorted(set(entry) - set(known)):
        raise TableError(
            f"{where}: unknown key '{unknown[0]}'; it has: {', '.join(sorted(known))}."
        )
    found = {known[k]: _value(v, hints[known[k]], f"{where}: '{k}'") for k, v in entry.items()}
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]  # type: ignore[arg-type]
    if absent := [name for name in needed if name not in {*found, *given}]:
        raise TableError(f"{where} needs '{absent[0]}'.")
    return kind(**found, **given)


def as_table(value: object, where: str) -> Mapping[str, Any]:
    """The value if it is a TOML table."""
    if not isinstance(value, Mapping):
        raise TableError(f"{where} must be a table ({{ key = value }}), got {value!r}.")
    return value


def as_texts(value: object, where: str) -> tuple[str, ...]:
    """A list of strings as a tuple; whole numbers count as their digits."""
    found: tuple[str, ...] = _value(value, tuple[str, ...], where)
    return found


def write_settings(owner: Any, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The settings of a dataclass that are not the usual ones, for `read_settings`."""
    names = {field: key for key, field in (keys or {}).items()}
    content: dict[str, Any] = {}
    for field in fields(owner):
        value = getattr(owner, field.name)
        if value is None or value == field.default or (isinstance(value, Mapping) and not value):
            continue
        if isinstance(value, tuple | Mapping):
            value = list(value) if isinstance(value, tuple) else dict(value)
        content[names.get(field.name, field.name)] = value
    return content


def _value(value: object, hint: Any, where: str) -> Any:
    """The value as the field has it."""
    kinds = get_args(hint)
    if value is None and NoneType in kinds:  # in JSON; TOML has none
        return None
    if get_origin(hint) in (Union, UnionType):
        hint = next(k for k in kinds if k is not NoneType)
        kinds = get_args(hint)
    origin = get_origin(hint) or hint
    if origin is Literal:
        if value in kinds:
            return value
        raise TableError(f"{where} is one of {', '.join(map(str, kinds))}; got {value!r}.")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TableError(f"{where} must be a list, got {value!r}.")
        return tuple(_value(v, kinds[0], where) for v in value)
    if origin in (Mapping, dict):
        return {str(k): _value(v, kinds[1], where) for k, v in as_table(value, where).items()}
    if is_dataclass(hint):
        return read_settings(hint, value, where)  # type: ignore[arg-type]
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    right = (int, float) if hint is float else hint
    if not isinstance(value, right) or (isinstance(value, bool) and hint is not bool):
        words = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
        raise TableError(f"{where} must be {words[hint]}, got {value!r}.")
    return float(value) if hint is float else value

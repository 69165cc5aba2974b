"""Text of the command line, or a value of a YAML file, as the type of a dataclass field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

_KINDS: dict[Any, tuple[str, str]] = {
    int: ("N", "a whole number"),
    float: ("X", "a number"),
    str: ("TEXT", "a text"),
    Path: ("PATH", "a path"),
    tuple: ("A,B,...", "a list such as 1,2,3"),
    Mapping: ("KEY=VALUE", "a pair such as key=value (repeat the flag for more)"),
    bool: ("", "true or false"),
}
"""Type -> its placeholder in the help, and how an error names it."""


def convert(hint: Any, value: Any) -> Any:
    """`value` as the type `hint`.

    >>> convert(tuple[int, ...], "0,1"), convert(int | Literal["auto"], "auto")
    ((0, 1), 'auto')

    Raises:
        ValueError: it is none.
    """
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        if NoneType in inner and value in (None, "null"):
            return None
        for option in inner:
            with suppress(ValueError):
                return convert(option, value)
    elif kind is Literal:
        for choice in inner:
            if str(choice) == str(value):
                return choice
    elif kind is tuple:
        if isinstance(value, str):  # YAML, which reads 007 as 7, only in brackets
            words = [word.strip() for word in value.split(",") if word.strip()]
            value = _yaml(value) if value.startswith("[") else words
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(convert(inner[0], item) for item in values)
    elif kind is Mapping:
        return {str(key): convert(inner[1], item) for key, item in _pairs(value, inner[1])}
    elif kind is Any or (kind is bool and isinstance(value, bool)):
        return value
    elif kind in (int, float) and not isinstance(value, bool | NoneType):
        number = kind(value) if isinstance(value, str) or kind is float else value
        if isinstance(number, kind) and not math.isnan(number):
            return number
    elif kind in (str, Path) and not isinstance(value, list | dict | bool | NoneType):
        return kind(str(value))
    raise ValueError(f"not of type {hint}: {value}")


def _pairs(value: Any, kind: Any) -> list[tuple[Any, Any]]:
    """Keys and values of a mapping, of `{a: b}` or of `a=b`, whose value is YAML unless a text."""
    if isinstance(value, str) and not value.startswith("{"):
        key, _, item = value.partition("=")
        value = {key: item if kind is str else _yaml(item)} if key and item else None
    elif isinstance(value, str):
        value = _yaml(value)
    if not isinstance(value, Mapping):
        raise ValueError("not a pair")
    return list(value.items())


def describe(hint: Any) -> tuple[str, str]:
    """What stands for the value of a flag in the help, and the values that it takes in words.

    >>> describe(int | Literal["auto"])
    ('N|auto', 'a whole number or auto')
    """
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        options = [describe(option) for option in inner if option is not NoneType]
        return "|".join(o[0] for o in options), " or ".join(o[1] for o in options)
    if kind is Literal:
        names = list(map(str, inner))
        return "|".join(names), f"{'one of ' * (len(names) > 1)}{', '.join(names)}"
    return _KINDS[kind]


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None

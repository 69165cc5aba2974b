"""Text of the command line, or of a YAML file, as the type that a dataclass field asks for."""

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
        if isinstance(value, str):
            value = _yaml(value if value.startswith("[") else f"[{value}]")
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(convert(inner[0], item) for item in values)
    elif kind is Mapping and (isinstance(value, Mapping) or str(value).startswith("{")):
        content = value if isinstance(value, Mapping) else _yaml(value)
        return {str(key): convert(inner[1], item) for key, item in content.items()}
    elif kind is Any or (kind is bool and isinstance(value, bool)):
        return value
    elif kind in (int, float) and not isinstance(value, bool | NoneType):
        number = kind(value) if isinstance(value, str) or kind is float else value
        if isinstance(number, kind) and not math.isnan(number):
            return number
    elif kind in (str, Path) and not isinstance(value, list | dict | bool | NoneType):
        return kind(str(value))
    raise ValueError(f"not {describe(hint)}: {value}")


def pairs(hint: Any, texts: list[str]) -> dict[str, Any]:
    """`["a=b", "c=d"]` as one mapping; `["{a: b}"]` as well.

    Raises:
        ValueError: what is given is no pair, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if text.startswith("{"):
            new = convert(hint, text)
        elif key and equals and value:
            plain = get_args(hint)[1] is str
            new = {key: value if plain else _yaml(value)}
        else:
            raise ValueError(f"got '{text}'")
        if twice := set(new) & set(found):
            raise ValueError(f"got '{min(twice)}' twice")
        found |= new
    return found


def placeholder(hint: Any) -> str:
    """What stands for the value of a flag in the help."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return "|".join(placeholder(option) for option in inner if option is not NoneType)
    if kind is Literal:
        return "|".join(map(str, inner))
    return _KINDS.get(kind, ("VALUE", ""))[0]


def describe(hint: Any) -> str:
    """The values that a flag takes, in words."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(describe(option) for option in inner if option is not NoneType)
    if kind is Literal:
        return f"{'one of ' * (len(inner) > 1)}{', '.join(map(str, inner))}"
    return _KINDS.get(kind, ("", f"a value of type {hint}"))[1]


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None

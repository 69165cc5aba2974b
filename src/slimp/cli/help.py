"""How help texts and mistakes on the command line read."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from slimp.errors import UserError


class UsageError(UserError):
    """The command line is at fault: a missing argument, an unknown flag, a value of wrong kind."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A dataclass field, seen as a command-line argument."""

    name: str
    hint: Any
    """Its type, resolved."""
    default: Any
    """`dataclasses.MISSING` where the user must give a value."""
    help: str
    group: str
    """Heading under which the help lists it."""
    positional: bool

    @property
    def spelling(self) -> str:
        """What the user types, or the placeholder of a positional argument."""
        return self.name.upper() if self.positional else f"--{self.name.replace('_', '-')}"

    @property
    def plain_hint(self) -> Any:
        """The type without `| None`."""
        if get_origin(self.hint) not in (Union, UnionType):
            return self.hint
        rest = [hint for hint in get_args(self.hint) if hint is not NoneType]
        return rest[0] if len(rest) == 1 else self.hint

    @property
    def kind(self) -> Any:
        """The bare type: `tuple` of `tuple[int, ...] | None`."""
        return get_origin(self.plain_hint) or self.plain_hint


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


def placeholder(flag: Flag) -> str:
    """What stands for the value of a flag in the help."""
    if flag.kind in (Union, UnionType):  # as in N|auto
        kinds = [(get_origin(hint) or hint, hint) for hint in get_args(flag.plain_hint)]
        return "|".join(
            "|".join(map(str, get_args(hint))) if kind is Literal else _KINDS[kind][0]
            for kind, hint in kinds
        )
    return _KINDS.get(flag.kind, ("VALUE", ""))[0]


def describe(flag: Flag) -> str:
    """The values that a flag takes, in words."""
    return _in_words(flag.plain_hint)


def _in_words(hint: Any) -> str:
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return " or ".join(map(_in_words, get_args(hint)))
    if kind is Literal:
        choices = [str(value) for value in get_args(hint)]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    return _KINDS.get(kind, ("", f"a value of type {hint}"))[1]


def nearest(name: str, known: Iterable[str]) -> str:
    """An ending for 'unknown NAME': the most similar known name, or nothing.

    Example:
        >>> nearest("pretran", ["pretrain", "probe"])
        "; the nearest is 'pretrain'"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; the nearest is '{close[0]}'" if close else ""


def explain(message: str, flags: Sequence[Flag]) -> str:
    """One sentence for the user out of a parser's message."""
    by_name = {flag.name: flag for flag in flags}
    if found := re.match(r'Parser key "([^".]+)', message):
        flag = by_name.get(found[1])
        values = re.findall(r"(?:Got|Given) value: (.*)", message)
        if flag and values:
            return f"{flag.spelling} takes {describe(flag)}, got {values[-1]}."
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        token = found[1].partition("=")[0]
        if not token.startswith("-"):
            return f"unexpected argument '{token}'."
        spellings = (flag.spelling for flag in flags if not flag.positional)
        return f"no flag '{token}'{nearest(token, spellings)}."
    if found := re.match(r"the following arguments are required: (.*)", message):
        names = re.split(r",\s*", found[1].replace("-", "_"))
        missing = (by_name[n].spelling if n in by_name else n for n in names)
        return f"missing {' and '.join(missing)}."
    if found := re.match(r"argument (--\S+): expected one argument", message):
        kinds = [f": {describe(flag)}" for flag in flags if flag.spelling == found[1]]
        return f"{found[1]} needs a value{''.join(kinds)}."
    return " ".join(message.split()).rstrip(".") + "."


class HelpFormatter(argparse.HelpFormatter):
    """Argparse's, with defaults and without jsonargparse's spelling of types."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if len(action.option_strings) == 2 and action.option_strings[1].startswith("--no-"):
            yes = action.option_strings[0]
            return f"--[no-]{yes[2:]}" if action.default else yes
        return super()._format_action_invocation(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if not action.option_strings or default is None or default == argparse.SUPPRESS:
            return text
        if isinstance(default, bool):
            return f"{text} (on by default)" if default else text
        if isinstance(default, Mapping):
            default = json.dumps(default, default=str).replace('"', "")
        elif isinstance(default, tuple | list):
            default = ",".join(map(str, default))
        return f"{text} (default: {default})".replace("(default: )", "").replace(
            "(default: {})", ""
        )

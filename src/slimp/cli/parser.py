"""One argparse parser per verb: its help, its values, and hints for what people mistype."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, NoReturn, get_args, get_origin

from slimp.cli.values import convert, describe
from slimp.data.config import suggestion
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
        name = self.name.rstrip("_")  # as in as_, where Python keeps the word for itself
        return name.upper() if self.positional else f"--{name.replace('_', '-')}"

    @property
    def many(self) -> bool:
        """A positional argument that takes all words that follow."""
        return self.positional and get_origin(self.hint) is tuple

    @property
    def usage(self) -> str:
        """Its place in the usage line."""
        value = "..." * self.many if self.positional else f" {describe(self.hint)[0]}"
        return self.spelling + value

    def value(self, given: Any) -> Any:
        """What a word of the command line, or a value of a file, stands for.

        Raises:
            argparse.ArgumentTypeError: nothing of the flag's type.
        """
        hint = get_args(self.hint)[0] if self.many else self.hint
        try:
            return convert(hint, given)
        except ValueError:
            words = f"takes {describe(hint)[1]}, got {given!r}"
            raise argparse.ArgumentTypeError(words) from None

    def words(self, value: Any) -> list[str]:
        """What the user types for a value."""
        if self.hint is bool:
            return [self.spelling if value else f"--no-{self.spelling[2:]}"]
        if self.many:
            return list(map(str, value))
        pairs = isinstance(value, Mapping)
        texts = [f"{k}={v}" for k, v in value.items()] if pairs else [_in_words(value)]
        return texts if self.positional else [x for text in texts for x in (self.spelling, text)]


class _Formatter(argparse.HelpFormatter):
    """Keeps the paragraphs of the description, and shows an on/off flag once."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(part, width, indent) for part in text.split("\n\n"))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return str(action.metavar)
        return super()._format_action_invocation(action)


class Parser(argparse.ArgumentParser):
    """The flags of a verb, such as `slimp pretrain`.

    The help says what it is `about`, lists the flags `shown` (empty: all of them), and the defaults
    that `presets` set.
    """

    def __init__(
        self,
        command: str,
        flags: Sequence[Flag],
        *,
        about: str = "",
        shown: Sequence[str] = (),
        presets: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.flags = flags
        required = [flag.usage for flag in flags if flag.default is MISSING]
        hidden = [f for f in flags if shown and f.name not in shown and f.default is not MISSING]
        super().__init__(
            prog=command,
            usage=" ".join([command, *required, "[FLAGS]"]).replace("%", "%%"),
            description=about,
            epilog=f"--help-all lists {len(hidden)} more flags." if hidden else None,
            formatter_class=lambda prog: _Formatter(prog, max_help_position=32),
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            add_help=False,
        )
        groups = {flag.group: None for flag in flags}
        for title in groups:
            group = self.add_argument_group(title)
            for flag in flags:
                text = (flag.help + default_words(flag, presets or {})).replace("%", "%%")
                if flag.group == title:
                    _add(group, flag, argparse.SUPPRESS if flag in hidden else text)

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """The values that a command line gives.

        Raises:
            UsageError: one is missing, unknown or of the wrong kind.
        """
        for word in argv:  # before what is missing, which may be there under another name
            if word.startswith("--") and word.partition("=")[0] not in self._option_string_actions:
                self._no_flag(word)
        found, rest = self.parse_known_intermixed_args(list(argv))
        for word in rest:
            if word.startswith("-"):
                self._no_flag(word)
            self.error(f"unexpected argument '{word}'")
        given = vars(found)
        for flag in self.flags:
            if flag.name in given and get_origin(flag.hint) is Mapping:
                pairs = [pair for given_pairs in given[flag.name] for pair in given_pairs.items()]
                given[flag.name] = dict(pairs)
                if len(given[flag.name]) < len(pairs):
                    self.error(f"{flag.spelling} gives one key twice")
            elif flag.name in given and flag.many:
                given[flag.name] = tuple(given[flag.name])
        return given

    def _no_flag(self, word: str) -> NoReturn:
        typed, spellings = word.partition("=")[0], {f.name: f.spelling for f in self.flags}
        self.error(f"no flag '{typed}'{suggestion(typed, spellings)}")

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print."""
        said = message.removeprefix("argument ")
        said = said.replace("the following arguments are required:", "missing")
        raise UsageError(f"{said}{'' if said[-1] in '.?' else '.'} See: {self.prog} --help")


def _add(group: Any, flag: Flag, text: str) -> None:
    """Adds a flag to a group of a parser."""
    if flag.hint is bool:
        shown = f"--[no-]{flag.spelling[2:]}" if flag.default else flag.spelling
        on_off = argparse.BooleanOptionalAction
        group.add_argument(flag.spelling, action=on_off, metavar=shown, help=text)
    elif flag.positional:
        needed = flag.default is MISSING
        nargs = ("+" if needed else "*") if flag.many else (None if needed else "?")
        metavar = flag.spelling
        group.add_argument(flag.name, type=flag.value, nargs=nargs, metavar=metavar, help=text)
    else:
        group.add_argument(
            flag.spelling,
            type=flag.value,
            action="append" if get_origin(flag.hint) is Mapping else "store",
            dest=flag.name,
            required=flag.default is MISSING,
            metavar=describe(flag.hint)[0],
            help=text,
        )


def default_words(flag: Flag, presets: Mapping[str, Mapping[str, Any]]) -> str:
    """' (default: 64; tiny: 32)', or nothing where there is no default to speak of."""
    if flag.hint is bool:
        return " (on by default)" if flag.default is True else ""
    values = {name: found[flag.name] for name, found in presets.items() if flag.name in found}
    if flag.default not in (MISSING, None, "", ()) and flag.default != {}:
        values = {"default": flag.default, **values}
    words = [f"{name}: {_in_words(value)}" for name, value in values.items()]
    return f" ({'; '.join(words)})" if words and flag.name != "preset" else ""


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={entry}" for key, entry in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

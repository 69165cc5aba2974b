"""Command-line flags and config files, derived from frozen keyword-only dataclasses.

A verb declares one dataclass of arguments. Its fields without a default are positional
arguments (a tuple takes all the words that follow), the others are flags; the docstring below a
field is its help. A field whose type is itself a dataclass is the verb's *configuration*: its
fields become flags too, and they can be given in a file. Later wins: defaults < `--preset` <
`--config FILE` < flags.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import yaml

from slimp.cli.help import Flag, help_text, suggestion
from slimp.cli.values import convert, describe, pairs
from slimp.errors import UserError

Arguments = TypeVar("Arguments")

REQUIRED_FLAG = {"flag": True}
"""Metadata of a field without a default that is a flag all the same, as `--out`."""
IN_FILES = (
    Flag(
        name="config",
        hint=Path,
        default=None,
        help="YAML or JSON file of settings; flags override it.",
        group="Settings in a file",
        positional=False,
    ),
    Flag(
        name="print_config",
        hint=bool,
        default=False,
        help="Print the resolved settings, ready for --config, and do nothing else.",
        group="Settings in a file",
        positional=False,
    ),
)


class UsageError(UserError):
    """The command line is at fault: a missing argument, an unknown flag, a value of wrong kind."""


def parse(
    argv: Sequence[str],
    arguments: type[Arguments],
    *,
    command: str,
    about: str = "",
    example: str = "",
    shown: Sequence[str] = (),
) -> Arguments:
    """The verb's arguments, built from the command line.

    `--help` (which lists the flags `shown`), `--help-all` and `--print-config` write to standard
    output and raise SystemExit(0).

    Raises:
        UserError: the command line or the config file is at fault, or a value is out of range.
    """
    nested, config_class = config_field(arguments)
    own = [flag for flag in flags_of(arguments) if flag.name != nested]
    settings = flags_of(config_class) if config_class else []
    flags = {flag.name: flag for flag in (*own, *settings, *(IN_FILES if config_class else ()))}
    if {"-h", "--help", "--help-all"} & set(argv):
        listed = () if "--help-all" in argv else shown
        presets = _presets(config_class)
        sys.stdout.write(help_text(command, [*flags.values()], about, example, listed, presets))
        raise SystemExit(0)
    try:
        given = _read(argv, flags)
        printing = given.pop("print_config", False)
        values = {flag.name: given.get(flag.name, flag.default) for flag in own}
        missing = [f.spelling for f in own if values[f.name] is MISSING]
        if missing and not printing:
            raise UsageError(f"missing {' and '.join(missing)}.")
    except UsageError as error:
        raise UsageError(f"{error} See: {command} --help") from None
    if config_class:
        starting = _starting_values(given, config_class, command.split()[-1])
        chosen = {flag.name: given[flag.name] for flag in settings if flag.name in given}
        values[nested] = config_class(**{**starting, **chosen})
        if printing:
            sys.stdout.write(to_yaml(values[nested]))
            raise SystemExit(0)
    return arguments(**values)


def config_field(arguments: type) -> tuple[str, type | None]:
    """Name and class of the field that holds the verb's configuration; ("", None) without one."""
    for name, hint in get_type_hints(arguments).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return name, hint
    return "", None


def flags_of(cls: type) -> list[Flag]:
    """The fields of a dataclass as flags: its own first, then those of its base classes."""
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    flags: dict[str, Flag] = {}
    for base in cls.__mro__[:-1]:
        docs = _docs(base)
        title = (base.__doc__ or base.__name__).strip().partition("\n")[0].rstrip(".")
        for name in inspect.get_annotations(base):
            if name not in fields or name in flags:
                continue
            default = fields[name].default
            if callable(made := fields[name].default_factory):
                default = made()
            flags[name] = Flag(
                name=name,
                hint=hints[name],
                default=default,
                help=" ".join(docs.get(name, "").split()),
                group=title,
                positional=default is MISSING and not fields[name].metadata.get("flag"),
            )
    return list(flags.values())


@functools.cache
def _docs(cls: type) -> dict[str, str]:
    """Field -> the docstring below it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: str(text.value.value)
        for field, text in pairwise(body.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def to_yaml(config: Any) -> str:
    """A configuration as a file for `--config`, each setting below a line that explains it."""
    lines = []
    for flag in flags_of(type(config)):
        value = json.loads(json.dumps(getattr(config, flag.name), default=str))
        text = yaml.safe_dump({flag.name: value}, sort_keys=False)
        lines.append(f"# {flag.help}\n{text}" if flag.help else text)
    return "".join(lines)


def read_config(path: Path, config_class: type, *, section: str = "") -> dict[str, Any]:
    """The settings of a YAML or JSON file, checked one by one.

    The `config.json` that a verb left will do: its settings are under `section`, the verb's name.

    Raises:
        UserError: names the file and the key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the config file ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a valid YAML or JSON file: {reason}.") from None
    if isinstance(content, dict) and isinstance(content.get(section), dict):
        content = content[section]
    if not isinstance(content, dict):
        raise UserError(f"{path}: a config file holds lines of 'key: value'; this one does not.")
    flags = {flag.name: flag for flag in flags_of(config_class)}
    values = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in flags:
            raise UserError(f"{path}: unknown key '{key}'{suggestion(name, flags.values())}")
        try:
            values[name] = convert(flags[name].hint, value)
        except ValueError:
            words = describe(flags[name].hint)
            raise UserError(f"{path}: key '{key}' takes {words}, got {value!r}.") from None
    return values


_NO_VALUE = object()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}.")


def _read(argv: Sequence[str], flags: Mapping[str, Flag]) -> dict[str, Any]:
    """The values that the command line gives; words that belong to no flag are positional."""
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in flags.values():
        if flag.hint is bool:
            options: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            options = {"nargs": "?", "const": _NO_VALUE}
            options["action"] = "append" if get_origin(flag.hint) is Mapping else "store"
        if not flag.positional:
            parser.add_argument(flag.spelling, dest=flag.name, **options)
    found, words = parser.parse_known_args(list(argv))
    for word in words:
        if word.startswith("--") and word != "--":
            typed = word.partition("=")[0]
            raise UsageError(f"no flag '{typed}'{suggestion(typed, flags.values())}")
    given = {name: _value(flags[name], value) for name, value in vars(found).items()}
    for flag in flags.values():
        if flag.positional and words:
            own, words = (words, []) if flag.many else (words[:1], words[1:])
            given[flag.name] = _value(flag, own if flag.many else own[0])
    if words:
        raise UsageError(f"unexpected argument '{words[0]}'.")
    return given


def _value(flag: Flag, value: Any) -> Any:
    words = describe(flag.hint)
    texts = value if isinstance(value, list) else [value]
    if _NO_VALUE in texts:
        raise UsageError(f"{flag.spelling} needs a value: {words}.")
    if get_origin(flag.hint) is Mapping:
        try:
            return pairs(flag.hint, texts)
        except ValueError as error:
            raise UsageError(f"{flag.spelling} takes {words}, {error}.") from None
    try:
        return convert(flag.hint, value)
    except ValueError:
        raise UsageError(f"{flag.spelling} takes {words}, got {value}.") from None


def _presets(config_class: type | None) -> dict[str, dict[str, Any]]:
    """Preset -> the defaults that it sets; empty if the configuration has none."""
    values_of = getattr(config_class, "preset_values", None)
    if config_class is None or values_of is None:
        return {}
    names = get_args(get_type_hints(config_class)["preset"])
    return {name: values_of(name, {}) for name in names}


def _starting_values(given: Mapping[str, Any], config_class: type, verb: str) -> dict[str, Any]:
    """What holds before flags: the preset's values, then the config file's."""
    path = given.get("config")
    values = read_config(path, config_class, section=verb) if path else {}
    preset_values = getattr(config_class, "preset_values", None)
    if preset_values is None:
        return values
    chosen = {**values, **given}
    preset = chosen.get("preset", getattr(config_class, "preset", None))
    return {**preset_values(preset, chosen), **values}

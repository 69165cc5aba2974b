"""Command-line flags and config files, derived from frozen keyword-only dataclasses.

A verb declares one dataclass of arguments. Its fields without a default are positional
arguments (a tuple takes all the words that follow), the others are flags; the docstring below a
field is its help. A field whose type is itself a dataclass is the verb's *configuration*: its
fields become flags too, and they can be given in a file. Later wins: defaults < `--preset` <
`--config FILE` < flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse
import yaml

from slimp.cli.help import Flag, HelpFormatter, UsageError, describe, explain, nearest, placeholder
from slimp.errors import UserError

Arguments = TypeVar("Arguments")

REQUIRED_FLAG = {"flag": True}
"""Metadata of a field without a default that is a flag all the same, as `--out`."""


def parse(
    argv: Sequence[str], arguments: type[Arguments], *, command: str, description: str
) -> Arguments:
    """The verb's arguments, built from the command line.

    `--help` and `--print-config` write to standard output and raise SystemExit(0).

    Raises:
        UserError: the command line or the config file is at fault, or a value is out of range.
    """
    nested, config_class = config_field(arguments)
    own = [flag for flag in flags_of(arguments) if flag.name != nested]
    settings = flags_of(config_class) if config_class else []
    flags = [*own, *settings]
    printing = config_class is not None and "--print-config" in argv
    parser = _parser(flags, command, description, lenient=printing)
    if config_class:
        _add_config_flags(parser)
        parser.set_defaults(_starting_values(argv, config_class, command.split()[-1]))
    try:
        namespace = parser.parse_args(_join_pairs(_bracket_lists(argv, flags), flags))
    except argparse.ArgumentError as error:
        reason = explain(str(error), flags)
        raise UsageError(f"{reason} See: {command} --help") from None
    values = {flag.name: namespace[flag.name] for flag in own}
    values |= {f.name: tuple(values[f.name]) for f in own if f.positional and f.kind is tuple}
    if config_class:
        values[nested] = _build(config_class, {f.name: namespace[f.name] for f in settings})
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
        docs = {p.arg_name: p.description for p in docstring_parser.parse_from_object(base).params}
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
                help=" ".join((docs.get(name) or "").split()),
                group=title,
                positional=default is MISSING and not fields[name].metadata.get("flag"),
            )
    return list(flags.values())


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
    parser = _parser(list(flags.values()), "slimp", "", lenient=True)
    values = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in flags:
            raise UserError(f"{path}: unknown key '{key}'{nearest(name, flags)}.")
        try:
            namespace = parser.parse_args([_as_token(flags[name], value)])
        except argparse.ArgumentError:
            raise UserError(
                f"{path}: key '{key}' takes {describe(flags[name])}, got {value!r}."
            ) from None
        values[name] = namespace[name]
    return values


def _starting_values(argv: Sequence[str], config_class: type, verb: str) -> dict[str, Any]:
    """What holds before flags: the preset's values, then the config file's."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--config", type=Path)
    early.add_argument("--preset")
    early.add_argument("--encoder")
    try:
        chosen, _ = early.parse_known_args(list(argv))
    except argparse.ArgumentError:  # a flag without its value: the full parser says so
        return {}
    values = read_config(chosen.config, config_class, section=verb) if chosen.config else {}
    preset = chosen.preset or values.get("preset") or getattr(config_class, "preset", None)
    if preset is None or not hasattr(config_class, "preset_values"):
        return values
    given = {**values, "encoder": chosen.encoder or values.get("encoder")}
    return {**config_class.preset_values(preset, given), **values}


def _build(config_class: type, values: dict[str, Any]) -> Any:
    try:
        return config_class(**values)
    except UserError:
        raise
    except ValueError as error:  # a configuration may refuse nonsense with a plain ValueError
        raise UsageError(str(error)) from error


def _parser(
    flags: Sequence[Flag], command: str, description: str, *, lenient: bool
) -> jsonargparse.ArgumentParser:
    """A parser of these flags; a lenient one lets the user leave out what is required."""
    required = [flag for flag in flags if flag.default is MISSING]
    shown = [
        f"{f.spelling}{'...' * (f.kind is tuple)}"
        if f.positional
        else f"{f.spelling} {placeholder(f)}"
        for f in required
    ]
    parser = jsonargparse.ArgumentParser(
        prog=command,
        usage=" ".join([command, *shown, "[FLAGS]"]).replace("%", "%%"),
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    groups: dict[str, Any] = {}
    for flag in flags:
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        options: dict[str, Any] = {"help": flag.help.replace("%", "%%")}
        if flag.hint is bool:
            options["action"] = jsonargparse.ActionYesNo(yes_prefix="", no_prefix="no-")
        else:
            options["type"] = flag.hint
            if get_origin(flag.plain_hint) is not Literal:
                options["metavar"] = flag.spelling if flag.positional else placeholder(flag)
        if flag not in required:
            options["default"] = flag.default
        elif not flag.positional:
            options["required"] = not lenient
        elif flag.kind is tuple:  # one or more words, each a value
            options |= {"nargs": "+", "type": get_args(flag.plain_hint)[0]}
        elif lenient:
            options["nargs"] = "?"
        groups[flag.group].add_argument(flag.name if flag.positional else flag.spelling, **options)
    return parser


def _add_config_flags(parser: jsonargparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Settings in a file")
    group.add_argument(
        "--config", metavar="FILE", help="YAML or JSON file of settings; flags override it."
    )
    group.add_argument(
        "--print-config",
        action="store_true",
        help="Print the resolved settings, ready for --config, and do nothing else.",
    )


def _bracket_lists(argv: Sequence[str], flags: Sequence[Flag]) -> list[str]:
    """`--seeds 0,1` and `--seeds 3` as the lists that they stand for."""
    lists = {flag.spelling for flag in flags if flag.kind is tuple}
    tokens = []
    for previous, token in zip(["", *argv], argv, strict=False):
        name, equals, value = token.partition("=")
        if previous in lists:
            tokens.append(_bracket(token))
        elif equals and name in lists:
            tokens.append(f"{name}={_bracket(value)}")
        else:
            tokens.append(token)
    return tokens


def _join_pairs(argv: Sequence[str], flags: Sequence[Flag]) -> list[str]:
    """`--rename a=b --rename c=d` as one mapping; `--rename '{a: b}'` stays as it is.

    Raises:
        UserError: what is given is no pair, or a key is given twice.
    """
    mappings = {flag.spelling: flag for flag in flags if flag.kind is Mapping}
    tokens: list[str] = []
    pairs: dict[str, dict[str, Any]] = {}
    remaining = iter(argv)
    for token in remaining:
        name, equals, text = token.partition("=")
        if name not in mappings:
            tokens.append(token)
            continue
        text = text if equals else next(remaining, "")
        key, equals, value = text.partition("=")
        if text.startswith("{") or not text:
            tokens.append(f"{name}={text}" if text else name)
        elif not (key and equals and value) or key in pairs.setdefault(name, {}):
            problem = f"got '{key}' twice" if equals and value and key else f"got '{text}'"
            raise UsageError(f"{name} takes {describe(mappings[name])}, {problem}.")
        else:
            text_only = get_args(mappings[name].plain_hint)[1] is str
            pairs[name][key] = value if text_only else yaml.safe_load(value)
    return [*(f"{name}={json.dumps(found)}" for name, found in pairs.items()), *tokens]


def _bracket(value: str) -> str:
    return value if value.startswith("[") or value == "null" else f"[{value}]"


def _as_token(flag: Flag, value: object) -> str:
    """A config-file value as the command line would give it, so that both mean the same."""
    if flag.hint is bool and isinstance(value, bool):
        return flag.spelling if value else f"--no-{flag.spelling[2:]}"
    if isinstance(value, str):
        return f"{flag.spelling}={value}"
    text = json.dumps(value, default=str)
    return f"{flag.spelling}={_bracket(text) if flag.kind is tuple else text}"

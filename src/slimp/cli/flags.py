"""Command-line flags and config files, derived from frozen keyword-only dataclasses.

A verb declares one dataclass of arguments. Its fields without a default are positional
arguments (a tuple takes all the words that follow), the others are flags; the docstring below a
field is its help. A field whose type is itself a dataclass is the verb's *configuration*: its
fields become flags too, and they can be given in a file. Later wins: defaults < `--preset` <
`--config FILE` < flags.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
import shlex
import sys
import textwrap
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from slimp.cli.parser import Flag, Parser
from slimp.data.config import suggestion
from slimp.errors import UserError

Arguments = TypeVar("Arguments")

REQUIRED_FLAG = {"flag": True}
"""Metadata of a field without a default that is a flag all the same, as `--out`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InFiles:
    """Settings in a file."""

    config: Path | None = None
    """YAML or JSON file of settings; flags override it."""
    print_config: bool = False
    """Print the resolved settings, ready for --config, and do nothing else."""


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
    flags = [*own, *settings, *(flags_of(InFiles) if config_class else ())]
    if {"-h", "--help", "--help-all"} & set(argv):
        about = f"Example: {example}\n\n{about.strip()}" if example else about.strip()
        shown = () if "--help-all" in argv else shown
        presets = presets_of(config_class)
        parser = Parser(command, flags, about=about, shown=shown, presets=presets)
        sys.stdout.write(parser.format_help())
        raise SystemExit(0)
    printing = config_class is not None and "--print-config" in argv
    if printing:  # no file is read then, so none need be named
        flags = [replace(f, default=None) if f.default is MISSING else f for f in flags]
    given = Parser(command, flags).read(argv)
    values = {flag.name: given.get(flag.name, flag.default) for flag in own}
    if config_class:
        chosen = {flag.name: given[flag.name] for flag in settings if flag.name in given}
        path = given.get("config")
        in_file = read_config(path, config_class, section=command.split()[-1]) if path else {}
        values[nested] = config_class(**_with_preset(config_class, {**in_file, **chosen}))
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
        summary = (base.__doc__ or base.__name__).strip().partition("\n")[0].rstrip(".")
        title = vars(base).get("heading") or summary
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


def command_line(arguments: Any) -> str:
    """The line that asks for the same: all that is not as usual, but for --overwrite."""
    nested, _ = config_field(type(arguments))
    words = ["slimp", *type(arguments).__module__.rpartition(".")[2].split("_")]
    for owner in (arguments, *([getattr(arguments, nested)] if nested else [])):
        for flag in sorted(flags_of(type(owner)), key=lambda flag: not flag.positional):
            value = getattr(owner, flag.name)
            if flag.name not in (nested, "overwrite") and value != flag.default:
                words += flag.words(value)
    return shlex.join(words)


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
        lines.append(f"# {flag.help}\n{yaml.safe_dump({flag.name: value}, sort_keys=False)}")
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
    if section == "pretrain" and isinstance(content, dict):
        _require_pretrained(path, content)
    if isinstance(content, dict) and isinstance(content.get(section), dict):
        content = content[section]
    if not isinstance(content, dict):
        raise UserError(f"{path}: a config file holds lines of 'key: value'; this one does not.")
    flags = {flag.name: flag for flag in flags_of(config_class)}
    values = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in flags:
            hint = suggestion(name, {flag.name: flag.spelling for flag in flags.values()})
            raise UserError(f"{path}: unknown key '{key}'{hint}")
        try:
            values[name] = flags[name].value(value)
        except ArgumentTypeError as error:
            raise UserError(f"{path}: key '{key}' {error}.") from None
    return values


def _require_pretrained(path: Path, content: Mapping[str, Any]) -> None:
    """Refuses the `config.json` of a run that pre-training by these settings would not repeat."""
    if "baseline" in content:
        what = content["baseline"].get("trainer")
        raise UserError(f"{path}: is of baseline '{what}', which slimp pretrain does not train.")
    if "adapt" in content:
        raise UserError(
            f"{path}: is of a run that slimp adapt made from another one; slimp pretrain would "
            f"begin anew. Repeat it with: slimp adapt RUN COHORT --config {path}"
        )


def presets_of(config_class: type | None) -> dict[str, dict[str, Any]]:
    """Preset -> the defaults that it sets; empty if the configuration has none."""
    if config_class is None or not hasattr(config_class, "preset_values"):
        return {}
    names = get_args(get_type_hints(config_class)["preset"])
    return {name: config_class.preset_values(name, {}) for name in names}


def _with_preset(config_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and those that their preset sets."""
    if not hasattr(config_class, "preset_values"):
        return dict(values)
    preset = values.get("preset", getattr(config_class, "preset", None))
    found: dict[str, Any] = config_class.preset_values(preset, values)
    return found

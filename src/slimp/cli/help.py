"""Help texts, and what a mistyped flag was meant to be."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, get_origin

from slimp.cli.values import placeholder

ALSO_CALLED = {
    "accelerator": "ac cuda device gpu gpus",
    "batch_size": "batch bs",
    "cohort": "data data_dir dataset",
    "devices": "device gpu gpus nproc_per_node",
    "encoder": "arch backbone model net",
    "encoder_weights": "checkpoint ckpt weights",
    "epochs": "epoch iters n_epochs num_epochs steps",
    "held_out_fraction": "test_fraction test_size",
    "image_size": "img_size input_size resolution",
    "k": "k_neighbors k_neighbours neighbors neighbours",
    "learning_rate": "lr",
    "lesion_weight": "lambda",
    "lesions": "batch batch_size bs",
    "nodes": "nnodes num_nodes",
    "out": "dir o output output_dir output_path save_dir",
    "overwrite": "force replace",
    "patients": "batch batch_size bs",
    "precision": "amp bf16 dtype fp16 fp32 half",
    "run": "checkpoint ckpt model weights",
    "seed": "random_seed random_state",
    "source": "dataset",
    "temperature": "tau temp",
    "test_fraction": "test_size",
    "validation_fraction": "val_split",
    "view_weight": "augment simclr",
    "weight_decay": "wd",
    "workers": "j n_jobs num_workers threads",
    "yes": "y",
}
"""Our name -> what other tools call it, and people type."""


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
    def many(self) -> bool:
        """A positional argument that takes all words that follow."""
        return self.positional and get_origin(self.hint) is tuple


def suggestion(typed: str, flags: Iterable[Flag]) -> str:
    """An ending for 'no flag TYPED': our name of what was meant, or a full stop.

    What other tools call it goes before likeness, which must be close: a wrong hint is worse than
    none.
    """
    spellings = {flag.name: flag.spelling for flag in flags}
    name = typed.lstrip("-").replace("-", "_").lower()
    ours = [s for n, s in spellings.items() if name in ALSO_CALLED.get(n, "").split()]
    if ours:
        return f"; here it is {' and '.join(ours)}."
    close = difflib.get_close_matches(name, spellings, n=1, cutoff=0.8)
    return f"; did you mean {spellings[close[0]]}?" if close else "."


def help_text(
    command: str,
    flags: Sequence[Flag],
    about: str,
    example: str,
    shown: Sequence[str],
    presets: Mapping[str, Mapping[str, Any]],
) -> str:
    """The help of a verb.

    Args:
        command: as in `slimp pretrain`.
        flags: all of them.
        about: what the verb does.
        example: a command line, shown first, if there is one.
        shown: names of the flags to list; empty: all of them.
        presets: preset -> the defaults that it sets.
    """
    required = [
        f.spelling + "..." * f.many if f.positional else f"{f.spelling} {placeholder(f.hint)}"
        for f in flags
        if f.default is MISSING
    ]
    parser = argparse.ArgumentParser(
        prog=command,
        usage=" ".join([command, *required, "[FLAGS]"]).replace("%", "%%"),
        description=(f"Example: {example}\n\n" if example else "") + about.strip(),
        formatter_class=lambda prog: _Formatter(prog, max_help_position=32),
        add_help=False,
    )
    groups: dict[str, Any] = {}
    hidden = 0
    for flag in flags:
        if shown and flag.name not in shown and flag.default is not MISSING:
            hidden += 1
            continue
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        group = groups[flag.group]
        text = (flag.help + _default(flag, presets)).strip().replace("%", "%%")
        if flag.hint is bool:
            spelling = f"--[no-]{flag.spelling[2:]}" if flag.default else flag.spelling
            group.add_argument(spelling, action="store_true", help=text)
        elif flag.positional:
            group.add_argument(flag.spelling, help=text)
        else:
            group.add_argument(flag.spelling, metavar=placeholder(flag.hint), help=text)
    if hidden:
        parser.epilog = f"--help-all lists {hidden} more flags."
    return parser.format_help()


class _Formatter(argparse.HelpFormatter):
    """Keeps the paragraphs of the description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(part, width, indent) for part in text.split("\n\n"))


def _default(flag: Flag, presets: Mapping[str, Mapping[str, Any]]) -> str:
    """' (default: 64; tiny: 32)', or nothing where there is no default to speak of."""
    if flag.hint is bool:
        return " (on by default)" if flag.default is True else ""
    if flag.positional or flag.default in (MISSING, None, "", ()) or flag.default == {}:
        values = {}
    else:
        values = {"default": flag.default}
    values |= {name: found[flag.name] for name, found in presets.items() if flag.name in found}
    words = [f"{name}: {_in_words(value)}" for name, value in values.items()]
    return f" ({'; '.join(words)})" if words and flag.name != "preset" else ""


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={entry}" for key, entry in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

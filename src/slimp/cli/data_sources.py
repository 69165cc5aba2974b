"""Lists the datasets that can be imported: size, licence, and where to get them.

With --source, all about one: the layouts that are recognised, the columns at each level, and those
that are refused with the reason. docs/datasets.md says the same in pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slimp.cli.console import say, show_table

if TYPE_CHECKING:
    from slimp.sources import Source

EXAMPLE = "slimp data sources --source hiba"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Output."""

    source: str | None = None
    """Name of a dataset, to see all about it."""


def run(arguments: Arguments) -> None:
    """Prints a table of the sources and how to get each, or one of them in full."""
    from slimp.sources import get_source, sources

    if arguments.source is not None:
        _show(get_source(arguments.source))
        return
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
    say("\nnext: slimp data sources --source NAME, for its columns and what is refused")


def _show(source: Source) -> None:
    counts = {"images": source.images, "lesions": source.lesions, "patients": source.patients}
    facts = [
        *(source.title, source.citation, source.homepage, f"licence: {source.licence}"),
        ", ".join(f"{count:,} {what}" for what, count in counts.items() if count),
        ", ".join(f"{name} {count:,}" for name, count in source.classes.items()),
        f"get it: {source.how_to_get}",
        *(f"recognised: {layout}" for layout in source.layouts),
    ]
    say("\n".join(fact for fact in facts if fact))
    if source.schema_file is None:
        return
    schema = source.schema()
    ids = [
        (role, column, "label" if role == "label" else "id", "")
        for role in ("image", "lesion", "patient", "label", "split")
        if (column := getattr(schema, role)) is not None
    ]
    features = [
        (level.name, column, feature.kind, feature.unit or "")
        for level in schema.levels
        for feature in level.features
        for column in feature.columns
    ]
    show_table("columns", ["level", "column", "kind", "unit"], [*ids, *features])
    if schema.refused:
        show_table("refused as inputs", ["column", "because"], sorted(schema.refused.items()))
    if source.is_published:
        say(f"next: slimp data import {source.name} RAW COHORT")

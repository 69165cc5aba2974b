"""Every column beside the label: what it tells, with intervals, strongest first.

Features, refused and unused columns, the gaps of each block of columns, and what the pictures
show apart from the lesion. All are held to the same measure, `link.measure_link`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from slimp.checks.published import Published, Role
from slimp.data.cohort import Cohort
from slimp.sources.association import Link, as_categories, measure_link

FILLED, EMPTY = "filled in", "empty"
Kind = Literal["values", "gaps", "picture"]
ACQUISITION = {
    "width": "width of the picture, px",
    "height": "height of the picture, px",
    "aspect": "width by height of the picture",
    "bytes_per_pixel": "bytes per pixel of the file",
    "sharpness": "sharpness of the picture",
    "overexposed": "share of white pixels",
    "underexposed": "share of black pixels",
    "frame": "share of the area in a frame",
    "dark_corners": "dark corners",
}
"""What depends on how a picture was taken; it has no business with the diagnosis."""
CONTENT = {
    "brightness": "mean brightness of the picture",
    "spread": "contrast of the picture",
    "colour": "colourfulness of the picture",
}
"""What the lesion itself may decide."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One column, or the gaps of several, and what it tells about the label."""

    name: str
    kind: Kind
    role: Role
    columns: tuple[Published, ...] = ()
    """The published columns: one, or all that have these gaps; none for `picture`."""
    known: float
    """Share of the images with a value."""
    link: Link

    def to_dict(self) -> dict[str, object]:
        """A row of the table, for JSON and CSV."""
        link = self.link
        return {
            "column": self.name,
            "kind": self.kind,
            "role": self.role,
            "known": round(self.known, 4),
            "information_bits": round(link.information, 4),
            "information_low": round(link.information_ci95[0], 4),
            "information_high": round(link.information_ci95[1], 4),
            "balanced_accuracy": round(link.balanced_accuracy, 4),
            "balanced_accuracy_low": round(link.accuracy_ci95[0], 4),
            "balanced_accuracy_high": round(link.accuracy_ci95[1], 4),
            "chance": round(link.chance, 4),
            "label_share": round(link.label_share, 4),
            "column_share": round(link.column_share, 4),
            "rule_share": round(link.rule_share, 4),
            "p_value": link.p_value,
        }


def rank_columns(
    cohort: Cohort, columns: Sequence[Published], good: pd.DataFrame
) -> tuple[Ranked, ...]:
    """Everything that can be measured, the most informative first.

    Args:
        cohort: for labels and patients.
        columns: as published.
        good: facts of the images that can be decoded, see `scan.ImageScan`.
    """
    found = [*rank_tables(cohort, columns), *_pictures(cohort, good)]
    return tuple(sorted(found, key=lambda row: (-row.link.information, row.name, row.kind)))


def rank_tables(cohort: Cohort, columns: Sequence[Published]) -> list[Ranked]:
    """What the columns and their gaps tell, in no order; opens no image."""
    return [*_values(cohort, columns), *_gaps(cohort, columns)]


def _values(cohort: Cohort, columns: Sequence[Published]) -> Iterator[Ranked]:
    labels, patients = cohort.images["label"], cohort.images["patient_id"]
    for column in columns:
        link = measure_link(as_categories(column.values), labels, patients)
        if link is not None:
            yield Ranked(
                name=column.name,
                kind="values",
                role=column.role,
                columns=(column,),
                known=float(column.values.notna().mean()),
                link=link,
            )


def _gaps(cohort: Cohort, columns: Sequence[Published]) -> Iterator[Ranked]:
    """Columns that are empty in the same rows are one: a model sees one pattern."""
    labels, patients = cohort.images["label"], cohort.images["patient_id"]
    blocks: dict[tuple[bytes, Role], list[Published]] = {}
    for column in columns:
        blocks.setdefault((column.values.isna().to_numpy().tobytes(), column.role), []).append(
            column
        )
    for (_, role), block in blocks.items():
        filled = block[0].values.notna()
        link = measure_link(
            filled.map({True: FILLED, False: EMPTY}).astype(object), labels, patients
        )
        if link is not None:
            more = f" and {len(block) - 1} more" if len(block) > 1 else ""
            yield Ranked(
                name=f"gaps of {block[0].name}{more}",
                kind="gaps",
                role=role,
                columns=tuple(block),
                known=float(filled.mean()),
                link=link,
            )


def _pictures(cohort: Cohort, good: pd.DataFrame) -> Iterator[Ranked]:
    good = good.assign(aspect=good["width"] / good["height"].clip(lower=1))
    for name in (*ACQUISITION, *CONTENT):
        link = measure_link(as_categories(good[name]), good["label"], good["patient_id"])
        if link is not None:
            yield Ranked(
                name=name,
                kind="picture",
                role="unused",
                known=len(good) / len(cohort),
                link=link,
            )

"""Every column beside the label: what it tells, with intervals, strongest first.

Features, refused and unused columns, the gaps of each block of columns, and what the images show
apart from the lesion: all are held to the same measure, `measure_association`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from slimp.checks.image_statistics import MEASURES
from slimp.checks.published import Published, Role
from slimp.data.cohort import Cohort
from slimp.sources.association import Association, as_categories, measure_association


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One column, or the gaps of several, and what it tells about the label."""

    name: str
    kind: Literal["values", "gaps", "image"]
    role: Role
    columns: tuple[Published, ...] = ()
    """The published columns: one, or all that have these gaps; none of `image`."""
    known: float
    """Share of the images with a value."""
    found: Association

    def to_dict(self) -> dict[str, object]:
        """A row of the table, for JSON and CSV."""
        found = self.found
        low, high = found.accuracy_ci95
        numbers = {
            "known": self.known,
            "information_bits": found.information,
            "balanced_accuracy": found.balanced_accuracy,
            "balanced_accuracy_low": low,
            "balanced_accuracy_high": high,
            "chance": found.chance,
            "label_share": found.label_share,
            "column_share": found.column_share,
            "rule_share": found.rule_share,
        }
        return {
            "column": self.name,
            "kind": self.kind,
            "role": self.role,
            **{name: round(number, 4) for name, number in numbers.items()},
            "p_value": found.p_value,
        }


def rank_columns(
    cohort: Cohort, columns: Sequence[Published], good: pd.DataFrame | None = None
) -> tuple[Ranked, ...]:
    """Everything that can be measured, the most informative first.

    Args:
        cohort: for labels and patients.
        columns: as published.
        good: facts of the images that can be decoded, see `ImageScan`; None: from tables alone.
    """
    labels, patients = (cohort.images[name].astype("category") for name in ("label", "patient_id"))
    found = []
    for column in columns:
        values = as_categories(column.values).rename(column.name)
        if (association := measure_association(values, labels, patients)) is not None:
            found.append(_row(column.name, "values", (column,), association))
    for block in _blocks_of_gaps(columns):
        filled = block[0].values.notna().map({True: "filled in", False: "empty"})
        filled = filled.astype(object).rename(block[0].name)
        if (association := measure_association(filled, labels, patients)) is not None:
            more = f" and {len(block) - 1} more" if len(block) > 1 else ""
            found.append(_row(f"gaps of {block[0].name}{more}", "gaps", block, association))
    good = cohort.images[:0] if good is None else good
    for name in MEASURES if len(good) else ():
        values = as_categories(good[name])
        labels, patients = good["label"], good["patient_id"]
        if (association := measure_association(values, labels, patients)) is not None:
            known = len(good) / len(cohort)
            found.append(
                Ranked(name=name, kind="image", role="unused", known=known, found=association)
            )
    return tuple(sorted(found, key=lambda row: (-row.found.information, row.name, row.kind)))


def _row(
    name: str,
    kind: Literal["values", "gaps"],
    columns: tuple[Published, ...],
    association: Association,
) -> Ranked:
    return Ranked(
        name=name,
        kind=kind,
        role=columns[0].role,
        columns=columns,
        known=float(columns[0].values.notna().mean()),
        found=association,
    )


def _blocks_of_gaps(columns: Sequence[Published]) -> Iterator[tuple[Published, ...]]:
    """Columns that are empty in the same rows are one: a model sees one pattern."""
    blocks: dict[tuple[bytes, Role], list[Published]] = {}
    for column in columns:
        gaps = column.values.isna().to_numpy()
        if gaps.any():
            blocks.setdefault((gaps.tobytes(), column.role), []).append(column)
    return map(tuple, blocks.values())

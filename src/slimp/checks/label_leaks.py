"""What each column and its gaps tell about the label, and which give it away.

Features, refused and unused columns, the gaps of each block of columns, and what the images show
apart from the lesion are held to the same measure (`measure_association`), whatever the schema
says about them. A clinical column makes a diagnosis more or less likely; a leak follows from it
(`Association.is_leak`). Between two classes alone an honest column can be as telling (all nevi of
PAD-UFES-20 do not bleed), so a finding is a reason to look, with its evidence stated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pandas as pd

from slimp.checks.finding import Finding, Severity, finding, name_list
from slimp.checks.images import CONTENT, MEASURES
from slimp.checks.published import Published, Role
from slimp.data.cohort import Cohort
from slimp.sources.association import SIGNIFICANT, Association, as_categories, measure_association
from slimp.sources.personal_data import personal_kind

BLOCK_COLUMNS = 3
"""From so many columns on, gaps in the same rows are worth a word."""
SHORTCUT_LIFT = 0.20
"""Of the way from chance to perfect that how an image was taken may go, by its lower bound."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One column, or the gaps of several, and what it tells about the label."""

    name: str
    kind: Literal["values", "gaps", "image"]
    columns: tuple[Published, ...] = ()
    """The published columns: one, or all that have these gaps; none of `image`."""
    known: float
    """Share of the images with a value."""
    found: Association

    @property
    def role(self) -> Role:
        """Of the columns."""
        return self.columns[0].role if self.columns else "unused"

    def to_dict(self) -> dict[str, Any]:
        """A row of the table, for JSON and CSV."""
        found = asdict(self.found)
        low, high = found.pop("accuracy_ci95")
        found["information_bits"] = found.pop("information")
        row = {
            "column": self.name,
            "kind": self.kind,
            "role": self.role,
            "known": self.known,
            **found,
            "balanced_accuracy_low": low,
            "balanced_accuracy_high": high,
        }
        return {k: round(x, 4) if isinstance(x, float) else x for k, x in row.items()} | {
            "p_value": found["p_value"]
        }


def rank_columns(
    cohort: Cohort, columns: Sequence[Published], facts: pd.DataFrame | None = None
) -> tuple[Ranked, ...]:
    """Everything that can be measured, the most informative first; without `facts` tables alone."""
    labels, patients = (cohort.images[name].astype("category") for name in ("label", "patient_id"))
    found: list[Ranked] = []

    def measure(
        name: str,
        kind: Literal["values", "gaps", "image"],
        values: pd.Series,
        columns: tuple[Published, ...] = (),
    ) -> None:
        values = values.rename(columns[0].name if columns else name)
        if (association := measure_association(values, labels, patients)) is not None:
            known = float((columns[0].values if columns else values).notna().mean())
            if kind == "values" and association.rule and personal_kind(columns[0].own) is not None:
                association = replace(association, rule="")  # it would quote a value
            found.append(
                Ranked(name=name, kind=kind, columns=columns, known=known, found=association)
            )

    for column in columns:
        measure(column.name, "values", as_categories(column.values), (column,))
    for block in gap_blocks(columns):
        filled = block[0].values.notna().map({True: "filled in", False: "empty"}).astype(object)
        more = f" and {len(block) - 1} more" if len(block) > 1 else ""
        measure(f"gaps of {block[0].name}{more}", "gaps", filled, block)
    if facts is not None:
        for name in MEASURES:
            measure(name, "image", as_categories(facts[name].where(facts["problem"] == "")))
    return tuple(sorted(found, key=lambda row: (-row.found.information, row.name, row.kind)))


def gap_blocks(columns: Sequence[Published]) -> list[tuple[Published, ...]]:
    """Columns of one role that are empty in exactly the same images, where any is empty."""
    blocks: dict[tuple[bytes, str], list[Published]] = {}
    for column in columns:
        gaps = column.values.isna().to_numpy()
        if gaps.any():
            blocks.setdefault((gaps.tobytes(), column.role), []).append(column)
    return [tuple(block) for block in blocks.values()]


def missing_findings(columns: Sequence[Published]) -> Iterator[Finding]:
    """Blocks of features that are empty together."""
    for block in gap_blocks(columns):
        if len(block) >= BLOCK_COLUMNS and block[0].role == "feature":
            yield finding(
                "missing-block",
                count=len(block),
                share=float(block[0].values.isna().mean()),
                example=name_list((column.name for column in block), most=13),
            )


def leak_findings(ranking: Sequence[Ranked]) -> Iterator[Finding]:
    """Columns whose values or whose gaps follow the label, and images taken by diagnosis."""
    leaking = {row.name for row in ranking if row.kind == "values" and row.found.is_leak}
    for row in ranking:
        if row.kind == "image":
            if row.name not in CONTENT and is_shortcut(row.found):
                measure = MEASURES[row.name]
                yield finding("shortcut", measure=measure, evidence=evidence(row.found))
        elif row.found.is_leak:
            # Where a column's values give the label away, its gaps need not be reported as well.
            of_gaps = row.kind == "gaps"
            columns = [c for c in row.columns if not (of_gaps and c.name in leaking)]
            if columns:
                yield _leak(columns, row.found, of_gaps=of_gaps)


def _leak(columns: Sequence[Published], found: Association, *, of_gaps: bool) -> Finding:
    first, names = columns[0], [column.name for column in columns]
    code = "leak-by-gaps" if of_gaps else "leak"
    severity: Severity | None = None
    claim = f"column '{first.name}' gives the label away"
    if len(names) > 1:
        claim = f"whether {len(names)} columns, empty in the same rows, are filled in"
        claim += " gives the label away"
    elif of_gaps:
        claim = f"whether '{first.name}' is filled in gives the label away"
    elif found.one_to_one:
        claim = f"column '{first.name}' is the label under another name"
        severity = "error"
    if first.role != "feature":
        code, severity = f"leak-{first.role}", None
    return finding(
        code,
        severity=severity,
        claim=claim,
        evidence=evidence(found),
        name=first.name,
        reason=first.reason,
        example=name_list(names, most=13) if len(names) > 1 else "",
        count=len(names),
    )


def is_shortcut(found: Association) -> bool:
    """Whether it tells far more about the label than how an image is taken should."""
    lift = (found.accuracy_ci95[0] - found.chance) / (1 - found.chance)
    return found.p_value < SIGNIFICANT and (lift >= SHORTCUT_LIFT or found.is_leak)


def evidence(found: Association) -> str:
    """The figures behind a finding."""
    low, high = found.accuracy_ci95
    rule = f"{found.rule}; " if found.rule else ""
    return (
        f"{rule}on held-out patients it alone predicts the label with balanced accuracy "
        f"{found.balanced_accuracy:.2f} (95 % interval {low:.2f} to {high:.2f}, chance "
        f"{found.chance:.2f})"
    )

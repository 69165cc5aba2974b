"""The paper's claims beside what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from slimp.evaluation.bootstrap import Record
from slimp.evaluation.paired_bootstrap import Difference
from slimp.experiments.recipe import Claim, Recipe
from slimp.experiments.rows import LEVEL, Row, against, corrected, select

Verdict = Literal["agrees", "disagrees", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Judged(Record):
    """A claim of the paper beside what was found."""

    claim: Claim
    row: Row | None
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The claim, what was found, and whether they agree."""
        if self.row is None or (found := self.row.against) is None:
            return f"{self.claim.words}: not yet run."
        width = 100 * (found.ci95[1] - found.ci95[0])
        told = "cannot be told at this scale" if self.verdict == "undecided" else self.verdict
        return (
            f"{self.claim.words}. Here {self.claim.arm} minus {self.claim.control}, "
            f"{self.row.features} features: {found}: {told} "
            f"(the interval is {width:.1f} points wide)."
        )

    def to_dict(self) -> dict[str, Any]:
        """An entry of `verdict` in `table.json`."""
        claim = self.claim
        found = None if self.row is None else self.row.against
        return {
            **{"claim": claim.words, "arm": claim.arm, "control": claim.control},
            **{"features": claim.features, "labels": claim.labels},
            "paper": [claim.least, claim.most],
            "difference": None if found is None else found.difference,
            "ci95": None if found is None else list(found.ci95),
            "verdict": self.verdict,
        }


def judge(recipe: Recipe, rows: Sequence[Row], said: pd.DataFrame) -> Iterator[Judged]:
    """Each claim of a recipe, by the corrected p-value of its arm."""
    for claim in recipe.claims:
        kind = (claim.features, claim.labels, claim.setting)
        own = [row for row in rows if row.kind == kind]
        row = next((row for row in own if row.arm == claim.arm), None)
        if row is not None and row.control != claim.control:
            own = [*_beside(claim.control, own, said, recipe.metric)]
            row = next(row for row in own if row.arm == claim.arm)
        found, p = (None, None) if row is None else (row.against, row.holm)
        yield Judged(claim=claim, row=row, verdict=verdict_of(claim, found, p))


def _beside(control: str, rows: Sequence[Row], said: pd.DataFrame, metric: str) -> tuple[Row, ...]:
    """Rows of one kind beside another control than theirs, corrected for their number."""
    found = []
    for row in rows:
        if row.arm != control:
            own = replace(row, control=control, control_features=row.features)
            difference = against(own, select(said, row.arm, row.kind), metric, said)
            found.append(replace(own, against=difference))
    return corrected(found)


def verdict_of(claim: Claim, found: Difference | None, p: float | None) -> Verdict:
    """Whether what was found agrees with a published difference.

    agrees: it is on the same side of 0, also after correction for the number of arms. disagrees:
    the whole interval is short of the smallest difference published, or on the other side.
    """
    if found is None or p is None:
        return "undecided"
    sign = claim.sign
    least = sign * ((claim.least if sign > 0 else claim.most) or 0.0)
    low, high = sorted(sign * end for end in found.ci95)
    if p < LEVEL and sign * found.difference > 0 and low > 0:
        return "agrees"
    if high < least:
        return "disagrees"
    return "undecided"

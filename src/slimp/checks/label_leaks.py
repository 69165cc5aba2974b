"""Columns that give the label away, found from the data whatever the schema says about them.

A clinical column makes a diagnosis more or less likely; a leak follows from it
(`Association.is_leak`). Between two classes alone an honest column can be as telling (all nevi of
PAD-UFES-20 do not bleed), so a finding is a reason to look, with its evidence stated, and not a
verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slimp.checks.finding import Finding, Severity, name_list
from slimp.checks.image_statistics import CONTENT, MEASURES
from slimp.checks.published import Published
from slimp.checks.ranking import Ranked
from slimp.sources.association import SIGNIFICANT, Association

SHORTCUT_LIFT = 0.20
"""Of the way from chance to perfect that how an image was taken may go, by its lower bound."""


def is_shortcut(found: Association) -> bool:
    """Whether it tells far more about the label than how an image is taken should."""
    lift = (found.accuracy_ci95[0] - found.chance) / (1 - found.chance)
    return found.p_value < SIGNIFICANT and (lift >= SHORTCUT_LIFT or found.is_leak)


def leak_findings(ranking: Sequence[Ranked]) -> Iterator[Finding]:
    """Columns whose values or whose gaps follow the label, and images taken by diagnosis."""
    leaking = {row.name for row in ranking if row.kind == "values" and row.found.is_leak}
    for row in ranking:
        if row.kind == "values" and row.name in leaking:
            yield _values_leak(row.columns[0], row.found)
        elif row.kind == "image" and row.name not in CONTENT and is_shortcut(row.found):
            yield Finding(
                "warning",
                "shortcut",
                f"how images were taken follows the label: {MEASURES[row.name]}; "
                f"{evidence(row.found)}.",
                remedy="Classes seem to come from different cameras, clinics or exports, and a "
                "model can read the source instead of the lesion. Test on images of one source, "
                "or crop and resize all alike before import.",
            )
        # Where a column's values give the label away, its gaps need not be reported as well.
        rest = [column for column in row.columns if column.name not in leaking]
        if row.kind == "gaps" and rest and row.found.is_leak:
            yield _gaps_leak(rest, row.found)


def _values_leak(column: Published, found: Association) -> Finding:
    name = column.name
    claim = "is the label under another name" if found.one_to_one else "gives the label away"
    code: tuple[Severity, str] = ("note", f"leak-{column.role}")
    if column.role == "feature":
        code = ("error" if found.one_to_one else "warning", "leak")
    return Finding(
        *code,
        f"column '{name}' {claim}: {evidence(found)}.",
        remedy=_remedy(
            column, f"Unless it is known before the diagnosis, move '{name}' to [refused]."
        ),
    )


def _gaps_leak(alike: Sequence[Published], found: Association) -> Finding:
    first, names = alike[0], [column.name for column in alike]
    subject = f"'{first.name}' is filled in"
    if len(names) > 1:
        subject = f"{len(names)} columns, empty in the same rows, are filled in"
    is_feature = first.role == "feature"
    return Finding(
        "warning" if is_feature else "note",
        "leak-by-gaps" if is_feature else f"leak-{first.role}",
        f"whether {subject} gives the label away: {evidence(found)}.",
        example=name_list(names, most=13) if len(names) > 1 else "",
        remedy=_remedy(
            first,
            "A model can read the diagnosis off the gaps. Compare with features 'image', judge "
            "results on rows where the columns are filled in, or leave these columns out.",
        ),
        count=len(names),
    )


def _remedy(column: Published, of_feature: str) -> str:
    return {
        "feature": of_feature,
        "refused": f"Nothing to do, the schema refuses it: {column.reason}.",
        "unused": "It is no input; keep it so by naming it under [refused] in the schema.",
    }[column.role]


def evidence(found: Association) -> str:
    """The figures behind a finding."""
    low, high = found.accuracy_ci95
    return f"{found.rule}; " * bool(found.rule) + (
        f"on held-out patients it alone predicts the label with balanced accuracy "
        f"{found.balanced_accuracy:.2f} (95 % interval {low:.2f} to {high:.2f}, chance "
        f"{found.chance:.2f})"
    )

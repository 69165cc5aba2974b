"""Columns that give the label away, found from the data whatever the schema says about them.

A clinical column makes a diagnosis more or less likely; a leak follows from it (`is_leak`).
Between two classes alone an honest column can be as telling (all nevi of PAD-UFES-20 do not
bleed), so a finding is a reason to look, with its evidence stated, and not a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slimp.checks.finding import Finding, Severity, name_list
from slimp.checks.published import Published
from slimp.checks.ranking import ACQUISITION, Ranked
from slimp.sources.association import SIGNIFICANT, Link, is_leak

SHORTCUT_LIFT = 0.20
"""Of the way from chance to perfect that how a picture was taken may go, by its lower bound."""


def is_shortcut(link: Link) -> bool:
    """Whether it tells far more about the label than how a picture is taken should."""
    lift = (link.accuracy_ci95[0] - link.chance) / (1 - link.chance)
    return link.p_value < SIGNIFICANT and (lift >= SHORTCUT_LIFT or is_leak(link))


def leak_findings(ranking: Sequence[Ranked]) -> Iterator[Finding]:
    """Columns whose values or whose gaps follow the label, and pictures taken by diagnosis."""
    told = set()
    for row in ranking:
        if row.kind == "values" and is_leak(row.link):
            told.add(row.name)
            yield _values_leak(row.columns[0], row.link)
        elif row.kind == "picture" and row.name in ACQUISITION and is_shortcut(row.link):
            yield _shortcut(row)
    for row in ranking:
        # Where a column's values give the label away, its gaps need not be told as well.
        rest = [column for column in row.columns if column.name not in told]
        if row.kind == "gaps" and rest and is_leak(row.link):
            yield _gaps_leak(rest, row.link)


def _shortcut(row: Ranked) -> Finding:
    rule = f"{row.link.rule.describe(row.name)}; " if row.link.rule is not None else ""
    return Finding(
        severity="warning",
        code="shortcut",
        message=f"{ACQUISITION[row.name]} ('{row.name}') follows the label: {rule}"
        f"{_numbers(row.link)}.",
        remedy=(
            "Classes seem to come from different cameras, clinics or exports: a model can read "
            "the source and pass for a dermatologist. Test on pictures of one source, or crop and "
            "resize all alike before import."
        ),
    )


def _values_leak(column: Published, link: Link) -> Finding:
    name = column.name
    claim = f"column '{name}' gives the label away"
    if link.one_to_one:
        claim = f"column '{name}' is the label under another name"
    rule = f"{link.rule.describe(name)}; " if link.rule is not None else ""
    severity: Severity = "note"
    if column.role == "feature":
        severity = "error" if link.one_to_one else "warning"
    return Finding(
        severity=severity,
        code="leak" if column.role == "feature" else f"leak-{column.role}",
        message=f"{claim}: {rule}{_numbers(link)}.",
        remedy=(
            f"Unless it is known before the diagnosis, move '{name}' to [refused]."
            if column.role == "feature"
            else _no_input(column)
        ),
    )


def _gaps_leak(alike: Sequence[Published], link: Link) -> Finding:
    first, names = alike[0], [column.name for column in alike]
    subject = f"'{first.name}' is filled in"
    if len(names) > 1:
        subject = f"{len(names)} columns, empty in the same rows, are filled in"
    rule = f"{link.rule.describe(first.name, verb=' ')}; " if link.rule is not None else ""
    is_feature = first.role == "feature"
    return Finding(
        severity="warning" if is_feature else "note",
        code="leak-by-gaps" if is_feature else f"leak-{first.role}",
        message=f"whether {subject} gives the label away: {rule}{_numbers(link)}.",
        example=name_list(names, most=13) if len(names) > 1 else "",
        remedy=(
            "A model can read the diagnosis off the gaps. Compare with features 'image', judge "
            "results on rows where the columns are filled in, or leave these columns out."
            if is_feature
            else _no_input(first)
        ),
        count=len(names),
    )


def _no_input(column: Published) -> str:
    if column.role == "refused":
        return f"Nothing to do, the schema refuses it: {column.reason}."
    return "It is no input; keep it so by naming it under [refused] in the schema."


def _numbers(link: Link) -> str:
    return (
        f"the label explains {link.column_share:.0%} of the column's entropy, and on held-out "
        f"patients the column alone predicts the label with balanced accuracy "
        f"{link.balanced_accuracy:.2f} (95 % interval {link.accuracy_ci95[0]:.2f} to "
        f"{link.accuracy_ci95[1]:.2f}, chance {link.chance:.2f}); mutual information "
        f"{link.information:.2f} bits"
    )

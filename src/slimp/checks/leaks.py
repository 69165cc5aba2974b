"""Columns that give the label away, found from the data whatever the schema says about them.

A clinical column makes a diagnosis more or less likely; a leak follows from it. Three measures
of `link.Link` tell them apart, each bounded well above what honest columns reach and below what
known leaks reach (PAD-UFES-20, 1,843 rows, and HAM10000, 10,015 rows; next to them the bounds):

| measure | bound | honest, at most | `biopsed` | `dx_type` |
| --- | --- | --- | --- | --- |
| `rule_share` | 0.20 | 0.02 (bleed) | 0.46 | 0.40 |
| `column_share` | 0.45 | 0.25 (bleed) | 0.60 | 0.31 |
| `label_share` | 0.60 | 0.12 (localization) | 0.27 | 0.29 |

Between two classes alone an honest column can be as telling (all nevi of PAD-UFES-20 do not
bleed), so a finding is a reason to look, with its evidence stated, and not a verdict.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from slimp.checks.finding import Finding, Severity, name_list
from slimp.checks.link import SIGNIFICANT, Link, as_categories, measure_link
from slimp.checks.published import Published, Role
from slimp.cohort import Cohort

RULE_SHARE, COLUMN_SHARE, LABEL_SHARE = 0.20, 0.45, 0.60
FILLED, EMPTY = "filled in", "empty"


def is_leak(link: Link) -> bool:
    """Whether the column follows the label more closely than a clinical finding would."""
    return link.p_value < SIGNIFICANT and (
        link.rule_share >= RULE_SHARE
        or link.column_share >= COLUMN_SHARE
        or link.label_share >= LABEL_SHARE
    )


def leak_findings(cohort: Cohort, columns: Sequence[Published]) -> Iterator[Finding]:
    """Columns whose values, or whose gaps, follow the label."""
    labels, patients = cohort.images["label"], cohort.images["patient_id"]
    gaps: dict[tuple[bytes, Role], list[Published]] = defaultdict(list)
    for column in columns:
        link = measure_link(as_categories(column.values), labels, patients)
        if link is not None and is_leak(link):
            yield _values_leak(column, link)
        else:
            gaps[column.values.isna().to_numpy().tobytes(), column.role].append(column)
    for alike in gaps.values():  # columns with the same gaps are one finding
        filled = alike[0].values.notna().map({True: FILLED, False: EMPTY})
        link = measure_link(filled.astype(object), labels, patients)
        if link is not None and is_leak(link):
            yield _gaps_leak(alike, link)


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
        f"{link.balanced_accuracy:.2f} (chance {link.chance:.2f})"
    )

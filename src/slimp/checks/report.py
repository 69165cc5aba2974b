"""Looks for everything in a cohort that could spoil a result, before a GPU is used.

`check_cohort` reads all tables and opens every image. What it looks for is one subject per file
in `checks/`; what each finding means and what to do about it stands in `docs/check.md`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

from slimp.checks.columns import column_findings, input_findings, twin_ids
from slimp.checks.duplicates import duplicate_findings, exact_pairs, find_near_duplicates
from slimp.checks.finding import SEVERITIES, Finding, count_of
from slimp.checks.hierarchy import (
    hierarchy_findings,
    import_findings,
    size_in_words,
    spread_of,
    table_counts,
)
from slimp.checks.images import image_findings, scan_images
from slimp.checks.label_leaks import (
    Ranked,
    leak_findings,
    missing_findings,
    rank_columns,
)
from slimp.checks.published import Published, published_columns
from slimp.checks.subgroups import subgroup_findings, subgroup_tables
from slimp.data.cohort import Cohort, Tables
from slimp.data.in_order import Progress

WIDTH = 100
"""Characters per line of the rendered report."""
CAUTIONS = {
    *("no-patient-ids", "empty-id", "patient-across-parts", "leak", "leak-by-gaps"),
    *("row-counter", "text-names-class", "named-as-class", "known-after-diagnosis"),
}
"""Findings that every result on the cohort depends on."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Counts and findings, gravest first, and the tables behind them.

    Two reports are equal if cohort, counts and findings are.
    """

    cohort: str
    counts: Mapping[str, Any]
    """`patients lesions images`, then spreads, classes, parts, `missing` shares and image sizes."""
    findings: tuple[Finding, ...]
    ranking: tuple[Ranked, ...] = field(compare=False, repr=False)
    """What each column, its gaps and the images tell about the label."""
    subgroups: Mapping[str, pd.DataFrame] = field(compare=False, repr=False)
    """Column -> patients by class and group."""
    images: pd.DataFrame = field(compare=False, repr=False)
    """A row per image: see `ImageScan.facts`."""
    duplicates: pd.DataFrame = field(compare=False, repr=False)
    """A row per pair of images that are identical, or nearly: see `checks.duplicates`."""
    near_duplicates: bool = True
    """Whether nearly identical images were searched for."""

    def __repr__(self) -> str:
        return f"CheckReport({self.cohort!r}: {', '.join(self.totals)}; print(report.render()))"

    def to_frame(self) -> pd.DataFrame:
        """A row per finding, gravest first: `severity code message remedy example count`."""
        columns = ["severity", "code", "message", "remedy", "example", "count"]
        return pd.DataFrame([asdict(finding) for finding in self.findings], columns=columns)

    def _repr_html_(self) -> str:
        return self.to_frame().to_html()

    @property
    def usable(self) -> bool:
        """Whether there is no error among the findings."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def totals(self) -> list[str]:
        """The number of findings of each severity, as in '1 error'."""
        found = [finding.severity for finding in self.findings]
        return [count_of(found.count(severity), severity) for severity in SEVERITIES]

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        kinds = self.duplicates["kind"].value_counts()
        return {
            "cohort": self.cohort,
            "usable": self.usable,
            "counts": dict(self.counts),
            "findings": [
                {key: value for key, value in asdict(finding).items() if key != "ids"}
                for finding in self.findings
            ],
            "columns": [row.to_dict() for row in self.ranking],
            "subgroups": [
                {"column": column, "patients": counts.T.to_dict()}
                for column, counts in self.subgroups.items()
            ],
            "duplicate_pairs": {
                "exact": int(kinds.get("exact", 0)),
                "near": int(kinds.get("near", 0)) if self.near_duplicates else None,
            },
        }

    def render(self) -> str:
        """The report as text, `WIDTH` characters wide."""
        lines = [*_render_counts(self.cohort, self.counts), ""]
        if not self.findings:
            lines.append("Nothing to report: no errors, no warnings, no notes.")
        else:
            lines.append(f"Findings: {', '.join(self.totals)}")
        indent = " " * 9
        for f in self.findings:
            lines += _wrapped(f"{f.severity.upper():<8} {f.code}: {f.message}", indent)
            if f.example:
                lines += _wrapped(f"{indent}For example {f.example}.", indent)
            lines += _wrapped(f"{indent}-> {f.remedy}", indent)
        return "\n".join(lines)


def check_cohort(
    cohort: Cohort,
    *,
    near_duplicates: bool = True,
    progress: Progress | None = None,
) -> CheckReport:
    """Everything found; the order of the cohort's rows makes no difference.

    Args:
        cohort: what to look at.
        near_duplicates: compare all images with all, which takes time with their square.
        progress: called with (images done, images in all) as they are opened, then compared.

    Example:
        >>> from slimp.sources.synthetic.cohort import example
        >>> check_cohort(example()).usable
        True
    """
    cohort = _in_id_order(cohort)
    columns = list(published_columns(cohort))
    scan = scan_images(cohort, progress)
    exact = exact_pairs(scan)
    near, crowded = exact[:0], scan.facts[:0]
    if near_duplicates:
        near, crowded = find_near_duplicates(scan, progress=progress)
    ranking = rank_columns(cohort, columns, scan.facts)
    subgroups = subgroup_tables(cohort, columns)
    findings = [
        *_table_findings(cohort, columns, ranking),
        *twin_ids(cohort),
        *image_findings(scan),
        *duplicate_findings(exact, near, crowded, scan.facts),
        *column_findings(cohort, columns),
        *missing_findings(columns),
        *subgroup_findings(subgroups),
    ]
    counts = table_counts(cohort)
    counts["missing"] = {
        column.name: round(float(column.own.isna().mean()), 4)
        for column in columns
        if column.role == "feature"
    }
    if len(scan.good):
        counts |= {f"{side}_px": spread_of(scan.good[side]) for side in ("width", "height")}
    return CheckReport(
        cohort=cohort.info.name,
        counts=counts,
        findings=tuple(sorted(findings, key=lambda finding: finding.weight)),
        ranking=ranking,
        subgroups=subgroups,
        images=scan.facts,
        duplicates=pd.concat([exact, near], ignore_index=True) if len(near) else exact,
        near_duplicates=near_duplicates,
    )


def cautions(cohort: Cohort) -> list[str]:
    """The warnings that every later page repeats, a sentence each; read from the tables alone."""
    columns = [column for column in published_columns(cohort) if column.role == "feature"]
    findings = _table_findings(cohort, columns, rank_columns(cohort, columns))
    found = sorted((f for f in findings if f.code in CAUTIONS), key=lambda f: f.weight)
    return [finding.message[:1].upper() + finding.message[1:] for finding in found]


def _table_findings(
    cohort: Cohort, columns: list[Published], ranking: tuple[Ranked, ...]
) -> list[Finding]:
    """What results depend on, as far as the tables and the import report tell."""
    return [
        *hierarchy_findings(cohort),
        *input_findings(cohort, columns),
        *leak_findings(ranking),
        *import_findings(cohort.info.import_report),
    ]


def _in_id_order(cohort: Cohort) -> Cohort:
    order = cohort.images["image_id"].argsort().to_numpy()
    tables = Tables(
        images=cohort.images.iloc[order],
        lesions=cohort.lesions.sort_values("lesion_id"),
        patients=cohort.patients.sort_values("patient_id"),
    )
    return replace(cohort, tables=tables, positions=cohort.positions[order])


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent)


def _render_counts(name: str, counts: Mapping[str, Any]) -> list[str]:
    lines = [f"Cohort {name}: {size_in_words(counts)}"]
    for key, what in (
        ("lesions_per_patient", "lesions per patient"),
        ("images_per_lesion", "images per lesion"),
        ("width_px", "image width, px"),
        ("height_px", "image height, px"),
    ):
        if spread := counts.get(key):
            least, most = spread["min"], spread["max"]
            lines.append(f"  {what:<22} median {spread['median']:g}, {least} to {most}")
    for key, title in (("parts", "part of the split"), ("classes", "class")):
        if counts.get(key):
            table = pd.DataFrame(counts[key]).T[["patients", "lesions", "images"]]
            lines += ["", *table.rename_axis(title, axis="columns").to_string().splitlines()]
    gaps = sorted((-share, column) for column, share in counts["missing"].items() if share > 0)
    if gaps:
        listed = ", ".join(f"{column} {-share:.1%}" for share, column in gaps)
        lines += ["", *_wrapped(f"Missing cells: {listed}", "  ")]
    return lines

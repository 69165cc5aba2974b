"""Looks for everything in a cohort that could spoil a result, before a GPU is used.

`check_cohort` reads all tables and opens every image. What it looks for is one subject per file
in `checks/`; what each finding means and what to do about it stands in `docs/check.md`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

from slimp.checks.columns import column_findings
from slimp.checks.duplicates import (
    EXACT,
    NEAR,
    crowd_findings,
    duplicate_findings,
    exact_groups,
    exact_pairs,
    find_near_duplicates,
    near_groups,
)
from slimp.checks.finding import SEVERITIES, Finding, by_weight, count_of
from slimp.checks.hierarchy import hierarchy_findings, size_in_words, table_counts
from slimp.checks.images import image_findings
from slimp.checks.imports import import_findings
from slimp.checks.label_leaks import leak_findings
from slimp.checks.levels import level_findings
from slimp.checks.missingness import Missingness, missing_findings, missingness
from slimp.checks.near_duplicates import Progress
from slimp.checks.personal import personal_findings
from slimp.checks.published import Published, published_columns
from slimp.checks.ranking import Ranked, rank_columns, rank_tables
from slimp.checks.scan import scan_images
from slimp.checks.subgroups import SubgroupTable, subgroup_findings, subgroup_tables
from slimp.data.cohort import Cohort, Tables

WIDTH = 100
"""Characters per line of the rendered report."""


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
    """What each column, its gaps and the pictures tell about the label."""
    subgroups: tuple[SubgroupTable, ...] = field(compare=False, repr=False)
    missingness: Missingness = field(compare=False, repr=False)
    images: pd.DataFrame = field(compare=False, repr=False)
    """A row per image: see `checks.scan.ImageScan`."""
    duplicates: pd.DataFrame = field(compare=False, repr=False)
    """A row per pair of images that are identical, or nearly: see `checks.duplicates.PAIRS`."""
    near_duplicates: bool = True
    """Whether nearly identical images were searched for."""

    @property
    def usable(self) -> bool:
        """Whether there is no error among the findings."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "cohort": self.cohort,
            "usable": self.usable,
            "counts": dict(self.counts),
            "findings": [asdict(finding) for finding in self.findings],
            "columns": [row.to_dict() for row in self.ranking],
            "subgroups": [table.to_dict() for table in self.subgroups],
            "missingness": asdict(self.missingness),
            "duplicate_pairs": {
                "exact": int((self.duplicates["kind"] == "exact").sum()),
                "near": int((self.duplicates["kind"] == "near").sum())
                if self.near_duplicates
                else None,
            },
        }

    def render(self) -> str:
        """The report as text, `WIDTH` characters wide."""
        lines = [*_render_counts(self.cohort, self.counts), "", *_render_findings(self.findings)]
        return "\n".join(lines)


def check_cohort(
    cohort: Cohort,
    *,
    near_duplicates: bool = True,
    progress: Progress | None = None,
    searching: Progress | None = None,
) -> CheckReport:
    """Everything found; the order of the cohort's rows makes no difference.

    Args:
        cohort: what to look at.
        near_duplicates: compare all pictures with all, which takes time with their square.
        progress: called with (images done, images in all) after each image.
        searching: the same while pictures are compared.
    """
    cohort = _in_id_order(cohort)
    columns = list(published_columns(cohort))
    scan = scan_images(cohort, progress)
    exact = exact_pairs(scan)
    near, crowded = exact[:0], scan.facts[:0]
    if near_duplicates:
        near, crowded = find_near_duplicates(scan, progress=searching)
    ranking = rank_columns(cohort, columns, scan.good)
    subgroups = subgroup_tables(cohort, columns)
    missing = missingness(columns)
    findings = [
        *hierarchy_findings(cohort),
        *image_findings(scan),
        *duplicate_findings(exact_groups(scan.good), EXACT),
        *duplicate_findings(near_groups(scan, near), NEAR),
        *crowd_findings(crowded),
        *column_findings(cohort, columns),
        *personal_findings(columns),
        *leak_findings(ranking),
        *level_findings(cohort, columns),
        *missing_findings(missing),
        *subgroup_findings(subgroups),
        *import_findings(cohort.info.import_report, cohort.schema),
    ]
    counts = table_counts(cohort)
    counts["missing"] = _missing(columns)
    for side in ("width", "height"):
        if len(scan.good):
            low, middle, high = scan.good[side].quantile([0, 0.5, 1])
            counts[f"{side}_px"] = {"min": int(low), "median": float(middle), "max": int(high)}
    return CheckReport(
        cohort=cohort.info.name,
        counts=counts,
        findings=by_weight(findings),
        ranking=ranking,
        subgroups=subgroups,
        missingness=missing,
        images=scan.facts,
        duplicates=pd.concat([exact, near], ignore_index=True) if len(near) else exact,
        near_duplicates=near_duplicates,
    )


CAUTIONS = {"no-patient-ids", "empty-id", "patient-across-parts", "leak", "leak-by-gaps"}
"""Findings that every result on the cohort depends on."""


def cautions(cohort: Cohort) -> list[str]:
    """The warnings that every later page repeats, a sentence each; read from the tables alone."""
    columns = [column for column in published_columns(cohort) if column.role == "feature"]
    findings = [
        *hierarchy_findings(cohort),
        *leak_findings(rank_tables(cohort, columns)),
        *import_findings(cohort.info.import_report, cohort.schema),
    ]
    messages = [f.message for f in by_weight(findings) if f.code in CAUTIONS]
    return [message[:1].upper() + message[1:] for message in messages]


def _in_id_order(cohort: Cohort) -> Cohort:
    order = cohort.images["image_id"].argsort().to_numpy()
    tables = Tables(
        images=cohort.images.iloc[order].reset_index(drop=True),
        lesions=cohort.lesions.sort_values("lesion_id", ignore_index=True),
        patients=cohort.patients.sort_values("patient_id", ignore_index=True),
    )
    return replace(cohort, tables=tables, positions=cohort.positions[order])


def _missing(columns: Sequence[Published]) -> dict[str, float]:
    """Share of missing cells per feature column, of its level's rows."""
    return {
        column.name: round(float(column.own.isna().mean()), 4)
        for column in columns
        if column.role == "feature"
    }


def _render_counts(name: str, counts: Mapping[str, Any]) -> list[str]:
    lines = [f"Cohort {name}: {size_in_words(counts)}"]
    for key, what in (
        ("lesions_per_patient", "lesions per patient"),
        ("images_per_lesion", "images per lesion"),
        ("width_px", "image width, px"),
        ("height_px", "image height, px"),
    ):
        if key in counts:
            spread = counts[key]
            lines.append(
                f"  {what:<22} median {spread['median']:g}, {spread['min']} to {spread['max']}"
            )
    for key, title in (("parts", "part of the split"), ("classes", "class")):
        if counts.get(key):
            table = pd.DataFrame(counts[key]).T[["patients", "lesions", "images"]]
            lines += ["", *table.rename_axis(title, axis="columns").to_string().splitlines()]
    holes = {k: v for k, v in counts["missing"].items() if v > 0}
    if holes:
        shares = sorted(holes.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{column} {share:.1%}" for column, share in shares)
        lines += ["", *textwrap.wrap(f"Missing cells: {listed}", WIDTH, subsequent_indent="  ")]
    return lines


def _render_findings(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return ["Nothing to report: no errors, no warnings, no notes."]
    totals = [sum(f.severity == severity for f in findings) for severity in SEVERITIES]
    told = ", ".join(
        count_of(total, severity) for total, severity in zip(totals, SEVERITIES, strict=True)
    )
    lines = [f"Findings: {told}"]
    for finding in findings:
        head = f"{finding.severity.upper():<8} {finding.code}: "
        texts = [head + finding.message]
        texts += [f"For example {finding.example}."] if finding.example else []
        texts += [f"-> {finding.remedy}"] if finding.remedy else []
        for i, text in enumerate(texts):
            indent = " " * 9
            lines += textwrap.wrap(
                text, WIDTH, initial_indent=indent if i else "", subsequent_indent=indent
            )
    return lines

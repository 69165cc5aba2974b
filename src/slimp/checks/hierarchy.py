"""Patients, lesions, classes and parts: is there enough, does it hang together, what was lost?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from slimp.checks.finding import Finding, count_of, finding, name_list
from slimp.data.cohort import Cohort

CROWD = 10
"""So many lesions, and so many times as many as is usual, and over a tenth of all, are a crowd."""
FEW_PATIENTS = 10
"""A class with fewer patients cannot be probed with folds and intervals that mean anything."""
COUNTED = {
    "corrupt": "dropped-image",
    "absent": "absent-image",
    "duplicate_rows": "duplicate-row",
    "missing_lesion_ids": "empty-id",
    "missing_patient_ids": "empty-id",
}
"""Counts of the import report -> findings."""


def hierarchy_findings(cohort: Cohort) -> Iterator[Finding]:
    """Too few patients or classes, labels that disagree, patients in several parts."""
    images, classes = cohort.images, cohort.classes
    if len(cohort.patients) < 2:
        yield finding("one-patient", example=str(cohort.patients["patient_id"].iloc[0]))
    if not cohort.has_patient_ids:
        yield finding("no-patient-ids", lesions=len(cohort.lesions))
    lesions = cohort.lesions["patient_id"].value_counts()
    most, usual = int(lesions.iloc[0]), float(lesions.median())
    if most >= CROWD and CROWD * usual < most < len(cohort.lesions) < 10 * most:
        total, name = len(cohort.lesions), lesions.index[0]
        yield finding("crowded-patient", name=name, lesions=most, total=total, usual=usual)
    if len(unlabelled := images.loc[images["label"].isna(), "image_id"]):
        of: dict[str, Any] = {"total": len(images), "ids": unlabelled}
        yield finding("unlabelled", count=len(unlabelled), example=str(unlabelled.iloc[0]), **of)
    if len(classes) == 1:
        yield finding("one-class", label=classes[0])
    patients = images.groupby("label")["patient_id"].nunique()
    if len(small := patients[patients < FEW_PATIENTS]):
        named = (f"{name} ({count_of(count, 'patient')})" for name, count in small.items())
        yield finding(
            "small-class", count=len(small), fewest=FEW_PATIENTS, example=name_list(named)
        )
    for code, level, column in (
        ("lesion-labels", "lesion", "label"),
        ("patient-across-parts", "patient", "split"),
    ):
        if column in images:
            yield from _disagreement(code, images[[f"{level}_id", column]].dropna(), level)


def _disagreement(code: str, pairs: pd.DataFrame, level: str) -> Iterator[Finding]:
    """Groups (first column) with more than one value (second column)."""
    group, value = pairs.columns
    pairs = pairs.drop_duplicates().sort_values([group, value])
    several = pairs[pairs.duplicated(group, keep=False)]
    if len(several):
        first = several[group].iloc[0]
        values = several.loc[several[group] == first, value]
        example = f"{level} {first}: {name_list(values)}"
        ids = several[group].unique()
        yield finding(code, count=len(ids), example=example, ids=ids)


def import_findings(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Rows lost on the way, rows without ids, values that disagreed, spellings of missing."""
    for key, code in COUNTED.items():
        if count := int(report.get(key, 0)):
            yield finding(
                code,
                count=count,
                total=report.get("rows", "?"),
                level="lesion" if "lesion" in key else "patient",
                example=name_list(report.get(f"{key}_examples", ())[:3]),
            )
    for text in (*report.get("assumed", ()), *report.get("warnings", ())):
        yield finding("import-note", text=text)
    for entry in report.get("disagreements", ()):
        yield finding(
            "level-disagreement",
            name=entry["column"],
            level=entry["level"],
            rule=entry["rule"],
            count=int(entry["count"]),
            example=str(entry["example"]),
        )
    ways: Counter[str] = Counter()
    for counts in report.get("missing_spellings", {}).values():
        ways.update({spelling: int(count) for spelling, count in counts.items() if count})
    if len(ways) > 1:
        named = (
            f"{way!r} ({n:,})" if way else f"empty cells ({n:,})" for way, n in sorted(ways.items())
        )
        yield finding("missing-spellings", count=len(ways), ways=name_list(named))


def table_counts(cohort: Cohort) -> dict[str, Any]:
    """Patients, lesions and images, in all, per part, per class and per parent."""
    images = cohort.images
    counts: dict[str, Any] = {
        "patient_ids": cohort.has_patient_ids,
        "patients": len(cohort.patients),
        "lesions": len(cohort.lesions),
        "images": len(images),
        "lesions_per_patient": spread_of(cohort.lesions.groupby("patient_id").size()),
        "images_per_lesion": spread_of(images.groupby("lesion_id").size()),
        "unlabelled_images": int(images["label"].isna().sum()),
        "classes": _units(images, "label"),
    }
    if "split" in images:
        counts["parts"] = _units(images, "split")
    return counts


def size_in_words(counts: Mapping[str, Any]) -> str:
    """'3 patients, 4 lesions, 5 images', or '4 lesions, no patient ids, 5 images'."""
    patients, lesions, images = (
        count_of(counts[f"{unit}s"], unit) for unit in ("patient", "lesion", "image")
    )
    if not counts["patient_ids"]:
        return f"{lesions}, no patient ids, {images}"
    return f"{patients}, {lesions}, {images}"


def _units(images: pd.DataFrame, by: str) -> dict[str, Any]:
    table = images.groupby(by).agg(
        images=("image_id", "size"),
        lesions=("lesion_id", "nunique"),
        patients=("patient_id", "nunique"),
    )
    return {str(name): counts for name, counts in table.to_dict("index").items()}


def spread_of(sizes: pd.Series) -> dict[str, int | float]:
    """Least, median and most."""
    return {"min": int(sizes.min()), "median": float(sizes.median()), "max": int(sizes.max())}

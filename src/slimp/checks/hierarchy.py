"""Patients, lesions, classes and parts: is there enough, and does it hang together?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from slimp.checks.finding import Finding, count_of, name_list
from slimp.checks.published import Published
from slimp.data.cohort import Cohort

FEW_PATIENTS = 10
"""A class with fewer patients cannot be probed with folds and intervals that mean anything."""
GROUPS = 10
"""Lesions (patients) with two known values or more that a column must have to be judged."""
AGREEING = 0.9
"""Share of them that must agree for the column to seem one of the level."""


def hierarchy_findings(cohort: Cohort) -> Iterator[Finding]:
    """Too few patients or classes, labels that disagree, patients in several parts."""
    if len(cohort.patients) < 2:
        yield Finding(
            "error",
            "one-patient",
            "every image belongs to one patient.",
            example=str(cohort.patients["patient_id"].iloc[0]),
            remedy="Check the patient column: nothing can be held out or contrasted.",
        )
    if not cohort.has_patient_ids:
        yield Finding(
            "warning",
            "no-patient-ids",
            f"no patient ids: each of {count_of(len(cohort.lesions), 'lesion')} counts as a "
            "patient of its own, so one person may be in training and test.",
            remedy="Name the patient column in the schema if the table has one; else report "
            "results per lesion, and read intervals as too narrow.",
        )
    yield from _label_findings(cohort)
    if "split" in cohort.images:
        parts = cohort.images.dropna(subset=["split"]).groupby("patient_id")["split"]
        several = _several(parts)
        if several:
            inside = name_list(sorted(set(parts.get_group(several[0]))))
            yield Finding(
                "error",
                "patient-across-parts",
                f"{count_of(len(several), 'patient')} with images in more than one part of the "
                "split.",
                example=f"patient {several[0]}: in {inside}",
                remedy="Move each patient to one part, or drop the split column and split anew.",
                count=len(several),
            )


def _several(groups: Any) -> list[str]:
    """The groups with more than one value, sorted."""
    values = groups.nunique()
    return sorted(values.index[values > 1])


def _label_findings(cohort: Cohort) -> Iterator[Finding]:
    images = cohort.images
    known = images["label"].notna()
    labelled = images[known]
    if not known.all():
        yield Finding(
            "note",
            "unlabelled",
            f"{count_of(int((~known).sum()), 'image')} of {len(images)} without a label.",
            example=str(images.loc[~known, "image_id"].iloc[0]),
            remedy="They serve pre-training; probing leaves them out.",
            count=int((~known).sum()),
        )
    if labelled.empty:
        return
    if len(cohort.classes) < 2:
        yield Finding(
            "warning",
            "one-class",
            f"every label is '{cohort.classes[0]}'.",
            remedy="Pre-training is possible; probing needs at least two classes.",
        )
    patients = labelled.groupby("label")["patient_id"].nunique()
    small = patients[patients < FEW_PATIENTS].sort_index()
    if len(small):
        yield Finding(
            "warning",
            "small-class",
            f"{count_of(len(small), 'class', 'classes')} of fewer than {FEW_PATIENTS} patients.",
            example=name_list(
                f"{name} ({count_of(count, 'patient')})" for name, count in small.items()
            ),
            remedy="Scores of these classes will mean little: join classes or leave them out.",
            count=len(small),
        )
    if several := _several(labelled.groupby("lesion_id")["label"]):
        rows = labelled[labelled["lesion_id"] == several[0]].head(4)
        yield Finding(
            "warning",
            "lesion-labels",
            f"{count_of(len(several), 'lesion')} whose images have different labels.",
            example=f"lesion {several[0]}: "
            + name_list(f"{row.image_id} {row.label}" for row in rows.itertuples()),
            remedy="Check whether lesion ids are reused, or correct the labels.",
            count=len(several),
        )


def level_findings(cohort: Cohort, columns: Sequence[Published]) -> Iterator[Finding]:
    """Image-level columns that are constant in most lesions (patients), but not in all."""
    for column in columns:
        if column.level != "image":
            continue
        for level in ("patient", "lesion"):
            finding = _disagreement(column, level, cohort.images[f"{level}_id"])
            if finding is not None:
                yield finding
                break


def _disagreement(column: Published, level: str, groups: pd.Series) -> Finding | None:
    known = column.values.notna()
    values = column.values[known].astype(str)
    by_group = values.groupby(groups[known])
    judged = int((by_group.size() > 1).sum())
    several = _several(by_group)
    if judged < GROUPS or not 0 < len(several) <= (1 - AGREEING) * judged:
        return None
    chance = 1 - float((values.value_counts(normalize=True) ** 2).sum())
    if len(several) / judged > 0.2 * chance:  # nearly constant everywhere, no trait of a level
        return None
    return Finding(
        "note",
        "level-disagreement",
        f"column '{column.name}' agrees within all but {len(several)} of {judged} {level}s with "
        "several images.",
        example=f"{level} {several[0]}: {name_list(sorted(set(by_group.get_group(several[0]))))}",
        remedy=f"Correct the table if the column describes the {level}.",
        count=len(several),
    )


def table_counts(cohort: Cohort) -> dict[str, object]:
    """Patients, lesions and images, in all, per part, per class and per parent."""
    images = cohort.images
    counts: dict[str, object] = {
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


def _units(images: pd.DataFrame, by: str) -> dict[str, dict[str, int]]:
    groups = images.dropna(subset=[by]).groupby(by)
    counts = {
        "images": groups.size().to_dict(),
        "lesions": groups["lesion_id"].nunique().to_dict(),
        "patients": groups["patient_id"].nunique().to_dict(),
    }
    return {
        str(name): {unit: int(count[name]) for unit, count in counts.items()}
        for name in counts["images"]
    }


def spread_of(sizes: pd.Series) -> dict[str, int | float]:
    """Least, median and most."""
    return {"min": int(sizes.min()), "median": float(sizes.median()), "max": int(sizes.max())}

"""Patients, lesions, classes and parts: is there enough, and does it hang together?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from slimp.checks.finding import Finding, count_of, name_list
from slimp.data.cohort import Cohort

FEW_PATIENTS = 10
"""A class with fewer patients cannot be probed with folds and intervals that mean anything."""


def hierarchy_findings(cohort: Cohort) -> Iterator[Finding]:
    """Too few patients or classes, labels that disagree, patients in several parts."""
    if len(cohort.patients) < 2:
        yield Finding(
            severity="error",
            code="one-patient",
            message="every image belongs to one patient.",
            example=str(cohort.patients["patient_id"].iloc[0]),
            remedy="Check the patient column: nothing can be held out or contrasted.",
        )
    if not cohort.has_patient_ids:
        lesions = count_of(len(cohort.lesions), "lesion")
        yield Finding(
            severity="warning",
            code="no-patient-ids",
            message=f"no patient ids: each of {lesions} counts as a patient of its own, so one "
            "person may be in training and test.",
            remedy="Name the patient column in the schema if the table has one; else report "
            "results per lesion, and read intervals as too narrow.",
        )
    yield from _twin_ids(cohort)
    yield from _label_findings(cohort)
    yield from _split_findings(cohort)


def _twin_ids(cohort: Cohort) -> Iterator[Finding]:
    """Patients, and lesions of one patient, whose ids look like two spellings of one."""
    patients, lesions = cohort.patients["patient_id"].tolist(), cohort.lesions
    owners = [""] * len(lesions) if cohort.schema.patient is None else lesions["patient_id"]
    for noun, column, ids, of in (
        ("patient", cohort.schema.patient, patients, [""] * len(patients)),
        ("lesion", cohort.schema.lesion, lesions["lesion_id"].tolist(), list(owners)),
    ):
        twins = [] if column is None else _spelled_alike(ids, of)
        if twins:
            yield Finding(
                severity="warning",
                code="twin-ids",
                message=(
                    f"{count_of(len(twins), noun)} whose id is spelled in several ways, it seems: "
                    "each spelling counts as one of its own, and may be held out from the other."
                ),
                example=name_list(
                    (" and ".join(f"'{i}'" for i in names) for names in twins), most=3
                ),
                remedy=f"If they mean the same {noun}, write them alike in '{column}'.",
                count=len(twins),
            )


def _spelled_alike(ids: Sequence[str], owners: Sequence[str]) -> list[list[str]]:
    """The ids of one owner that differ by case, blanks or punctuation only, in groups."""
    groups: dict[tuple[str, str], set[str]] = {}
    for name, owner in zip(ids, owners, strict=True):
        if key := _plain_id(name):
            groups.setdefault((owner, key), set()).add(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def _plain_id(text: str) -> str:
    """The id without case, blanks and marks, but where they keep numbers apart: 1-12 is no 11-2."""
    spaced = re.sub(r"[\W_]+", " ", text.casefold())
    return re.sub(r"(?<![0-9]) | (?![0-9])", "", spaced)


def _label_findings(cohort: Cohort) -> Iterator[Finding]:
    images = cohort.images
    labelled = images[images["label"].notna()]
    unlabelled = len(images) - len(labelled)
    if unlabelled:
        yield Finding(
            severity="note",
            code="unlabelled",
            message=f"{count_of(unlabelled, 'image')} of {len(images)} without a label.",
            example=str(images.loc[images["label"].isna(), "image_id"].iloc[0]),
            remedy="They serve pre-training; probing leaves them out.",
            count=unlabelled,
        )
    if labelled.empty:
        return
    if len(cohort.classes) < 2:
        yield Finding(
            severity="warning",
            code="one-class",
            message=f"every label is '{cohort.classes[0]}'.",
            remedy="Pre-training is possible; probing needs at least two classes.",
        )
    patients = labelled.groupby("label")["patient_id"].nunique()
    small = patients[patients < FEW_PATIENTS].sort_index()
    if len(small):
        yield Finding(
            severity="warning",
            code="small-class",
            message=(
                f"{count_of(len(small), 'class', 'classes')} of fewer than {FEW_PATIENTS} patients."
            ),
            example=name_list(
                f"{name} ({count_of(count, 'patient')})" for name, count in small.items()
            ),
            remedy="Scores of these classes will mean little: join classes or leave them out.",
            count=len(small),
        )
    by_lesion = labelled.groupby("lesion_id")["label"].nunique()
    torn = sorted(by_lesion.index[by_lesion > 1])
    if torn:
        rows = labelled[labelled["lesion_id"] == torn[0]].head(4)
        yield Finding(
            severity="warning",
            code="lesion-labels",
            message=f"{count_of(len(torn), 'lesion')} whose images carry different labels.",
            example=f"lesion {torn[0]}: "
            + name_list(f"{row.image_id} {row.label}" for row in rows.itertuples()),
            remedy="Check whether lesion ids are reused, or correct the labels.",
            count=len(torn),
        )


def _split_findings(cohort: Cohort) -> Iterator[Finding]:
    if "split" not in cohort.images:
        return
    parts = cohort.images.dropna(subset=["split"]).groupby("patient_id")["split"]
    count = parts.nunique()
    torn = sorted(count.index[count > 1])
    if torn:
        inside = name_list(sorted(set(parts.get_group(torn[0]))))
        yield Finding(
            severity="error",
            code="patient-across-parts",
            message=(
                f"{count_of(len(torn), 'patient')} with images in more than one part of the split."
            ),
            example=f"patient {torn[0]}: in {inside}",
            remedy="Move each patient to one part, or drop the split column and split anew.",
            count=len(torn),
        )


def table_counts(cohort: Cohort) -> dict[str, object]:
    """Patients, lesions and images, in all, per part, per class and per parent."""
    images = cohort.images
    counts: dict[str, object] = {
        "patient_ids": cohort.has_patient_ids,
        "patients": len(cohort.patients),
        "lesions": len(cohort.lesions),
        "images": len(images),
        "lesions_per_patient": _spread(cohort.lesions.groupby("patient_id").size()),
        "images_per_lesion": _spread(images.groupby("lesion_id").size()),
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
    return {
        str(name): {
            "images": len(group),
            "lesions": int(group["lesion_id"].nunique()),
            "patients": int(group["patient_id"].nunique()),
        }
        for name, group in images.dropna(subset=[by]).groupby(by)
    }


def _spread(sizes: pd.Series) -> dict[str, int | float]:
    return {"min": int(sizes.min()), "median": float(sizes.median()), "max": int(sizes.max())}

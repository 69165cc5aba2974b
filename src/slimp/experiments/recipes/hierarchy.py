"""The paper's other open question: what if the hierarchy is wrong, absent, or deeper?"""

from __future__ import annotations

from dataclasses import replace

from slimp.experiments.recipe import FLAT, LESIONS, METADATA, UNTRAINED, Arm, Recipe

TWO_LEVELS = ("without image metadata",)
ABSENT = (*TWO_LEVELS, "lesions as patients")
AS_MANY = {"laptop": {"patients": 96}, "paper": {"patients": 6400}}
"""Lesions in a batch of the other arms on `three-levels`, 32 patients with 3, or 64 with 100.
Without ids as many "patients" are a third as many lesions, and three times the steps. A cohort of
another shape needs another number."""

RECIPE = Recipe(
    name="hierarchy",
    question="What are patients' ids worth in pre-training, and a third level below the lesion?",
    paper="open question",
    control="lesion and patient",
    cohorts=("three-levels", "pad-ufes-20"),
    arms=(
        Arm(name="lesion and patient", learns=TWO_LEVELS),
        Arm(name="image, lesion and patient"),
        Arm(name="lesion only", changes=LESIONS, learns=TWO_LEVELS),
        Arm(name="flat", changes=FLAT, learns=TWO_LEVELS),
        Arm(name="patients shuffled", learns=(*TWO_LEVELS, "shuffled patients")),
        Arm(name="patients absent", learns=ABSENT),
        Arm(name="patients absent, as many lesions a batch", learns=ABSENT, at=AS_MANY),
        replace(UNTRAINED, learns=TWO_LEVELS),
        METADATA,
    ),
)

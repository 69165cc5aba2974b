"""The paper's other open question: what if the hierarchy is wrong, absent, or deeper?"""

from __future__ import annotations

from slimp.experiments.recipe import FLAT, LESIONS, METADATA, UNTRAINED, Arm, Recipe

TWO_LEVELS = {"image_weight": 0.0}
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
        Arm(name="lesion and patient", changes=TWO_LEVELS),
        Arm(name="image, lesion and patient"),
        Arm(name="lesion only", changes={**TWO_LEVELS, **LESIONS}),
        Arm(name="flat", changes={**TWO_LEVELS, **FLAT}),
        Arm(name="patients shuffled", changes=TWO_LEVELS, learns="shuffled patients"),
        Arm(name="patients absent", changes=TWO_LEVELS, learns="lesions as patients"),
        Arm(
            name="patients absent, as many lesions a batch",
            changes=TWO_LEVELS,
            learns="lesions as patients",
            at=AS_MANY,
        ),
        UNTRAINED,
        METADATA,
    ),
)

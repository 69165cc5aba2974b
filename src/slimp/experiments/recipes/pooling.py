"""Does attention find a cancer among a patient's lesions in which a mean drowns it?"""

from __future__ import annotations

from slimp.experiments.recipe import UNTRAINED, Arm, Recipe

ATTENTION = {"pooling": "attention"}

RECIPE = Recipe(
    name="pooling",
    question="Of the pooled lesions of a patient: is one of them malignant?",
    control="mean",
    cohorts=("drowned", "ducklings"),
    measure="patients",
    features=("patients",),
    labels=("malignant",),
    base={"lesions": 100},
    arms=(
        Arm(name="mean"),
        Arm(name="attention", changes=ATTENTION),
        # The outer loss alone moves the attention, and it has a tenth of the weight.
        Arm(name="mean, equal weights", changes={"lesion_weight": 0.5, "patient_weight": 0.5}),
        Arm(
            name="attention, equal weights",
            changes={**ATTENTION, "lesion_weight": 0.5, "patient_weight": 0.5},
            control="mean, equal weights",
        ),
        UNTRAINED,
    ),
)

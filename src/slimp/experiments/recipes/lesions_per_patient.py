"""How many lesions of a patient should a batch hold? The paper draws up to N = 100."""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, Arm, Recipe

COUNTS = {"1": (1, 1), "N / 5": (2, 20), "N / 2": (5, 50), "N": (10, 100)}
"""Arm -> lesions at laptop scale, whose drawn patients have ten, and at the paper's."""

RECIPE = Recipe(
    name="lesions-per-patient",
    question="How many lesions drawn per patient and epoch are enough?",
    control="N",
    cohorts=("no-ducklings", "synthetic"),
    arms=(
        *(
            Arm(name=name, at={"laptop": {"lesions": few}, "paper": {"lesions": many}})
            for name, (few, many) in COUNTS.items()
        ),
        UNTRAINED,
        METADATA,
    ),
)

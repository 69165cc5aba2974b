"""How many lesions of a patient should a batch hold? The paper draws up to N = 100."""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, Arm, Recipe

COUNTS = (1, 2, 5, 10, 100)

RECIPE = Recipe(
    name="lesions-per-patient",
    question="How many lesions drawn per patient and epoch are enough?",
    control="100",
    cohorts=("no-ducklings", "synthetic"),
    arms=(*(Arm(name=f"{n}", changes={"lesions": n}) for n in COUNTS), UNTRAINED, METADATA),
)

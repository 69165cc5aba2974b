"""How much of the loss should be the inner one? The paper takes lambda = 0.9."""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, Arm, Recipe

WEIGHTS = (0.0, 0.1, 0.5, 0.9, 1.0)

RECIPE = Recipe(
    name="lambda",
    question="Which weight of the inner loss (lambda) is best, patients alone to lesions alone?",
    control="0.9",
    arms=(
        *(
            Arm(name=f"{x:g}", changes={"lesion_weight": x, "patient_weight": round(1 - x, 6)})
            for x in WEIGHTS
        ),
        UNTRAINED,
        METADATA,
    ),
)

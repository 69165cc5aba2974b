"""With few labelled patients: what does pre-training save a clinic?"""

from __future__ import annotations

from slimp.experiments.recipe import FLAT, UNTRAINED, VIEWS_ONLY, Arm, Recipe

RECIPE = Recipe(
    name="low-shot",
    question="With few labels, which pre-training is worth most?",
    control="untrained",
    measure="low-shot",
    options={"shots": (1, 5, 20), "fractions": (0.1, 0.3, 1.0), "draws": 3},
    labels=("native",),
    arms=(
        Arm(name="nested"),
        Arm(name="flat", changes=FLAT),
        VIEWS_ONLY,
        UNTRAINED,
    ),
)

"""What do missing metadata cost, and which way to handle them costs least?"""

from __future__ import annotations

from slimp.experiments.recipe import Arm, Recipe

RECIPE = Recipe(
    name="missing",
    question="What do missing metadata cost at test, cell by cell and in blocks, and what helps?",
    control="mask",
    measure="missing",
    labels=("native",),
    base={"missing": "mask", "feature_dropout": 0.0},
    probe={"blanked_copies": 0},
    arms=(
        Arm(name="mask"),
        Arm(name="zero", changes={"missing": "zero"}),
        Arm(name="learned", changes={"missing": "learned"}),
        Arm(name="feature dropout", changes={"feature_dropout": 0.3}),
        Arm(name="typical values", measure={"fill": "typical"}),
        Arm(name="retrieved values", measure={"fill": "retrieval"}),
        Arm(name="blanked copies", probe={"blanked_copies": 1}),
        # As in a clinic whose records are always incomplete.
        Arm(name="probed alike", measure={"alike": True}),
    ),
)

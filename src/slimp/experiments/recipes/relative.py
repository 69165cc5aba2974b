"""What do the patient's other lesions add to a lesion's own features?"""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, Arm, Recipe

RECIPE = Recipe(
    name="relative",
    question="Does the comparison with the patient's other lesions add to a lesion's own features?",
    control="full",
    cohorts=("ducklings", "no-ducklings", "pad-ufes-20"),
    arms=(
        Arm(name="image", features=("image",)),
        Arm(name="full", features=("full",)),
        Arm(name="relative", features=("relative",)),
        METADATA,
    ),
)

"""From dermoscopic images to clinical ones and back: what is lost, and what mends it?

The paper leaves augmentation against such a shift to future work.
"""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, VIEWS, Arm, Recipe
from slimp.experiments.recipes.augmentation import STRONG

RECIPE = Recipe(
    name="domain-shift",
    question="Pre-trained on images of the other kind: what is lost, and what mends it?",
    control="trained here",
    cohorts=("pad-ufes-20", "ham10000", "synthetic-clinic"),
    arms=(
        Arm(name="trained here"),
        Arm(name="trained there", elsewhere=True),
        Arm(name="there, strong augmentation", elsewhere=True, changes=STRONG),
        Arm(name="there, with views", elsewhere=True, changes={"view_weight": 1.0}),
        Arm(name="there, views only", elsewhere=True, changes=VIEWS),
        Arm(name="there, then adapted", elsewhere=True, adapt={}),
        Arm(
            name="there with strong augmentation, then adapted",
            elsewhere=True,
            changes=STRONG,
            adapt={},
        ),
        UNTRAINED,
        METADATA,
    ),
)

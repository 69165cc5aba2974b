"""The paper's open question: does strong augmentation of images help the nested loss?"""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, VIEWS, Arm, Recipe

NONE = {"crop_scale": 1.0, "flip": False, "rotate": "none", "colour": 0.0}
TURNED = {"crop_scale": 1.0, "colour": 0.0}
STRONG = {"crop_scale": 0.2, "rotate": "any", "colour": 0.6}

RECIPE = Recipe(
    name="augmentation",
    question="How strong an augmentation suits the nested loss, with and without a view level?",
    paper="open question",
    control="usual",
    arms=(
        Arm(name="none", changes=NONE),
        Arm(name="turned and mirrored", changes=TURNED),
        Arm(name="usual"),
        Arm(name="strong", changes=STRONG),
        Arm(name="usual, with views", changes={"view_weight": 1.0}),
        Arm(name="strong, with views", changes={**STRONG, "view_weight": 1.0}),
        Arm(name="usual, views only", changes=VIEWS),
        Arm(name="strong, views only", changes={**STRONG, **VIEWS}),
        UNTRAINED,
        METADATA,
    ),
)

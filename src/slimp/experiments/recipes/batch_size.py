"""Table 15: how many patients should a batch have?"""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, Arm, Claim, Recipe

SIZES = (8, 16, 32, 64, 128)

RECIPE = Recipe(
    name="batch-size",
    question="How many patients per batch are best, after as many epochs?",
    paper="Table 15",
    control="64",
    arms=(*(Arm(name=f"{n}", changes={"patients": n}) for n in SIZES), UNTRAINED, METADATA),
    claims=tuple(
        Claim(
            words=f"64 patients per batch are best, so {n} are behind",
            arm=f"{n}",
            control="64",
            least=None,
            most=0.0,
        )
        for n in SIZES
        if n != 64
    ),
)

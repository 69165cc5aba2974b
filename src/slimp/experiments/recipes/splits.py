"""What is it worth to learn from other images of the patients who test? Frozen, and supervised.

All arms test on the same images; what else they may learn from differs. Fewer images train where
patients are kept apart, so `as few` learns from as few that are drawn among all.
"""

from __future__ import annotations

from typing import Any

from slimp.experiments.recipe import Apart, Arm, Recipe

KINDS: dict[str, dict[str, Any]] = {
    "frozen": {"features": ("image", "full")},
    "supervised": {"trainer": "supervised", "features": ("image",)},
    "metadata": {"trainer": "metadata"},
}
APART: tuple[Apart, ...] = ("patient", "lesion", "image", "as few")

RECIPE = Recipe(
    name="splits",
    question="What does a score gain if the patients who test are known from other images?",
    control="frozen, patient apart",
    probe={"split": "image"},
    arms=tuple(
        Arm(
            name=f"{kind}, {apart}{' images' if apart == 'as few' else ' apart'}",
            apart=apart,
            control=f"{kind}, patient apart",
            **how,
        )
        for kind, how in KINDS.items()
        for apart in APART
    ),
)

"""Rows with equal metadata cannot be told apart by them: negatives all the same, or positives?"""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, VIEWS, VIEWS_ONLY, Arm, Recipe

SOFT = {"duplicates": "soft"}

RECIPE = Recipe(
    name="positives",
    question="Which rows besides its own should count as an image's positives?",
    control="own row",
    arms=(
        Arm(name="own row"),
        Arm(name="equal rows", changes={"duplicates": "positive"}),
        Arm(name="similar rows", changes=SOFT),
        Arm(name="similar rows, wider", changes={**SOFT, "positive_temperature": 0.3}),
        Arm(
            name="own row, views of the patient",
            changes={"view_weight": 1.0, "view_positives": "patient"},
        ),
        Arm(name="same patient, no metadata", changes={**VIEWS, "view_positives": "patient"}),
        VIEWS_ONLY,
        UNTRAINED,
        METADATA,
    ),
)

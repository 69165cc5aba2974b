"""Table 14: which parameters should learn in continual pre-training?"""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, Arm, Claim, Recipe

RECIPE = Recipe(
    name="what-to-train",
    question="From another data set: which parameters should learn, and is it worth it at all?",
    paper="Table 14",
    control="embeddings",
    arms=(
        Arm(name="embeddings", elsewhere=True, adapt={"train": "embeddings"}),
        # Features of other names in the other data set start anew.
        Arm(name="same names alone", elsewhere=True, adapt={"train": "embeddings", "rename": {}}),
        Arm(name="heads", elsewhere=True, adapt={"train": "heads"}),
        Arm(name="full", elsewhere=True, adapt={"train": "full"}),
        Arm(name="as it is", elsewhere=True),
        Arm(name="trained here alone"),
        UNTRAINED,
        METADATA,
    ),
    claims=(
        Claim(
            words="training everything loses 3.9 to 9.8 points against the embeddings alone",
            arm="full",
            control="embeddings",
            least=-0.098,
            most=-0.039,
        ),
    ),
)

"""What is each stage worth: pre-training, adaptation, metadata, and their imputation?"""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, Arm, Recipe

EMBEDDINGS = {"train": "embeddings"}

RECIPE = Recipe(
    name="stages",
    question="What does the whole lose without pre-training, adaptation, metadata or imputation?",
    paper="asked by its reviewers",
    control="pre-trained and adapted",
    cohorts=("pad-ufes-20", "ham10000", "synthetic-clinic"),
    measure="retrieval",
    arms=(
        Arm(name="pre-trained and adapted", elsewhere=True, adapt=EMBEDDINGS),
        Arm(name="pre-trained alone", elsewhere=True),
        Arm(name="adapted alone", trainer="untrained", elsewhere=True, adapt=EMBEDDINGS),
        Arm(name="pre-trained here"),
        # Metadata hidden, and retrieved from the other data set (Ret-SLIMP), beside images alone.
        Arm(name="imputed", elsewhere=True, features=("full",), measure={"route": "ilp"}),
        UNTRAINED,
        METADATA,
    ),
)

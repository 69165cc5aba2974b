"""Table 4 and Fig. 3: are an image and its own metadata nearer than an image and others'?"""

from __future__ import annotations

from slimp.experiments.recipe import FLAT, LESIONS, UNTRAINED, Arm, Recipe

RECIPE = Recipe(
    name="matching",
    question="On patients never seen, how far are matching pairs from those that do not match?",
    paper="Table 4, Fig. 3",
    control="untrained",
    measure="matching",
    metric="auroc_macro_ovr",
    features=("lesion", "patient"),
    labels=("native",),
    columns={"median cosine, matching": 0.836, "median cosine, others": -0.006, "overlap": None},
    arms=(
        Arm(name="nested"),
        Arm(name="flat", changes=FLAT, features=("lesion",)),
        Arm(name="lesion only", changes=LESIONS, features=("lesion",)),
        Arm(name="equal rows positive", changes={"duplicates": "positive"}),
        Arm(name="no dropout of cells", changes={"feature_dropout": 0.0}),
        Arm(name="shuffled metadata", learns=("shuffled metadata",)),
        UNTRAINED,
    ),
)

"""Table 3: is the nested loss worth more than one loss on all metadata together?"""

from __future__ import annotations

from slimp.experiments.recipe import (
    FLAT,
    LESIONS,
    METADATA,
    UNTRAINED,
    VIEWS,
    VIEWS_ONLY,
    Arm,
    Claim,
    Recipe,
)

RECIPE = Recipe(
    name="nested-vs-flat",
    question="Is nested pre-training ahead of flat pre-training on the same data and budget?",
    paper="Table 3",
    control="flat",
    arms=(
        Arm(name="nested"),
        Arm(name="flat", changes=FLAT),
        Arm(name="lesion only", changes=LESIONS),
        VIEWS_ONLY,
        # Images of one patient are positives, without metadata (HiDisc, PMC10468966).
        Arm(name="same patient", changes={**VIEWS, "view_positives": "patient"}),
        Arm(name="shuffled metadata", learns=("shuffled metadata",)),
        UNTRAINED,
        METADATA,
        Arm(name="majority class", trainer="majority"),
    ),
    claims=(
        Claim(
            words="from scratch on the same data, nested is ahead of flat by 3.5 to 6.8 points",
            arm="nested",
            control="flat",
            least=0.035,
            most=0.068,
        ),
    ),
    figures={("nested", "full", "malignant"): 0.928},
)

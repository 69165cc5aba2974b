"""Table 17: which way should metadata be retrieved for images that have none?"""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, Arm, Claim, Recipe


def _retrieved(name: str, route: str, **options: object) -> Arm:
    return Arm(name=name, elsewhere=True, features=("full",), measure={"route": route, **options})


RECIPE = Recipe(
    name="routes",
    question="Of images alone: what are metadata worth that are retrieved from another data set?",
    paper="Table 17",
    control="I to I",
    cohorts=("pad-ufes-20", "ham10000", "synthetic-clinic"),
    measure="retrieval",
    arms=(
        _retrieved("I to L to P", "ilp"),
        _retrieved("I to I", "ii"),
        _retrieved("I to L to P, 10 neighbours", "ilp", k=10),
        _retrieved("I to I, 10 neighbours", "ii", k=10),
        # As many columns, of another image's neighbours.
        _retrieved("I to L to P, shuffled", "ilp", shuffled=True),
        Arm(name="images alone", elsewhere=True, features=("image",)),
        Arm(name="own metadata", elsewhere=True, features=("full",)),
        METADATA,
    ),
    claims=(
        Claim(
            words="I to L to P is ahead of I to I by 4.0 to 4.3 points",
            arm="I to L to P",
            control="I to I",
            least=0.040,
            most=0.043,
        ),
    ),
)

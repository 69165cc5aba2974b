"""Tables 10 and 11: TRACE against FT-Transformer as the tabular encoder."""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, Arm, Claim, Recipe

FT = {"tabular": "ft-transformer"}

RECIPE = Recipe(
    name="trace-vs-ft",
    question="Is TRACE ahead of FT-Transformer, and at what cost?",
    paper="Tables 10 and 11",
    control="FT-Transformer",
    cohorts=("ham10000", "pad-ufes-20", "synthetic"),
    options={"costs": True},
    columns={"parameters": None, "operations": None},
    arms=(
        Arm(name="TRACE"),
        # Its published size.
        Arm(
            name="FT-Transformer",
            changes={**FT, "tabular_width": 192, "tabular_depth": 3, "tabular_heads": 8},
        ),
        Arm(name="FT-Transformer as small as TRACE", changes=FT),
        UNTRAINED,
        METADATA,
    ),
    claims=(
        Claim(
            words="TRACE is ahead of FT-Transformer, by up to 6.4 points, with a quarter of its "
            "parameters",
            arm="TRACE",
            control="FT-Transformer",
            least=0.0,
            most=0.064,
        ),
    ),
)

"""ViT-S against ViT-B: the paper finds the larger encoder behind, at half the lesions a patient."""

from __future__ import annotations

from slimp.experiments.recipe import METADATA, UNTRAINED, Arm, Claim, Recipe
from slimp.training.config import PRESETS

ALL, HALF = {"lesions": 4}, {"lesions": 2}
"""Of laptop scale: nobody in PAD-UFES-20 has more than four."""
FEWER = {"lesions": 50}
LARGE = {"encoder": "vit_base_patch16_224", "encoder_options": {}}
WIDER = {"encoder_options": PRESETS["small"]["encoder_options"]}

RECIPE = Recipe(
    name="image-encoder",
    question="Is a larger image encoder worth more, with as many lesions per patient and with 50?",
    paper="text",
    control="small",
    arms=(
        Arm(name="small", at={"laptop": ALL}),
        # Twice as wide at laptop scale; ViT-B/16 at the paper's.
        Arm(name="large", at={"laptop": {**WIDER, **ALL}, "paper": LARGE}),
        Arm(
            name="large, half the lesions",
            at={"laptop": {**WIDER, **HALF}, "paper": {**LARGE, **FEWER}},
        ),
        Arm(name="small, half the lesions", at={"laptop": HALF, "paper": FEWER}),
        UNTRAINED,
        METADATA,
    ),
    claims=(
        Claim(
            words="ViT-B with 50 lesions per patient is behind ViT-S with 100",
            arm="large, half the lesions",
            control="small",
            least=None,
            most=0.0,
        ),
    ),
)

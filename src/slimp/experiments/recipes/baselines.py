"""The main table: SLIMP beside other ways to train, on the same patients and budget."""

from __future__ import annotations

from slimp.experiments.recipe import FLAT, METADATA, UNTRAINED, VIEWS, Arm, Recipe

# The bias is minus the logarithm of about 200 lesions in a batch.
SIGMOID = {"contrast": "sigmoid", "temperature": 0.1, "sigmoid_bias": -5.0}

RECIPE = Recipe(
    name="baselines",
    question="On the same patients and budget, is SLIMP ahead of other ways to train?",
    paper="main table",
    control="nested",
    features=("image", "image+table"),
    arms=(
        Arm(name="nested"),
        Arm(name="supervised image", trainer="supervised"),
        Arm(name="supervised image and table", trainer="supervised", options={"table": True}),
        Arm(name="masked autoencoder", trainer="mae"),
        Arm(name="CLIP sentences", trainer="clip_text"),
        Arm(name="SigLIP sentences", trainer="clip_text", changes=SIGMOID),
        Arm(name="SimCLR", changes=VIEWS),
        Arm(name="same patient", changes={**VIEWS, "view_positives": "patient"}),
        # Contrast with the whole table, whose hidden cells are predicted besides (TIP).
        Arm(name="TIP-like", changes={**FLAT, "reconstruction_weight": 1.0}),
        UNTRAINED,
        METADATA,
        # A hole where its weights are not on this machine: slimp weights fetch.
        Arm(name="frozen ImageNet", trainer="frozen", options={"weights": "efficientnet-lite0"}),
    ),
)

"""The feature sets and the blocks that they are made of; light, for the command line's sake."""

from __future__ import annotations

from typing import Literal

from slimp.data.schema import LevelName

FeatureSet = Literal["image", "image+lesion", "full", "relative"]
"""Image features alone, with lesion metadata, with patient metadata too, and with what sets the
lesion apart from the patient's other lesions too."""
IMAGE = "image"
"""The block of the image's own embedding."""
TABLE, RELATIVE_TABLE = "table", "relative_table"
"""The blocks made of raw metadata; the others are embeddings."""
METADATA_KEYS: dict[LevelName, str] = {
    "image": "image_metadata",
    "lesion": "lesion",
    "patient": "patient",
}
"""Level -> block of its metadata's embeddings; those of the image itself are `IMAGE`."""
FEATURE_SETS: dict[FeatureSet, tuple[str, ...]] = {
    "image": ("image",),
    "image+lesion": ("image", "image_metadata", "lesion", TABLE),
    "full": ("image", "image_metadata", "lesion", "patient", TABLE),
    "relative": (
        *("image", "image_metadata", "lesion", "patient", TABLE),
        *("relative", "outlier", RELATIVE_TABLE),
    ),
}
"""Set -> its blocks. A block that a model or a cohort lacks is left out."""
TABLE_LEVELS: dict[FeatureSet, tuple[LevelName, ...]] = {
    name: tuple(level for level, block in METADATA_KEYS.items() if block in blocks)
    for name, blocks in FEATURE_SETS.items()
}
"""Set -> the levels of its table."""

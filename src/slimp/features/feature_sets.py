"""Names of the feature sets; imports nothing heavy, because the command line makes flags of it."""

from __future__ import annotations

from typing import Literal

FeatureSet = Literal["image", "image+lesion", "full"]
"""Image features alone, with lesion metadata, and with patient metadata too."""

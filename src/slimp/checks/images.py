"""Images that cannot be read or show little: corrupt, tiny, blank, blurred, dark, framed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from slimp.checks.finding import Finding, Severity, count_of
from slimp.checks.scan import ImageScan

TINY_SIDE = 32
"""Images with a side below this many pixels are reported: two patches of a ViT/16."""
FLAT_SPREAD = 2.0
"""Images whose grey levels (0 to 255) have a smaller standard deviation are reported."""
BLUR = 4.0
"""Robust standard deviations below the median of the logarithm of sharpness."""
BLUR_FACTOR = 4.0
"""And so many times less sharp than the median."""
EXPOSED = 0.3
"""Share of all but white, or all but black, pixels."""
FRAMED = 0.05
"""Share of the area in a frame."""
CORNERS = 3
"""Dark corners of a round field of view; one may be hidden by a ruler or a label."""
GREY = 2.0
"""Mean distance of the channels of a grey picture, at most."""


def image_findings(scan: ImageScan) -> Iterator[Finding]:
    """Corrupt, tiny and blank images, and images unlike the others."""
    facts, good = scan.facts, scan.good
    corrupt = facts[facts["problem"] != ""]
    if len(corrupt):
        worst = corrupt.iloc[0]
        yield Finding(
            severity="error",
            code="corrupt-image",
            message=(f"{count_of(len(corrupt), 'image')} of {len(facts)} that cannot be decoded."),
            example=f"{worst['image_id']}: {worst['problem']}",
            remedy="Replace the files or remove their rows, then import again.",
            count=len(corrupt),
        )
    tiny = good[good[["width", "height"]].min(axis=1) < TINY_SIDE]
    if len(tiny):
        first = tiny.iloc[0]
        yield Finding(
            severity="warning",
            code="tiny-image",
            message=(
                f"{count_of(len(tiny), 'image')} of {len(facts)} with a side below {TINY_SIDE} px."
            ),
            example=f"{first['image_id']}: {first['width']} x {first['height']} px",
            remedy="Check whether thumbnails were exported in place of the images.",
            count=len(tiny),
        )
    blank = good[good["spread"] < FLAT_SPREAD]
    if len(blank):
        first = blank.iloc[0]
        yield Finding(
            severity="warning",
            code="blank-image",
            message=f"{count_of(len(blank), 'image')} of {len(facts)} in one even colour.",
            example=f"{first['image_id']}: grey levels deviate by {first['spread']:.1f} of 255",
            remedy="Look at them and remove the rows of those that show no skin.",
            count=len(blank),
        )
    yield from _artefacts(good[good["spread"] >= FLAT_SPREAD])


def _artefacts(good: pd.DataFrame) -> Iterator[Finding]:
    """Pictures of skin with something wrong about them; blank ones are told elsewhere."""
    yield from _some(
        good,
        blurred(good["sharpness"]),
        code="blurred-image",
        what="far less sharp than the others",
        example=lambda row: (
            f"sharpness {row['sharpness']:.3g}, median {good['sharpness'].median():.3g}"
        ),
        remedy="Look at them: out of focus, or enlarged from thumbnails? Leave out what is no use.",
    )
    exposure = good[["overexposed", "underexposed"]]
    yield from _some(
        good,
        (exposure > EXPOSED).any(axis=1) & (good["frame"] <= FRAMED),
        code="exposure",
        what=f"with more than {EXPOSED:.0%} of their pixels white or black",
        example=lambda row: f"{row['overexposed']:.0%} white, {row['underexposed']:.0%} black",
        remedy="Look at them: flash, shadow, or a wrong conversion of 16-bit or DICOM images.",
    )
    yield from _some(
        good,
        good["frame"] > FRAMED,
        code="framed-image",
        what="with black or white bands along the edges",
        example=lambda row: f"{row['frame']:.0%} of the area",
        remedy="Crop the bands: resizing squeezes the skin, and bands may betray the clinic.",
    )
    yield from _some(
        good,
        good["dark_corners"] >= CORNERS,
        code="dark-corners",
        what="with the dark corners of a round field of view",
        example=lambda row: f"{row['dark_corners']} corners",
        remedy="Harmless if all classes have them alike; see the picture columns of the ranking.",
        severity="note",
    )
    grey = good["colour"] < GREY
    yield from _some(
        good,
        grey & (not grey.all()),
        code="grey-image",
        what="without colour, among others that have colour",
        example=lambda row: f"channels differ by {row['colour']:.1f} of 255",
        remedy="Look at them: a conversion that lost the colours, or another kind of image.",
    )


def _some(
    good: pd.DataFrame,
    which: pd.Series,
    *,
    code: str,
    what: str,
    example: Callable[[pd.Series], str],
    remedy: str,
    severity: Severity = "warning",
) -> Iterator[Finding]:
    if which.any():
        first = good[which].iloc[0]
        yield Finding(
            severity=severity,
            code=code,
            message=f"{count_of(int(which.sum()), 'image')} of {len(good)} {what}.",
            example=f"{first['image_id']}: {example(first)}",
            remedy=remedy,
            count=int(which.sum()),
        )


def blurred(sharpness: pd.Series) -> pd.Series:
    """Which images are far less sharp than the others."""
    below = sharpness.astype(float).clip(lower=1e-3).map(np.log)
    below = below.median() - below
    spread = 1.4826 * float(below.abs().median())
    low: pd.Series = below > max(BLUR * spread, float(np.log(BLUR_FACTOR)))
    return low

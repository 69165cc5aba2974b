"""Images that cannot be read or show little: corrupt, tiny, blank, blurred, dark, framed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from slimp.checks.finding import Finding, Severity, count_of
from slimp.checks.image_statistics import FLAT_SPREAD, ImageScan

TINY_SIDE = 32
"""Images with a side below this many pixels are reported: two patches of a ViT/16."""
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
"""Mean distance of the channels of a grey image, at most."""


def image_findings(scan: ImageScan) -> Iterator[Finding]:
    """Corrupt, tiny and blank images, and images unlike the others."""
    facts, good = scan.facts, scan.good
    yield from _some(
        facts[facts["problem"] != ""],
        ("error", "corrupt-image", f"of {len(facts)} that cannot be decoded"),
        lambda row: str(row["problem"]),
        "Replace the files or remove their rows, then import again.",
    )
    yield from _some(
        good[good[["width", "height"]].min(axis=1) < TINY_SIDE],
        ("warning", "tiny-image", f"of {len(facts)} with a side below {TINY_SIDE} px"),
        lambda row: f"{row['width']} x {row['height']} px",
        "Check whether thumbnails were exported in place of the images.",
    )
    yield from _some(
        good[good["spread"] < FLAT_SPREAD],
        ("warning", "blank-image", f"of {len(facts)} in one even colour"),
        lambda row: f"grey levels deviate by {row['spread']:.1f} of 255",
        "Look at them and remove the rows of those that show no skin.",
    )
    yield from _artefacts(good[good["spread"] >= FLAT_SPREAD])


def _artefacts(good: pd.DataFrame) -> Iterator[Finding]:
    """Images of skin with something wrong about them; blank ones are reported elsewhere."""
    of = f"of {len(good)}"
    yield from _some(
        good[blurred(good["sharpness"])],
        ("warning", "blurred-image", f"{of} far less sharp than the others"),
        lambda row: f"sharpness {row['sharpness']:.3g}, median {good['sharpness'].median():.3g}",
        "Look at them: out of focus, or enlarged from thumbnails? Leave out what is no use.",
    )
    exposed = (good[["overexposed", "underexposed"]] > EXPOSED).any(axis=1)
    yield from _some(
        good[exposed & (good["frame"] <= FRAMED)],
        ("warning", "exposure", f"{of} with more than {EXPOSED:.0%} of the pixels white or black"),
        lambda row: f"{row['overexposed']:.0%} white, {row['underexposed']:.0%} black",
        "Look at them: flash, shadow, or a wrong conversion of 16-bit or DICOM images.",
    )
    yield from _some(
        good[good["frame"] > FRAMED],
        ("warning", "framed-image", f"{of} with black or white bands along the edges"),
        lambda row: f"{row['frame']:.0%} of the area",
        "Crop the bands: resizing squeezes the skin, and bands may betray the clinic.",
    )
    yield from _some(
        good[good["dark_corners"] >= CORNERS],
        ("note", "dark-corners", f"{of} with the dark corners of a round field of view"),
        lambda row: f"{row['dark_corners']} corners",
        "Harmless if all classes have them alike; see how images and label hang together.",
    )
    grey = good["colour"] < GREY
    yield from _some(
        good[grey & (not grey.all())],
        ("warning", "grey-image", f"{of} without colour, among others that have colour"),
        lambda row: f"channels differ by {row['colour']:.1f} of 255",
        "Look at them: a conversion that lost the colours, or another kind of image.",
    )


def _some(
    rows: pd.DataFrame,
    finding: tuple[Severity, str, str],
    example: Callable[[pd.Series], str],
    remedy: str,
) -> Iterator[Finding]:
    """A finding about these images; `finding` is severity, code and what follows the count."""
    if len(rows):
        severity, code, what = finding
        first = rows.iloc[0]
        yield Finding(
            severity,
            code,
            f"{count_of(len(rows), 'image')} {what}.",
            example=f"{first['image_id']}: {example(first)}",
            remedy=remedy,
            count=len(rows),
        )


def blurred(sharpness: pd.Series) -> pd.Series:
    """Which images are far less sharp than the others."""
    below = sharpness.astype(float).clip(lower=1e-3).map(np.log)
    below = below.median() - below
    spread = 1.4826 * float(below.abs().median())
    low: pd.Series = below > max(BLUR * spread, float(np.log(BLUR_FACTOR)))
    return low

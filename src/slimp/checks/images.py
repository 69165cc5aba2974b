"""Opens every image once: which are corrupt, tiny, blank or pixel-identical."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from slimp.checks.finding import Finding, Severity, count_of
from slimp.cohort import Cohort
from slimp.sources.verify import MAX_PIXELS, own_limits

TINY_SIDE = 32
"""Images with a side below this many pixels are reported: two patches of a ViT/16."""
FLAT_SPREAD = 2.0
"""Images whose grey levels (0 to 255) have a smaller standard deviation are reported."""

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def scan_images(cohort: Cohort, progress: Progress | None = None) -> pd.DataFrame:
    """A row per image: its ids and label, then `width height pixels spread problem`.

    `pixels` is a hash of the decoded RGB pixels and the size, so it is equal for equal pictures
    in different encodings; `spread` is the standard deviation of the grey levels; `problem` says
    why an image cannot be decoded and is empty otherwise. Rows are in the order of `images`.
    """
    facts: list[dict[str, object]] = []
    total = len(cohort)
    # Pillow and hashlib release the interpreter lock, so threads are enough.
    with own_limits(), ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for fact in pool.map(lambda row: image_facts(cohort.read_image(row)), range(total)):
            facts.append(fact)
            if progress is not None:
                progress(len(facts), total)
    known = ["image_id", "lesion_id", "patient_id", "label", "split"]
    ids = cohort.images[[column for column in known if column in cohort.images]]
    return pd.concat([ids.reset_index(drop=True), pd.DataFrame(facts)], axis=1)


def image_facts(encoded: bytes) -> dict[str, object]:
    """The facts of one encoded image that `scan_images` lists."""
    facts: dict[str, object] = {"width": 0, "height": 0, "pixels": "", "spread": 0.0}
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:  # refused before it is decoded
                return facts | {"problem": f"too large: {width} x {height} px"}
            pixels = np.asarray(image.convert("RGB"))  # (height, width, 3)
    except UnidentifiedImageError:
        return facts | {"problem": f"no known image format; it starts with {encoded[:8]!r}"}
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        return facts | {"problem": str(error) or type(error).__name__}
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(pixels.tobytes())
    # A grid of about 64 x 64 pixels tells a picture from a blank.
    grid = pixels[:: max(1, height // 64), :: max(1, width // 64)].mean(axis=2)
    return {
        "width": width,
        "height": height,
        "pixels": digest.hexdigest(),
        "spread": float(grid.std()),
        "problem": "",
    }


def image_findings(facts: pd.DataFrame) -> Iterator[Finding]:
    """Corrupt, tiny, blank and duplicate images among the rows of `scan_images`."""
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
    good = facts[facts["problem"] == ""]
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
    yield from _duplicates(good)


def _duplicates(good: pd.DataFrame) -> Iterator[Finding]:
    twins = good[good["pixels"].duplicated(keep=False)]
    groups = [group for _, group in twins.groupby("pixels", sort=False)]
    groups.sort(key=lambda group: str(group["image_id"].iloc[0]))
    conflicting = [group for group in groups if group["label"].nunique() > 1]
    if conflicting:
        yield Finding(
            severity="warning",
            code="duplicate-labels",
            message=(
                f"{count_of(len(conflicting), 'set')} of pixel-identical images with different "
                "labels."
            ),
            example=_describe(conflicting[0]),
            remedy="At least one label is wrong: correct or remove these rows.",
            count=len(conflicting),
        )
    parts = [g for g in groups if "split" in g and g["split"].nunique() > 1]
    rest = [g for g in groups if not ("split" in g and g["split"].nunique() > 1)]
    strangers = [g for g in rest if g["patient_id"].nunique() > 1]
    within = [g for g in rest if g["patient_id"].nunique() == 1]
    lesions = [g for g in within if g["lesion_id"].nunique() > 1]
    copies = [g for g in within if g["lesion_id"].nunique() == 1]
    reach: tuple[tuple[Severity, str, str, list[pd.DataFrame], str], ...] = (
        (
            "error",
            "duplicate-across-parts",
            "lie in more than one part of the split",
            parts,
            "The test set was seen in training: keep each picture in one part.",
        ),
        (
            "warning",
            "duplicate-across-patients",
            "belong to more than one patient",
            strangers,
            "Either a picture was filed twice or two ids are one person, and a patient-disjoint "
            "split then leaks: remove the copies or join the ids.",
        ),
        (
            "warning",
            "duplicate-across-lesions",
            "belong to different lesions of one patient",
            lesions,
            "One lesion has two ids: training sets it against itself, and a lesion-level split "
            "leaks. Join the ids or remove the copies.",
        ),
        (
            "note",
            "duplicate-within-lesion",
            "belong to one lesion",
            copies,
            "Harmless; remove the copies to count each picture once.",
        ),
    )
    for severity, code, where, sets, remedy in reach:
        if sets:
            yield Finding(
                severity=severity,
                code=code,
                message=f"{count_of(len(sets), 'set')} of pixel-identical images that {where}.",
                example=_describe(sets[0]),
                remedy=remedy,
                count=len(sets),
            )


def _describe(group: pd.DataFrame) -> str:
    """'a (NEV, patient p) and b (BCC, patient q)'."""
    texts = []
    for row in group.head(4).to_dict("records"):
        label = "no label" if pd.isna(row["label"]) else row["label"]
        part = "" if pd.isna(row.get("split")) else f", {row['split']}"
        texts.append(f"{row['image_id']} ({label}, patient {row['patient_id']}{part})")
    return " and ".join(texts) + (" ..." if len(group) > 4 else "")

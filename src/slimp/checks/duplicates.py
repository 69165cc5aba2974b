"""Images that occur twice: pixel by pixel, or nearly; and what that does to labels and parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slimp.checks.finding import Finding, Severity, count_of
from slimp.checks.image_statistics import FLAT_SPREAD, ImageScan
from slimp.checks.near_duplicates import (
    ALIKE,
    BLOCK,
    CROWD,
    TURNS,
    Progress,
    likeness,
    near_pairs,
    perceptual_hashes,
)

PAIRS = (
    *("first_id", "second_id", "kind", "likeness", "distance", "turn"),
    *("first_patient", "second_patient", "first_label", "second_label"),
    *("same_lesion", "same_patient"),
)
"""Columns of a table of pairs, besides rows of the scan `first second` and, with a published split,
`first_split second_split`: `kind` is exact or near, `distance` in bits of the hash, `turn` one of
`TURNS`."""
REACH: dict[str, tuple[Severity, str, str]] = {
    "across-parts": (
        "error",
        "lie in more than one part of the split",
        "The test set was seen in training: keep each image in one part.",
    ),
    "across-patients": (
        "warning",
        "belong to more than one patient",
        "Either an image was filed twice or two ids are one person, and a split by patient then "
        "leaks: remove the copies or join the ids.",
    ),
    "across-lesions": (
        "warning",
        "belong to different lesions of one patient",
        "One lesion has two ids: training sets it against itself, and a split by lesion leaks. "
        "Join the ids or remove the copies.",
    ),
    "within-lesion": (
        "note",
        "belong to one lesion",
        "Harmless; remove the copies to count each image once.",
    ),
}
"""End of a finding's code -> severity, words, remedy; what reaches farthest first."""


def exact_pairs(scan: ImageScan) -> pd.DataFrame:
    """A row per pixel-identical copy and the first image of its set; columns as `PAIRS`."""
    good = scan.good
    first = good.index.to_series().groupby(good["pixels"]).transform("first")
    copies = first[first != first.index]
    found = pd.DataFrame({"first": copies.to_numpy(), "second": copies.index.to_numpy()})
    found = found.assign(kind="exact", likeness=np.float32(1), distance=0, turn=TURNS[0])
    return _with_owners(found, scan.facts)


def find_near_duplicates(
    scan: ImageScan, *, progress: Progress | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs of nearly identical images, and facts of images that are like too many others.

    The first has a row per pair, the most alike first; columns as `PAIRS`. Of pixel-identical
    images only the first takes part, and blank ones do not: all of them are alike. The second
    holds images of so little detail that their hashes are near a crowd of others; no pair has one.
    """
    good = scan.good
    rows = good.index[(good["spread"] >= FLAT_SPREAD) & ~good["pixels"].duplicated()].to_numpy()
    parts = np.split(rows, range(BLOCK, len(rows), BLOCK))  # all at once would be a copy of all
    hashes = np.concatenate([perceptual_hashes(scan.thumbnails[part]) for part in parts])
    pairs, crowded = near_pairs(hashes, progress=progress)
    pairs["first"], pairs["second"] = rows[pairs["first"]], rows[pairs["second"]]
    pairs["likeness"] = likeness(scan.thumbnails, pairs)
    pairs = pairs[pairs["likeness"] >= ALIKE].sort_values(
        ["likeness", "first", "second"], ascending=[False, True, True], ignore_index=True
    )
    pairs["turn"] = [TURNS[turn] for turn in pairs["turn"]]
    return _with_owners(pairs.assign(kind="near"), scan.facts), scan.facts.loc[rows[crowded]]


def _with_owners(pairs: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    ends = {end: facts.iloc[pairs[end]].reset_index(drop=True) for end in ("first", "second")}
    splits = ["split"] if "split" in facts else []
    for column in ("image_id", "patient_id", "label", *splits):
        name = {"image_id": "id", "patient_id": "patient"}.get(column, column)
        for end, rows in ends.items():
            pairs[f"{end}_{name}"] = rows[column]
    for level in ("lesion", "patient"):
        pairs[f"same_{level}"] = ends["first"][f"{level}_id"] == ends["second"][f"{level}_id"]
    return pairs[["first", "second", *PAIRS, *(f"{end}_split" for end in ends if splits)]]


def duplicate_sets(facts: pd.DataFrame, *tables: pd.DataFrame) -> list[pd.DataFrame]:
    """Facts of connected images, set by set, where a pair of the first table is among them."""
    if tables[0].empty:
        return []
    edges = np.concatenate([table[["first", "second"]].to_numpy() for table in tables]).T
    graph = coo_array((np.ones(edges.shape[1], dtype=bool), edges), shape=(len(facts),) * 2)
    _, component = connected_components(graph, directed=False)
    members = facts[np.isin(component, component[tables[0]["first"]])]
    sets = [group for _, group in members.groupby(component[members.index])]
    return sorted(sets, key=lambda group: str(group["image_id"].iloc[0]))


def duplicate_findings(
    exact: pd.DataFrame, near: pd.DataFrame, scan: ImageScan
) -> Iterator[Finding]:
    """Conflicting labels, and how far the sets reach: parts, patients, lesions, one lesion."""
    yield from _findings(
        duplicate_sets(scan.facts, exact),
        "duplicate",
        "pixel-identical images",
        "At least one label is wrong: correct or remove these rows.",
    )
    yield from _findings(
        duplicate_sets(scan.facts, near, exact),
        "near-duplicate",
        "nearly identical images",
        "Look at both: if they show one lesion, at least one label is wrong.",
    )


def _findings(
    sets: Sequence[pd.DataFrame], code: str, noun: str, wrong_label: str
) -> Iterator[Finding]:
    found: list[tuple[str, tuple[Severity, str, str], list[pd.DataFrame]]] = [
        (
            "labels",
            ("warning", "have different labels", wrong_label),
            [group for group in sets if group["label"].nunique() > 1],
        )
    ]
    found += [(end, words, [s for s in sets if reach(s) == end]) for end, words in REACH.items()]
    for end, (severity, what, remedy), some in found:
        if some:
            yield Finding(
                severity,
                f"{code}-{end}",
                f"{count_of(len(some), 'set')} of {noun} that {what}.",
                example=describe(some[0]),
                remedy=remedy,
                count=len(some),
            )


def crowd_findings(crowded: pd.DataFrame) -> Iterator[Finding]:
    """Images that are like so many others that they were not compared one by one."""
    if len(crowded):
        yield Finding(
            "warning",
            "alike-images",
            f"{count_of(len(crowded), 'image')} of so little detail, or repeated so often, that "
            f"each resembles more than {CROWD} others; near-duplicates among them were not sought.",
            example=describe(crowded),
            remedy="Look at some: plain skin or empty fields are of no use, and if they show one "
            "image again and again, keep it once.",
            count=len(crowded),
        )


def reach(group: pd.DataFrame) -> str:
    """The farthest that the images of a set lie apart; a key of `REACH`."""
    if "split" in group and group["split"].nunique() > 1:
        return "across-parts"
    if group["patient_id"].nunique() > 1:
        return "across-patients"
    return "across-lesions" if group["lesion_id"].nunique() > 1 else "within-lesion"


def describe(group: pd.DataFrame) -> str:
    """'a (NEV, patient p) and b (BCC, patient q)'."""
    texts = []
    for row in group.head(4).to_dict("records"):
        label = "no label" if pd.isna(row["label"]) else row["label"]
        part = "" if pd.isna(row.get("split")) else f", {row['split']}"
        texts.append(f"{row['image_id']} ({label}, patient {row['patient_id']}{part})")
    return " and ".join(texts) + (" ..." if len(group) > 4 else "")

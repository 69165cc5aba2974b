"""Images that occur twice: pixel by pixel, or nearly; and what that does to labels and parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slimp.checks.finding import Finding, finding
from slimp.checks.images import FLAT_SPREAD, ImageScan
from slimp.checks.near_duplicates import (
    ALIKE,
    CROWD,
    TURNS,
    likeness,
    near_pairs,
    perceptual_hashes,
)
from slimp.data.in_order import Progress

OWNERS = ["image_id", "lesion_id", "patient_id", "label", "split"]
"""Of each image of a pair, with `first_` or `second_` in front; `split` if it is published."""


def exact_pairs(scan: ImageScan) -> pd.DataFrame:
    """A row per pixel-identical copy and the first image of its set.

    `first second` are rows of the scan; `kind` is exact or near, `distance` in bits of the hash,
    `turn` one of `TURNS`; then `OWNERS`.
    """
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

    The first is as of `exact_pairs`, the most alike first. Of pixel-identical images only the
    first takes part, and blank ones do not: all of them are alike. The second holds images of so
    little detail that their hashes are near a crowd of others; no pair has one.
    """
    good = scan.good
    rows = good.index[(good["spread"] >= FLAT_SPREAD) & ~good["pixels"].duplicated()].to_numpy()
    pairs, crowded = near_pairs(perceptual_hashes(scan.thumbnails)[rows], progress=progress)
    pairs["first"], pairs["second"] = rows[pairs["first"]], rows[pairs["second"]]
    pairs["likeness"] = likeness(scan.thumbnails, pairs)
    pairs = pairs[pairs["likeness"] >= ALIKE].sort_values(
        ["likeness", "first", "second"], ascending=[False, True, True], ignore_index=True
    )
    pairs = pairs.assign(kind="near", turn=[TURNS[turn] for turn in pairs["turn"]])
    return _with_owners(pairs, scan.facts), scan.facts.loc[rows[crowded]]


def _with_owners(pairs: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    owners = facts[[column for column in OWNERS if column in facts]]
    pairs = pairs[["first", "second", "kind", "likeness", "distance", "turn"]]
    return pairs.join(owners.add_prefix("first_"), on="first").join(
        owners.add_prefix("second_"), on="second"
    )


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
    exact: pd.DataFrame, near: pd.DataFrame, crowded: pd.DataFrame, facts: pd.DataFrame
) -> Iterator[Finding]:
    """Conflicting labels, and how far the sets reach: parts, patients, lesions, one lesion."""
    for prefix, noun, sets in (
        ("", "pixel-identical images", duplicate_sets(facts, exact)),
        ("near-", "nearly identical images", duplicate_sets(facts, near, exact)),
    ):
        found: dict[str, list[pd.DataFrame]] = {}
        for group in sets:
            if group["label"].nunique() > 1:
                found.setdefault("duplicate-labels", []).append(group)
            found.setdefault(f"duplicate-{reach(group)}", []).append(group)
        for code, some in found.items():
            example, ids = describe(some[0]), (name for group in some for name in group["image_id"])
            yield finding(code, prefix=prefix, noun=noun, count=len(some), example=example, ids=ids)
    if len(crowded):
        of: dict[str, Any] = {"crowd": CROWD, "ids": crowded["image_id"]}
        yield finding("alike-images", count=len(crowded), example=describe(crowded), **of)


def reach(group: pd.DataFrame) -> str:
    """The farthest that the images of a set lie apart."""
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

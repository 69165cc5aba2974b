"""Pictures that occur twice: pixel by pixel, or nearly; and what that does to labels and parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slimp.checks.finding import Finding, Severity, count_of
from slimp.checks.images import FLAT_SPREAD
from slimp.checks.likeness import ALIKE, likeness
from slimp.checks.near_duplicates import (
    CROWD,
    TURNS,
    Progress,
    near_pairs,
    perceptual_hashes,
)
from slimp.checks.scan import ImageScan

PART = 4096
"""Thumbnails hashed at a time."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How the two kinds of duplicates are named."""

    code: str
    """In front of the finding's code."""
    words: str
    """Between the number of sets and what they do."""
    labels: str
    """What to do about conflicting labels."""


EXACT = Kind(
    code="duplicate",
    words="pixel-identical images",
    labels="At least one label is wrong: correct or remove these rows.",
)
NEAR = Kind(
    code="near-duplicate",
    words="nearly identical images",
    labels="Look at both: if they show one lesion, at least one label is wrong.",
)


def exact_groups(good: pd.DataFrame) -> list[pd.DataFrame]:
    """Facts of pixel-identical images, set by set, in the order of their first image."""
    twins = good[good["pixels"].duplicated(keep=False)]
    groups = [group for _, group in twins.groupby("pixels", sort=False)]
    return sorted(groups, key=lambda group: str(group["image_id"].iloc[0]))


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
    parts = np.split(rows, range(PART, len(rows), PART))  # all at once would copy the thumbnails
    hashes = np.concatenate([perceptual_hashes(scan.thumbnails[part]) for part in parts])
    pairs = near_pairs(hashes, progress=progress)
    pairs = replace(
        pairs, first=rows[pairs.first], second=rows[pairs.second], crowded=rows[pairs.crowded]
    )
    alike = likeness(scan.thumbnails, pairs)
    columns = {name: getattr(pairs, name) for name in ("first", "second", "turn", "distance")}
    found = pd.DataFrame({**columns, "likeness": alike})[alike >= ALIKE]
    found = found.sort_values(["likeness", "first", "second"], ascending=[False, True, True])
    found = found.reset_index(drop=True)
    found["turn"] = [TURNS[turn] for turn in found["turn"]]
    crowded = scan.facts.loc[pairs.crowded]
    return _with_owners(found.assign(kind="near"), scan.facts), crowded


def exact_pairs(scan: ImageScan) -> pd.DataFrame:
    """A row per pixel-identical copy and the first image of its set; columns as `PAIRS`."""
    edges = [
        (group.index[0], other) for group in exact_groups(scan.good) for other in group.index[1:]
    ]
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    found = pd.DataFrame({"first": ends[:, 0], "second": ends[:, 1]})
    found = found.assign(likeness=np.float32(1), distance=0, turn=TURNS[0], kind="exact")
    return _with_owners(found, scan.facts)


PAIRS = (
    *("first_id", "second_id", "kind", "likeness", "distance", "turn"),
    *("first_patient", "second_patient", "first_label", "second_label"),
    *("same_lesion", "same_patient"),
)
"""Columns of a table of pairs, besides rows of the scan `first second` and, with a published split,
`first_split second_split`: `distance` is in bits of the hash, `turn` one of `TURNS`."""


def _with_owners(found: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    ends = {end: facts.iloc[found[end]].reset_index(drop=True) for end in ("first", "second")}
    for column, name in (("image_id", "id"), ("patient_id", "patient"), ("label", "label")):
        for end, rows in ends.items():
            found[f"{end}_{name}"] = rows[column]
    for column in ("lesion", "patient"):
        key = f"{column}_id"
        found[f"same_{column}"] = ends["first"][key] == ends["second"][key]
    if "split" in facts:
        for end, rows in ends.items():
            found[f"{end}_split"] = rows["split"]
    splits = [f"{end}_split" for end in ends if "split" in facts]
    return found[["first", "second", *PAIRS, *splits]]


def near_groups(scan: ImageScan, pairs: pd.DataFrame) -> list[pd.DataFrame]:
    """Facts of images that hang together by near pairs, set by set, exact copies included."""
    if pairs.empty:
        return []
    good = scan.good
    n = len(scan.facts)
    codes, _ = pd.factorize(good["pixels"])
    _, first = np.unique(codes, return_index=True)
    rows = good.index.to_numpy()
    copies = np.stack([rows, rows[first[codes]]])  # each image and the first of its copies
    edges = np.concatenate([pairs[["first", "second"]].to_numpy().T, copies], axis=1)
    graph = coo_array((np.ones(edges.shape[1], dtype=bool), edges), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    near = np.unique(component[pairs["first"]])
    members = scan.facts[np.isin(component, near)]
    groups = [group for _, group in members.groupby(component[members.index])]
    return sorted(groups, key=lambda group: str(group["image_id"].iloc[0]))


def duplicate_findings(groups: Sequence[pd.DataFrame], kind: Kind) -> Iterator[Finding]:
    """Conflicting labels, and how far the sets reach: parts, patients, lesions, one lesion."""
    conflicting = [group for group in groups if group["label"].nunique() > 1]
    if conflicting:
        yield Finding(
            severity="warning",
            code=f"{kind.code}-labels",
            message=f"{count_of(len(conflicting), 'set')} of {kind.words} with different labels.",
            example=describe(conflicting[0]),
            remedy=kind.labels,
            count=len(conflicting),
        )
    by_reach: dict[str, list[pd.DataFrame]] = {}
    for group in groups:
        by_reach.setdefault(reach(group), []).append(group)
    for name, (severity, code, where, remedy) in REACH.items():
        if sets := by_reach.get(name):
            yield Finding(
                severity=severity,
                code=f"{kind.code}-{code}",
                message=f"{count_of(len(sets), 'set')} of {kind.words} that {where}.",
                example=describe(sets[0]),
                remedy=remedy,
                count=len(sets),
            )


def crowd_findings(crowded: pd.DataFrame) -> Iterator[Finding]:
    """Images that are like so many others that they were not compared one by one."""
    if len(crowded):
        yield Finding(
            severity="warning",
            code="alike-images",
            message=f"{count_of(len(crowded), 'image')} of so little detail, or repeated so often, "
            f"that each looks like more than {CROWD} others at a glance; near-duplicates among "
            "them were not told apart.",
            example=describe(crowded),
            remedy="Look at some: plain skin or empty fields are of no use, and if they show one "
            "picture again and again, keep it once.",
            count=len(crowded),
        )


REACH: dict[str, tuple[Severity, str, str, str]] = {
    "parts": (
        "error",
        "across-parts",
        "lie in more than one part of the split",
        "The test set was seen in training: keep each picture in one part.",
    ),
    "patients": (
        "warning",
        "across-patients",
        "belong to more than one patient",
        "Either a picture was filed twice or two ids are one person, and a patient-disjoint "
        "split then leaks: remove the copies or join the ids.",
    ),
    "lesions": (
        "warning",
        "across-lesions",
        "belong to different lesions of one patient",
        "One lesion has two ids: training sets it against itself, and a lesion-level split "
        "leaks. Join the ids or remove the copies.",
    ),
    "lesion": (
        "note",
        "within-lesion",
        "belong to one lesion",
        "Harmless; remove the copies to count each picture once.",
    ),
}
"""How far a set reaches -> severity, end of the code, words, remedy; the farthest first."""


def reach(group: pd.DataFrame) -> str:
    """The farthest that the images of a set lie apart; a key of `REACH`."""
    if "split" in group and group["split"].nunique() > 1:
        return "parts"
    if group["patient_id"].nunique() > 1:
        return "patients"
    return "lesions" if group["lesion_id"].nunique() > 1 else "lesion"


def describe(group: pd.DataFrame) -> str:
    """'a (NEV, patient p) and b (BCC, patient q)'."""
    texts = []
    for row in group.head(4).to_dict("records"):
        label = "no label" if pd.isna(row["label"]) else row["label"]
        part = "" if pd.isna(row.get("split")) else f", {row['split']}"
        texts.append(f"{row['image_id']} ({label}, patient {row['patient_id']}{part})")
    return " and ".join(texts) + (" ..." if len(group) > 4 else "")

"""Which cells are missing together: columns in blocks, and the patterns of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from slimp.checks.finding import Finding, name_list
from slimp.checks.published import Published

MOST_PATTERNS = 12
BLOCK_COLUMNS = 3
"""From so many columns on, gaps in the same rows are worth a word."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Feature columns that are missing together, and in how many images."""

    missing: tuple[str, ...]
    images: int


@dataclass(frozen=True, kw_only=True)
class Missingness:
    """What is missing of the features."""

    shares: dict[str, float]
    """Per column, of the images."""
    blocks: tuple[tuple[str, ...], ...]
    """Columns that are empty in exactly the same images, at least two of them."""
    patterns: tuple[Pattern, ...]
    """The most frequent, at most `MOST_PATTERNS`."""
    num_patterns: int
    """That occur."""
    images: int


def missingness(columns: Sequence[Published]) -> Missingness:
    """The pattern of missing cells over all feature columns, seen from the images."""
    features = [column for column in columns if column.role == "feature"]
    if not features:
        return Missingness(shares={}, blocks=(), patterns=(), num_patterns=0, images=0)
    empty = np.stack([column.values.isna().to_numpy() for column in features])  # (columns, n)
    names = [column.name for column in features]
    by_gaps: dict[bytes, list[str]] = {}
    for name, gaps in zip(names, empty, strict=True):
        if gaps.any():
            by_gaps.setdefault(gaps.tobytes(), []).append(name)
    packed = np.packbits(empty, axis=0).T  # (n, bytes)
    distinct, first, count = np.unique(packed, axis=0, return_index=True, return_counts=True)
    order = np.argsort(-count, kind="stable")[:MOST_PATTERNS]
    patterns = [
        Pattern(missing=tuple(np.array(names)[empty[:, first[k]]].tolist()), images=int(count[k]))
        for k in order
    ]
    return Missingness(
        shares={name: float(gaps.mean()) for name, gaps in zip(names, empty, strict=True)},
        blocks=tuple(tuple(block) for block in by_gaps.values() if len(block) > 1),
        patterns=tuple(patterns),
        num_patterns=len(distinct),
        images=empty.shape[1],
    )


def missing_findings(found: Missingness) -> Iterator[Finding]:
    """Blocks of columns that are empty together: a form that was not used."""
    blocks = [block for block in found.blocks if len(block) >= BLOCK_COLUMNS]
    for block in blocks:
        share = found.shares[block[0]]
        yield Finding(
            severity="note",
            code="missing-block",
            message=(
                f"{len(block)} columns are empty in the same {share:.1%} of the images: they were "
                "filled in together or not at all."
            ),
            example=name_list(block, most=13),
            remedy=(
                "Ask why: another clinic, form or year. What is missing this way is not missing "
                "at random; see whether the gaps follow the label."
            ),
            count=len(block),
        )

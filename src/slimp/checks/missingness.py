"""Which cells are missing together: columns in blocks, and the patterns of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from slimp.checks.finding import Finding, name_list
from slimp.checks.published import Published

MOST_PATTERNS = 12
BLOCK_COLUMNS = 3
"""From so many columns on, gaps in the same rows are worth a word."""


@dataclass(frozen=True, kw_only=True)
class Missingness:
    """What is missing of the features, seen from the images."""

    shares: dict[str, float]
    """Per column, of the images."""
    blocks: tuple[tuple[str, ...], ...]
    """Columns that are empty in exactly the same images, at least two of them."""
    patterns: tuple[tuple[tuple[str, ...], int], ...]
    """Columns that are missing together, in how many images: the `MOST_PATTERNS` most frequent."""
    num_patterns: int
    """That occur."""
    images: int


def missingness(columns: Sequence[Published]) -> Missingness:
    """The pattern of missing cells over all feature columns."""
    empty = pd.DataFrame(
        {c.name: c.values.isna().to_numpy() for c in columns if c.role == "feature"}
    )
    blocks: dict[bytes, list[str]] = {}
    for name in empty.columns[empty.any()]:
        blocks.setdefault(empty[name].to_numpy().tobytes(), []).append(name)
    if empty.empty:
        return Missingness(shares={}, blocks=(), patterns=(), num_patterns=0, images=0)
    packed = np.packbits(empty.to_numpy(), axis=1)  # (n, bytes)
    distinct, first, count = np.unique(packed, axis=0, return_index=True, return_counts=True)
    order = np.argsort(-count, kind="stable")[:MOST_PATTERNS]
    return Missingness(
        shares={str(name): float(share) for name, share in empty.mean().items()},
        blocks=tuple(tuple(block) for block in blocks.values() if len(block) > 1),
        patterns=tuple((tuple(empty.columns[empty.iloc[first[k]]]), int(count[k])) for k in order),
        num_patterns=len(distinct),
        images=len(empty),
    )


def missing_findings(found: Missingness) -> Iterator[Finding]:
    """Blocks of columns that are empty together: a form that was not used."""
    for block in found.blocks:
        if len(block) >= BLOCK_COLUMNS:
            yield Finding(
                "note",
                "missing-block",
                f"{len(block)} columns are empty in the same {found.shares[block[0]]:.1%} of the "
                "images: they were filled in together or not at all.",
                example=name_list(block, most=13),
                remedy="Ask why: another clinic, form or year. What is missing this way is not "
                "missing at random; see whether the gaps follow the label.",
                count=len(block),
            )

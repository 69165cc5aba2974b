"""Random rows of metadata with holes, for tests of tabular encoders."""

from __future__ import annotations

import torch

from slimp.data.encoding import Rows
from slimp.models.trace_checkpoints import TraceFeatures

MISSING = ("zero", "mask", "learned")
FEATURES = TraceFeatures(continuous=2, categorical=(3, (1, 1, 1), 1))
"""Two values, a category of three, a group of three boxes, a category of one."""


def rows_of(n: int = 6, features: TraceFeatures = FEATURES, seed: int = 0) -> Rows:
    """Random rows; missing cells hold values, which must not matter."""
    generator = torch.Generator().manual_seed(seed)
    kinds = [size for size in features.categorical if isinstance(size, int)]
    boxes = sum(len(size) for size in features.categorical if not isinstance(size, int))
    codes = [torch.randint(1, size + 1, (n,), generator=generator) for size in kinds]
    return Rows(
        continuous=torch.randn(n, features.continuous, generator=generator),
        categorical=torch.stack(codes, dim=1) if codes else torch.zeros(n, 0, dtype=torch.long),
        checkbox=torch.randint(2, (n, boxes), generator=generator).float(),
        present=torch.rand(n, features.tokens, generator=generator) < 0.6,
    )

"""What TRACE reads: the sizes of its features, and the published coding of rows and weights.

Axis names: n = rows, g = columns of one feature (a checkbox group has several).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from slimp.data.encoding import Encoding, Rows
from slimp.errors import CheckpointError, UserError
from slimp.models.persistence import below_prefixes


@dataclass(frozen=True, kw_only=True)
class TraceFeatures:
    """Sizes of the input, in token order."""

    continuous: int
    """Number of continuous features."""
    categorical: tuple[int | tuple[int, ...], ...]
    """Per further token: K of a categorical feature, or a tuple of ones, a per box of a group."""

    def __post_init__(self) -> None:
        if self.tokens == 0:
            raise UserError("a tabular encoder needs at least one feature.")

    @classmethod
    def of(cls, encoding: Encoding) -> TraceFeatures:
        """Sizes of a fitted encoding."""
        others = [feature for feature in encoding.features if feature.kind != "continuous"]
        return cls(
            continuous=len(encoding.of_kind("continuous")),
            categorical=tuple(
                len(f.categories) if f.kind == "categorical" else (1,) * len(f.columns)
                for f in others
            ),
        )

    @classmethod
    def of_official(cls, metadata: Mapping[str, Any]) -> TraceFeatures:
        """Sizes of the published description: `{"continuous": [...], "categorical": {...}}`.

        Raises:
            UserError: an entry is missing, or a size is not one that the published coding has.
        """
        for key, kind in (("continuous", list | tuple), ("categorical", Mapping)):
            if not isinstance(metadata.get(key), kind):
                raise UserError(
                    'the metadata must have the form {"continuous": [names], "categorical": '
                    f'{{name: K, group: [1, 1, 1]}}}}, but "{key}" is {metadata.get(key)!r}.'
                )
        sizes = metadata["categorical"].items()
        return cls(
            continuous=len(metadata["continuous"]),
            categorical=tuple(_official_size(name, size) for name, size in sizes),
        )

    @property
    def tokens(self) -> int:
        """One per feature."""
        return self.continuous + len(self.categorical)


def official_rows(
    x: Shaped[Tensor, "n columns"] | Shaped[np.ndarray, "n columns"],
    metadata: Mapping[str, Any],
) -> Rows:
    """Rows in the published coding: continuous first, then integer codes; 0 is missing.

    Raises:
        UserError: the number of columns, or a cell, does not fit `metadata`.

    Example:
        >>> metadata = {"continuous": ["age"], "categorical": {"site": 5, "itch": [1, 1]}}
        >>> official_rows(np.array([[40.0, 3, 1, 0]]), metadata).present.shape
        torch.Size([1, 3])
    """
    x = torch.as_tensor(x)
    x = x if x.is_floating_point() else x.float()
    features = TraceFeatures.of_official(metadata)
    count = features.continuous
    widths = [1 if isinstance(size, int) else len(size) for size in features.categorical]
    if x.shape[1] != count + sum(widths):
        raise UserError(
            f"the metadata describe {count + sum(widths)} columns, the rows have {x.shape[1]}."
        )
    ends = np.cumsum([count, *widths]).tolist()
    continuous, *parts = x.tensor_split(ends[:-1], dim=1)
    for i, name in enumerate(metadata["continuous"]):
        column = continuous[:, i : i + 1]
        _require_cells(name, column, column.isfinite(), "finite, with 0 for missing")
    present, codes, boxes = [continuous != 0], [x[:, :0]], [x[:, :0]]
    for name, size, part in zip(metadata["categorical"], features.categorical, parts, strict=True):
        largest = max(size, 2) if isinstance(size, int) else 1
        fits = (part == part.round()) & (part >= 0) & (part <= largest)
        _require_cells(name, part, fits, f"whole numbers from 0 (missing) to {largest}")
        (codes if isinstance(size, int) else boxes).append(part)
        # An unticked box and a missing one are the same zero vector: a group counts as present.
        present.append(part != 0 if isinstance(size, int) else torch.ones_like(part[:, :1]).bool())
    return Rows(
        continuous=continuous,
        categorical=torch.cat(codes, dim=1).long(),
        checkbox=torch.cat(boxes, dim=1),
        present=torch.cat(present, dim=1),
    )


def published_names(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict without a checkpoint around it or a prefix before its names.

    Raises:
        CheckpointError: it is not TRACE's.
    """
    found = below_prefixes(state_dict.get("model", state_dict), "encoder.cls_token")
    if len(found) != 1:
        raise CheckpointError("this is no state dict of TRACE: it lacks 'encoder.cls_token'.")
    return next(iter(found.values()))


def _official_size(name: str, size: object) -> int | tuple[int, ...]:
    if isinstance(size, list | tuple) and size and set(size) <= {1, 2}:
        return (1,) * len(size)  # published code reads 1 and 2 alike: a yes/no column
    if isinstance(size, int) and size >= 1:
        return size
    raise UserError(
        f"feature '{name}': the size {size!r} is neither a number of categories nor a list of "
        "ones, one per box of a checkbox group."
    )


def _require_cells(
    name: str, cells: Shaped[Tensor, "n g"], fits: Bool[Tensor, "n g"], rule: str
) -> None:
    if not fits.all():
        row = int((~fits).nonzero()[0, 0])
        value = float(cells[~fits][0])
        raise UserError(f"row {row}, column '{name}': {value:g}; its cells must be {rule}.")

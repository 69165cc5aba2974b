"""The vote of the nearest training rows as a classifier: nothing is fitted but the scale.

Axis names: n = training rows, m = rows to classify, d = columns, k = classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from slimp.data.encoding import Encoding
from slimp.evaluation.blocks import Reduced, side_by_side
from slimp.evaluation.metrics import Array
from slimp.evaluation.probe_config import ProbeConfig
from slimp.features.design import Design
from slimp.features.knn import knn_predict


@dataclass(frozen=True, kw_only=True, eq=False)
class NeighbourProbe:
    """Training rows to look up."""

    encodings: tuple[Encoding, ...]
    reduced: Reduced
    factor: Float[Array, " d"]
    """Divisor per column that gives every block the same variance in all."""
    y: Int[Array, " n"]
    priors: Float[Array, " k"]
    config: ProbeConfig
    strengths: dict[str, float] = field(default_factory=dict)
    converged: bool = True

    def predict_proba(self, design: Design) -> Float[Array, "m k"]:
        """The share of votes per class."""
        x = self.reduced.project(side_by_side(design, self.encodings))
        p = knn_predict(
            torch.from_numpy(self.reduced.z / self.factor),
            torch.from_numpy(self.y),
            torch.from_numpy(x / self.factor),
            classes=len(self.priors),
            neighbours=self.config.neighbours,
            temperature=self.config.temperature,
            balanced=False,  # the decision is
        )
        return p.numpy()


def fit_neighbours(
    design: Design,
    y: Int[Array, " n"],
    groups: Shaped[Array, " n"],
    classes: tuple[str, ...],
    config: ProbeConfig,
    *,
    seed: int,
) -> NeighbourProbe:
    """A vote of these rows; see `fit_logistic` for the arguments."""
    encodings = () if design.table is None else design.table.fit(design.levels)
    reduced = Reduced.of(side_by_side(design, encodings))
    spreads = np.split(reduced.z.var(axis=0), np.cumsum(reduced.widths)[:-1])
    return NeighbourProbe(
        encodings=encodings,
        reduced=reduced,
        factor=np.concatenate([np.full(len(s), s.sum() ** 0.5 or 1.0) for s in spreads]),
        y=y,
        priors=np.bincount(y, minlength=len(classes)) / len(y),
        config=config,
    )

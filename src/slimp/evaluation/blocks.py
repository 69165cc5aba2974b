"""Blocks of features on one scale, and the search for the penalty of each.

Axis names: n = rows, d = columns, r = columns after projection, k = classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.linalg import eigh
from scipy.special import softmax

from slimp.data.encoding import Encoding
from slimp.evaluation.metrics import Array, standard_error
from slimp.evaluation.multinomial import Multinomial, Solution
from slimp.features.design import Design, one_hot
from slimp.features.feature_sets import IMAGE, TABLE

COMPONENTS = 256
"""Principal components of a block, at most. They keep their variances, so that the penalty weighs
most on the small ones."""
SIZE = 128
"""Columns that a wider block is shrunk to count as, so that a C means the same for all blocks."""
TOLERANCE, ROUGH = 1e-5, 1e-4
"""Largest gradient at which a fit counts as converged, and of those that choose the penalties."""
START_TABLE, START = 0.1, 0.01
"""The C at which the search begins, of the table and of embeddings."""
PROJECTED = "image, projected"
"""Part of the block `image`: its columns under the heads of pre-training (`Design.projection`)."""
GAIN = 1e-3
"""Least gain in log-loss for which a penalty is changed; less where class frequencies alone lose
less than `BIT`, as where one image in a thousand is malignant."""
BIT = float(np.log(2))
Chosen = tuple[int, ...]
"""Positions on the ladder of Cs, one per part."""
SMALLEST = 1e-12
"""Stands for a probability of 0 in the log-loss."""


def encoded(design: Design) -> tuple[Encoding, ...]:
    """What the rows teach about the columns of their table, per level; empty without a table."""
    return () if design.table is None else design.table.fit(design.levels)


def side_by_side(design: Design, encodings: Sequence[Encoding]) -> dict[str, Float[Array, "n _"]]:
    """The columns of each block: embeddings as they are, then the table, one-hot."""
    found = {name: values.astype(np.float64) for name, values in design.blocks.items()}
    if encodings:
        pairs = zip(encodings, design.encode(encodings), strict=True)
        found[TABLE] = np.hstack([one_hot(e, r).double().numpy() for e, r in pairs])
    return found


def standardise(
    x: Float[Array, "n d"], mean: Float[Array, " d"], scale: Float[Array, " d"]
) -> Float[Array, "n d"]:
    """Centred and divided; the mean where missing."""
    return np.nan_to_num((x - mean) / scale)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reduced:
    """Training rows, projected so that a fit is quick, and the way back.

    Columns of embeddings are standardised; a block of more than `SIZE` columns is projected
    on its first principal components, and shrunk as if it had that many columns. The table is
    only centred: on its continuous columns the variance is 1, and a rare category that was
    standardised would weigh as much as a frequent one.

    Images have a second part with a penalty of its own: under the linear heads of pre-training,
    whose directions are those that tell metadata. What they say is nothing new to a linear probe,
    but it weighs them before all others, as few labels cannot.
    """

    z: Float[Array, "n r"]
    blocks: dict[str, int]
    """Block -> columns before projection."""
    parts: dict[str, int]
    """Block, or part of one -> columns in `z`, in their order; each has a penalty."""
    mean: Float[Array, " d"]
    scale: Float[Array, " d"]
    maps: tuple[Array | None, ...]
    """Of each block, standardised columns to columns of `z`; None: they are the same."""

    @classmethod
    def of(
        cls,
        columns: dict[str, Float[Array, "n _"]],
        *,
        projection: Float[Array, "d p"] | None = None,
        components: int = COMPONENTS,
    ) -> Reduced:
        """The blocks of `side_by_side`, and the heads of images if they are known."""
        parts: dict[str, Float[Array, "n _"]] = {}
        means, scales, maps = [], [], []
        for name, x in columns.items():
            known = ~np.isnan(x)
            mean = np.where(known, x, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
            scale = np.ones(x.shape[1])
            if name != TABLE:
                deviation = x.std(axis=0)
                constant = deviation < 1e-12 * np.maximum(np.abs(mean), 1)  # up to rounding
                scale = np.where(constant, 1.0, deviation)
            own = standardise(x, mean, scale)
            wide = name != TABLE and x.shape[1] > min(components, SIZE)
            to_z = _principal(own, components) if wide else None
            parts[name] = own if to_z is None else own @ to_z
            if name == IMAGE and projection is not None:
                head = _head(own, scale[:, None] * projection, components)
                parts[PROJECTED] = own @ head
                to_z = np.hstack([np.eye(x.shape[1]) if to_z is None else to_z, head])
            maps.append(to_z)
            means.append(mean)
            scales.append(scale)
        return cls(
            z=np.hstack([*parts.values()]),
            blocks={name: x.shape[1] for name, x in columns.items()},
            parts={name: part.shape[1] for name, part in parts.items()},
            mean=np.concatenate(means),
            scale=np.concatenate(scales),
            maps=tuple(maps),
        )

    def project(self, columns: dict[str, Float[Array, "m _"]]) -> Float[Array, "m r"]:
        """Other rows as columns of `z`."""
        x = standardise(np.hstack([*columns.values()]), self.mean, self.scale)
        own = np.split(x, np.cumsum([*self.blocks.values()])[:-1], axis=1)
        return np.hstack([v if m is None else v @ m for v, m in zip(own, self.maps, strict=True)])

    def expand(self, coef: Float[Array, "k r"]) -> Float[Array, "k d"]:
        """Coefficients of `z` as those of the standardised columns."""
        widths = [
            d if m is None else m.shape[1]
            for d, m in zip(self.blocks.values(), self.maps, strict=True)
        ]
        own = np.split(coef, np.cumsum(widths)[:-1], axis=1)
        return np.hstack([c if m is None else c @ m.T for c, m in zip(own, self.maps, strict=True)])


def _principal(x: Float[Array, "n d"], components: int) -> Float[Array, "d r"]:
    """Directions of largest variance of standardised columns, shrunk to the variance of `SIZE`."""
    n, d = x.shape
    few = min(n, d)
    keep, rough = min(few, components), x.astype(np.float32)  # half the time, and exact enough
    products = (rough @ rough.T if n < d else rough.T @ rough).astype(np.float64)
    values, vectors = eigh(products, subset_by_index=(few - keep, few - 1), driver="evr")
    sound = values > 1e-6 * max(values[-1], SMALLEST)
    vectors = vectors[:, sound]
    if n < d:
        vectors = x.T @ (vectors / np.sqrt(values[sound]))
    return np.asarray(vectors * np.sqrt(SIZE / d))


def _head(
    x: Float[Array, "n d"], head: Float[Array, "d p"], components: int
) -> Float[Array, "d r"]:
    """Heads whose columns have variance 1 on these rows; of many columns, as of a wide block."""
    spread = (x @ head).std(axis=0)
    head = head[:, spread > SMALLEST] / spread[spread > SMALLEST]
    wide = head.shape[1] > min(components, SIZE)
    return np.asarray(head @ _principal(x @ head, components) if wide else head)


class Fit:
    """Fits of the same rows at one choice of penalties after the other, each from the last."""

    def __init__(
        self,
        z: Float[Array, "n r"],
        y: Int[Array, " n"],
        widths: Sequence[int],
        classes: int,
        tolerance: float,
    ) -> None:
        self.widths, self.classes, self.tolerance = list(widths), classes, tolerance
        # A fold may lack a class of few patients.
        self.present, own = np.unique(y, return_inverse=True)
        self.rows = Multinomial(z, own) if len(self.present) > 1 else None
        self.found: Solution | None = None
        self.converged = True

    def at(self, strengths: Sequence[float]) -> tuple[Float[Array, "k r"], Float[Array, " k"]]:
        """Coefficients and intercepts with these C per block."""
        coef = np.zeros((self.classes, sum(self.widths)))
        intercept = np.full(self.classes, -np.inf)  # probability 0 for an absent class
        intercept[self.present] = 0.0
        if self.rows is None:
            return coef, intercept
        penalty = np.repeat(np.reciprocal(strengths), self.widths)
        self.found = self.rows.fit(penalty, start=self.found, tolerance=self.tolerance)
        self.converged &= self.found.converged
        # Two classes have one logit, the second one's.
        rows = self.present[1:] if len(self.present) == 2 else self.present
        coef[rows], intercept[rows] = self.found.coef, self.found.intercept
        return coef, intercept


def start_of(names: Iterable[str], ladder: Sequence[float]) -> Chosen:
    """Positions on the ladder at which the search begins; the lowest of what is optional."""
    names = list(names)
    usual = [START_TABLE if name == TABLE else START for name in names]
    found = [int(np.argmin(np.abs(np.log(np.divide(ladder, c))))) for c in usual]
    if (part := optional(names)) is not None:
        found[part] = 0
    return tuple(found)


def optional(names: Sequence[str]) -> int | None:
    """The number of the part that comes in only if it is clearly worth it.

    Beside the heads, the other directions of an image: with few labels cross-validation lets them
    in where they are noise.
    """
    return names.index(IMAGE) if PROJECTED in names else None


class Search:
    """The C of each block with the least log-loss over out-of-fold predictions.

    The loss has one valley along each block's ladder, so a search along it stops where it rises.
    An `optional` part leaves the foot of its ladder only if that lowers the loss by more than a
    standard error, over patients, of the difference; the first steps up may gain next to nothing.
    """

    def __init__(
        self,
        reduced: Reduced,
        y: Int[Array, " n"],
        groups: Shaped[Array, " n"],
        fold: Int[Array, " n"],
        *,
        ladder: Sequence[float],
        classes: int,
    ) -> None:
        self.ladder, self.known = tuple(ladder), dict[Chosen, Array]()
        self.optional = optional([*reduced.parts])
        shares = np.bincount(y)[np.unique(y)] / len(y)
        self.least_gain = GAIN * min(1.0, -float(shares @ np.log(shares)) / BIT)
        z, self.y, self.groups, self.folds = reduced.z.astype(np.float32), y, groups, []
        for f in np.unique(fold):
            own, rest = fold == f, fold != f
            fit = Fit(z[rest], y[rest], [*reduced.parts.values()], classes, ROUGH)
            self.folds.append((fit, own, z[own]))

    def run(self, start: Chosen) -> Chosen:
        """Positions on the ladder: each block is moved by itself, twice round at most."""
        best, unmoved = start, 0
        for block in (*range(len(start)), *range(len(start))):
            if unmoved == len(start):
                break
            there = self._along(best, block)
            unmoved = unmoved + 1 if there == best else 1
            best = there
        return best

    def _along(self, start: Chosen, block: int) -> Chosen:
        """The best position when this block is moved, in the better of both directions."""
        if block == self.optional:
            foot = (*start[:block], 0, *start[block + 1 :])
            best = self._climb(foot, block, 1, least=0.0)
            return best if self._is_worth_it(foot, best) else foot
        down = self._climb(start, block, -1, least=self.least_gain)
        return self._climb(start, block, 1, least=self.least_gain) if down == start else down

    def _climb(self, best: Chosen, block: int, step: int, *, least: float) -> Chosen:
        """Where the loss stops to fall, by at least so much a step, along a block's ladder."""
        while 0 <= best[block] + step < len(self.ladder):
            there = (*best[:block], best[block] + step, *best[block + 1 :])
            if self._loss(there) > self._loss(best) - least:
                break
            best = there
        return best

    def _is_worth_it(self, foot: Chosen, best: Chosen) -> bool:
        """Whether the loss falls by more than a standard error."""
        gain = self._losses(foot) - self._losses(best)
        return bool(gain.mean() > standard_error(gain, self.groups))

    def _loss(self, chosen: Chosen) -> float:
        return float(self._losses(chosen).mean())

    def _losses(self, chosen: Chosen) -> Float[Array, " n"]:
        """Of each row, while its fold is left out."""
        if chosen not in self.known:
            self.known[chosen] = found = np.empty(len(self.y))
            for fit, own, x in self.folds:
                coef, intercept = fit.at([self.ladder[i] for i in chosen])
                p = softmax(x @ coef.T + intercept, axis=1)[np.arange(len(x)), self.y[own]]
                found[own] = -np.log(np.maximum(p, SMALLEST))
        return self.known[chosen]

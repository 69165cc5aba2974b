"""Nearest rows by cosine, nearly: FAISS's inverted lists, with the recall measured each time.

Rows are sorted into lists by their nearest of some centres, and a query looks only into the lists
of its nearest centres. To build this takes longer than one exact search
(`benchmarks/retrieval.py`), so it is for an index that is searched again and again.
FAISS comes with `pip install "slimp[faiss]"`.

Axis names: q = queries, n = rows of the index, d = width, k = neighbours.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from slimp.errors import UserError
from slimp.features.nearest import Neighbours, UnitRows, nearest

Array = np.ndarray[Any, np.dtype[Any]]
Groups = tuple[Shaped[Array, " _"], Shaped[Array, " _"]]

ROWS_PER_CENTRE = 40
"""Rows that a centre is fitted on; FAISS warns of fewer than 39."""
AT_ONCE = 1 << 14
"""Rows that are scaled at once."""
PROBES = 16
"""Lists that a query looks into."""
SAMPLE = 200
"""Queries that recall is measured on."""
TIE = 1e-6
"""Difference of two cosines in 32 bit that may be rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ApproximateIndex:
    """An index that was built, and the rows it was built of."""

    rows: UnitRows
    lists: int
    inverted: Any
    """FAISS's own index, with inner products."""

    @classmethod
    def build(
        cls, index: Float32[Array, "n d"], *, lists: int | None = None, seed: int = 0
    ) -> ApproximateIndex:
        """An index of these rows.

        Args:
            index: rows of any length but 0; they are copied.
            lists: into which rows are sorted; None: four times the root of their number.
            seed: of the centres.

        Raises:
            UserError: FAISS is not installed, there are too few rows for lists, or a row has no
                direction.
        """
        faiss = _faiss()
        most = len(index) // ROWS_PER_CENTRE
        lists = min(most, round(4 * len(index) ** 0.5)) if lists is None else lists
        if not 1 <= lists <= most:
            raise UserError(
                f"{lists} lists for {len(index)} rows: an approximate index needs "
                f"{ROWS_PER_CENTRE} rows or more for each list. So few rows are searched exactly "
                "in less time."
            )
        rows, width = UnitRows.of(index, "the index"), index.shape[1]
        inverted = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT
        )
        inverted.cp.seed = seed
        rng = np.random.default_rng(seed)
        inverted.train(rows.unit(rng.permutation(len(index))[: ROWS_PER_CENTRE * lists]))
        for first in range(0, len(index), AT_ONCE):
            inverted.add(rows.unit(slice(first, first + AT_ONCE)))
        return cls(rows=rows, lists=lists, inverted=inverted)

    def search(
        self,
        queries: Float32[Array, "q d"],
        k: int,
        *,
        probes: int = PROBES,
        exclude: Groups | None = None,
    ) -> Neighbours:
        """The k nearest rows in the lists looked into; as `nearest`, with gaps where these end.

        Args:
            queries: rows of any length but 0.
            k: neighbours per query.
            probes: lists that a query looks into; all of them make the search exact.
            exclude: as for `nearest`.

        Raises:
            UserError: k or the number of probes is not positive.
        """
        if k < 1 or probes < 1:
            raise UserError(f"k and probes must be at least 1, got k={k} and probes={probes}.")
        parameters = _faiss().SearchParametersIVF(nprobe=min(probes, self.lists))
        more = _largest_own(exclude)  # as many rows may have to be left out
        unit = UnitRows.of(queries, "the queries").unit(slice(None))
        wanted = min(k + more, len(self.rows.length))
        similarity, row = self.inverted.search(unit, wanted, params=parameters)
        similarity[row < 0] = -np.inf
        if exclude is not None:
            similarity[(exclude[1][row] == exclude[0][:, None]) | (row < 0)] = -np.inf
        return _first(similarity, row.astype(np.int64), k)

    def measured_recall(
        self,
        queries: Float32[Array, "q d"],
        k: int = 1,
        *,
        probes: int = PROBES,
        exclude: Groups | None = None,
        sample: int = SAMPLE,
        seed: int = 0,
    ) -> float:
        """Share of the k nearest rows that `search` finds, or of rows as near, on some queries."""
        some = np.random.default_rng(seed).permutation(len(queries))[:sample]
        if exclude is not None:
            exclude = exclude[0][some], exclude[1]
        found = self.search(queries[some], k, probes=probes, exclude=exclude).similarity
        exact = nearest(queries[some], self.rows.values, k, exclude=exclude).similarity
        there = np.isfinite(exact)
        # The r-th found is a right one if it is as near as the last of the exact ones.
        least = np.where(there, exact, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        right = np.minimum((found >= least - TIE).sum(axis=1), there.sum(axis=1))
        return float(right.sum() / max(1, there.sum()))


def _faiss() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of its generated wrappers
            import faiss
    except ImportError:
        raise UserError(
            'approximate search needs FAISS: pip install "slimp[faiss]". Without it, search '
            "exactly, which is the default."
        ) from None
    return faiss


def _largest_own(exclude: Groups | None) -> int:
    """Most rows of the index that one query may not be answered with."""
    if exclude is None:
        return 0
    names, counts = np.unique(exclude[1], return_counts=True)
    return int(counts[np.isin(names, exclude[0])].max(initial=0))


def _first(similarity: Array, row: Array, k: int) -> Neighbours:
    """The k best columns, of equal ones the lower row first."""
    order = np.lexsort((row, -similarity), axis=1)[:, :k]
    best, at = (np.take_along_axis(x, order, axis=1) for x in (similarity, row))
    gap = ((0, 0), (0, k - best.shape[1]))
    best = np.pad(np.clip(best, -np.inf, 1), gap, constant_values=-np.inf)
    at = np.pad(at, gap, constant_values=-1)
    at[np.isneginf(best)] = -1
    return Neighbours(similarity=best.astype(np.float32), row=at, precision="32", repeated=0)

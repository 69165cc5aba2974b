"""Which group each image is in, by a column of any level: sex, age band, skin type, site."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Array

AUTO_GROUPS = (2, 12)
"""Values that a categorical feature may have to be grouped by without being named."""
MOST_GROUPS = 40
"""Values of a column that is named."""


def group_values(cohort: Cohort, columns: Sequence[str] | None = ("auto",)) -> dict[str, pd.Series]:
    """Column -> the group of each image, ordered categories, missing as such.

    Args:
        cohort: whose tables are searched.
        columns: names of columns of any level. Continuous ones are cut into bands: at the edges
            that follow the name, as in 'age:30:60', or at their quartiles. 'auto' stands for
            every categorical feature of 2 to 12 values, 'none' for nothing. None: the label and
            every text column of as many values, whether a feature or not.

    Raises:
        UserError: a column does not exist, has too many values, or has edges that make no bands.
    """
    if columns is None:
        return _texts(cohort)
    found: dict[str, pd.Series] = {}
    for asked in columns:
        name, *edges = asked.split(":")
        if asked == "auto":
            found |= _automatic(cohort)
        elif asked != "none":
            found[name] = _grouped(_column(cohort, name), name, edges)
    return found


def _automatic(cohort: Cohort) -> dict[str, pd.Series]:
    counted = cohort.images["label"].notna().to_numpy()
    if not counted.any():
        counted = np.ones(len(cohort), dtype=bool)
    features = [f for level in cohort.schema.levels for f in level.features]
    columns = {f.name: _column(cohort, f.columns[0]) for f in features if f.kind == "categorical"}
    return {n: _grouped(v, n, []) for n, v in columns.items() if _few(v[counted])}


def _texts(cohort: Cohort) -> dict[str, pd.Series]:
    found: dict[str, pd.Series] = {}
    for level in LEVELS:
        table = cohort.tables.of_level(level)
        for name in table.columns.difference(["image_id", "lesion_id", "patient_id"], sort=False):
            kind = pd.api.types
            number = kind.is_numeric_dtype(table[name]) or kind.is_bool_dtype(table[name])
            if not number and name not in found and _few(values := _column(cohort, name)):
                found[str(name)] = _grouped(values, name, [])
    return found


def _few(values: pd.Series) -> bool:
    return AUTO_GROUPS[0] <= values.nunique() <= AUTO_GROUPS[1]


def _column(cohort: Cohort, name: str) -> pd.Series:
    """The value of each image, at whichever level the column is."""
    lesion = cohort.lesion_of_image
    rows: dict[str, Array] = {
        "image": np.arange(len(cohort)),
        "lesion": lesion,
        "patient": cohort.patient_of_lesion[lesion],
    }
    for level in LEVELS:
        table = cohort.tables.of_level(level)
        if name in table:
            return table[name].iloc[rows[level]].reset_index(drop=True)
    features = [column for level in cohort.schema.levels for column in level.columns]
    raise UserError(
        f"cohort '{cohort.info.name}' has no column '{name}' to make subgroups of; "
        f"its features are: {', '.join(features) or 'none'}."
    )


def _grouped(values: pd.Series, name: str, edges: Sequence[str]) -> pd.Series:
    if pd.api.types.is_bool_dtype(values):
        yes = values.astype("object").map({True: "yes", False: "no"})
        return pd.Series(pd.Categorical(yes, categories=["no", "yes"], ordered=True))
    if pd.api.types.is_numeric_dtype(values):
        return _bands(values.astype(np.float64), name, edges)
    if edges:
        raise UserError(f"column '{name}' holds no numbers, so it has no bands: drop the edges.")
    seen = sorted(values.dropna().astype(str).unique())
    if len(seen) > MOST_GROUPS:
        raise UserError(
            f"column '{name}' has {len(seen)} values; subgroups take {MOST_GROUPS} at most."
        )
    texts = values.astype("object").map(str, na_action="ignore")
    return pd.Series(pd.Categorical(texts, categories=seen, ordered=True))


def _bands(values: pd.Series, name: str, edges: Sequence[str]) -> pd.Series:
    """Bands that include their lower edge."""
    try:
        cuts = [float(edge) for edge in edges]
    except ValueError:
        raise UserError(f"the edges of '{name}' must be numbers, got {':'.join(edges)}.") from None
    if not cuts and values.notna().any():
        cuts = sorted(set(np.nanquantile(values, [0.25, 0.5, 0.75]).tolist()))
    if cuts != sorted(set(cuts)):
        raise UserError(f"the edges of '{name}' must rise, got {':'.join(edges)}.")
    between = [f"{low:g} to < {high:g}" for low, high in pairwise(cuts)]
    names = [f"< {cuts[0]:g}", *between, f">= {cuts[-1]:g}"] if cuts else ["all"]
    return pd.Series(pd.cut(values, [-np.inf, *cuts, np.inf], right=False, labels=names))

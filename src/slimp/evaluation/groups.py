"""Which group each image is in, by a column of any level: sex, age band, skin type, site."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS
from slimp.errors import UserError
from slimp.features.encode import level_of_images

AUTO_GROUPS = (2, 12)
"""Values that a column may have to be grouped by without being named."""
MOST_GROUPS = 40
"""Values of a column that is named."""
IDS = ("image_id", "lesion_id", "patient_id")


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
    known = _columns(cohort)
    features = [feature for level in cohort.schema.levels for feature in level.features]
    if columns is None:
        texts = {n: v for n, v in known.items() if n not in IDS and not is_numeric_dtype(v)}
        return {name: _grouped(v, name, []) for name, v in texts.items() if _few(v)}
    found: dict[str, pd.Series] = {}
    for asked in columns:
        name, *edges = asked.split(":")
        if asked == "auto":
            labelled = cohort.images["label"].notna().to_numpy()
            rows = labelled if labelled.any() else ~labelled
            for feature in features:
                values = known[feature.columns[0]]
                if feature.kind == "categorical" and _few(values[rows]):
                    found[feature.name] = _grouped(values, feature.name, [])
        elif asked != "none":
            if name not in known:
                names = [column for feature in features for column in feature.columns]
                raise UserError(
                    f"cohort '{cohort.info.name}' has no column '{name}' to make subgroups of; "
                    f"its features are: {', '.join(names) or 'none'}."
                )
            found[name] = _grouped(known[name], name, edges)
    return found


def _columns(cohort: Cohort) -> dict[str, pd.Series]:
    """Every column with a value per image; of several levels, the finest one's."""
    rows, found = level_of_images(cohort), dict[str, pd.Series]()
    for level in LEVELS:
        table = cohort.tables.of_level(level).iloc[rows[level]].reset_index(drop=True)
        found |= {str(name): table[name] for name in table if name not in found}
    return found


def _few(values: pd.Series) -> bool:
    return AUTO_GROUPS[0] <= values.nunique() <= AUTO_GROUPS[1]


def _grouped(values: pd.Series, name: str, edges: Sequence[str]) -> pd.Series:
    if is_numeric_dtype(values) and not is_bool_dtype(values):
        return _bands(values.astype(np.float64), name, edges)
    if edges:
        raise UserError(f"column '{name}' holds no numbers, so it has no bands: drop the edges.")
    words = {True: "yes", False: "no"} if is_bool_dtype(values) else str
    texts = values.astype("object").map(words, na_action="ignore")
    seen = sorted(texts.dropna().unique())
    if len(seen) > MOST_GROUPS:
        raise UserError(
            f"column '{name}' has {len(seen)} values; subgroups take {MOST_GROUPS} at most."
        )
    return pd.Series(pd.Categorical(texts, categories=seen, ordered=True))


def _bands(values: pd.Series, name: str, edges: Sequence[str]) -> pd.Series:
    """Bands that include their lower edge."""
    try:
        cuts = [float(edge) for edge in edges]
    except ValueError:
        raise UserError(f"the edges of '{name}' must be numbers, got {':'.join(edges)}.") from None
    if not cuts and values.notna().any():
        cuts = sorted(set(np.nanquantile(values, [0.25, 0.5, 0.75]).tolist()))
    if cuts != sorted(set(cuts)) or not np.isfinite(cuts).all():
        raise UserError(f"the edges of '{name}' must be finite and rise, got {':'.join(edges)}.")
    between = [f"{low:g} to < {high:g}" for low, high in pairwise(cuts)]
    names = [f"< {cuts[0]:g}", *between, f">= {cuts[-1]:g}"] if cuts else ["all"]
    return pd.Series(pd.cut(values, [-np.inf, *cuts, np.inf], right=False, labels=names))

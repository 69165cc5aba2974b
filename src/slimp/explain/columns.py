"""What each metadata feature contributes to the match of images with metadata, and to their maps.

Axis names: n = images, d = width of the image embeddings, t = features of the level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.data.schema import LevelName
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate
from slimp.explain.maps import collected_attention, propagated
from slimp.explain.scores import estimates
from slimp.explain.targets import Match
from slimp.models.ft_transformer import FTTransformer

Array = np.ndarray[Any, np.dtype[Any]]
UNKNOWN = Estimate(mean=np.nan, ci95=(np.nan, np.nan), per_seed=())


def feature_names(match: Match) -> list[str]:
    """The features of the level that is matched, in the order of its tokens."""
    return [feature.name for feature in match.model.level(match.level).encoding.features]


@torch.no_grad()
def left_out(match: Match, embeddings: Float[Tensor, "n d"]) -> Float[Array, "n t"]:
    """How much the cosine of each image falls when one feature of its row is hidden.

    NaN where it is missing already.
    """
    whole, rows = match(embeddings), match.rows[match.level]
    falls = []
    for token in range(rows.present.shape[1]):
        present = rows.present.clone()
        present[:, token] = False
        fall = whole - match.with_rows(replace(rows, present=present))(embeddings)
        falls.append(torch.where(rows.present[:, token], fall, torch.nan))
    return torch.stack(falls, dim=1).cpu().numpy()


def attended(match: Match, embeddings: Float[Tensor, "n d"]) -> Float[Array, "n t"]:
    """Share of each feature in the attention of its row's encoder, times the cosine's gradient.

    As `gradient-attention` of images: propagated through the layers, to the tokens that are read
    out (Chefer et al., ICCV 2021). NaN where the feature is missing, or nothing raises the cosine.
    """
    tabular, present = match.model.level(match.level).tabular, match.rows[match.level].present
    layers: Any = tabular.encoder.transformer_encoder["layers"]
    drops = [layer.attn_drop for layer in layers]
    with torch.enable_grad(), collected_attention(tabular, drops) as attention:
        relevance = propagated(match(embeddings).sum(), attention)[..., 1:]  # (n, q, t)
    if isinstance(tabular, FTTransformer):  # reads CLS, and has a token per box of a group
        tokens = relevance[:, 0]
        found = tokens.new_zeros(present.shape).index_add_(1, tabular.owner, tokens)
    else:
        found = relevance[:, 0] if tabular.config.pool == "cls" else relevance[:, 1:].mean(dim=1)
    known = torch.where(present, found, torch.nan).cpu().numpy()
    total = np.nansum(known, axis=1, keepdims=True)
    return known / np.where(total > 0, total, np.nan)


def counterfactuals(match: Match, seed: int) -> list[tuple[Match, Bool[Array, " n"]]]:
    """Per feature: the same images with another image's value of it, and where that differs."""
    encoding, rows = match.model.level(match.level).encoding, match.rows[match.level]
    rng, found = np.random.default_rng(seed), []
    for token, (feature, columns) in enumerate(encoding.cells()):
        values = getattr(rows, feature.kind)
        other = _other_rows(values[:, columns], rows.present[:, token], rng)
        moved = values.clone()
        moved[:, columns] = values[other, columns]
        parts: dict[str, Any] = {feature.kind: moved}
        changed = other.numpy() != np.arange(len(other))
        found.append((match.with_rows(replace(rows, **parts)), changed))
    return found


def with_field(cohort: Cohort, encodings: Mapping[LevelName, Encoding], change: str) -> Cohort:
    """The cohort with one value in every row of a column of its metadata.

    Args:
        cohort: with the column at one of its levels.
        encodings: of the model, which must know the column and the category.
        change: `COLUMN=VALUE`, the value in the cohort's unit; true or false for a checkbox.

    Raises:
        UserError: no such column, or the value is none of it.
    """
    column, _, text = change.partition("=")
    there = {name: f for f in cohort.schema.features for name in f.columns}
    features = [f for encoding in encodings.values() for f in encoding.features]
    read = {n: f for f in features for n in f.columns if n in there and f.is_like(there[n])}
    level = next((level for level in cohort.schema.levels if column in level.columns), None)
    if level is None or column not in read:
        here = [c for level in cohort.schema.levels for c in level.columns if c in read]
        raise UserError(
            f"--counterfactual {change}: the run reads no column '{column}' of cohort "
            f"'{cohort.info.name}', but {', '.join(here)}."
        )
    feature, ticks = read[column], {"true": True, "false": False}
    value: object = ticks.get(text.lower()) if feature.kind == "checkbox" else text
    known = list(ticks) if feature.kind == "checkbox" else list(feature.categories)
    if feature.kind == "continuous":
        try:
            value = float(text)
        except ValueError:
            raise UserError(f"--counterfactual {change}: '{text}' is not a number.") from None
    elif text.lower() not in ticks if feature.kind == "checkbox" else text not in known:
        raise UserError(f"--counterfactual {change}: '{column}' is one of {', '.join(known)}.")
    table = cohort.tables.of_level(level.name).copy()
    table[column] = pd.Series([value] * len(table), index=table.index, dtype=table[column].dtype)
    tables: dict[str, Any] = {f"{level.name}s": table}
    return replace(cohort, tables=replace(cohort.tables, **tables))


def feature_tables(
    ids: pd.DataFrame, worth: Mapping[str, pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`Explanation.features` and `Explanation.cells`, those that matter most first.

    Args:
        ids: `image_id patient_id`, a row per image.
        worth: figure -> a row per image, a column per feature.
    """
    if not worth:
        return pd.DataFrame(columns=["feature", "known"]), pd.DataFrame(columns=["image_id"])
    first = next(iter(worth.values()))
    table = pd.DataFrame({"feature": first.columns, "known": first.notna().mean().to_numpy()})
    patients = ids["patient_id"].to_numpy()
    for kind, values in worth.items():
        kept = {str(n): values[n].to_numpy(float) for n in values if values[n].notna().any()}
        means = estimates(kept, patients) if kept else {}
        of = [means.get(str(name), UNKNOWN) for name in first.columns]
        table[kind] = [estimate.mean for estimate in of]
        table[f"{kind}_low"], table[f"{kind}_high"] = ([e.ci95[k] for e in of] for k in (0, 1))
    table = table.sort_values(next(iter(worth)), ascending=False, ignore_index=True)
    long = {kind: values[table["feature"]].to_numpy().ravel() for kind, values in worth.items()}
    keys = {
        "image_id": ids["image_id"].to_numpy().repeat(len(table)),
        "feature": np.tile(table["feature"].to_numpy(), len(ids)),
    }
    return table, pd.DataFrame({**keys, **long})


def movement(features: pd.DataFrame, cells: pd.DataFrame, ids: pd.DataFrame) -> dict[str, Estimate]:
    """Mean shift of the map per image: `relevant`, `other` and `difference`.

    Over the features whose hiding lowers the score (its interval is above 0), and over the others;
    without those of which too few patients tell (no interval). Empty without shifts, or where
    either has no feature.

    Args:
        features: of `Explanation`.
        cells: of `Explanation`.
        ids: `image_id patient_id`, a row per image explained.
    """
    if "shift" not in cells:
        return {}
    shifts = cells.pivot(index="image_id", columns="feature", values="shift")
    shifts = shifts.reindex(ids["image_id"])
    low = features["fall_low"]
    parts = [shifts[features["feature"][kept]] for kept in (low > 0, low <= 0)]
    relevant, other = (part.mean(axis=1).to_numpy(dtype=float) for part in parts)
    figures = {"relevant": relevant, "other": other, "difference": relevant - other}
    if np.isnan(figures["difference"]).all():
        return {}
    return estimates(figures, ids["patient_id"].to_numpy())


def _other_rows(values: Tensor, present: Tensor, rng: np.random.Generator) -> Int[Tensor, " n"]:
    """For each row a random one with another known value; itself where there is none."""
    cells = values.numpy()
    known = np.flatnonzero(present.numpy())
    out = np.arange(len(cells))
    for row in known:
        different = known[(cells[known] != cells[row]).any(axis=1)]
        out[row] = rng.choice(different) if len(different) else row
    return torch.from_numpy(out)


def rank_correlation(a: Float[Tensor, "n y x"], b: Float[Tensor, "n y x"]) -> Float[Array, " n"]:
    """Spearman's correlation of the two maps of each image; NaN where one is constant."""
    ranks = (rankdata(maps.flatten(1).cpu().numpy(), axis=1) for maps in (a, b))
    x, y = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1)))

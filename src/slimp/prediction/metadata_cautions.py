"""What a table of metadata holds that is unlike what was learned from, a sentence per column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from slimp.data.encoding import Encoding, FittedFeature
from slimp.data.schema import Feature
from slimp.prediction.inputs import Metadata

ENOUGH = 5
"""Numbers in a column whose median says something about its unit."""
SPREADS = 2.5
"""Standard deviations from the mean that stand for percentiles in runs of earlier versions."""
LISTED = 20
"""Categories that are named, at most."""


def metadata_cautions(metadata: Metadata, encodings: Sequence[Encoding]) -> Iterator[str]:
    """Of each column: numbers of another range, as in another unit, and what counts as missing.

    `encodings` are those of all stages that read the table.
    """
    for feature, fitted in metadata.features:
        for column in metadata.frame.columns.intersection([*feature.columns]):
            strange = metadata.unseen[column].dropna()
            cells = metadata.frame[column].dropna()
            what, known = "words that the model does not know", ""
            if feature.kind == "continuous":
                cells = pd.concat([cells, strange.astype(float)])
                yield from _other_range(cells, column, feature, encodings)
                what = "numbers far outside those learned from"
            else:
                more = ", ..." * (len(fitted.categories) > LISTED)
                known = f" It knows: {', '.join(fitted.categories[:LISTED])}{more}."
            if len(strange):
                yield (
                    f"'{column}': {len(strange)} of {len(cells)} cell(s) hold {what}, such as "
                    f"'{strange.iloc[0]}', and count as missing.{known}"
                )


def _other_range(
    numbers: pd.Series, column: str, feature: Feature, encodings: Sequence[Encoding]
) -> Iterator[str]:
    """A caution if the median is unusual for every stage that reads the column."""
    fits = [f for e in encodings for f in e.features if column in f.every_column and f.bounds]
    if len(numbers) < ENOUGH or not fits:
        return
    low, high = min(_usual(f)[0] for f in fits), max(_usual(f)[1] for f in fits)
    median = numbers.median()
    if not low <= median <= high:
        unit = f"in {feature.unit}" if feature.unit else "without a unit"
        if feature.factor != 1:
            unit += f", as {feature.factor:g} times the table's numbers"
        yield (
            f"'{column}' is read {unit}: the median of its {len(numbers)} cells is {median:.3g}, "
            f"while nearly all that were learned from lie from {low:.3g} to {high:.3g}. If the "
            "table is in another unit, convert it: probabilities and sets rest on these numbers."
        )


def _usual(fitted: FittedFeature) -> tuple[float, float]:
    """Ends of nearly all that a feature was learned from."""
    if fitted.usual is not None:
        return fitted.usual
    assert fitted.bounds is not None
    away = SPREADS * fitted.std
    return max(fitted.bounds[0], fitted.mean - away), min(fitted.bounds[1], fitted.mean + away)


def without_metadata(features: str, levels: Sequence[str], imputed: Sequence[str]) -> str:
    """Why a probe that reads metadata refuses images without, and what to do about it."""
    if imputed:
        why = f"it learned from those imputed by retrieval, {', '.join(imputed)}"
        remedy = (
            "or make a probe of images alone (--features image), or impute theirs too: slimp "
            "retrieve, then slimp.embed with these (docs/predict.md)."
        )
    else:
        why = f"features '{features}': {', '.join(levels)} level"
        remedy = (
            "or make a probe of images alone (--features image) or one that learned to do without "
            "(--blanked-copies 1)."
        )
    return (
        f"this probe reads metadata ({why}), and without them its probabilities would be made up. "
        f"Pass them with --metadata TABLE, {remedy}"
    )

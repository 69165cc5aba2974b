"""What is said of a column that is unlike what was learned from."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from slimp.data.encoding import Encoding
from slimp.data.schema import Schema
from slimp.models.match_features import match_levels
from slimp.prediction.inputs import Metadata
from slimp.prediction.metadata_cautions import metadata_cautions

SIZE = {"kind": "continuous", "unit": "mm"}
FIELDS = {"image": "image", "lesion_metadata": {"size": SIZE, "site": {"kind": "categorical"}}}
SCHEMA = Schema.from_dict(FIELDS)
# As sizes of lesions are: one of 0 and one of 100, so that neither the ends nor the deviation
# tell 1 from 10.
SIZES = [0.0, 100.0, *[float(k) for k in range(5, 21)] * 20]
LEARNED = Encoding.fit(
    SCHEMA.level("lesion"),
    pd.DataFrame({"size": SIZES, "site": ["arm", "leg"] * (len(SIZES) // 2)}),
)


def said(
    encodings: Encoding | list[Encoding] = LEARNED, schema: Schema = SCHEMA, **columns: list[str]
) -> list[str]:
    table = pd.DataFrame({"image": map(str, range(len(next(iter(columns.values()))))), **columns})
    stages = [encodings] if isinstance(encodings, Encoding) else encodings
    return [*metadata_cautions(Metadata.read(table, stages, schema), stages)]


def test_a_column_in_another_unit_is_named_with_both_ranges() -> None:
    mm = ["7", "9", "11", "", "12", "30"]
    cm = ["0.7", "0.9", "1.1", "", "1.2", "3"]
    assert said(size=mm) == []
    (caution,) = said(size=cm)
    assert "'size' is read in mm: the median of its 5 cells is 1.1" in caution
    assert "lie from 5 to 20" in caution
    assert said(size=cm[:4]) == [], "three cells say little about a column"


def test_units_and_factors_of_the_schema_come_first() -> None:
    cells = ["0.7 cm", "0.9 cm", "1.1 cm", "1.2 cm", "3 cm"]
    units = Schema.from_dict({**FIELDS, "lesion_metadata": {"size": {**SIZE, "units": {"cm": 10}}}})
    assert said(schema=units, size=cells) == []
    by_ten = Schema.from_dict({**FIELDS, "lesion_metadata": {"size": {**SIZE, "factor": 10}}})
    assert said(schema=by_ten, size=["0.7", "0.9", "1.1", "1.2", "3"]) == []
    (caution,) = said(schema=by_ten, size=["3", "4", "5", "6", "8"])
    assert "as 10 times the table's numbers: the median of its 5 cells is 50" in caution


def test_a_range_is_unusual_only_if_it_is_for_every_stage() -> None:
    large = Encoding.fit(SCHEMA.level("lesion"), pd.DataFrame({"size": [1e3, 2e3], "site": "arm"}))
    between = [str(k) for k in range(50, 56)]  # 20 and 1000
    assert len(said(size=between)) == 1
    assert said([LEARNED, large], size=between) == []
    old = replace(LEARNED, features=tuple(replace(f, usual=None) for f in LEARNED.features))
    for run in (LEARNED, old):
        (adapted,) = match_levels({"lesion": run}, {"lesion": large}, {})
        assert said(adapted.encoding, size=between) == []


@pytest.mark.parametrize(("cell", "told"), [("39", False), ("41", True), ("-1", True)])
def test_runs_without_percentiles_know_mean_deviation_and_ends(cell: str, told: bool) -> None:
    """The ends are 0 and 100, the mean 20 and the deviation 8."""
    size, site = LEARNED.features
    size = replace(size, usual=None, mean=20.0, std=8.0)
    old = replace(LEARNED, features=(size, site)).to_dict()
    del old["features"][0]["usual"]
    assert bool(said(Encoding.from_dict(old), size=[cell] * 5)) is told


def test_words_and_numbers_that_count_as_missing_are_counted_per_column() -> None:
    (caution,) = said(site=["back", "arm", "", "back"])
    assert caution == (
        "'site': 2 of 3 cell(s) hold words that the model does not know, such as 'back', and count "
        "as missing. It knows: arm, leg."
    )
    (caution,) = said(size=["9", "1956", ""])
    assert caution == (
        "'size': 1 of 2 cell(s) hold numbers far outside those learned from, such as '1956', and "
        "count as missing."
    )


def test_the_median_counts_numbers_that_count_as_missing() -> None:
    """Of months for years most may be far outside, and the rest look right."""
    found = said(size=["9", "9", "9", "1956", "1956", "1956", "1956"])
    assert len(found) == 2
    assert "the median of its 7 cells is 1.96e+03" in found[0]

"""Numbers from typed tables: fitted on training rows, missing as a mask."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.data.encoding import Encoding, Rows
from slimp.data.schema import Feature, Level

LEVEL = Level(
    name="lesion",
    features=(
        Feature(name="region", kind="categorical", columns=("region",)),
        Feature(name="diameter", kind="continuous", columns=("d",), unit="mm"),
        Feature(name="symptoms", kind="checkbox", columns=("itch", "hurt")),
        Feature(name="depth", kind="continuous", columns=("depth",), unit="mm"),
        Feature(name="shape", kind="categorical", columns=("shape",), categories=("round", "oval")),
    ),
)


def table_of(**columns: list[object]) -> pd.DataFrame:
    n = max(map(len, columns.values()))
    kinds = {"region": "str", "d": "float64", "itch": "boolean", "hurt": "boolean"}
    kinds |= {"depth": "float64", "shape": "str"}
    return pd.DataFrame(
        {name: pd.Series(columns.get(name, [None] * n), dtype=kind) for name, kind in kinds.items()}
    )


TRAIN = table_of(
    region=["NOSE", "ARM", None, "ARM"],
    d=[1.0, 3.0, None, 0.0],
    itch=[True, None, None, False],
    hurt=[False, True, None, None],
    depth=[0.1, 0.1, 0.1, None],
)


def test_codes_by_hand():
    rows = Encoding.fit(LEVEL, TRAIN).encode(TRAIN)
    std = np.std([1, 3, 0])
    want = [(1 - 4 / 3) / std, (3 - 4 / 3) / std, 0, (0 - 4 / 3) / std]
    torch.testing.assert_close(rows.continuous[:, 0], torch.tensor(want, dtype=torch.float32))
    assert rows.categorical[:, 0].tolist() == [2, 1, 0, 1]  # ARM, NOSE: sorted
    assert rows.checkbox.tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert rows.present.tolist() == [
        [True, True, True, True, False],
        [True, True, True, True, False],
        [False, True, False, False, False],
        [True, False, True, True, False],
    ]


def test_zero_is_a_value_and_missing_is_not_zero():
    rows = Encoding.fit(LEVEL, TRAIN).encode(table_of(d=[0.0, None, 4 / 3]))
    assert rows.present[:, 0].tolist() == [True, False, True]
    assert rows.continuous[0, 0] != 0
    assert rows.continuous[1:, 0].tolist() == pytest.approx([0, 0])


def test_a_constant_column_is_not_blown_up():
    """The computed spread of 0.1, 0.1, 0.1 is not 0 but 1e-17."""
    encoding = Encoding.fit(LEVEL, TRAIN)
    assert encoding.features[1].std == 1.0
    rows = encoding.encode(table_of(depth=[0.1, 0.3]))
    assert rows.continuous[:, 1].tolist() == pytest.approx([0, 0.2], abs=1e-6)


def test_coordinates_by_hand():
    """Mean over five features; missing in both rows agrees, missing in one counts 1 at least."""
    table = table_of(
        region=["NOSE", "ARM", "NOSE", None, "NOSE"],
        d=[1.0, 1.0, 3.0, None, 1.0],
        itch=[True, True, False, None, True],
        hurt=[False, True, True, None, None],
    )
    encoding = Encoding.fit(LEVEL, TRAIN)
    points = encoding.coordinates(encoding.encode(table))
    std, away = np.std([1, 3, 0]), (4 / 3 - 1) / np.std([1, 3, 0])
    want = [0, (1 + 0.5) / 5, (2 / std + 1) / 5, (1 + 1 + away + 1) / 5, 0]
    found = torch.cdist(points, points, p=1)
    assert found[0].tolist() == pytest.approx(want, abs=1e-6)
    assert found[0, 4] == 0  # exactly, as of equal rows
    torch.testing.assert_close(found, found.T)


def test_hidden_values_do_not_reach_the_coordinates():
    encoding = Encoding.fit(LEVEL, TRAIN)
    rows = encoding.encode(TRAIN)
    hidden = replace(rows, present=torch.zeros_like(rows.present))
    empty = encoding.encode(table_of(d=[None] * 4))
    assert torch.equal(encoding.coordinates(hidden), encoding.coordinates(empty))


def test_unseen_categories_count_as_missing():
    encoding = Encoding.fit(LEVEL, TRAIN)
    new = table_of(region=["LIP", "ARM", "LIP"], shape=["oval", "square", None])
    rows = encoding.encode(new)
    assert rows.categorical.tolist() == [[0, 2], [1, 0], [0, 0]]
    assert rows.present[:, [2, 4]].tolist() == [[False, True], [True, False], [False, False]]


def test_statistics_come_from_the_rows_given_and_no_others():
    encoding = Encoding.fit(LEVEL, TRAIN.iloc[:2])
    assert encoding.features[0].mean == 2
    assert encoding.features[2].categories == ("ARM", "NOSE")


def test_levels_without_features_and_columns_without_values_encode_to_nothing():
    rows = Encoding.fit(Level(name="patient"), TRAIN).encode(TRAIN)
    assert (len(rows), rows.present.shape) == (4, (4, 0))
    empty = Encoding.fit(LEVEL, table_of(region=[None, None]))
    assert not empty.encode(table_of(region=[None, None])).present.any()
    assert not empty.encode(TRAIN).present[:, 2].any(), "no vocabulary: all unseen"


def test_survives_json():
    encoding = Encoding.fit(LEVEL, TRAIN)
    assert Encoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding


values = st.fixed_dictionaries(
    {
        "region": st.lists(st.sampled_from(["NOSE", "ARM", "LIP", None]), min_size=6, max_size=6),
        "d": st.lists(st.none() | st.integers(-3, 3).map(float), min_size=6, max_size=6),
        "itch": st.lists(st.none() | st.booleans(), min_size=6, max_size=6),
        "hurt": st.lists(st.none() | st.booleans(), min_size=6, max_size=6),
    }
)


@settings(deadline=None, max_examples=50)
@given(values)
def test_equal_groups_are_equal_rows(columns):
    rows = Encoding.fit(LEVEL, TRAIN).encode(table_of(**columns))
    groups = rows.equal_groups().tolist()
    for i in range(6):
        for j in range(6):
            fields = [getattr(rows, name) for name in Rows.__dataclass_fields__]
            equal = all(torch.equal(field[i], field[j]) for field in fields)
            assert (groups[i] == groups[j]) == equal


@settings(deadline=None, max_examples=50)
@given(values, st.integers(0, 9))
def test_encoding_is_row_by_row(columns, seed):
    table, encoding = table_of(**columns), Encoding.fit(LEVEL, TRAIN)
    order = np.random.default_rng(seed).permutation(6)
    shuffled = encoding.encode(table.iloc[order].reset_index(drop=True))
    whole = encoding.encode(table)[torch.from_numpy(order)]
    for name in Rows.__dataclass_fields__:
        assert torch.equal(getattr(shuffled, name), getattr(whole, name))

"""Published rows, descriptions and state dicts: what they mean and what is refused."""

from __future__ import annotations

import pytest
import torch

from slimp.errors import CheckpointError, UserError
from slimp.models.trace import Trace
from slimp.models.trace_checkpoints import TraceFeatures, official_rows

METADATA = {"continuous": ["age", "bmi"], "categorical": {"sex": 2, "pain": [1, 1, 1], "seen": 1}}
X = torch.tensor([[50.0, 0.0, 2, 1, 0, 1, 1], [0.0, 21.5, 0, 0, 0, 0, 2]])


def test_rows_hold_the_columns_and_which_cells_are_known():
    rows = official_rows(X, METADATA)
    assert rows.continuous.tolist() == [[50.0, 0.0], [0.0, 21.5]]
    assert rows.categorical.tolist() == [[2, 1], [0, 2]]
    assert rows.checkbox.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert rows.present.int().tolist() == [[1, 0, 1, 1, 1], [0, 1, 0, 1, 1]]


@pytest.mark.parametrize("convert", [torch.Tensor.double, torch.Tensor.numpy, torch.Tensor.int])
def test_any_numeric_table_serves(convert):
    rows, want = official_rows(convert(X), METADATA), official_rows(X, METADATA)
    assert torch.equal(rows.categorical, want.categorical)
    assert torch.equal(rows.present, want.present)


@pytest.mark.parametrize(
    ("row", "column", "value", "name"),
    [
        *[(1, 2, 3, "sex"), (0, 2, -1, "sex"), (1, 2, 1.5, "sex"), (1, 4, 2, "pain")],
        *[(0, 6, 3, "seen"), (1, 0, float("nan"), "age")],
    ],
)
def test_a_cell_outside_the_coding_is_named(row, column, value, name):
    x = X.clone()
    x[row, column] = value
    with pytest.raises(UserError, match=f"row {row}, column '{name}': {value}"):
        official_rows(x, METADATA)


def test_wrong_number_of_columns():
    with pytest.raises(UserError, match="7 columns, the rows have 6"):
        official_rows(X[:, 1:], METADATA)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"continuous": ["age"]}, r'"categorical" is None'),
        ({"categorical": {"sex": 2}}, r'"continuous" is None'),
        ({"continuous": [], "categorical": {"sex": "two"}}, "'sex': the size 'two'"),
        ({"continuous": [], "categorical": {"sex": 0}}, "'sex': the size 0"),
        ({"continuous": [], "categorical": {"pain": []}}, r"'pain': the size \[\]"),
        ({"continuous": [], "categorical": {"pain": [1, 4]}}, r"'pain': the size \[1, 4\]"),
    ],
)
def test_a_description_in_another_form_is_refused(metadata, message):
    with pytest.raises(UserError, match=message):
        TraceFeatures.of_official(metadata)


def published_state(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    state = Trace(TraceFeatures.of_official(METADATA)).state_dict()
    return {**state, **changes}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.tabular."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_prefixes_and_checkpoints_are_unwrapped(prefix, wrapped):
    state = published_state()
    named = {prefix + name: value for name, value in state.items()}
    trace = Trace.from_official({"model": named, "epoch": 3} if wrapped else named, METADATA)
    assert all(torch.equal(value, state[name]) for name, value in trace.state_dict().items())
    assert not trace.training


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({**METADATA, "continuous": ["age"]}, r"'num_mlp.mlp.0.weight' is \[128, 2\]"),
        ({**METADATA, "continuous": []}, r"'num_mlp.mlp.0.weight' \[128, 2\] is not expected"),
        (
            {**METADATA, "categorical": {**METADATA["categorical"], "sex": 5}},
            r"'embeddings.0.weight' is \[3, 128\], expected \[6, 128\]",
        ),
        (
            {**METADATA, "categorical": {**METADATA["categorical"], "more": 2}},
            "'embeddings.3.weight' is missing",
        ),
        (
            {**METADATA, "categorical": {"sex": 2, "pain": 3, "seen": 1}},
            "'embeddings.1.weight' is missing",
        ),
    ],
)
def test_a_state_dict_of_other_features_is_refused(metadata, message):
    with pytest.raises(CheckpointError, match=message):
        Trace.from_official(published_state(), metadata)


def test_something_else_is_refused():
    with pytest.raises(CheckpointError, match=r"encoder\.cls_token"):
        Trace.from_official({"fc.weight": torch.zeros(2, 2)}, METADATA)
    with pytest.raises(CheckpointError, match=r"'cat_norm\.weight'"):
        Trace.from_official(published_state(**{"cat_norm.weight": torch.ones(128)}), METADATA)

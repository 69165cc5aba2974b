"""One value per group, against a loop over the groups."""

from __future__ import annotations

import statistics
from collections import Counter

import pandas as pd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slimp.data.schema import Feature, Level
from slimp.sources.level_tables import level_table

LEVEL = Level(
    name="patient",
    features=(
        Feature(name="age", kind="continuous", columns=("age",)),
        Feature(name="origin", kind="categorical", columns=("origin",)),
        Feature(name="smoke", kind="checkbox", columns=("smoke",)),
    ),
)
TYPES = {"patient_id": "str", "age": "float64", "origin": "str", "smoke": "boolean"}


def frame_of(rows: list[tuple[str, float | None, str | None, bool | None]]) -> pd.DataFrame:
    columns = dict(zip(TYPES, zip(*rows, strict=True), strict=True))
    return pd.DataFrame({k: pd.Series(columns[k], dtype=kind) for k, kind in TYPES.items()})


def slow_value(column: str, values: list[object]) -> object:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if column == "age":
        return statistics.median(known)
    counts = Counter(known)
    most = [value for value in counts if counts[value] == max(counts.values())]
    return max(most) if column == "smoke" else min(most)


row = st.tuples(
    st.sampled_from("pqrs"),
    st.none() | st.integers(0, 90).map(float),
    st.none() | st.sampled_from(["ITALY", "BRASIL", "Ünder"]),
    st.none() | st.booleans(),
)


@settings(max_examples=40)
@given(st.lists(row, min_size=1, max_size=25), st.randoms(use_true_random=False))
@example([("p", None, None, None)], None)
@example([("p", None, None, None)] * 2, None)
def test_equals_a_loop_over_the_groups(rows, random):
    table, found = level_table(frame_of(rows), LEVEL)
    order = list(dict.fromkeys(r[0] for r in rows))
    assert table["patient_id"].tolist() == order
    counts = {entry.column: entry.count for entry in found}
    for position, column in enumerate(("age", "origin", "smoke"), start=1):
        groups = [[r[position] for r in rows if r[0] == patient] for patient in order]
        got = [None if pd.isna(value) else value for value in table[column]]
        assert got == [slow_value(column, values) for values in groups]
        several = sum(len(set(values) - {None}) > 1 for values in groups)
        assert counts.get(column, 0) == several
    if random is not None:  # the order of rows does not matter
        again, _ = level_table(frame_of(random.sample(rows, len(rows))), LEVEL)
        pd.testing.assert_frame_equal(
            table.sort_values("patient_id", ignore_index=True),
            again.sort_values("patient_id", ignore_index=True),
        )


def test_types_stay_and_examples_tell():
    p, q = ("p", 71.0, "ITALY", True), ("q", None, None, None)
    table, found = level_table(frame_of([p, q, ("p", 72.0, "BRASIL", False)]), LEVEL)
    assert table.dtypes.astype(str).to_dict() == TYPES
    assert table.iloc[0].tolist() == ["p", 71.5, "BRASIL", True]
    assert table.iloc[1, 1:].isna().all()
    assert [(d.level, d.column, d.count, d.rule, d.example) for d in found] == [
        ("patient", "age", 1, "median", "p: 71, 72 -> 71.5"),
        ("patient", "origin", 1, "most frequent", "p: BRASIL, ITALY -> BRASIL"),
        ("patient", "smoke", 1, "most frequent", "p: False, True -> True"),
    ]

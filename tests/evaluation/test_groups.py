"""Which group an image is in: any level's columns, bands of numbers, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.evaluation.subgroups import group_values
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return synthesize(SyntheticConfig(patients=40, lesions=3, image_size=16))


def feature(cohort: Cohort, kind: str) -> tuple[str, np.ndarray]:
    """A column of this kind, and its value for each image, by a merge of our own."""
    for level in cohort.schema.levels:
        for one in level.features:
            if one.kind == kind:
                table = cohort.tables.of_level(level.name)
                key = f"{level.name}_id"
                merged = cohort.images[[key]].merge(table, on=key, how="left", validate="m:1")
                return one.columns[0], merged[one.columns[0]].to_numpy(dtype=object)
    raise AssertionError(kind)


def test_categories_of_any_level_reach_their_images(cohort):
    name, wanted = feature(cohort, "categorical")
    found = group_values(cohort, [name])[name]
    known = np.array([value is not None and value == value for value in wanted])
    assert found[known].tolist() == list(wanted[known])
    assert found[~known].isna().all()


def test_yes_and_no(cohort):
    name, wanted = feature(cohort, "checkbox")
    found = group_values(cohort, [name])[name]
    assert set(found.dropna()) <= {"yes", "no"}
    assert (found == "yes").sum() == sum(value is True for value in wanted)


def test_numbers_are_cut_at_the_edges_given_lower_edge_included(cohort):
    name, wanted = feature(cohort, "continuous")
    numbers = wanted.astype(float)
    middle = float(np.nanmedian(numbers))
    found = group_values(cohort, [f"{name}:{middle}"])[name]
    assert list(found.cat.categories) == [f"< {middle:g}", f">= {middle:g}"]
    assert (found == f">= {middle:g}").sum() == np.nansum(numbers >= middle)
    assert found.isna().sum() == np.isnan(numbers).sum()
    three = group_values(cohort, [f"{name}:{middle}:{middle + 1}"])[name]
    assert list(three.cat.categories)[1] == f"{middle:g} to < {middle + 1:g}"


def test_without_edges_quartiles_make_four_like_parts(cohort):
    name, wanted = feature(cohort, "continuous")
    sizes = group_values(cohort, [name])[name].value_counts()
    assert len(sizes) == 4
    assert sizes.min() > 0.15 * np.isfinite(wanted.astype(float)).sum()


def test_auto_takes_categorical_features_of_a_few_values_and_none_takes_nothing(cohort):
    found = group_values(cohort)
    kinds = {f.name: f.kind for level in cohort.schema.levels for f in level.features}
    assert found
    for name, values in found.items():
        assert kinds[name] == "categorical"
        assert 2 <= values.nunique() <= 12
    assert group_values(cohort, ["none"]) == {}


def test_refusals(cohort):
    number, word = feature(cohort, "continuous")[0], feature(cohort, "categorical")[0]
    with pytest.raises(UserError, match=r"has no column 'shoe' to make subgroups of; its features"):
        group_values(cohort, ["shoe"])
    with pytest.raises(UserError, match=r"column 'image_id' has \d+ values; subgroups take 40"):
        group_values(cohort, ["image_id"])
    with pytest.raises(UserError, match="must be numbers, got a:b"):
        group_values(cohort, [f"{number}:a:b"])
    with pytest.raises(UserError, match="must be finite and rise, got 60:30"):
        group_values(cohort, [f"{number}:60:30"])
    with pytest.raises(UserError, match="must be finite and rise, got 60:inf"):
        group_values(cohort, [f"{number}:60:inf"])
    with pytest.raises(UserError, match=f"'{word}' holds no numbers"):
        group_values(cohort, [f"{word}:3"])

"""The scikit-learn transformer: pipelines, groups, and scikit-learn's own checks."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data
from tables import write_images
from tiny import MODEL, RUN, fitted, png, tiny_cohort

from slimp.errors import UserError
from slimp.features.embed import embed
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.prediction.sklearn_transformer import SlimpTransformer

SETTINGS = {"preset": "tiny", **MODEL, **RUN, "epochs": 1, "patients": 8, "lesions": 2}
COLUMNS = {"image": "file", "patient": "who", "lesion": "lesion"}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pd.DataFrame:
    """Image paths, ids and some metadata of both levels, with holes."""
    cohort = tiny_cohort()
    paths = write_images(cohort, tmp_path_factory.mktemp("images"), range(len(cohort)))
    lesions = cohort.lesions.set_index("lesion_id").loc[cohort.images["lesion_id"]]
    patients = cohort.patients.set_index("patient_id").loc[cohort.images["patient_id"]]
    return pd.DataFrame(
        {
            **{"file": list(map(str, paths)), "who": patients.index, "lesion": lesions.index},
            "diameter_mm": lesions["diameter_mm"].to_numpy(),
            "site": lesions["site"].to_numpy(),
            "age": patients["age"].to_numpy(),
            "smokes": patients["smokes"].to_numpy(),
            "label": cohort.images["label"].to_numpy(),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    Slimp(ModelConfig(**MODEL), fitted(tiny_cohort())).save_pretrained(folder)
    return folder


def transformer(**changes: object) -> SlimpTransformer:
    given = {**COLUMNS, "patient_metadata": ["age", "smokes"], "settings": SETTINGS}
    return SlimpTransformer(**{**given, **changes})


def test_rows_become_features_each_for_itself(table) -> None:
    x = table.drop(columns="label")
    steps = transformer().fit(x)
    kinds = {
        level: {f.name: f.kind for f in encoding.features}
        for level, encoding in steps.model_.encodings.items()
    }
    assert kinds == {
        "lesion": {"diameter_mm": "continuous", "site": "categorical"},
        "patient": {"age": "continuous", "smokes": "checkbox"},
    }
    z = steps.transform(x)
    assert z.shape == (len(x), 16 + 8 + 8)
    np.testing.assert_allclose(steps.transform(x.iloc[::-1])[::-1], z, atol=1e-5)
    np.testing.assert_allclose(steps.transform(x.iloc[[4]])[0], z[4], atol=1e-5)
    alone = steps.transform(x[["file"]])  # no ids, no metadata
    np.testing.assert_allclose(alone[:, :16], z[:, :16], atol=1e-5)
    assert not np.allclose(alone, z)
    named = clone(steps).set_output(transform="pandas").fit(x).transform(x)
    assert [named.columns[0], named.columns[-1]] == ["image_0", "patient_7"]
    assert named.index.equals(x.index)
    again = pickle.loads(pickle.dumps(steps))  # noqa: S301
    np.testing.assert_array_equal(again.transform(x), z)


def test_it_gives_what_embed_gives_with_a_run(table, run) -> None:
    found = embed(Slimp.from_pretrained(run), tiny_cohort())
    x = table[["file"]]
    for features in ("image", "full"):
        steps = SlimpTransformer(image="file", run=run, features=features, settings=SETTINGS)
        z = steps.fit(x).transform(x)
        assert z.shape[1] == len(steps.get_feature_names_out())
        np.testing.assert_allclose(z[:, :16], found.features["image"], atol=1e-4)


def test_cross_validation_by_patient_fits_on_training_patients_alone(table, monkeypatch) -> None:
    seen: list[set[str]] = []
    usual = SlimpTransformer.fit

    def fit(self, X, y=None, groups=None):  # noqa: N803
        seen.append(set(X["who"]))
        return usual(self, X, y, groups)

    monkeypatch.setattr(SlimpTransformer, "fit", fit)
    x, y = table.drop(columns="label"), (table["label"] == "nevus").to_numpy()
    folds = GroupKFold(2)
    pipeline = make_pipeline(transformer(), LogisticRegression(max_iter=200))
    scores = cross_val_score(pipeline, x, y, groups=x["who"], cv=folds, error_score="raise")
    assert np.isfinite(scores).all()
    tested = [set(x["who"].iloc[test]) for _, test in folds.split(x, y, x["who"])]
    assert [bool(a & b) for a, b in zip(seen, tested, strict=True)] == [False, False]


def test_what_fit_learns_is_of_its_rows(table) -> None:
    x = table.drop(columns="label")
    some = x.assign(site=x["site"].where(np.arange(len(x)) < 20, "elsewhere"))
    steps = transformer().fit(some.iloc[:20])
    lesion = steps.model_.encodings["lesion"].features
    assert "elsewhere" not in lesion[1].categories
    diameter = some.iloc[:20].drop_duplicates("lesion")["diameter_mm"]
    assert lesion[0].mean == pytest.approx(diameter.mean())
    with pytest.warns(UserWarning, match="column 'site', such as 'elsewhere'"):
        unknown = steps.transform(some.iloc[20:])  # a category that it does not know is missing
    blank = steps.transform(some.iloc[20:].assign(site=None))
    np.testing.assert_allclose(unknown, blank, atol=1e-6)


def test_groups_of_fit_are_the_patients(table) -> None:
    x = table[["file", "diameter_mm"]]
    steps = transformer(patient=None, lesion=None, patient_metadata=())
    a = steps.fit(x, groups=table["who"]).transform(x)
    b = clone(steps).fit(x).transform(x)
    assert a.shape == b.shape
    assert not np.allclose(a, b)  # other patients, other batches


@pytest.mark.parametrize(
    ("changes", "change", "named"),
    [
        ({"features": "relative"}, {}, "relative"),
        ({"image": "picture"}, {}, "picture"),
        ({"patient_metadata": ["height"]}, {}, "height"),
        ({}, {"site": pd.Timestamp("2020-01-01")}, "site"),
        ({}, {"file": "gone.jpg"}, r"gone\.jpg"),
        ({"settings": {"lr": 1}}, {}, "lr"),
    ],
)
def test_what_does_not_fit_is_named(table, changes, change, named) -> None:
    with pytest.raises((UserError, TypeError), match=named):
        transformer(**changes).fit(table.drop(columns="label").assign(**change))


class OfNumbers(SlimpTransformer):
    """Takes the numeric arrays of scikit-learn's checks: metadata beside one and the same image."""

    def fit(self, X, y=None):  # noqa: N803
        found = validate_data(self, X, ensure_all_finite="allow-nan")
        super().fit(self.framed(found))
        self.n_features_in_ = found.shape[1]
        if hasattr(X, "columns"):
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        else:
            del self.feature_names_in_
        return self

    def transform(self, X):  # noqa: N803
        check_is_fitted(self)
        found = validate_data(self, X, reset=False, ensure_all_finite="allow-nan")
        return super().transform(self.framed(found))

    def framed(self, numbers):
        names = ["age", "diameter_mm", *(f"x{i}" for i in range(numbers.shape[1]))]
        frame = pd.DataFrame(numbers, columns=names[: numbers.shape[1]])
        return frame.assign(image=str(Path(self.run) / "image.png"))


@pytest.mark.slow
def test_all_of_scikit_learns_checks_pass_with_an_image_beside_their_numbers(run) -> None:
    """All but `check_array_api_input`, which scikit-learn skips where it is not switched on."""
    (run / "image.png").write_bytes(png(0))
    settings = {"preset": "tiny", "accelerator": "cpu"}
    found = check_estimator(OfNumbers(run=str(run), settings=settings), on_fail=None, on_skip=None)
    others = {f["check_name"]: f["exception"] for f in found if f["status"] != "passed"}
    assert others.keys() <= {"check_array_api_input"}, others
    assert len(found) > 35


def test_scikit_learns_checks_pass_that_feed_no_arrays() -> None:
    """The others feed arrays of numbers, in which there are no images: they are refused."""
    bare = check_estimator(SlimpTransformer(), on_fail=None, on_skip=None)
    passed = {f["check_name"] for f in bare if f["status"] == "passed"}
    assert {
        *("check_estimator_cloneable", "check_no_attributes_set_in_init", "check_set_params"),
        *("check_parameters_default_constructible", "check_get_params_invariance"),
        *("check_estimators_unfitted", "check_mixin_order", "check_valid_tag_types"),
    } <= passed
    refused = [f for f in bare if f["status"] == "failed" and f["check_name"] not in passed]
    assert all(
        "DataFrame" in f"{f['exception']} {f['exception'].__cause__} {f['exception'].__context__}"
        for f in refused
    )

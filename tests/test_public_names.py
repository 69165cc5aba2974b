"""What `import slimp` offers: names with examples, hints, objects that show themselves briefly."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import MODEL, RUN, SIZE, fitted, tiny_cohort
from torch import nn

import slimp
from slimp.cli.flags import flags_of
from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.training.build_model import build_model

NAMES = [name for name in slimp.__all__ if name != "__version__"]


def test_dir_lists_the_public_names():
    assert dir(slimp) == sorted(slimp.__all__)
    assert all(getattr(slimp, name).__module__.startswith("slimp.") for name in NAMES)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = slimp.Nothing
    source = ast.parse(Path(slimp.__file__).read_text(encoding="utf-8"))
    typed = {
        a.name for node in ast.walk(source) if isinstance(node, ast.ImportFrom) for a in node.names
    }
    assert set(NAMES) <= typed, "names that type checkers see"


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example(name):
    """`make check` runs them. Those of long functions stand at the head of their module."""
    found = getattr(slimp, name)
    doc = inspect.getdoc(found) or ""
    if "example stands at the head of the module" in " ".join(doc.split()):
        doc = inspect.getdoc(inspect.getmodule(found)) or ""
    assert "Example:" in doc
    assert re.search(rf">>> .*\b{name}\b|\.\.\. .*\b{name}\b", doc), name


def test_settings_say_what_they_are_of_and_stand_below_a_heading_in_the_help():
    for name in ("PretrainConfig", "AdaptConfig", "PredictConfig"):
        kind = getattr(slimp, name)
        assert (inspect.getdoc(kind) or "").startswith("All settings of `slimp.")
        assert not [flag for flag in flags_of(kind) if "slimp." in flag.group]


@pytest.mark.parametrize(
    ("kind", "typed", "meant"),
    [
        ("PretrainConfig", "lr", "learning_rate"),
        ("PretrainConfig", "epochz", "epochs"),
        ("AdaptConfig", "batch_size", "patients"),
        ("ModelConfig", "backbone", "encoder"),
        ("PredictConfig", "covrage", "coverage"),
    ],
)
def test_a_setting_that_there_is_not_is_answered_by_one_that_there_is(kind, typed, meant):
    with pytest.raises(TypeError, match=rf"{kind} has no setting '{typed}'.*{meant}"):
        getattr(slimp, kind)(**{typed: 1})
    with pytest.raises(TypeError, match=r"no setting 'zzz'\.$"):
        slimp.PretrainConfig.from_preset("tiny", zzz=1)


def test_objects_show_themselves_in_a_screen_and_as_tables():
    cohort = tiny_cohort()
    model = Slimp(ModelConfig(**MODEL), fitted(cohort))
    table = slimp.embed(model.eval(), cohort)
    result = slimp.linear_probe(table, features="image", seeds=1, replicates=5, folds=2)
    report = slimp.check_cohort(cohort)
    things = [cohort, cohort.schema, model, table, result, report, slimp.PretrainConfig()]
    assert [x for x in things if len(repr(x)) > 80 * 24] == []
    frame = result.to_frame()
    assert frame.loc["balanced_accuracy", "mean"] == result.balanced_accuracy.mean
    assert tuple(frame.loc["ece", ["low", "high"]]) == result.metrics["ece"].ci95
    assert "balanced_accuracy" in result._repr_html_()
    assert result.balanced_accuracy._repr_html_() is None
    assert list(report.to_frame()["code"]) == [finding.code for finding in report.findings]
    rows = table.to_frame()
    assert rows.shape == (len(cohort), 4 + sum(x.shape[1] for x in table.features.values()))
    assert np.array_equal(rows["image_3"], table.features["image"][:, 3])
    assert isinstance(rows, pd.DataFrame)


class Means(nn.Module):
    """A network of one's own: a linear map of the mean colours of a grid."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.linear = nn.Linear(12, width)

    def forward(self, pixels):
        return self.linear(self.pool(pixels).flatten(1))


def test_any_network_is_an_image_encoder_that_trains_and_is_saved_and_loaded(tmp_path):
    cohort, own = tiny_cohort(), {"encoder": "module:means", "encoder_options": {}}
    changes = {**MODEL, **RUN, **own, "epochs": 1, "patients": 8, "lesions": 2}
    config = slimp.PretrainConfig.from_preset("tiny", **changes)
    network = Means()

    def build(train, settings):
        return build_model(
            train, settings, kind=lambda *a, **k: Slimp(*a, **k, image_encoder=network)
        )

    before = network.linear.weight.clone()
    model = slimp.pretrain(cohort, config, tmp_path / "run", build=build)
    assert not torch.equal(before, model.image_encoder.model.linear.weight)
    again = Slimp.from_pretrained(tmp_path / "run", image_encoder=Means())
    one, other = (slimp.embed(x, cohort).features["image"] for x in (model, again))
    assert one.shape == (len(cohort), 12)
    np.testing.assert_array_equal(one, other)
    with pytest.raises(CheckpointError, match=r"module:means.*image_encoder="):
        Slimp.from_pretrained(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"linear\.weight"):
        Slimp.from_pretrained(tmp_path / "run", image_encoder=Means(5))
    with pytest.raises(UserError, match="module:NAME"):
        Slimp(ModelConfig(image_size=SIZE), {}, image_encoder=Means())
    with pytest.raises(UserError, match="image_encoder="):
        Slimp(ModelConfig(image_size=SIZE, **own), {})

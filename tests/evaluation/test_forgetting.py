"""What an adaptation cost on the cohort before it, on patients that neither run learned from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from tiny import tiny_config

from slimp.data.cohort import Cohort
from slimp.data.schema import Level
from slimp.errors import UserError
from slimp.evaluation.forgetting import _no_longer_read, forgetting
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.probe_config import ProbeConfig
from slimp.features.embed import embed
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.sources.synthetic.people import CANCERS
from slimp.training.adapt import adapt
from slimp.training.config import AdaptConfig
from slimp.training.loop import pretrain

FAST: dict[str, Any] = {"seeds": 2, "folds": 2, "strengths": (0.01, 1.0), "replicates": 50}
QUICK = ProbeConfig(**FAST)
RUN = {
    **{"patients": 20, "lesions": 3, "epochs": 1, "validation_fraction": 0.0},
    **{"held_out_fraction": 0.4, **tiny.RUN},
}


def of_two_classes(seed: int) -> Cohort:
    found = synthesize(SyntheticConfig(patients=50, lesions=3, image_size=16, seed=seed))
    cancer = found.images["label"].isin(CANCERS)
    found.tables.images["label"] = cancer.map({True: "cancer", False: "benign"}).astype("str")
    return found


@pytest.fixture(scope="module")
def reference() -> Cohort:
    """Two classes, so that each is in every part."""
    return of_two_classes(seed=1)


@pytest.fixture(scope="module")
def before(reference: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("before") / "run"
    pretrain(reference, tiny_config(**RUN), out)  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def after(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("after") / "run"
    target = synthesize(SyntheticConfig(patients=12, lesions=2, image_size=16, seed=2))
    adapt(before, target, AdaptConfig(**RUN), out)  # type: ignore[arg-type]
    return out


def parts_in(run: Path) -> Mapping[str, str]:
    table = pd.read_parquet(run / "patients.parquet")
    return dict(zip(table["patient_id"], table["part"], strict=True))


def test_a_model_has_not_forgotten_itself_and_no_more_is_said_than_the_interval_shows(
    before: Path, reference: Cohort
) -> None:
    found = forgetting(before, before, reference, QUICK)
    for name in ("image", "full"):
        change = found.main(name)  # type: ignore[arg-type]
        assert (change.difference, change.ci95) == (0.0, (0.0, 0.0))
        assert change.a == change.b
    assert found.unread == ()
    assert found.sentence().startswith("no clear forgetting")
    same = found.after_minus_before["full"]
    for difference, ci95, said in (
        (-0.1, (-0.15, -0.05), "forgetting: .* 'full' changed by -0.100 .-0.150, -0.050."),
        (0.1, (0.05, 0.15), "no forgetting: .* 'full' changed by .0.100"),
        (-0.1, (-0.3, 0.1), "no clear forgetting: .* .-0.300, .0.100."),
    ):
        change = replace(found.main("full"), difference=difference, ci95=ci95)
        changed = {"full": replace(same, differences={"balanced_accuracy": change})}
        assert re.match(said, replace(found, after_minus_before=changed).sentence())


def test_scores_are_those_of_probes_on_the_held_out_patients(
    before: Path, after: Path, reference: Cohort
) -> None:
    found = forgetting(before, after, reference, QUICK)
    parts = parts_in(before)
    for run, side in ((before, "b"), (after, "a")):
        table = embed(Slimp.from_pretrained(run), reference)
        given = table.ids["patient_id"].map(parts).tolist()
        for name in ("image", "full"):
            config = ProbeConfig(features=name, folds=2, strengths=(0.01, 1.0))  # type: ignore[arg-type]
            result = probe(table, config, parts=given)
            assert set(result.predictions["patient_id"]) <= {
                patient for patient, part in parts.items() if part == "held_out"
            }
            ours = getattr(found.main(name), side)  # type: ignore[arg-type]
            assert ours == pytest.approx(result.balanced_accuracy.mean)
    assert found.tested_on == "patients that both runs set aside"
    assert found.to_dict()["after_minus_before"]["image"]["patients"] > 5


def test_features_that_are_no_longer_read_are_named(
    before: Path, reference: Cohort, tmp_path: Path
) -> None:
    target = synthesize(SyntheticConfig(patients=12, lesions=2, image_size=16, seed=2))
    levels = tuple(Level(name=x.name, features=x.features[1:]) for x in target.schema.levels)
    target = replace(target, schema=replace(target.schema, levels=levels))
    adapt(before, target, AdaptConfig(**RUN), tmp_path / "run")  # type: ignore[arg-type]
    found = forgetting(before, tmp_path / "run", reference, QUICK)
    first = [level.features[0].name for level in reference.schema.levels if level.features]
    assert found.unread == (f"lesion: {first[0]}", f"patient: {first[1]}")


def test_a_feature_that_is_read_in_another_unit_is_no_longer_read(reference: Cohort) -> None:
    found = tiny.fitted(reference)
    first, *others = found["lesion"].features
    other = replace(found["lesion"], features=(replace(first, unit="inches"), *others))
    config = ModelConfig(**tiny.MODEL)
    before, after = (Slimp(config, {"lesion": x}) for x in (found["lesion"], other))
    assert _no_longer_read(before, after) == (f"lesion: {first.name}",)
    assert _no_longer_read(before, before) == ()


def test_a_patient_whom_the_adaptation_learned_from_does_not_test(
    before: Path, reference: Cohort, tmp_path: Path
) -> None:
    held_out = [patient for patient, part in parts_in(before).items() if part == "held_out"]
    target = reference.select_patients(held_out[:10])
    config = AdaptConfig(**{**RUN, "held_out_fraction": 0.0})  # type: ignore[arg-type]
    adapt(before, target, config, tmp_path / "run")
    found = forgetting(before, tmp_path / "run", reference, QUICK)
    labelled = reference.select_patients(held_out[10:])
    assert found.after_minus_before["image"].patients == len(labelled.patients)
    assert found.after_minus_before["image"].images == len(labelled)


def test_without_anybody_to_test_on_it_is_refused(
    before: Path, after: Path, reference: Cohort, tmp_path: Path
) -> None:
    run = shutil.copytree(before, tmp_path / "run")
    table = pd.read_parquet(run / "patients.parquet").assign(part="train")
    table.to_parquet(run / "patients.parquet")
    with pytest.raises(UserError, match="held-out-fraction"):
        forgetting(run, run, reference, QUICK)


def test_a_cohort_that_neither_run_knows_is_split_at_random(before: Path, after: Path) -> None:
    found = forgetting(before, after, of_two_classes(seed=5), ProbeConfig(**FAST))
    assert found.tested_on == "2 random patient-disjoint splits"

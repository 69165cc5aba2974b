"""Adaptation through the loop: any target, any interruption, and nobody tested whom it knows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from tiny import VIT, same_weights, tiny_cohort, with_features, with_images

from slimp.cli.flags import read_config
from slimp.data.cohort import Cohort, Tables
from slimp.data.files import read_json, write_json
from slimp.errors import CheckpointError, CohortError, UserError
from slimp.features.embed import embed
from slimp.models.nested import Slimp
from slimp.models.persistence import read_tensors
from slimp.training import loop as train
from slimp.training.adapt import Adaptation, adapt, stages_of
from slimp.training.config import AdaptConfig, PretrainConfig
from slimp.training.loop import pretrain
from slimp.training.parts import earlier_parts, earlier_table, labels_known, parts_of_run, set_aside
from slimp.training.run_folder import read_log

RUN: dict[str, Any] = {
    **{"patients": 6, "lesions": 3, "epochs": 2, "learning_rate": 1e-3},
    **{"validation_fraction": 0.15, "held_out_fraction": 0.2, "validate_every": 1},
    **{"checkpoint_every_steps": 2, **tiny.RUN},
}
MODEL: dict[str, Any] = {
    **tiny.MODEL,
    **{"encoder_options": {**VIT, "drop_path_rate": 0.2}, "tabular_dropout": 0.1},
}


def cohort(seed: int = 3, *, image_metadata: bool = False) -> Cohort:
    return tiny_cohort(seed=seed, image_metadata=image_metadata)


def of_levels(data: Cohort, **features: int) -> Cohort:
    """The cohort with as many features at each level."""
    first = {x.name: [f.name for f in x.features] for x in data.schema.levels}
    return with_features(data, **{name: first[name][:count] for name, count in features.items()})


def other_schema() -> Cohort:
    return of_levels(cohort(4), lesion=3, patient=2)


def settings(**changes: Any) -> AdaptConfig:
    return AdaptConfig(**{**RUN, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(cohort(), PretrainConfig(**RUN, **MODEL), out)
    return out


@pytest.fixture(scope="module")
def adapted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adaptation to another schema that nothing interrupted."""
    out = tmp_path_factory.mktemp("adapted") / "run"
    adapt(run, other_schema(), settings(), out)
    return out


# ------------------------------------------------------------------ targets

TARGETS: dict[str, tuple[Callable[[], Cohort], set[str]]] = {
    "another schema": (other_schema, {"loss_lesion", "loss_patient"}),
    "the same cohort": (cohort, {"loss_lesion", "loss_patient"}),
    "lesions only": (lambda: of_levels(cohort(4), lesion=3), {"loss_lesion"}),
    "images only": (lambda: of_levels(cohort(4)), {"loss_view"}),
    "three levels": (
        lambda: cohort(4, image_metadata=True),
        {"loss_image", "loss_lesion", "loss_patient"},
    ),
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_run_adapts_to_any_cohort(run: Path, tmp_path: Path, target: str) -> None:
    make, losses = TARGETS[target]
    data = make()
    model = adapt(run, data, settings(epochs=1), tmp_path / "run")
    rows = [row for row in read_log(tmp_path / "run") if row["kind"] == "step"]
    assert {key for key in rows[-1] if key.startswith("loss_")} == losses
    found = {name.partition("_")[0] for name in embed(model, data).features}
    assert found - {"relative", "outlier"} == {
        "image",
        *(loss.removeprefix("loss_") for loss in losses),
    } - {"view"}
    assert set(model.encodings) >= {"lesion", "patient"}  # those that the cohort lacks stay
    behind = {"lesion", "patient"} - {loss.removeprefix("loss_") for loss in losses}
    kept = Slimp.from_pretrained(tmp_path / "run")
    assert {*kept.aligned} == {*model.aligned} == {*model.encodings} - behind
    ours, theirs = embed(model, cohort()), embed(Slimp.from_pretrained(run), cohort())
    for name in behind:  # metadata of the reference embed as before, so retrieval can use them
        assert (ours.features[name] == theirs.features[name]).all()
    assert not (ours.features["image"] == theirs.features["image"]).all()


def test_a_level_left_behind_stays_so_until_it_learns_again(run: Path, tmp_path: Path) -> None:
    """Its head was made for other embeddings, whatever stages come after, and wherever it goes."""
    last, found = run, []
    lesions = of_levels(cohort(4), lesion=3)
    for name, data, policy in (
        ("heads first", lesions, "heads"),  # the images stay, so the patients' head fits them still
        ("full", lesions, "full"),
        ("heads", lesions, "heads"),
        ("patients again", cohort(4), "heads"),
    ):
        adapt(last, data, settings(epochs=1, train=policy), tmp_path / name)
        last = tmp_path / name
        found.append(Slimp.from_pretrained(last).aligned)
    both = ("lesion", "patient")
    assert found == [both, ("lesion",), ("lesion",), both]


def test_a_flat_run_stays_flat(tmp_path: Path) -> None:
    first = PretrainConfig(**{**RUN, "epochs": 1}, **MODEL, hierarchy="flat")
    pretrain(cohort(), first, tmp_path / "run")
    model = adapt(tmp_path / "run", other_schema(), settings(epochs=1), tmp_path / "adapted")
    names = {feature.name for feature in model.encodings["lesion"].features}
    assert names == {feature.name for feature in other_schema().schema.features}
    assert list(model.encodings) == ["lesion"]


@pytest.mark.parametrize("policy", ["embeddings", "heads", "full"])
def test_frozen_weights_are_those_of_the_run(run: Path, tmp_path: Path, policy: Any) -> None:
    found: list[Adaptation] = []
    adapt(run, cohort(), settings(train=policy), tmp_path / "run", announce=found.append)
    learning = {name for name, p in found[0].transfer.model.named_parameters() if p.requires_grad}
    ours, theirs = (read_tensors(x / "model.safetensors") for x in (tmp_path / "run", run))
    moved = {name for name, value in ours.items() if not torch.equal(value, theirs[name])}
    assert moved <= learning
    assert len(moved) > len(learning) // 2
    blocks = {name for name in moved if ".blocks." in name or ".layers." in name}
    assert bool(blocks) is (policy == "full")
    assert Slimp.from_pretrained(tmp_path / "run").aligned == ("lesion", "patient")


def test_settings_of_where_a_run_began_are_not_those_of_an_adapted_one(run, adapted, tmp_path):
    """What is saved of them would be the defaults: the weights are those of the run before."""
    begun = {"preset", "pretrained", "encoder_weights", "train_encoder"}
    assert begun <= read_json(run / "config.json")["pretrain"].keys()
    saved = read_json(adapted / "config.json")["pretrain"]
    assert not begun & saved.keys()
    assert saved["encoder"] == MODEL["encoder"]
    with pytest.raises(UserError, match="slimp adapt"):
        read_config(adapted / "config.json", PretrainConfig, section="pretrain")


# ------------------------------------------------------------------ interrupted and resumed


def test_an_interrupted_adaptation_ends_as_one_that_was_not(
    run: Path, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, steps = train.learn, iter([None] * 3)

    def stop_at_the_fourth(*args: Any, **kwargs: Any) -> dict[str, float]:
        if next(steps, 0) == 0:
            raise RuntimeError("the power went out")
        return original(*args, **kwargs)

    monkeypatch.setattr(train, "learn", stop_at_the_fourth)
    with pytest.raises(RuntimeError, match="power"):
        adapt(run, other_schema(), settings(), tmp_path / "run")
    monkeypatch.undo()
    for _ in range(2):  # the second time there is nothing left to do
        adapt(run, other_schema(), settings(), tmp_path / "run", resume=True)
        assert same_weights(tmp_path / "run", adapted)


@pytest.mark.parametrize(
    "changes",
    [{"train": "heads"}, {"rename": {"age": "age"}}, {"epochs": 3}, {"view_weight": 0.5}],
)
def test_other_settings_are_no_resumption(
    run: Path, adapted: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=f"with {next(iter(changes))}="):
        adapt(run, other_schema(), settings(**changes), adapted, resume=True)


def test_another_run_is_no_resumption(run: Path, adapted: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(adapted, tmp_path / "copy")
    with pytest.raises(CheckpointError, match="weights_sha256"):
        adapt(adapted, other_schema(), settings(), copy, resume=True)
    moved = shutil.copytree(run, tmp_path / "moved")  # where it lies does not matter
    adapt(moved, other_schema(), settings(), copy, resume=True)


# ------------------------------------------------------------------ what is left on disk


def test_the_settings_repeat_the_adaptation(adapted: Path) -> None:
    saved = read_json(adapted / "config.json")
    again = AdaptConfig(**saved["adapt"])
    assert asdict(again) == {**asdict(settings()), "view_weight": 0.0, "chunk": again.chunk}
    assert saved["pretrain"]["encoder_options"] == MODEL["encoder_options"]
    assert saved["data"]["cohort"] == other_schema().info.name
    assert {"run", "weights_sha256"} == set(saved["from"])


def test_the_table_and_the_stages_are_saved(run: Path, adapted: Path, tmp_path: Path) -> None:
    adapt(adapted, of_levels(cohort(5)), settings(train="heads", epochs=1), tmp_path / "third")
    content = read_json(tmp_path / "third" / "transfer.json")
    stages = content["stages"]
    assert [stage["verb"] for stage in stages] == ["pretrain", "adapt", "adapt"]
    assert [stage["trained"] for stage in stages] == ["all", "embeddings", "heads"]
    assert [stage["cohort"] for stage in stages] == [cohort(seed).info.name for seed in (3, 4, 5)]
    assert [set(stage["weights"]) for stage in stages] == [
        {"lesion", "patient"},
        {"lesion", "patient"},
        {"view"},
    ]
    assert stages[0]["trainable"] == stages[0]["parameters"]
    assert 0 < stages[2]["trainable"] < stages[1]["trainable"] < stages[1]["parameters"]
    assert stages[0]["patients"] == len(
        set_aside(cohort(), PretrainConfig(**RUN, **MODEL)).train.patients
    )
    assert stages[1] == read_json(adapted / "transfer.json")["stages"][1]
    total = sum(part["parameters"] for part in content["parts"])
    assert total == content["parameters"] == stages[2]["parameters"]


def test_a_model_without_its_run_has_a_stage_too(run: Path, tmp_path: Path) -> None:
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run / name, tmp_path)
    model = Slimp.from_pretrained(tmp_path)
    (stage,) = stages_of(tmp_path, model)
    assert (stage.cohort, stage.patients, stage.trainable) == ("unknown", 0, stage.parameters)
    adapt(tmp_path, other_schema(), settings(epochs=1), tmp_path / "out")


# ------------------------------------------------------------------ nobody is tested twice


def parts(out: Path, name: str = "patients") -> dict[str, str]:
    table = pd.read_parquet(out / f"{name}.parquet")
    return dict(zip(table["patient_id"], table["part"], strict=True))


def test_patients_keep_the_part_of_the_earlier_stage(run: Path, tmp_path: Path) -> None:
    found: list[Adaptation] = []
    some = cohort().select_patients(sorted(parts(run))[:14])
    adapt(run, some, settings(seed=9, epochs=1), tmp_path / "run", announce=found.append)
    here = parts(tmp_path / "run")
    assert here == {patient: parts(run)[patient] for patient in here}
    held_out = sum(part == "held_out" for part in here.values())
    assert found[0].known == {"learned_from": 14 - held_out, "held_out": held_out}
    assert parts(tmp_path / "run", "earlier_patients") == parts(run)


def test_labels_that_an_earlier_stage_learned_stay_known(run: Path, tmp_path: Path) -> None:
    tuned, once, twice = (tmp_path / name for name in ("tuned", "once", "twice"))
    shutil.copytree(run, tuned)
    content = read_json(tuned / "config.json")
    write_json(tuned / "config.json", {**content, "finetune": content["pretrain"]})
    found: list[Adaptation] = []
    adapt(tuned, cohort(), settings(epochs=1), once, announce=found.append)
    adapt(once, cohort(), settings(epochs=1), twice)
    assert [stage.verb for stage in found[0].stages] == ["finetune", "adapt"]
    learned = {patient for patient, part in parts(run).items() if part != "held_out"}
    assert labels_known(twice) == labels_known(once) == labels_known(tuned) == learned
    assert labels_known(run) == set()
    for chosen in ({"monitor": "knn_balanced_accuracy"}, {"always_include": "MEL"}):
        settings_of = {**content["pretrain"], **chosen}
        write_json(tuned / "config.json", {**content, "pretrain": settings_of})
        assert labels_known(tuned) == learned


def test_a_run_of_an_older_version_does_not_say_whose_labels_it_knows(
    run: Path, adapted: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapted, tmp_path / "old")
    path = tmp_path / "old" / "earlier_patients.parquet"
    pd.read_parquet(path).drop(columns="label_known").to_parquet(path, index=False)
    with pytest.warns(UserWarning, match="does not say whose labels"):
        assert labels_known(tmp_path / "old") == set()
    earlier_table(tmp_path / "old").to_parquet(path, index=False)  # and of runs that start there
    assert pd.read_parquet(path).groupby("stage")["label_known"].count()[1] == 0
    with pytest.warns(UserWarning, match="does not say whose labels"):
        labels_known(tmp_path / "old")


def test_new_patients_are_split_and_known_ones_keep_their_part(run: Path, tmp_path: Path) -> None:
    mixed = _with_ids_of(cohort(6), cohort(), 8)
    adapt(run, mixed, settings(epochs=1), tmp_path / "run")
    here, before = parts(tmp_path / "run"), parts(run)
    shared = set(here) & set(before)
    assert len(shared) == 8
    assert all(here[patient] == before[patient] for patient in shared)
    others = {part for patient, part in here.items() if patient not in shared}
    assert others == {"train", "validation", "held_out"}


def test_an_official_test_patient_who_was_learned_from_trains(run: Path) -> None:
    data, known = cohort(), earlier_parts(run)
    first = data.images["patient_id"].iloc[0]
    ids = data.images["patient_id"]
    official = with_images(data, split=["train" if id == first else "test" for id in ids])
    found = set_aside(official, PretrainConfig(**{**RUN, "validation_fraction": 0.0}), known)
    assert found.held_out is not None
    tested = set(found.held_out.patients["patient_id"])
    assert tested == {p for p, part in known.items() if part == "held_out"} - {first}


def test_the_parts_of_all_stages_are_honest(run: Path, tmp_path: Path) -> None:
    """The reference's held-out patients stay so, but for those whom a later stage learned from."""
    mixed = _with_ids_of(cohort(6), cohort(), 8)
    adapt(run, mixed, settings(held_out_fraction=0.0, epochs=1), tmp_path / "run")
    before, after = parts(run), parts(tmp_path / "run")
    assert set(after.values()) == {"train", "validation"}
    reference = parts_of_run(tmp_path / "run", cohort())
    assert reference is not None
    assert set(reference) == set(before)
    for patient, part in reference.items():
        unseen = before[patient] == "held_out" and after.get(patient) is None
        assert (part == "held_out") is unseen
    target = parts_of_run(tmp_path / "run", mixed)
    assert target is not None
    assert set(target) == set(after)
    assert parts_of_run(tmp_path / "run", cohort(7)) == {}


def _with_ids_of(data: Cohort, other: Cohort, count: int) -> Cohort:
    """The cohort with the first patients under the names of those of another."""
    pairs = zip(data.patients["patient_id"][:count], other.patients["patient_id"], strict=False)
    names: Mapping[str, str] = dict(pairs)
    frames = {
        name: getattr(data.tables, name).assign(
            patient_id=getattr(data.tables, name)["patient_id"].replace(names)
        )
        for name in ("images", "lesions", "patients")
    }
    return replace(data, tables=Tables(**frames))


# ------------------------------------------------------------------ settings and refusals


def test_what_cannot_be_adapted_is_refused_and_nothing_is_written(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(CheckpointError, match=r"model\.json"):
        adapt(tmp_path, cohort(), settings(), out)
    with pytest.raises(CohortError, match="--view-weight"):
        adapt(run, of_levels(cohort(4)), settings(view_weight=0.0), out)
    with pytest.raises(UserError, match="gender"):
        adapt(run, cohort(4), settings(rename={"sex": "gender"}), out)
    assert not out.exists()


@pytest.mark.parametrize("where", ["", ".."])
def test_the_run_itself_is_never_written_to(run: Path, where: str) -> None:
    with pytest.raises(UserError, match="--out"):
        adapt(run, cohort(4), settings(), run / where, overwrite=True)
    assert (run / "model.safetensors").is_file()

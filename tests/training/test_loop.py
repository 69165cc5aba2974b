"""The training loop: what it learns from, what it must not, and that it can be interrupted."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from tiny import VIT, log_without_pace, same_weights, tiny_cohort, tiny_config, weights
from torch import Tensor

from slimp.data.cohort import Cohort
from slimp.data.files import ImagesInMemory, read_json
from slimp.errors import CheckpointError, CohortError, UserError
from slimp.models.image_encoder import mixes_rows
from slimp.models.persistence import read_tensors
from slimp.training import loop as train
from slimp.training.build_model import build_model
from slimp.training.checkpoint import Progress
from slimp.training.config import PretrainConfig
from slimp.training.loop import keep_best, pretrain, require_finite
from slimp.training.optimizer import learning_rate, make_optimizer
from slimp.training.parts import Parts, set_aside
from slimp.training.run_folder import read_log

STEPS = 9
"""Of a run of `config()` on `cohort()`: 3 epochs of 3 batches."""


cohort = tiny_cohort


def config(**changes: Any) -> PretrainConfig:
    """Random numbers are drawn in every step (dropout, stochastic depth), to make resuming hard."""
    return tiny_config(
        **{
            **{"encoder_options": {**VIT, "drop_path_rate": 0.2}, "tabular_dropout": 0.1},
            **{"patients": 4, "lesions": 3, "epochs": 3, "learning_rate": 1e-3},
            **{"validation_fraction": 0.15, "held_out_fraction": 0.1, "validate_every": 1},
            **{"checkpoint_every_steps": 5, **changes},
        }
    )


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    pretrain(cohort(), config(), out)
    return out


# ------------------------------------------------------------------ learning


def test_one_small_batch_is_learned_by_heart(tmp_path: Path) -> None:
    undisturbed = {
        **{"crop_scale": 1.0, "flip": False, "rotate": "none", "colour": 0.0},
        **{"feature_dropout": 0.0, "tabular_dropout": 0.0, "encoder_options": VIT},
    }
    settings = config(
        **{**undisturbed, "patients": 99, "epochs": 120, "learning_rate": 3e-3},
        **{"validation_fraction": 0.0, "held_out_fraction": 0.0},
    )
    pretrain(cohort(patients=6), settings, tmp_path / "run")
    losses = [row["loss"] for row in read_log(tmp_path / "run") if row["kind"] == "step"]
    assert losses[0] > 1.5
    assert losses[-1] < 0.1


def test_the_log_has_a_row_per_step_and_one_per_validation(whole: Path) -> None:
    rows = read_log(whole)
    steps = [row for row in rows if row["kind"] == "step"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [(row["step"], row["epoch"]) for row in epochs] == [(3, 1), (6, 2), (9, 3)]
    for row in steps:
        parts = 0.9 * row["loss_lesion"] + 0.1 * row["loss_patient"]
        assert row["loss"] == pytest.approx(parts, rel=1e-5)
        assert row["learning_rate"] == learning_rate(row["step"] - 1, STEPS, config())
        assert row["temperature"] == row["temperature_lesion"] == pytest.approx(0.07, rel=0.2)
    measures = {"validation_loss", "validation_loss_lesion", "validation_loss_patient"}
    measures |= {"recall_at_1", "recall_at_5", "recall_at_10", "knn_balanced_accuracy"}
    assert measures <= set(epochs[0])


def test_the_run_folder_is_as_documented(whole: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    assert not [path.name for path in whole.iterdir() if f"`{path.name}" not in page]
    keys = {re.sub("(lesion|patient)$", "LEVEL", key) for row in read_log(whole) for key in row}
    assert not [key for key in keys if f"`{key}`" not in page]


def test_the_precision_and_the_chunk_that_were_chosen_are_saved(tmp_path: Path) -> None:
    pretrain(cohort(), config(precision="auto", epochs=1), tmp_path / "run")
    saved = read_json(tmp_path / "run" / "config.json")["pretrain"]
    assert saved["precision"] in ("32", "bf16")
    assert saved["chunk"] > 0
    chosen = {name: saved[name] for name in ("precision", "chunk")}
    assert saved == {**asdict(config(epochs=1)), **chosen}


@pytest.mark.parametrize("changes", [{"workers": 2}, {"gradient_checkpointing": True}])
def test_workers_and_gradient_checkpointing_change_no_bit(
    whole: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    pretrain(cohort(), config(**changes), tmp_path / "run")
    assert same_weights(tmp_path / "run", whole)
    assert log_without_pace(tmp_path / "run") == log_without_pace(whole)


@pytest.mark.parametrize(
    ("changes", "losses"),
    [
        ({"view_weight": 0.5}, {"loss_view", "loss_lesion", "loss_patient"}),
        ({"view_weight": 1.0, "lesion_weight": 0.0, "patient_weight": 0.0}, {"loss_view"}),
        ({"hierarchy": "flat"}, {"loss_lesion"}),
        ({"lesion_weight": 1.0, "patient_weight": 0.0}, {"loss_lesion"}),
        ({"pooling": "attention", "duplicates": "positive"}, {"loss_lesion", "loss_patient"}),
        (
            {"reconstruction_weight": 0.5, "duplicates": "soft", "precision": "bf16"},
            {f"loss_{x}{y}" for x in ("", "reconstruction_") for y in ("lesion", "patient")},
        ),
        (
            {
                **{"view_weight": 1.0, "view_positives": "patient"},
                **{"lesion_weight": 0.0, "patient_weight": 0.0},
            },
            {"loss_view"},
        ),
        ({"precision": "bf16"}, {"loss_lesion", "loss_patient"}),
        ({"encoder": "resnet18", "encoder_options": {}}, {"loss_lesion", "loss_patient"}),
    ],
)
def test_every_arm_is_a_configuration(
    tmp_path: Path, changes: dict[str, Any], losses: set[str]
) -> None:
    pretrain(cohort(), config(epochs=1, **changes), tmp_path / "run")
    steps = [row for row in read_log(tmp_path / "run") if row["kind"] == "step"]
    assert {name for name in steps[-1] if name.startswith("loss_")} == losses
    assert all(math.isfinite(row["loss"]) for row in steps)


# ------------------------------------------------------------------ what it must not learn from


def test_parts_are_disjoint_and_cover_the_cohort(whole: Path) -> None:
    table = pd.read_parquet(whole / "patients.parquet")
    assert sorted(table["patient_id"]) == sorted(cohort().patients["patient_id"])
    assert table["part"].value_counts().to_dict() == {"train": 12, "validation": 4, "held_out": 4}


def tampered(part: str, *, garbage: bool, tables: bool = True, label: str | None = None) -> Cohort:
    """The cohort with other images and metadata for the patients of a part."""
    original, rng = cohort(), np.random.default_rng(0)
    ids = set_aside(original, config()).named()[part].patients["patient_id"]
    changed = {}
    for name in ("images", "lesions", "patients"):
        table = getattr(original.tables, name).copy()
        mine = table["patient_id"].isin(ids).to_numpy()
        level = original.schema.level(name.removesuffix("s"))
        for column in level.columns if tables else ():
            table.loc[mine, column] = rng.permutation(table[column].to_numpy())[: mine.sum()]
            if table[column].dtype == "float64":
                table.loc[mine, column] = 1e6
        changed[name] = table
    mine = changed["images"]["patient_id"].isin(ids).to_numpy()
    if label is not None:
        changed["images"].loc[mine, "label"] = label
    encoded = [original.read_image(row) for row in range(len(original))]
    others = [b"no image" if garbage else encoded[0] for _ in encoded]
    store = ImagesInMemory([others[i] if mine[i] else encoded[i] for i in range(len(encoded))])
    return replace(original, tables=replace(original.tables, **changed), store=store)


def test_held_out_patients_influence_nothing(whole: Path, tmp_path: Path) -> None:
    pretrain(tampered("held_out", garbage=True), config(), tmp_path / "run")
    assert same_weights(tmp_path / "run", whole)
    assert log_without_pace(tmp_path / "run") == log_without_pace(whole)


def test_validation_patients_influence_no_weight(whole: Path, tmp_path: Path) -> None:
    pretrain(tampered("validation", garbage=False), config(), tmp_path / "run")
    assert same_weights(tmp_path / "run", whole)
    assert log_without_pace(tmp_path / "run") != log_without_pace(whole)


def test_the_training_patients_do(whole: Path, tmp_path: Path) -> None:
    """Else the two tests above would show nothing."""
    pretrain(tampered("train", garbage=False), config(epochs=1), tmp_path / "run")
    assert not same_weights(tmp_path / "run", whole)


def with_split(splits: dict[str, str | None], labels: Callable[[Any], Any] | None = None) -> Cohort:
    """The cohort with an official split: patient -> part, 'train' if not named."""
    original = cohort()
    images = original.images.copy()
    images["split"] = [splits.get(p, "train") for p in images["patient_id"]]
    if labels is not None:
        images["label"] = labels(images["label"].to_numpy())
    return replace(original, tables=replace(original.tables, images=images))


OFFICIAL: dict[str, str | None] = {
    **{"S3P000001": "test", "S3P000002": "test", "S3P000003": "validation"},
    **{"S3P000004": "validation", "S3P000005": "validation", "S3P000006": None},
}


def test_labels_influence_no_weight(tmp_path: Path) -> None:
    """With an official split; a random one spreads the classes evenly, and so looks at them."""
    shuffle = np.random.default_rng(0).permutation
    for name, labels in (("a", None), ("b", shuffle), ("c", lambda x: [None] * len(x))):
        pretrain(with_split(OFFICIAL, labels), config(epochs=1), tmp_path / name)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "c")
    assert "knn_balanced_accuracy" in read_log(tmp_path / "a")[-1]
    assert "knn_balanced_accuracy" not in read_log(tmp_path / "c")[-1]


def test_an_official_split_is_kept() -> None:
    parts = {n: set(x.patients["patient_id"]) for n, x in split_of(OFFICIAL).items()}
    assert parts["held_out"] == {"S3P000001", "S3P000002"}
    assert parts["validation"] == {"S3P000003", "S3P000004", "S3P000005"}
    assert len(parts["train"]) == 20 - 6  # S3P000006 is in no part
    without = {p: part for p, part in OFFICIAL.items() if part != "validation"}
    parts = {n: set(x.patients["patient_id"]) for n, x in split_of(without).items()}
    assert parts["held_out"] == {"S3P000001", "S3P000002"}
    assert len(parts["validation"]) + len(parts["train"]) == 20 - 3  # it comes out of training
    assert "validation" not in split_of(without, validation_fraction=0.0)


def test_numbered_folds_name_no_parts() -> None:
    ids = cohort().patients["patient_id"].tolist()
    folds = {patient: f"fold{i % 5}" for i, patient in enumerate(ids)}
    random = set_aside(cohort(), config()).named()
    for name, part in split_of(folds).items():
        assert set(part.patients["patient_id"]) == set(random[name].patients["patient_id"])


def test_the_fold_that_is_named_is_held_out(tmp_path: Path) -> None:
    ids = cohort().patients["patient_id"].tolist()
    folds = {patient: f"fold{i % 5}" for i, patient in enumerate(ids[:-1])}  # the last has none
    rows = [f"{patient},{name[4:]}" for patient, name in folds.items()]
    file = tmp_path / "split.csv"
    file.write_text("\n".join(["patient_id,fold", *rows]))
    unlabelled = cohort().images.assign(label=None)
    data = replace(cohort(), tables=replace(cohort().tables, images=unlabelled))
    asked = config(split_file=str(file), fold=3)
    blank = tmp_path / "blank.csv"
    blank.write_text("\n".join(["patient_id,fold", *rows, f"{ids[-1]},"]))
    for parts, left_out in (
        (set_aside(data, asked).named(), 0),  # has no row, and trains
        (set_aside(data, replace(asked, split_file=str(blank))).named(), 1),
        (split_of({**folds, ids[-1]: None}, fold=3), 1),
    ):
        held_out = set(parts["held_out"].patients["patient_id"])
        assert held_out == {patient for patient, name in folds.items() if name == "fold3"}
        assert sum(len(part.patients) for part in parts.values()) == len(ids) - left_out
        assert "validation" in parts
    learned, locked = dict.fromkeys(ids, "train"), tmp_path / "locked.csv"
    locked.write_text(file.read_text().replace(",4", ",test"))
    for wrong, message in (
        (config(split_file=str(locked), fold=3), "the part test, which --fold would train on"),
        (config(split_file=str(file)), "Pass the --fold"),
        (config(split_file=str(file), fold=5), "no fold 5; its parts are fold0, fold1"),
        (config(fold=1), "has no split of its own"),
    ):
        with pytest.raises(CohortError, match=message):
            set_aside(data, wrong)
    with pytest.raises(CohortError, match=r"4 patient\(s\), such as .* earlier stage learned from"):
        set_aside(data, asked, learned)


def test_the_parts_of_a_file_are_those_of_the_run(tmp_path: Path) -> None:
    names = {p: OFFICIAL.get(p) or "train" for p in cohort().patients["patient_id"]}
    file = tmp_path / "split.csv"
    file.write_text("\n".join(["patient_id,part", *(f"{p},{n}" for p, n in names.items())]))
    parts = {
        name: set(part.patients["patient_id"])
        for name, part in set_aside(cohort(), config(split_file=str(file))).named().items()
    }
    assert parts["held_out"] == {p for p, name in names.items() if name == "test"}
    assert parts["validation"] == {p for p, name in names.items() if name == "validation"}
    assert parts["train"] == {p for p, name in names.items() if name == "train"}


def split_of(splits: dict[str, str | None], **changes: Any) -> dict[str, Cohort]:
    return set_aside(with_split(splits), config(**changes)).named()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"S3P000001": "val"}, "'val'"),
        ({f"S3P{i:06d}": "test" for i in range(1, 21)}, "'train'"),
    ],
)
def test_a_strange_official_split_is_refused(split: dict[str, str | None], message: str) -> None:
    with pytest.raises(CohortError, match=message):
        set_aside(with_split(split), config())


def test_a_patient_in_two_parts_is_refused() -> None:
    some = cohort().select_patients(["S3P000001", "S3P000002"])
    with pytest.raises(CohortError, match="'train' and 'held_out'"):
        Parts(train=some, validation=None, held_out=some.select_patients(["S3P000002"]))


# ------------------------------------------------------------------ interruptions


@contextmanager
def signalled(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> Iterator[None]:
    """Sends a signal to this process while the step after `step` is made."""

    def rate(done: int, total: int, settings: PretrainConfig) -> float:
        if done == step:
            signal.raise_signal(number)
        return learning_rate(done, total, settings)

    with monkeypatch.context() as patch:
        patch.setattr(train, "learning_rate", rate)
        yield


@contextmanager
def crashing(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """Raises in the middle of the step after `step`, so that nothing of it is saved."""

    def crash(loss: Tensor, norm: Tensor, done: int) -> None:
        if done == step:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(train, "require_finite", crash)
        yield


@pytest.mark.parametrize(
    ("step", "number"), [(0, signal.SIGTERM), (4, signal.SIGINT), (5, signal.SIGTERM)]
)
def test_after_a_signal_the_step_is_finished_saved_and_the_run_ends_as_if_nothing_happened(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: int
) -> None:
    out = tmp_path / "run"
    with signalled(monkeypatch, step, number), pytest.raises(KeyboardInterrupt):
        pretrain(cohort(), config(), out)
    assert checkpoints(out)[-1] == f"step_{step + 1:08d}"
    assert not (out / "model.safetensors").exists()
    pretrain(cohort(), config(), out, resume=True)
    assert same_weights(out, whole)
    assert log_without_pace(out) == log_without_pace(whole)


@pytest.mark.parametrize("step", [2, 6])
def test_after_a_crash_the_run_goes_on_from_its_last_checkpoint_to_the_same_end(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    out = tmp_path / "run"
    with crashing(monkeypatch, step), pytest.raises(RuntimeError, match="power cut"):
        pretrain(cohort(), config(), out, resume=True)  # there is nothing yet: a run begins
    with (out / "metrics.jsonl").open("a") as log:
        log.write('{"kind": "st')  # half a row
    pretrain(cohort(), config(), out, resume=True)
    assert same_weights(out, whole)
    assert log_without_pace(out) == log_without_pace(whole)


def test_the_best_weights_and_the_patience_survive_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(
        monitor="validation_loss", patience=2, epochs=20, learning_rate=0.01, warmup=0.03, seed=1
    )
    pretrain(cohort(), settings, tmp_path / "whole")
    last = read_log(tmp_path / "whole")[-1]["epoch"]
    assert 3 <= last < 20
    out = tmp_path / "run"
    for step in (4, 3 * last - 2):  # the second one after a validation that was no gain
        with signalled(monkeypatch, step, signal.SIGTERM), pytest.raises(KeyboardInterrupt):
            pretrain(cohort(), settings, out, resume=True)
    pretrain(cohort(), settings, out, resume=True)
    assert same_weights(out, tmp_path / "whole")
    assert log_without_pace(out) == log_without_pace(tmp_path / "whole")


@pytest.mark.slow
def test_signals_to_all_processes_of_a_job_are_survived(tmp_path: Path) -> None:
    """A scheduler signals the decoding processes too; the run must still be saved."""
    folder, out = tmp_path / "cohort", tmp_path / "run"
    cohort().save(folder)
    line = f"-m slimp pretrain {folder} --out {out} --preset tiny --image-size 16 --workers 2"
    line += " --epochs 500 --patients 4 --accelerator cpu --precision 32"
    process = subprocess.Popen(
        [sys.executable, *line.split()],
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while len(read_log(out)) < 8 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, stderr.decode()
    assert len(checkpoints(out)) == 1


def test_a_run_resumes_with_its_own_settings_and_patients_only(whole: Path) -> None:
    with pytest.raises(CheckpointError, match=r"encoder_options="):
        pretrain(cohort(), config(encoder_options=VIT), whole, resume=True)
    with pytest.raises(CheckpointError, match=r"patients\.parquet"):
        pretrain(cohort(patients=21), config(), whole, resume=True)


# ------------------------------------------------------------------ refusals


def test_a_folder_is_emptied_only_when_training_can_begin(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "metrics.json").touch()  # as a probe leaves it
    for changes, flags in (({}, {}), ({"encoder": "nonsense"}, {"overwrite": True})):
        with pytest.raises(UserError):
            pretrain(cohort(), config(**changes), out, **flags)
        assert (out / "notes.txt").read_text() == "mine"
    pretrain(cohort(), config(), out, overwrite=True)
    assert not (out / "notes.txt").exists()
    assert same_weights(out, whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "nonsense"}, "nonsense"),
        ({"always_include": "unicorn"}, "unicorn"),
        ({"encoder_weights": "nowhere.safetensors"}, r"nowhere\.safetensors"),
        ({"lesion_weight": 0.0, "patient_weight": 0.0}, "weights are 0"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(cohort(), config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def without_metadata() -> Cohort:
    schema = cohort().schema
    levels = tuple(replace(level, features=()) for level in schema.levels)
    return replace(cohort(), schema=replace(schema, levels=levels))


def test_a_cohort_without_metadata_needs_the_view_level(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="--view-weight 1"):
        pretrain(without_metadata(), config(), tmp_path / "run")
    pretrain(without_metadata(), config(view_weight=1.0, epochs=1), tmp_path / "run")
    row = read_log(tmp_path / "run")[-1]
    assert "validation_loss_view" in row
    assert "recall_at_1" not in row


@pytest.mark.filterwarnings("ignore:.*normalisation")
def test_weights_that_are_not_finite_are_refused_before_they_spread(tmp_path: Path) -> None:
    state = build_model(cohort(), config()).image_encoder.model.state_dict()
    state["patch_embed.proj.bias"][0] = math.inf
    save_file(state, tmp_path / "weights.safetensors")
    settings = config(encoder_weights=str(tmp_path / "weights.safetensors"))
    with pytest.raises(UserError, match=r"step 0.*--learning-rate"):
        pretrain(cohort(), settings, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_gradient_that_is_not_finite_is_refused_like_a_loss() -> None:
    require_finite(1.0, 1.0, 3)
    for loss, norm, named in ((math.nan, 1.0, "loss"), (1.0, math.nan, "gradient")):
        with pytest.raises(UserError, match=f"{named} became nan at step 3"):
            require_finite(loss, norm, 3)


# ------------------------------------------------------------------ its parts


def test_the_learning_rate_rises_in_a_line_and_falls_as_a_cosine() -> None:
    settings = config(learning_rate=2.0, warmup=0.2)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    np.testing.assert_allclose(np.diff(rates[:21]), 2.0 / 21)  # 20 steps up to the peak
    assert rates[20] == 2.0
    assert learning_rate(60, 100, settings) == pytest.approx(1.0)  # half way down
    assert learning_rate(100, 100, settings) == pytest.approx(0.0)
    assert all(later < earlier for earlier, later in pairwise(rates[20:]))
    cosine = [1 + math.cos(math.pi * share) for share in np.arange(80) / 80]
    np.testing.assert_allclose(rates[20:], cosine)
    for total in (1, 2, 5):  # short schedules stay in range
        short = config(warmup=0.5, learning_rate=1.0)
        assert all(0 < learning_rate(step, total, short) <= 1 for step in range(total))
        assert learning_rate(0, total, config(warmup=0.0, learning_rate=1.0)) == 1.0


def test_only_matrices_and_convolutions_decay() -> None:
    model = build_model(cohort(), config())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_decay: dict[float, list[str]] = {0.3: [], 0.0: []}
    for group in make_optimizer(model, config(weight_decay=0.3)).param_groups:
        by_decay[group["weight_decay"]] += [names[id(p)] for p in group["params"]]
    found = by_decay[0.3]
    assert sorted(by_decay[0.0] + found) == sorted(names.values())
    assert "image_encoder.model.patch_embed.proj.weight" in found
    assert "levels.lesion.project_below.0.weight" in found
    for name in found:
        assert name.endswith("weight")
        assert "norm" not in name
        assert ".embeddings." not in name


def test_encodings_are_fitted_on_what_is_given_only() -> None:
    train_part = set_aside(cohort(), config()).train
    age = build_model(train_part, config()).encodings["patient"].of_kind("continuous")[0]
    assert age.mean == pytest.approx(train_part.patients["age"].mean())
    assert age.mean != pytest.approx(cohort().patients["age"].mean())


def test_the_weights_of_the_best_validation_are_the_ones_that_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, losses = tmp_path / "run", iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(train.Validator, "__call__", lambda *_: {"validation_loss": next(losses)})
    settings = config(monitor="validation_loss", checkpoint_every_steps=1, keep_checkpoints=99)
    pretrain(cohort(), settings, out)
    epochs = [row for row in read_log(out) if row["kind"] == "epoch"]
    best = epochs[1]["step"]
    assert best < epochs[2]["step"]
    tensors = read_tensors(out / "checkpoints" / f"step_{best:08d}" / "tensors.safetensors")
    for name, value in weights(out).items():
        assert torch.equal(value, tensors[f"model.{name}"])


def test_the_optimizer_gets_what_learns_and_nothing_else() -> None:
    model = build_model(cohort(), config(patient_weight=0.0))
    groups = make_optimizer(model, config()).param_groups
    given = {id(p) for group in groups for p in group["params"]}
    assert given == {id(p) for p in model.parameters() if p.requires_grad}
    assert not given & {id(p) for p in model.level("patient").parameters()}


@pytest.mark.parametrize(
    ("monitor", "values"),
    [
        ("validation_loss", [3.0, 2.0, 2.5, 2.0, 9.0]),
        ("recall_at_5", [0.1, 0.4, 0.3, 0.4, 0.9]),
        ("knn_balanced_accuracy", [0.1, 0.4, 0.3, 0.4, 0.9]),
    ],
)
def test_the_best_is_the_first_of_lowest_loss_or_highest_score(
    tmp_path: Path, monitor: str, values: list[float]
) -> None:
    model, progress, best = build_model(cohort(), config()), Progress(), list[float | None]()
    for value in values:
        if not progress.stopped:
            keep_best(
                tmp_path, model, {monitor: value}, progress, config(monitor=monitor, patience=2)
            )
            best.append(progress.best)
    assert best == [values[0], *[values[1]] * 3]


def test_levels_with_metadata_need_a_weight() -> None:
    schema = cohort().schema
    levels = tuple(replace(x, features=x.features * (x.name == "patient")) for x in schema.levels)
    with pytest.raises(UserError, match="patient"):
        build_model(
            replace(cohort(), schema=replace(schema, levels=levels)), config(patient_weight=0.0)
        )


def test_the_image_encoder_has_its_own_learning_rate(tmp_path: Path) -> None:
    settings = config(encoder_lr_scale=1e-12, epochs=1)
    ended = pretrain(cohort(), settings, tmp_path / "run").state_dict()
    torch.manual_seed(settings.seed)
    begun = build_model(set_aside(cohort(), settings).train, settings).state_dict()
    still = {n for n in begun if torch.allclose(begun[n], ended[n], rtol=0, atol=1e-9)}
    assert {n for n in begun if n.startswith("image_encoder.")} <= still
    assert "levels.lesion.project_below.0.weight" not in still


def test_nothing_is_clipped_where_any_norm_may_be(tmp_path: Path) -> None:
    for name, most in (("none", 0.0), ("huge", 1e9)):
        pretrain(cohort(), config(clip_norm=most, epochs=1), tmp_path / name)
    assert same_weights(tmp_path / "none", tmp_path / "huge")


@pytest.mark.filterwarnings("ignore:.*normalisation")
def test_statistics_are_kept_where_the_encoder_starts_from_weights(tmp_path: Path) -> None:
    settings = config(encoder="resnet10t", encoder_options={}, image_size=32, epochs=1)
    model = build_model(cohort(), settings)
    assert mixes_rows(model.train())
    start = {n: x.contiguous() for n, x in model.image_encoder.model.state_dict().items()}
    save_file(start, tmp_path / "resnet.safetensors")
    settings = replace(settings, encoder_weights=str(tmp_path / "resnet.safetensors"))
    assert mixes_rows(build_model(cohort(), replace(settings, batch_norm="batch")).train())
    ended = pretrain(cohort(), settings, tmp_path / "run").image_encoder.model.state_dict()
    kept = {name for name in start if torch.equal(start[name], ended[name])}
    assert kept == {name for name in start if "running_" in name or "num_batches" in name}

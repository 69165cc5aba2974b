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
from tiny import (
    SMALL_RESNET,
    VIT,
    log_without_pace,
    same_weights,
    tiny_cohort,
    tiny_config,
    weights,
    with_features,
    with_images,
)
from torch import Tensor

from slimp.data.cohort import Cohort
from slimp.data.files import ImagesInMemory, read_json
from slimp.errors import CheckpointError, CohortError, UserError
from slimp.models.image_encoder import mixes_rows
from slimp.models.persistence import read_tensors
from slimp.training import loop as train
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.loop import pretrain, require_finite
from slimp.training.optimizer import learning_rate, make_optimizer
from slimp.training.parts import Parts, set_aside
from slimp.training.run_folder import read_log

STEPS = 9
"""Of a run of `config()` on `cohort()`: 3 epochs of 3 batches."""


VIEWS_ALONE = {"view_weight": 1.0, "lesion_weight": 0.0, "patient_weight": 0.0}
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
        **{"validation_fraction": 0.0, "held_out_fraction": 0.0, "checkpoint_every_steps": 999},
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
        ({**VIEWS_ALONE, "view_positives": "patient"}, {"loss_view"}),
        ({"hierarchy": "flat"}, {"loss_lesion"}),
        ({"lesion_weight": 1.0, "patient_weight": 0.0}, {"loss_lesion"}),
        ({"pooling": "attention", "duplicates": "positive"}, {"loss_lesion", "loss_patient"}),
        (
            {"reconstruction_weight": 0.5, "duplicates": "soft", "precision": "bf16"},
            {f"loss_{x}{y}" for x in ("", "reconstruction_") for y in ("lesion", "patient")},
        ),
        ({"precision": "bf16"}, {"loss_lesion", "loss_patient"}),
        (SMALL_RESNET, {"loss_lesion", "loss_patient"}),
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
    images = cohort().images
    found = images["label"] if labels is None else labels(images["label"].to_numpy())
    split = [splits.get(p, "train") for p in images["patient_id"]]
    return with_images(cohort(), split=split, label=found)


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


def ids_of(data: Cohort, known: dict[str, str] | None = None, **changes: Any) -> dict[str, set]:
    """Part -> its patients."""
    parts = set_aside(data, config(**changes), known).named()
    return {name: set(part.patients["patient_id"]) for name, part in parts.items()}


def split_table(path: Path, kind: str, parts: dict[str, str]) -> str:
    lines = [f"patient_id,{kind}", *(f"{patient},{part}" for patient, part in parts.items())]
    path.write_text("\n".join(lines))
    return str(path)


def test_an_official_split_is_kept_and_so_is_that_of_a_file(tmp_path) -> None:
    parts = ids_of(with_split(OFFICIAL))
    assert parts["held_out"] == {"S3P000001", "S3P000002"}
    assert parts["validation"] == {"S3P000003", "S3P000004", "S3P000005"}
    assert len(parts["train"]) == 20 - 6  # S3P000006 is in no part
    named = {p: OFFICIAL.get(p) or "train" for p in cohort().patients["patient_id"]}
    file = split_table(tmp_path / "split.csv", "part", named)
    everybody = {**parts, "train": parts["train"] | {"S3P000006"}}
    assert ids_of(cohort(), split_file=file) == everybody
    without = {p: part for p, part in OFFICIAL.items() if part != "validation"}
    parts = ids_of(with_split(without))
    assert parts["held_out"] == {"S3P000001", "S3P000002"}
    assert len(parts["validation"]) + len(parts["train"]) == 20 - 3  # it comes out of training
    assert "validation" not in ids_of(with_split(without), validation_fraction=0.0)
    for split, named in (
        ({"S3P000001": "val"}, "'val'"),
        ({f"S3P{i:06d}": "test" for i in range(1, 21)}, "'train'"),
    ):
        with pytest.raises(CohortError, match=named):
            ids_of(with_split(split))


def test_a_fold_is_held_out_where_it_is_named_and_else_says_nothing(tmp_path) -> None:
    ids = cohort().patients["patient_id"].tolist()
    folds = {patient: str(i % 5) for i, patient in enumerate(ids[:-1])}  # the last has none
    own = {patient: f"fold{number}" for patient, number in folds.items()}
    assert ids_of(with_split({**own, ids[-1]: "fold0"})) == ids_of(cohort())
    data = with_images(cohort(), label=None)
    file = split_table(tmp_path / "split.csv", "fold", folds)
    blank = split_table(tmp_path / "blank.csv", "fold", {**folds, ids[-1]: ""})
    for parts, left_out in (
        (ids_of(data, split_file=file, fold=3), 0),  # has no row, and trains
        (ids_of(data, split_file=blank, fold=3), 1),
        (ids_of(with_split({**own, ids[-1]: None}), fold=3), 1),
    ):
        assert parts["held_out"] == {patient for patient, fold in folds.items() if fold == "3"}
        assert sum(map(len, parts.values())) == len(ids) - left_out
        assert "validation" in parts
    locked = {patient: "test" if fold == "4" else fold for patient, fold in folds.items()}
    locked = split_table(tmp_path / "locked.csv", "fold", locked)
    for wrong, known, named in (
        ({"split_file": locked, "fold": 3}, None, "the part test, which --fold would train on"),
        ({"split_file": file}, None, "Pass the --fold"),
        ({"split_file": file, "fold": 5}, None, "no fold 5; its parts are fold0, fold1"),
        ({"fold": 1}, None, "has no split of its own"),
        ({"split_file": file, "fold": 3}, dict.fromkeys(ids, "train"), r"4 patient\(s\), such as"),
    ):
        with pytest.raises(CohortError, match=named):
            ids_of(data, known, **wrong)


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


@pytest.mark.gpu
def test_on_a_gpu_a_run_that_was_interrupted_ends_as_if_nothing_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    settings = config(accelerator="cuda")
    whole = pretrain(cohort(), settings, tmp_path / "whole").state_dict()
    with signalled(monkeypatch, 4, signal.SIGTERM), pytest.raises(KeyboardInterrupt):
        pretrain(cohort(), settings, tmp_path / "run")
    again = pretrain(cohort(), settings, tmp_path / "run", resume=True).state_dict()
    for name, values in whole.items():
        torch.testing.assert_close(again[name], values)


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
    with pytest.raises(CheckpointError, match=r"config\.json.*other patients"):
        pretrain(cohort(patients=21), config(), whole, resume=True)


def test_a_run_does_not_go_on_with_other_metadata_of_the_same_patients(whole: Path) -> None:
    """Its weights would read ages in months as if they were the years they had learned."""
    found, before = cohort(), (whole / "model.json").read_bytes()
    months = found.patients.assign(age=found.patients["age"] * 12)
    corrected = replace(found, tables=replace(found.tables, patients=months))
    with pytest.raises(CheckpointError, match=r"config\.json.*other patients, metadata or labels"):
        pretrain(corrected, config(), whole, resume=True)
    assert (whole / "model.json").read_bytes() == before


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


def test_a_cohort_without_metadata_needs_the_view_level(tmp_path: Path) -> None:
    images_alone = with_features(cohort())
    with pytest.raises(CohortError, match="--view-weight 1"):
        pretrain(images_alone, config(), tmp_path / "run")
    pretrain(images_alone, config(view_weight=1.0, epochs=1), tmp_path / "run")
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


def test_levels_with_metadata_need_a_weight() -> None:
    with pytest.raises(UserError, match="patient"):
        build_model(with_features(cohort(), patient=None), config(patient_weight=0.0))


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
    settings = config(**SMALL_RESNET, image_size=32, epochs=1)
    model = build_model(cohort(), settings)
    assert mixes_rows(model.train())
    start = {n: x.contiguous() for n, x in model.image_encoder.model.state_dict().items()}
    save_file(start, tmp_path / "resnet.safetensors")
    settings = replace(settings, encoder_weights=str(tmp_path / "resnet.safetensors"))
    assert mixes_rows(build_model(cohort(), replace(settings, batch_norm="batch")).train())
    ended = pretrain(cohort(), settings, tmp_path / "run").image_encoder.model.state_dict()
    kept = {name for name in start if torch.equal(start[name], ended[name])}
    assert kept == {name for name in start if "running_" in name or "num_batches" in name}

"""Training state on disk: everything comes back, nothing foreign gets in."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tiny import Malicious
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from slimp.data.files import read_json, write_json
from slimp.errors import CheckpointError
from slimp.models.persistence import read_tensors
from slimp.training import checkpoint
from slimp.training.checkpoint import Checkpoints, Progress

torch.set_num_threads(1)


def made(seed: int = 0, width: int = 3) -> tuple[nn.Module, Optimizer]:
    """A model with dropout and a buffer, and an optimizer with two groups."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.5))
    groups = [
        {"params": [model[0].weight], "weight_decay": 0.1},
        {"params": [model[0].bias, *model[1].parameters()], "weight_decay": 0.0},
    ]
    return model, AdamW(groups, lr=0.03, betas=(0.9, 0.98))


def step(model: nn.Module, optimizer: Optimizer, number: int = 0) -> Tensor:
    """One step on random rows, with dropout: it depends on all of the state and on `number`."""
    torch.manual_seed(number)
    loss: Tensor = model(torch.randn(8, 4)).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def save(folder: Path, *numbers: int, keep: int = 2) -> Path:
    """Checkpoints after one step and some more, each of other weights; the last one's folder."""
    model, optimizer = made()
    with Checkpoints(folder, keep=keep) as saved:
        for number in numbers:
            step(model, optimizer, number)
            saved.save(model, optimizer, Progress(step=number))
    return folder / f"step_{numbers[-1]:08d}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def load(folder: Path, width: int = 3) -> Progress | None:
    return Checkpoints(folder, keep=2).load_last(*made(seed=1, width=width))


def test_a_loaded_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = made()
    for number in range(3):
        step(model, optimizer, number)
    progress = Progress(step=3, epoch=1, log_bytes=77, best=0.1 + 0.2, stale=2, stopped=True)
    with Checkpoints(tmp_path, keep=2) as saved:
        saved.save(model, optimizer, progress)
    wanted = [step(model, optimizer, number) for number in range(3, 6)]

    other, fresh = made(seed=1)
    found = Checkpoints(tmp_path, keep=2).load_last(other, fresh)
    assert found == progress
    losses = [step(other, fresh, number) for number in range(3, 6)]
    assert torch.equal(torch.stack(losses), torch.stack(wanted))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert [group["weight_decay"] for group in fresh.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize("lower", [True, False])
def test_the_best_is_the_first_of_the_best_values_and_patience_ends(lower) -> None:
    progress, found = Progress(), []
    for value in (3.0, 2.0, 2.5, 2.0, 9.0):
        if not progress.stopped:
            value = value if lower else -value
            found.append(progress.improves(value, lower=lower, patience=2))
    assert found == [True, True, False, False]
    assert abs(progress.best) == 2.0


def test_the_newest_stay_and_the_newest_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 5, 9, 10, 100)  # as text 9 would come after 10
    assert names(tmp_path) == ["step_00000010", "step_00000100"]
    assert load(tmp_path) == Progress(step=100)


# ------------------------------------------------------------------ behind the training


class Gate:
    """Stands in for the writing of tensors: says when it began, and waits to be opened."""

    def __init__(self) -> None:
        self.began, self.opened = threading.Event(), threading.Event()

    def __call__(self, tensors: dict[str, Tensor], path: Path) -> None:
        self.began.set()
        assert self.opened.wait(30)
        save_file(tensors, path)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(checkpoint, "save_file", gate)
    return gate


def test_training_goes_on_while_what_it_was_is_written(tmp_path: Path, gate: Gate) -> None:
    model, optimizer = made()
    step(model, optimizer)
    was = {name: value.clone() for name, value in model.state_dict().items()}
    progress = Progress(step=1)
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(model, optimizer, progress)
        assert gate.began.wait(30)
        step(model, optimizer)  # changes weights, buffers and moments in place
        progress.step = 2
        optimizer.param_groups[0]["lr"] = 7.0
        assert not list(tmp_path.glob("step_*"))
        gate.opened.set()
    other, fresh = made(seed=1)
    assert Checkpoints(tmp_path, keep=1).load_last(other, fresh) == Progress(step=1)
    assert all(torch.equal(value, was[name]) for name, value in other.state_dict().items())
    assert fresh.param_groups[0]["lr"] == 0.03
    assert {int(entry["step"]) for entry in fresh.state.values()} == {1}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_the_last_one_is_whole_however_training_ends(
    tmp_path: Path, gate: Gate, stop: type[BaseException]
) -> None:
    def train() -> None:
        with Checkpoints(tmp_path, keep=1) as saved:
            saved.save(*made(), Progress(step=1))
            threading.Timer(0.2, gate.opened.set).start()
            raise stop

    with pytest.raises(stop):
        train()
    assert load(tmp_path) == Progress(step=1)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    ("writer", "error"), [("save_file", SafetensorError), ("write_json", OSError)]
)
def test_a_full_disk_is_reported_at_the_next_call_and_leaves_the_previous_checkpoint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    again: bool,
    writer: str,
    error: type[Exception],
) -> None:
    save(tmp_path, 1)

    def full(*args: object) -> None:
        raise error("no space left on device")

    saved = Checkpoints(tmp_path, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, writer, full)
        saved.save(*made(), Progress(step=2))
        with pytest.raises(CheckpointError, match=r"step_00000002: .*no space left on device"):
            saved.save(*made(), Progress(step=3)) if again else saved.close()
    saved.close()  # what was reported once is not reported again
    assert names(tmp_path) == ["step_00000001"]
    assert load(tmp_path) == Progress(step=1)


# ------------------------------------------------------------------ damage


def damaged(folder: Path, how: str) -> None:
    """Damages a checkpoint: removes a file, truncates it to a percentage, or writes other JSON."""
    name, what = how.split(" ", 1)
    if what == "missing":
        (folder / name).unlink()
    elif what.endswith("%"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(what[:-1]) * len(content) // 100])
    else:
        (folder / name).write_text(what)


DAMAGES = [
    *("tensors.safetensors missing", "tensors.safetensors 0%", "tensors.safetensors 99%"),
    *("state.json missing", "state.json 50%", "state.json []", 'state.json {"progress": {}}'),
    'state.json {"param_groups": [], "progress": {"mood": "good"}}',
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path: Path, how: str) -> None:
    newest = save(tmp_path, 1, 2, 3, keep=9)
    damaged(newest, how)
    other, fresh = made(seed=1)
    with pytest.warns(UserWarning, match="step_00000003") as warned:
        assert Checkpoints(tmp_path, keep=9).load_last(other, fresh) == Progress(step=2)
    assert len(warned) == 1
    wanted = read_tensors(tmp_path / "step_00000002" / "tensors.safetensors")
    assert torch.equal(other.state_dict()["0.weight"], wanted["model.0.weight"])
    assert torch.equal(fresh.state_dict()["state"][0]["exp_avg"], wanted["optimizer.0.exp_avg"])


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_one_does_not_take_the_place_of_a_whole_one(tmp_path: Path, keep: int) -> None:
    damaged(save(tmp_path, 2, 10), "state.json 50%")
    with pytest.warns(UserWarning, match="step_0000"):
        assert load(tmp_path) == Progress(step=2)
    save(tmp_path, 4, keep=keep)
    assert load(tmp_path) == Progress(step=4)
    assert names(tmp_path) == ["step_00000002", "step_00000004"][-keep:]
    save(tmp_path, 10)  # the step that was damaged comes again
    assert load(tmp_path) == Progress(step=10)


def test_if_all_are_damaged_that_is_said(tmp_path: Path) -> None:
    damaged(save(tmp_path, 1, 2), "state.json missing")
    damaged(tmp_path / "step_00000001", "tensors.safetensors 50%")
    with pytest.warns(UserWarning, match="step_0000"), pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


# ------------------------------------------------------------------ what is refused


def refused(folder: Path, message: str, width: int = 3) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder.parent, width)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_configuration_or_a_lost_tensor_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    refused(folder, r"0\.weight", width=5)
    content, path = read_json(folder / "state.json"), folder / "tensors.safetensors"
    write_json(folder / "state.json", {**content, "param_groups": []})
    refused(folder, "group")
    save_file({**read_tensors(path), "other": torch.ones(1)}, path)
    refused(folder, "another configuration")
    save_file({k: v for k, v in read_tensors(path).items() if k != "model.0.bias"}, path)
    refused(folder, r"0\.bias")


def test_no_pickle_is_ever_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save(tmp_path, 1)

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a pickle was opened")

    with monkeypatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, forbidden)
        patch.setattr(torch, "load", forbidden)
        assert load(tmp_path) == Progress(step=1)
    trace = saved / "executed"
    (saved / "tensors.safetensors").write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.warns(UserWarning, match="step_0000"), pytest.raises(CheckpointError):
        load(tmp_path)
    assert not trace.exists()

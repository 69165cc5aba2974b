"""Training state on disk: everything comes back, nothing foreign gets in."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from slimp.checkpoint import Checkpoints, Progress
from slimp.errors import CheckpointError
from slimp.models.image import read_tensors
from slimp.storage import read_json, write_json

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


def step(model: nn.Module, optimizer: Optimizer) -> Tensor:
    """One step on random rows, with dropout: it depends on all of the state."""
    loss: Tensor = model(torch.randn(8, 4)).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def test_a_loaded_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = made()
    for _ in range(3):
        step(model, optimizer)
    progress = Progress(step=3, epoch=1, log_bytes=77, best=0.1 + 0.2, stale=2, stopped=True)
    Checkpoints(tmp_path, keep=2).save(model, optimizer, progress)
    wanted = [step(model, optimizer) for _ in range(3)]

    other, fresh = made(seed=1)
    torch.manual_seed(99)
    found = Checkpoints(tmp_path, keep=2).load_last(other, fresh)
    assert found == progress
    assert torch.equal(torch.stack([step(other, fresh) for _ in range(3)]), torch.stack(wanted))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert [group["weight_decay"] for group in fresh.param_groups] == [0.1, 0.0]


def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nowhere", keep=1).load_last(*made()) is None


def test_before_the_first_step_there_is_a_state_too(tmp_path: Path) -> None:
    Checkpoints(tmp_path, keep=1).save(*made(), Progress())
    assert Checkpoints(tmp_path, keep=1).load_last(*made(seed=1)) == Progress()


def test_the_newest_stay_and_the_newest_is_loaded(tmp_path: Path) -> None:
    model, optimizer = made()
    saved = Checkpoints(tmp_path, keep=2)
    for number in (5, 9, 10, 100):  # as text 9 would come after 10
        saved.save(model, optimizer, Progress(step=number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010", "step_00000100"]
    loaded = saved.load_last(model, optimizer)
    assert loaded is not None
    assert loaded.step == 100


def test_a_step_that_is_saved_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    model, optimizer = made()
    saved = Checkpoints(tmp_path, keep=2)
    for epoch in (1, 2):
        saved.save(model, optimizer, Progress(step=5, epoch=epoch))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]
    assert saved.load_last(model, optimizer) == Progress(step=5, epoch=2)


def test_an_unfinished_checkpoint_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = made()
    saved = Checkpoints(tmp_path, keep=2)
    saved.save(model, optimizer, Progress(step=1))

    def full(path: Path, content: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("slimp.checkpoint.write_json", full)
    with pytest.raises(OSError, match="no space"):
        saved.save(model, optimizer, Progress(step=2))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    (tmp_path / ".step_00000003.partial-x").mkdir()  # left by a power cut
    assert saved.load_last(model, optimizer) == Progress(step=1)


# ------------------------------------------------------------------ what is refused


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model, optimizer = made()
    step(model, optimizer)
    Checkpoints(tmp_path, keep=1).save(model, optimizer, Progress(step=1))
    return tmp_path / "step_00000001"


def refused(saved: Path, message: str, width: int = 3) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoints(saved.parent, keep=1).load_last(*made(width=width))
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_configuration_is_named_by_its_first_misfit(saved: Path) -> None:
    refused(saved, r"'0\.weight' has shape \[3, 4\], expected \[5, 4\]", width=5)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_truncated_files_are_refused(saved: Path, name: str, share: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    refused(saved, "damaged")


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"progress": asdict(Progress())},
        {"param_groups": [], "progress": asdict(Progress())},
    ],
)
def test_a_foreign_state_is_refused(saved: Path, content: object) -> None:
    write_json(saved / "state.json", content)
    refused(saved, "damaged, or not of this configuration")


def test_unknown_progress_is_refused(saved: Path) -> None:
    content = read_json(saved / "state.json")
    content["progress"]["mood"] = "good"
    write_json(saved / "state.json", content)
    refused(saved, "damaged, or not of this configuration .*mood")


@pytest.mark.parametrize("lost", ["rng.cpu", "model.0.bias"])
def test_a_lost_tensor_is_refused(saved: Path, lost: str) -> None:
    path = saved / "tensors.safetensors"
    save_file({k: v for k, v in read_tensors(path).items() if k != lost}, path)
    refused(saved, lost.removeprefix("model."))


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_no_pickle_is_ever_loaded(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a pickle was opened")

    with monkeypatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, forbidden)
        patch.setattr(torch, "load", forbidden)
        assert Checkpoints(saved.parent, keep=1).load_last(*made()) == Progress(step=1)
    trace = saved / "executed"
    (saved / "tensors.safetensors").write_bytes(pickle.dumps(Malicious(trace)))
    refused(saved, "tensors.safetensors: damaged")
    assert not trace.exists()

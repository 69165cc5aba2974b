"""Models of the hub, over real HTTP with a stand-in of its API; and names that are no model."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import Hub, hub_server
from tiny import MODEL, Malicious, fitted, same_weights, tiny_cohort

from slimp.cli import main as cli
from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.hub import find_model
from slimp.models.nested import Slimp

NAME = "clinic/lesions"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with hub_server(monkeypatch, str(tmp_path / "hub-cache")) as state:
        yield state


@pytest.fixture(scope="module")
def model() -> Slimp:
    torch.manual_seed(0)
    return Slimp(ModelConfig(**MODEL), fitted(tiny_cohort())).eval()


def test_a_round_trip_keeps_every_bit(hub, model, tmp_path) -> None:
    address = model.push_to_hub(NAME)
    assert address == f"{hub.address}/{NAME}"
    assert set(hub.repositories[NAME]["main"]) == {"README.md", "model.json", "model.safetensors"}
    assert hub.private == {NAME: True}
    again = Slimp.from_pretrained(NAME)
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in model.state_dict().items())
    model.save_pretrained(tmp_path / "saved")
    assert cli.main(["pull", NAME, "--out", "pulled"]) == 0
    assert same_weights(tmp_path / "saved", tmp_path / "pulled")
    assert (tmp_path / "pulled" / "README.md").is_file()


def test_revisions_and_the_copy_that_does_without_the_network(hub, model, monkeypatch) -> None:
    model.push_to_hub(NAME, public=True)
    assert hub.private == {NAME: False}
    changed = Slimp(model.config, model.encodings)
    changed.push_to_hub(NAME, revision="second")
    first, second = find_model(NAME), find_model(f"{NAME}@second")
    assert not same_weights(first, second)
    hub.status = 503
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_model(NAME) == first
    assert find_model(f"{NAME}@second") == second


def test_what_is_here_goes_before_the_hub(hub, model, tmp_path) -> None:
    model.save_pretrained(Path(NAME))
    assert find_model(NAME) == Path(NAME)
    with pytest.raises(CheckpointError, match=r"clinic/other: no model here"):
        Slimp.from_pretrained("clinic/other")  # a mistyped path: there is a folder 'clinic'
    with pytest.raises(CheckpointError):
        Slimp.from_pretrained(tmp_path / "absent")
    assert not hub.asked


def test_pickles_are_neither_fetched_nor_loaded(hub, tmp_path) -> None:
    harm = pickle.dumps(Malicious(tmp_path / "harm"))
    hub.repositories[NAME] = {"main": {"pytorch_model.bin": harm, "model.json": b"{}"}}
    with pytest.raises(CheckpointError, match=r"clinic/lesions: no model of slimp.*safetensors"):
        Slimp.from_pretrained(NAME)
    assert not [line for line in hub.asked if "pytorch_model.bin" in line]
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("status", "code", "named"),
    [
        (404, "RepoNotFound", "neither a folder here nor a model"),
        (401, "RepoNotFound", "neither a folder here nor a model"),
        (401, "", "does not allow it|neither a folder"),
        (403, "GatedRepo", "is gated"),
        (404, "RevisionNotFound", "has no revision 'main'"),
    ],
)
def test_each_failure_is_a_sentence(hub, capsys, status, code, named) -> None:
    hub.status, hub.message = status, code
    assert cli.main(["pull", f"{NAME}@main", "--out", "pulled"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"slimp: error: {NAME}: ")
    with pytest.raises(CheckpointError, match=named):
        find_model(f"{NAME}@main")
    assert not Path("pulled").exists()


def test_without_a_network(hub, model, monkeypatch) -> None:
    hub.status = 500
    with pytest.raises(CheckpointError, match="cannot be reached"):
        find_model(NAME)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="cannot be reached"):
        find_model(NAME)
    with pytest.raises(CheckpointError, match="cannot be reached"):
        model.push_to_hub(NAME)
    with pytest.raises(UserError, match="OWNER/NAME"):
        model.push_to_hub("a name")

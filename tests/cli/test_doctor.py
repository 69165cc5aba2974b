"""`slimp doctor` tells what is here and what is not, and nothing private."""

from __future__ import annotations

import getpass
import socket
import tomllib
from importlib import util
from pathlib import Path

import pytest

from slimp.cli import doctor
from slimp.cli.main import main


def test_it_knows_the_extras_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert set(doctor.EXTRAS) == set(project["project"]["optional-dependencies"])


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "pydicom" else found(name))
    assert not doctor.installed("dicom")
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "slimp[dicom]" in said or "slimp[app]" in said  # the first that is missing
    assert "torch" in said
    for private in (str(Path.home()), socket.gethostname()):
        assert private not in said
    assert getpass.getuser() not in said.split()

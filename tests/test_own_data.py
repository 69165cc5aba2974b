"""The newcomer's page `examples/own_data.md` is executed, block by block, and says the truth."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from slimp.cli.main import main

PAGE = Path(__file__).resolve().parents[1] / "examples" / "own_data.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCHEMA = Path("klinik.toml")


def assert_lines_in_order(shown: str, whole: str) -> None:
    """Each line shown is, or begins, a line of the whole, one after the other."""
    lines = iter(whole.splitlines())
    for line in filter(str.strip, shown.splitlines()):
        assert any(other.startswith(line) for other in lines), f"not there, or not here: {line}"


def edited(text: str, diff: str) -> str:
    """The text with the lines marked '-' replaced by those marked '+' that follow them."""
    for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)*)", diff, re.MULTILINE):
        before, after = (re.sub(r"^.", "", part, flags=re.MULTILINE) for part in (old, new))
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    output, kinds = "", []
    for kind, block in FENCE.findall(PAGE.read_text("utf-8")):
        kinds.append(kind)
        if kind == "python":
            exec(compile(block, PAGE.name, "exec"), {})  # the page is ours
        elif kind == "bash":
            for line in block.splitlines():
                words = shlex.split(line)
                assert words[0] == "slimp"
                assert main(words[1:]) == 0, capsys.readouterr().err
            output = capsys.readouterr().out
        elif kind == "text":
            assert_lines_in_order(block, output)
        elif kind == "toml":
            assert_lines_in_order(block, SCHEMA.read_text("utf-8"))
        else:
            assert kind == "diff"
            SCHEMA.write_text(edited(SCHEMA.read_text("utf-8"), block), "utf-8")
    assert kinds.count("bash") == 4
    assert {"python", "diff", "toml", "text"} <= set(kinds)
    assert Path("runs/klinik/model.safetensors").is_file()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """The cohort of the page, imported by the sketch as it is."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("own")
        patch.chdir(folder)
        code = next(block for kind, block in FENCE.findall(PAGE.read_text("utf-8")))
        exec(compile(code, PAGE.name, "exec"), {})
        assert main(["data", "sketch", "klinik/Befunde.csv", "--out", "klinik.toml"]) == 0
        said = "data import csv klinik cohort --schema klinik.toml --table Befunde.csv"
        assert main([*said.split(), "--images", "Fotos"]) == 0
    return folder / "cohort"


def test_cells_come_through(cohort):
    lesions = pd.read_parquet(cohort / "lesions.parquet")
    patients = pd.read_parquet(cohort / "patients.parquet")
    assert lesions["Größe (mm)"].between(2, 15).sum() == lesions["Größe (mm)"].notna().sum() > 100
    assert set(lesions["Lokalisation"].dropna()) == {"Rücken", "Bein", "Kopf"}
    assert patients["age"].between(25, 89).all()
    assert set(pd.read_parquet(cohort / "images.parquet")["label"]) == {
        *("Nävus", "Melanom", "Basaliom")
    }


def test_nothing_personal_comes_along(cohort):
    content = b"".join(path.read_bytes() for path in cohort.rglob("*") if path.is_file())
    tables = [pd.read_parquet(path) for path in cohort.glob("*.parquet")]
    content += "".join(table.to_csv() for table in tables).encode()
    for secret in ("Müller", "Jörg", "Seriennummer", "Kamera AG", "wächst", "D:\\"):
        assert secret.encode() not in content, secret
    columns = {column for table in tables for column in table.columns}
    assert not {"Name", "Bemerkung", "Geburtsdatum", "Untersuchung"} & columns

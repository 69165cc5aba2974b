"""`slimp data sketch` writes a schema file that the command it names can import by."""

from __future__ import annotations

import shlex
from itertools import product
from pathlib import Path

import pytest
from raw_data import fill, jpeg

from slimp.cli.main import main
from slimp.data.cohort import Cohort
from slimp.data.schema import Schema

ROWS = [
    *("Patient;Mole;Photo;Diagnosis;Size", "P1;1;a.jpg;nevus;4,5", "P1;2;b.jpg;melanoma;12,0"),
    *("P2;1;c.jpg;nevus;3,5", "P3;1;d.jpg;nevus;UNK", "P3;2;e.jpg;melanoma;9,5"),
]


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    images = {f"images/{name}.jpg": jpeg(k) for k, name in enumerate("abcde")}
    fill(tmp_path / "my data", {**images, "moles.csv": "\n".join(ROWS) + "\n"})
    return Path("my data/moles.csv")


def test_the_next_command_imports(table, capsys):
    assert main(["data", "sketch", str(table), "--out", "mine.toml"]) == 0
    said = capsys.readouterr().out
    schema = Schema.from_toml(Path("mine.toml"))
    assert (schema.image, schema.patient, schema.label) == ("Photo", "Patient", "Diagnosis")
    command = shlex.split(said.splitlines()[-1])
    assert command[0] == "slimp"
    assert main([word.replace("COHORT", "cohort") for word in command[1:]]) == 0
    cohort = Cohort.load("cohort")
    assert repr(cohort) == "Cohort('my data': 3 patients, 5 lesions, 5 images)"
    assert cohort.lesions["Size"].fillna(-1).tolist() == [4.5, 12, 3.5, -1, 9.5]


def test_without_a_file_it_is_printed(table, capsys):
    assert main(["data", "sketch", str(table)]) == 0
    printed = capsys.readouterr()
    Path("printed.toml").write_text(printed.out)
    assert Schema.from_toml(Path("printed.toml")).image == "Photo"
    assert "--out FILE" in printed.err


def test_the_next_command_comes_with_what_would_stop_it(table, capsys):
    whole, command = table.read_text(), ["data", "sketch", str(table)]
    assert main([*command, "--out", "mine.toml"]) == 0
    assert "next: read and correct it, then" in capsys.readouterr().out
    table.write_text(whole.replace("P2;1", ";7").replace("P3;1", "?;8"))
    assert main([*command, "--out", "mine.toml", "--overwrite"]) == 0
    printed = capsys.readouterr().out
    assert "(2 row(s) have no patient id: see patient in mine.toml), then" in printed
    assert "Missing in 2 row(s)" in Path("mine.toml").read_text()
    next_command = [w.replace("COHORT", "c") for w in shlex.split(printed.splitlines()[-1])[1:]]
    assert main(next_command) == 2
    assert main([*next_command, "--missing-patient-id", "one-each"]) == 0
    assert main(command) == 0
    assert "(2 row(s) have no patient id: see patient in FILE), then" in capsys.readouterr().err
    table.write_text(whole.replace("P1;1", "p2;1"))
    assert main([*command, "--out", "mine.toml", "--overwrite"]) == 0
    assert "(an import would stop: see the top of mine.toml), then" in capsys.readouterr().out


def test_a_patient_id_that_the_lesion_has_in_another_row_is_not_missing(table, capsys):
    rows = ["Patient;Mole;Photo;Diagnosis", "P1;1;a.jpg;nevus", ";1;b.jpg;nevus"]
    rows += ["P2;2;c.jpg;melanoma", "P2;3;d.jpg;nevus", "P3;4;e.jpg;melanoma"]
    table.write_text("\n".join(rows))
    assert main(["data", "sketch", str(table), "--out", "mine.toml"]) == 0
    printed = capsys.readouterr().out
    assert "no patient id" not in printed
    command = shlex.split(printed.splitlines()[-1].replace("COHORT", "c"))
    assert main(command[1:]) == 0
    table.write_text("\n".join(rows).replace("P3;4", "P3;1"))
    assert main(["data", "sketch", str(table), "--out", "mine.toml", "--overwrite"]) == 0
    assert "(1 row(s) have no patient id" in capsys.readouterr().out
    assert main([*command[1:-1], command[-1], "--overwrite"]) == 2


def test_a_file_that_is_there_is_kept(table, capsys):
    Path("mine.toml").write_text("mine")
    assert main(["data", "sketch", str(table), "--out", "mine.toml"]) == 2
    assert "mine.toml: exists" in capsys.readouterr().err
    assert Path("mine.toml").read_text() == "mine"
    assert main(["data", "sketch", str(table), "--out", "mine.toml", "--overwrite"]) == 0


def test_what_is_told_of_the_file_stands_in_the_schema(table):
    table.write_bytes("\n".join(["a;b;c;d;e", *ROWS, ""]).encode("utf-16"))
    words = ["data", "sketch", str(table), "--out", "mine.toml", "--header", "2"]
    assert main([*words, "--encoding", "utf-16", "--delimiter", ";"]) == 0
    text = Path("mine.toml").read_text()
    for line in ('encoding = "utf-16"', 'delimiter = ";"', "header = 2"):
        assert line in text
    assert main(["data", "import", "csv", "my data", "c", "--schema", "mine.toml"]) == 2
    said = ["data", "import", "csv", "my data", "c", "--schema", "mine.toml", "--table"]
    assert main([*said, "moles.csv"]) == 0


def test_folders_of_classes_become_a_table(table, capsys):
    names = map("/".join, product(("train", "test"), ("nevus", "mel"), ("0.jpg", "1.jpg", "2.jpg")))
    fill(Path("photos"), {name: jpeg(k) for k, name in enumerate(names)})
    assert main(["data", "sketch", "photos"]) == 2
    assert "--out FILE.toml" in capsys.readouterr().err
    assert main(["data", "sketch", "photos", "--out", "mine.toml"]) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert main([word.replace("COHORT", "cohort") for word in command[1:]]) == 0
    images = Cohort.load("cohort").images
    assert images["label"].value_counts().to_dict() == {"nevus": 6, "mel": 6}
    assert images["split"].value_counts().to_dict() == {"train": 6, "test": 6}
    assert main(["data", "sketch", "photos", "--out", "mine.toml"]) == 2

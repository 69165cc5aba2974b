"""Bad input: one clear paragraph, exit status 2, and nothing half-written."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimp.cli import main as cli

SCHEMA = """
image = "file"
patient = "patient_id"
lesion = "lesion_id"
label = "diagnosis"

[lesion_metadata]
diameter = { kind = "continuous", unit = "mm" }
site = { kind = "categorical" }

[patient_metadata]
age = { kind = "continuous", unit = "years" }

[refused]
biopsied = "follows from the diagnosis"
"""
COLUMNS = ["file", "patient_id", "lesion_id", "diagnosis", "diameter", "site", "age", "biopsied"]
Rows = list[dict[str, str]]


def photo(seed: int = 0, side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def good_rows(patients: int = 24) -> Rows:
    sites, names = ("arm", "leg", ""), ("nevus", "melanoma")
    values = [
        (f"{p}.jpg", f"p{p}", "1", names[p % 2], str(2 + p % 5), sites[p % 3], str(30 + p), "yes")
        for p in range(patients)
    ]
    return [dict(zip(COLUMNS, row, strict=True)) for row in values]


def write_raw(folder: Path, rows: Rows, schema: str = SCHEMA) -> Path:
    (folder / "images").mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for number, row in enumerate(rows):
        if row.get("file", "").endswith(".jpg") and "/" not in row["file"]:
            (folder / "images" / row["file"]).write_bytes(photo(number))
    (folder / "schema.toml").write_text(schema, encoding="utf-8")
    return folder


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a verb, checks that it refuses as it should, and gives what it said."""

    def run(*argv: object) -> str:
        before = files(tmp_path)
        status = cli.main([str(word) for word in argv])
        captured = capsys.readouterr()
        assert (status, captured.out) == (2, ""), captured
        progress, _, message = captured.err.partition("slimp: error: ")
        assert "error" not in progress
        assert message.endswith("\n")
        assert message.count("\n") == 1, "one paragraph"
        assert files(tmp_path) == before, "nothing half-written"
        return message

    return run


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_raw(tmp_path_factory.mktemp("refusals") / "raw", good_rows())


@pytest.fixture(scope="module")
def made(raw) -> Iterator[dict[str, Path]]:
    """A cohort and a run that nothing is wrong with."""
    places = {name: raw.parent / name for name in ("cohort", "run")}
    line = f"data import csv {raw} {places['cohort']} --schema {raw / 'schema.toml'}"
    assert cli.main(line.split()) == 0
    line = f"pretrain {places['cohort']} --out {places['run']} --preset tiny --image-size 16"
    assert cli.main([*line.split(), "--epochs", "1", "--workers", "0"]) == 0
    return places


def import_csv(raw: Path) -> tuple[object, ...]:
    return ("data", "import", "csv", raw, raw.parent / "out", "--schema", raw / "schema.toml")


def test_a_missing_column_is_named(tmp_path, refused):
    rows = [{k: v for k, v in row.items() if k != "diameter"} for row in good_rows()]
    message = refused(*import_csv(write_raw(tmp_path / "raw", rows)))
    assert "metadata.csv" in message
    assert "'diameter'" in message


def test_a_cell_that_is_no_number_is_named_with_its_row(tmp_path, refused):
    rows = good_rows()
    rows[3]["age"] = "old"
    message = refused(*import_csv(write_raw(tmp_path / "raw", rows)))
    assert all(part in message for part in ("row 5", "'age'", "'old'"))


def test_an_empty_patient_is_refused_with_its_row_unless_told_otherwise(tmp_path, capsys, refused):
    rows = good_rows()
    rows[3]["patient_id"] = rows[4]["patient_id"] = ""
    arguments = [str(word) for word in import_csv(write_raw(tmp_path / "raw", rows))]
    message = refused(*arguments)
    assert all(part in message for part in ("row 5", "'patient_id'", "2 row(s)"))
    assert cli.main([*arguments, "--missing-patient-id", "one-each"]) == 0
    words = capsys.readouterr().out.split()
    assert "24 patients" in " ".join(words)
    assert "empty patient ids 2" in " ".join(words)


@pytest.mark.parametrize("name", ["../3.jpg", "/etc/3.jpg", "a/../../3.jpg", "C:\\x\\3.jpg"])
def test_image_names_that_leave_the_folder_are_refused(tmp_path, refused, name):
    rows = good_rows()
    rows[3]["file"] = name
    (tmp_path / "3.jpg").write_bytes(photo(3))
    message = refused(*import_csv(write_raw(tmp_path / "raw", rows)))
    assert "row 5" in message


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff garbage", photo(3)[:200]])
def test_corrupt_images_are_named(tmp_path, refused, content):
    folder = write_raw(tmp_path / "raw", good_rows())
    (folder / "images" / "3.jpg").write_bytes(content)
    message = refused(*import_csv(folder))
    assert "3.jpg" in message
    assert "corrupt" in message


def test_a_decompression_bomb_is_refused(tmp_path, refused):
    folder = write_raw(tmp_path / "raw", good_rows())
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    (folder / "images" / "3.jpg").write_bytes(file.getvalue())
    assert "3.jpg" in refused(*import_csv(folder))


def test_the_label_is_never_an_input(tmp_path, refused):
    schema = SCHEMA.replace(
        "[patient_metadata]", '[patient_metadata]\ndiagnosis = { kind = "categorical" }'
    )
    message = refused(*import_csv(write_raw(tmp_path / "raw", good_rows(), schema)))
    assert "'diagnosis' is the label" in message


def test_a_refused_column_is_never_an_input(tmp_path, refused):
    schema = SCHEMA.replace(
        "[patient_metadata]", '[patient_metadata]\nbiopsied = { kind = "categorical" }'
    )
    message = refused(*import_csv(write_raw(tmp_path / "raw", good_rows(), schema)))
    assert "follows from the diagnosis" in message


def test_csv_needs_a_schema(raw, tmp_path, refused):
    assert "--schema FILE" in refused("data", "import", "csv", raw, tmp_path / "out")


def test_a_source_has_its_own_schema(raw, tmp_path, refused):
    argv = ("data", "import", "ham10000", raw, tmp_path / "out", "--schema", raw / "schema.toml")
    assert "reviewed schema of its own" in refused(*argv)


@pytest.mark.parametrize("verb", ["pretrain", "embed", "probe"])
def test_a_damaged_cohort_is_refused(made, tmp_path, refused, verb):
    cohort = tmp_path / "cohort"
    shutil.copytree(made["cohort"], cohort)
    packed = cohort / "images.bin"
    packed.write_bytes(packed.read_bytes()[:100])
    run = [] if verb == "pretrain" else [made["run"]]
    message = refused(verb, *run, cohort, "--out", tmp_path / "out.parquet")
    assert "images.bin" in message


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("verb", ["embed", "probe"])
def test_a_truncated_model_is_refused(made, tmp_path, refused, verb, name, share):
    run = tmp_path / "run"
    shutil.copytree(made["run"], run)
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: int(share * len(content))])
    assert name in refused(verb, run, made["cohort"], "--out", tmp_path / "out.parquet")


def test_what_is_no_run_is_refused(made, tmp_path, refused):
    message = refused("probe", tmp_path, made["cohort"], "--out", tmp_path / "out")
    assert "no model here" in message


def cohort_of(tmp_path: Path, rows: Rows) -> Path:
    raw = write_raw(tmp_path / "raw", rows)
    assert cli.main([str(word) for word in import_csv(raw)]) == 0
    return tmp_path / "out"


def test_one_patient_cannot_be_split(tmp_path, refused, capsys):
    rows = [{**row, "patient_id": "p0", "age": "30"} for row in good_rows()]
    for number, row in enumerate(rows):
        row["lesion_id"] = str(number)
    cohort = cohort_of(tmp_path, rows)
    capsys.readouterr()
    message = refused("pretrain", cohort, "--out", tmp_path / "run", "--preset", "tiny")
    assert "patient" in message


def test_a_single_class_cannot_be_probed(made, tmp_path, refused, capsys):
    cohort = cohort_of(tmp_path, [{**row, "diagnosis": "nevus"} for row in good_rows()])
    capsys.readouterr()
    message = refused("probe", made["run"], cohort, "--out", tmp_path / "probe")
    assert "a single class, 'nevus'" in message


def test_no_labels_cannot_be_probed(made, tmp_path, refused, capsys):
    cohort = cohort_of(tmp_path, [{**row, "diagnosis": ""} for row in good_rows()])
    capsys.readouterr()
    message = refused("probe", made["run"], cohort, "--out", tmp_path / "probe")
    assert "no image has a label" in message


def test_an_all_missing_column_is_taken(made, tmp_path):
    """It says nothing, but it is not wrong: the feature is missing for everyone."""
    cohort = cohort_of(tmp_path, [{**row, "diameter": ""} for row in good_rows()])
    line = f"pretrain {cohort} --out {tmp_path / 'run'} --preset tiny --image-size 16 --epochs 1"
    assert cli.main([*line.split(), "--workers", "0"]) == 0


@pytest.mark.parametrize("verb", ["pretrain", "probe"])
def test_a_file_is_no_folder(made, tmp_path, refused, verb):
    (tmp_path / "out").write_text("mine")
    run = [] if verb == "pretrain" else [made["run"]]
    message = refused(verb, *run, made["cohort"], "--out", tmp_path / "out")
    assert "not a folder" in message

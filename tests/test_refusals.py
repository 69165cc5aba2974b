"""Bad input: one clear paragraph that names the place and a remedy, status 2, nothing half-written.

Two tables, of imports and of verbs on a cohort and a run that are sound; one test walks over each.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from spoilt import encode

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
REMEDY = re.compile(
    r"--\w|\b(add|adjust|allow|ask|check|choose|convert|correct|delete|download|export|fill|fix|"
    r"give|import|install|leave|list|lower|make|name|pass|pick|probe|put|raise|remove|rename|"
    r"repeat|replace|restore|run|save|see|set|split|state|turn|use|write|"
    # What is allowed, or what there is to choose from; a file that is not there needs no more.
    r"at least|between|must|one of|there are|known|table has|classes are|should|no such|valid)\b",
    re.IGNORECASE,
)
Rows = list[dict[str, str]]


def photo(seed: int = 0) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8), "jpeg")


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    return file.getvalue()


def good_rows(patients: int = 24) -> Rows:
    sites, names = ("arm", "leg", ""), ("nevus", "melanoma")
    rows = (
        f"{p}.jpg p{p} 1 {names[p % 2]} {2 + p % 5} {sites[p % 3]} {30 + 3 * (p % 9)} yes"
        for p in range(patients)
    )
    return [dict(zip(COLUMNS, row.split(" "), strict=True)) for row in rows]


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


@pytest.fixture
def refused(tmp_path, capsys, private_words) -> Callable[..., str]:
    """Runs a verb, checks that it refuses as it should, and gives the message."""

    def run(*argv: object) -> str:
        capsys.readouterr()
        before = set(tmp_path.rglob("*"))
        status = cli.main([str(word) for word in argv])
        captured = capsys.readouterr()
        assert (status, captured.out) == (2, ""), captured
        progress, _, message = captured.err.partition("slimp: error: ")
        assert "error" not in progress
        assert message.endswith("\n")
        assert message.count("\n") == 1, "one paragraph"
        assert len(message) < 700, "a short one"
        assert message[-2] in ".)]!?'" or message.rstrip()[-1].isalnum()
        assert REMEDY.search(message), f"no remedy: {message}"
        assert not private_words.search(message), message
        assert set(tmp_path.rglob("*")) == before, "nothing half-written"
        return message

    return run


def import_csv(raw: Path) -> tuple[object, ...]:
    return ("data", "import", "csv", raw, raw.parent / "out", "--schema", raw / "schema.toml")


def change(row: int, **cells: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{**r, **cells} if n == row else r for n, r in enumerate(rows)]


def without(column: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{k: v for k, v in row.items() if k != column} for row in rows]


AS_INPUT = '[patient_metadata]\n{} = {{ kind = "categorical" }}'
IMPORTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "missing column": ({"rows": without("diameter")}, ["metadata.csv", "'diameter'"]),
    "missing id": ({"rows": without("patient_id")}, ["metadata.csv", "'patient_id'"]),
    "no number": ({"rows": change(3, age="old")}, ["row 5", "'age'", "'old'"]),
    "no patient": ({"rows": change(3, patient_id="")}, ["row 5", "'patient_id'"]),
    "upwards": ({"rows": change(3, file="../3.jpg")}, ["row 5"]),
    "absolute": ({"rows": change(3, file="/etc/3.jpg")}, ["row 5"]),
    "drive": ({"rows": change(3, file="C:\\x\\3.jpg")}, ["row 5"]),
    "empty image": ({"image": b""}, ["3.jpg"]),
    "garbage image": ({"image": b"\xff\xd8\xff garbage"}, ["3.jpg"]),
    "truncated image": ({"image": photo(3)[:200]}, ["3.jpg"]),
    "bomb": ({"image": bomb}, ["3.jpg"]),  # drawn only where it is tested
    "label as input": ({"input": "diagnosis"}, ["'diagnosis'"]),
    "refused as input": ({"input": "biopsied"}, ["biopsied", "follows from the diagnosis"]),
    "bad kind": ({"schema": SCHEMA.replace('"continuous"', '"number"')}, ["number"]),
    "bad toml": ({"schema": "image = "}, ["schema.toml"]),
    "no image column": ({"schema": SCHEMA.replace("image =", "picture =")}, ["'image'"]),
}


@pytest.mark.parametrize("case", IMPORTS)
def test_imports_are_refused(case, tmp_path, refused):
    given, named = IMPORTS[case]
    rows = given.get("rows", lambda rows: rows)(good_rows())
    schema = given.get("schema", SCHEMA)
    if "input" in given:
        schema = schema.replace("[patient_metadata]", AS_INPUT.format(given["input"]))
    folder = write_raw(tmp_path / "raw", rows, schema)
    if "image" in given:
        image = given["image"]
        (folder / "images" / "3.jpg").write_bytes(image() if callable(image) else image)
    (tmp_path / "3.jpg").write_bytes(photo(3))
    message = refused(*import_csv(folder))
    assert [part for part in named if part not in message] == [], message


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Path]:
    """A table, a cohort, a run and a probe that nothing is wrong with."""
    root = tmp_path_factory.mktemp("refusals")
    places = {name: root / name for name in ("raw", "cohort", "run", "probe")}
    raw = write_raw(places["raw"], good_rows())
    for line in (
        "data import csv {raw} {cohort} --schema {raw}/schema.toml",
        "pretrain {cohort} --out {run} --preset tiny --image-size 16 --epochs 1 --workers 0",
        "probe {run} {cohort} --out {probe} --seeds 1 --replicates 10 --no-report",
    ):
        assert cli.main(line.format(**places).split()) == 0, line
    (root / "file").write_text("mine")
    for labels, name in (("nevus", "one_class"), ("", "unlabelled")):
        rows = [{**row, "diagnosis": labels} for row in good_rows()]
        import_rows(root / name, rows)
        places[name] = root / name / "out"
    one = [{**r, "patient_id": "p0", "age": "30", "lesion_id": r["file"]} for r in good_rows()]
    import_rows(root / "one_patient", one)
    places["one_patient"] = root / "one_patient" / "out"
    return {**places, "raw": raw, "file": root / "file"}


def import_rows(folder: Path, rows: Rows) -> None:
    raw = write_raw(folder / "raw", rows)
    assert cli.main([str(word) for word in import_csv(raw)]) == 0


VERBS: dict[str, list[str]] = {
    "data import csv {raw} {new}": ["--schema"],
    "data import nonsense {raw} {new}": ["nonsense"],
    "data import ham10000 {raw} {new} --schema {raw}/schema.toml": ["--schema"],
    "data import csv {new}/no {new} --schema {raw}/schema.toml": ["no"],
    "data import csv {raw} {new} --schema {raw}/no.toml": ["no.toml"],
    "data import csv {raw} {cohort} --schema {raw}/schema.toml": ["--overwrite"],
    "data import synthetic - {new} --patients 0": ["patients"],
    "data check {raw}": ["raw", "cohort.json"],
    "data check {cohort} --out {cohort}": ["--overwrite"],
    "data sketch {raw}/no.csv": ["no.csv"],
    "data sketch {raw}": ["metadata.csv"],
    "data sketch {raw}/metadata.csv --images {new}/no": ["no"],
    "data sources --source nonsense": ["nonsense"],
    "data download isic {new}": ["--collection"],
    "data download hiba {new} --collection 3": ["hiba", "3"],
    "data download ham10000 {new} --collection 3": ["ham10000", "3"],
    "data download ham10000 {new} --limit 3": ["--limit"],
    "data download hibba {new}": ["hibba"],
    "data export {cohort} --format tar --out {new}": ["--format"],
    "pretrain {cohort}": ["--out"],
    "pretrain {cohort} --out {file}": ["file"],
    "pretrain {cohort} --out {run}": ["--overwrite"],
    "pretrain {raw} --out {new}": ["raw", "cohort.json"],
    "pretrain {one_patient} --out {new} --preset tiny": ["patient"],
    "pretrain {cohort} --out {new} --preset tiny --always-include spots": ["spots"],
    "pretrain {cohort} --out {new} --encoder nonsense --image-size 16": ["nonsense"],
    "pretrain {cohort} --out {new} --learning-rate -1": ["learning_rate"],
    "pretrain {cohort} --out {new} --patients 0": ["patients"],
    "pretrain {cohort} --out {new} --hierarchy deep": ["--hierarchy"],
    "pretrain {cohort} --out {new} --lerning-rate 1": ["did you mean --learning-rate?"],
    "pretrain {cohort} --out {new} --lr 1": ["here it is --learning-rate."],
    "pretrain {cohort} --out {new} --batch-size 1": ["here it is --patients and --lesions."],
    "pretrain {cohort} --out {new} --backbone 1": ["here it is --encoder."],
    "pretrain {cohort} --out {new} --gpus 1": ["here it is --accelerator and --devices."],
    "pretrain {cohort} --out {new} --monitor recall_at_5 --validation-fraction 0": ["monitor"],
    "adapt {run} {raw} --out {new}": ["raw"],
    "adapt {raw} {cohort} --out {new}": ["raw"],
    "adapt {run} {cohort} --out {new} --rename nonsense=age": ["nonsense"],
    "adapt {run} {cohort} --out {new} --train all": ["--train"],
    "adapt {run} {cohort} --out {run}": ["is the run to start from"],
    "adapt {run} {cohort} --out {run} --overwrite": ["run", "which is read"],
    "probe {run} {cohort} --out {cohort} --overwrite": ["cohort", "which is read"],
    "adapt {run} {cohort} --out {raw} --overwrite": ["somebody's work"],
    "adapt {run} {cohort} --out {new} --reference {raw}": ["raw", "cohort.json"],
    "embed {run} {cohort} --out {file}": ["file", "--overwrite"],
    "embed {raw} {cohort} --out {new}": ["raw"],
    "embed {run} {cohort} --out {new} --backend openvino --accelerator cuda": ["--accelerator"],
    "embed {run} {cohort} --out {new} --batch-size 0": ["batch_size"],
    "embed {run} {cohort} --out {new} --workers -1": ["workers"],
    "probe {run} {cohort} --out {file}": ["file"],
    "probe {run} {cohort} --out {new} --subgroups nonsense": ["nonsense"],
    "probe {run} {cohort} --out {new} --malignant nonsense": ["nonsense"],
    "probe {run} {cohort} --out {new} --split official": ["official"],
    "probe {run} {cohort} --out {new} --split official --split-file x": ["split_file"],
    "probe {run} {cohort} --out {new} --fractions 0": ["fractions"],
    "probe {run} {cohort} --out {new} --shots 1.5": ["--shots"],
    "probe {run} {one_class} --out {new}": ["single class", "nevus"],
    "probe {run} {unlabelled} --out {new}": ["label"],
    "probe {raw} {cohort} --out {new}": ["raw"],
    "finetune {run}/none {cohort} --out {new}": ["none"],
    "finetune {run} {cohort} --out {new} --split image": ["split"],
    "finetune {run} {cohort} --out {new} --split official": ["official"],
    "finetune {run} {cohort} --out {new} --modality-dropout 2": ["modality_dropout"],
    "retrieve {run} --reference {cohort} --target {cohort} --out {new}": ["--impute all"],
    "retrieve {run} --reference {cohort} --target {cohort} --out {run}": ["--overwrite"],
    "retrieve {run} --reference {cohort} --target {cohort} --out {new} --k 0": ["k"],
    "retrieve {run} --reference {cohort} --target {cohort} --out {new} --groups pet": ["pet"],
    "retrieve {run} --reference {cohort} --target {cohort} --out {new} --impute all "
    "--rename pet=age": ["pet"],
    "predict {probe}": ["IMAGES"],
    "predict {probe} {new}/no.jpg": ["no.jpg"],
    "predict {probe} {raw}/images/1.jpg --coverage 1.5": ["coverage", "1.5"],
    "predict {probe} {raw}/images/1.jpg --novelty 2": ["novelty"],
    "predict {raw} {raw}/images/1.jpg": ["raw"],
    "predict {probe} {raw}/images/1.jpg --out {new}.txt": [".txt"],
    "compare {probe} {raw}": ["raw"],
    "experiment nonsense --out {new}": ["nonsense", "nested-vs-flat"],
    "experiment nested-vs-flat --cohort synthetic --out {cohort}": ["cohort", "--out"],
    "experiment nested-vs-flat --cohort {raw} --out {new}": ["raw", "slimp data import"],
    "experiment nested-vs-flat --cohort synthetic --out {new} --shard 3/2": ["--shard 3/2"],
    "experiment nested-vs-flat --cohort synthetic --out {new} --only arm=x": ["--only", "nested"],
    "experiment nested-vs-flat --cohort synthetic --out {new} --only x=1": ["--only x"],
    "experiment nested-vs-flat --cohort synthetic --out {new} --set epochs=0": ["epochs"],
    "experiment nested-vs-flat --cohort {one_patient} --out {new} --set nonsense=0": ["nonsense"],
    "experiment nested-vs-flat --cohort {one_class} --out {new}": ["class"],
    "experiment show {raw}": ["raw", "slimp experiment"],
}


@pytest.mark.parametrize("line", VERBS)
def test_verbs_refuse(line, sound, tmp_path, refused):
    message = refused(*line.format(**sound, new=tmp_path / "new").split())
    assert [part for part in VERBS[line] if part not in message] == [], message


@pytest.mark.parametrize("verb", ["pretrain", "embed", "probe"])
def test_a_damaged_cohort_is_refused(sound, tmp_path, refused, verb):
    cohort = tmp_path / "cohort"
    shutil.copytree(sound["cohort"], cohort)
    packed = cohort / "images.bin"
    packed.write_bytes(packed.read_bytes()[:100])
    run = [] if verb == "pretrain" else [sound["run"]]
    assert "images.bin" in refused(verb, *run, cohort, "--out", tmp_path / "out.parquet")


def test_missing_patient_ids_may_stand_for_one_patient_per_lesion(tmp_path, capsys):
    rows = change(4, patient_id="", lesion_id="2")(change(3, patient_id="")(good_rows()))
    arguments = [str(word) for word in import_csv(write_raw(tmp_path / "raw", rows))]
    assert cli.main([*arguments, "--missing-patient-id", "one-each"]) == 0
    assert "24 patients" in capsys.readouterr().out


def test_an_all_missing_column_is_accepted(tmp_path):
    """It carries no information, but it is not wrong: the feature is missing for everyone."""
    import_rows(tmp_path / "gaps", [{**row, "diameter": ""} for row in good_rows()])
    line = f"pretrain {tmp_path}/gaps/out --out {tmp_path}/run --preset tiny --image-size 16"
    assert cli.main([*line.split(), "--epochs", "1", "--workers", "0"]) == 0

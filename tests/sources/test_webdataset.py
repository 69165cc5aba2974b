"""What was exported comes back as it was; what was tampered with is refused."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slimp.data.cohort import Cohort
from slimp.data.files import sha256_of
from slimp.errors import CohortError, TableError, UserError
from slimp.sources import RawFiles, import_source
from slimp.sources.export import ExportOptions, export_cohort
from slimp.sources.importer import ImportOptions
from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    target = tmp_path_factory.mktemp("drawn") / "cohort"
    write_synthetic(target, SyntheticConfig(patients=6, lesions=3, image_size=32, seed=2))
    return Cohort.load(target)


@pytest.fixture(scope="module")
def shards(cohort, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "raw"
    export_cohort(cohort, out, "webdataset", options=ExportOptions(published="all"))
    return out


@pytest.fixture
def exported(shards, tmp_path) -> Path:
    return shutil.copytree(shards, tmp_path / "raw")


def folder_of(cohort: Cohort) -> Path:
    return cohort.store.path.parent


def test_export_and_import_give_the_same_files(cohort, exported, tmp_path):
    """Tables, images, schema, licence and report, to the byte."""
    again = import_source("webdataset", exported, tmp_path / "again")
    assert repr(again) == repr(cohort)
    names = sorted(path.name for path in folder_of(cohort).iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert sha256_of(tmp_path / "again" / name) == sha256_of(folder_of(cohort) / name), name


def test_rows_in_any_order_of_patients_keep_their_images(cohort, tmp_path):
    order = np.random.default_rng(0).permutation(len(cohort))
    images = cohort.images.iloc[order].reset_index(drop=True)
    mixed = replace(cohort, tables=replace(cohort.tables, images=images), positions=order)
    export_cohort(mixed, tmp_path / "raw", "webdataset", options=ExportOptions(published="all"))
    again = import_source("webdataset", tmp_path / "raw", tmp_path / "again")
    pd.testing.assert_frame_equal(again.images, images)
    found = [again.read_image(row) for row in range(len(again))]
    assert found == [cohort.read_image(row) for row in order.tolist()]


def test_downsizing_on_the_way_is_reported(exported, tmp_path):
    options = ImportOptions(shorter_side=16)
    again = import_source("webdataset", exported, tmp_path / "again", options=options)
    assert again.info.import_report["resized"] == len(again)
    assert again.info.import_report["options"]["shorter_side"] == 16


def rewrite(shard: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    """Changes the files of a shard, and the hash that the sidecar has of it."""
    with tarfile.open(shard) as tar:
        files = [(member, tar.extractfile(member).read()) for member in tar]
    change(files)
    with tarfile.open(shard, "w") as tar:
        for member, content in files:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    sidecar = shard.with_name("export.json")
    content = json.loads(sidecar.read_text("utf-8"))
    for entry in content["files"]:
        if entry["name"] == shard.name:
            entry["sha256"] = sha256_of(shard)
    sidecar.write_text(json.dumps(content), "utf-8")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    "evil",
    [
        *(member(name) for name in ("../00000000.jpg", "/etc/passwd", "a/00000000.jpg", "x.exe")),
        member("00000000.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        member("00000000.jpg", tarfile.LNKTYPE, "00000001.jpg"),
        *(member("00000000.jpg", kind) for kind in (tarfile.CHRTYPE, tarfile.DIRTYPE)),
    ],
    ids=lambda made: f"{made.name}-{made.type.decode()}",
)
def test_malicious_members_are_refused(exported, tmp_path, evil):
    rewrite(next(exported.glob("*.tar")), lambda files: files.append((evil, b"")))
    with pytest.raises(TableError, match=r"holds '.*', which no export has"):
        import_source("webdataset", exported, tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def place(files: list[tuple[tarfile.TarInfo, bytes]]) -> int:
    """The first image of a shard."""
    return next(i for i, (made, _) in enumerate(files) if not made.name.endswith("json"))


def test_incomplete_exports_are_refused_and_say_why(exported, tmp_path):
    shard = next(exported.glob("*.tar"))
    rewrite(shard, lambda files: files.append(files[place(files)]))
    with pytest.raises(TableError, match=r"the image '\d{8}\.(jpg|png)' is one too many"):
        import_source("webdataset", exported, tmp_path / "again")
    rewrite(shard, lambda files: (files.pop(), files.pop(place(files))))
    with pytest.raises(TableError, match=r"1 of \d+ images are in no shard, such as 0"):
        import_source("webdataset", exported, tmp_path / "again")


def test_a_corrupt_image_is_dropped_with_its_rows(cohort, exported, tmp_path):
    def spoil(files: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        made, content = files[place(files)]
        files[place(files)] = made, content[:100]

    rewrite(next(exported.glob("*.tar")), spoil)
    with pytest.raises(CohortError, match=r"1 of \d+ images read are corrupt"):
        import_source("webdataset", exported, tmp_path / "again")
    options = ImportOptions(max_corrupt=0.1)
    again = import_source("webdataset", exported, tmp_path / "again", options=options)
    assert len(again) == len(cohort) - 1
    assert again.info.import_report["corrupt"] == 1


def name_a_file_outside(export: Path) -> None:
    text = (export / "export.json").read_text("utf-8").replace("tables/images", "../images")
    (export / "export.json").write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "export.json").unlink(), r"holds no export\.json"),
        (lambda f: (f / "export.json").write_text("[]"), "export format None"),
        (lambda f: (f / "export.json").write_text("{"), r"export\.json: damaged"),
        (lambda f: (f / "export.json").write_text('{"format": 1}'), "damaged .*info"),
        (lambda f: (f / "tables/lesions.parquet").unlink(), r"lesions\.parquet: is missing"),
        (lambda f: next(f.glob("*.tar")).unlink(), r"\.tar: is missing"),
        (lambda f: next(f.glob("*.tar")).write_bytes(b"x" * 10240), "was changed since"),
        (name_a_file_outside, r"names a file '\.\./images\.parquet', which no export has"),
    ],
)
def test_damage_is_named(exported, tmp_path, damage, message):
    damage(exported)
    with pytest.raises(UserError, match=message):
        import_source("webdataset", exported, tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_it_needs_no_schema(exported, tmp_path):
    with pytest.raises(UserError, match="brings its own schema and tables"):
        import_source(
            "webdataset", exported, tmp_path / "again", files=RawFiles(table="metadata.csv")
        )

"""Exports: nothing lost, nothing that should stay at home, readable by others and by us again."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from raw_data import encoded

from slimp.data.cohort import Cohort, CohortInfo
from slimp.data.files import ImagesInMemory, sha256_of
from slimp.errors import CohortError, TableError, UserError
from slimp.sources import import_source
from slimp.sources.config import ExportOptions, ImportOptions
from slimp.sources.export import export_cohort, plan_shards
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize


@lru_cache
def make_cohort() -> Cohort:
    """About 60 images of 20 patients in no order, of which the first 15 are for training.

    Published columns beside: one refused, a name, a licence. Some labels are missing.
    """
    config = SyntheticConfig(patients=20, lesions=2, image_size=16, images_per_lesion=2)
    made = synthesize(replace(config, image_metadata=True, missing_cells=0.2))
    images = made.images.sample(frac=1, random_state=0)
    order = images.index.to_numpy()
    patient = images["patient_id"].str[1:].astype(int)
    images = images.assign(
        split=pd.Series(np.where(patient <= 15, "train", "test"), images.index, dtype="str"),
        label=images["label"].where(order % 7 != 0),
        surname="Müller",
        copyright_license=pd.Series(np.where(patient % 2, "CC-BY", "CC-0"), images.index),
    )
    store = [made.read_image(row) for row in order]
    store[::4] = [as_png(content) for content in store[::4]]
    return Cohort.from_tables(  # an index of before must not count
        images,
        made.lesions.iloc[::-1],
        made.patients,
        schema=replace(made.schema, split="split"),
        store=ImagesInMemory(store),
        info=CohortInfo(name="ours", licence="CC BY 4.0", citation="Müller 2024", source="csv"),
    )


def as_png(content: bytes) -> bytes:
    return encoded(Image.open(io.BytesIO(content)), "PNG")


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return make_cohort()


def whole(cohort: Cohort) -> pd.DataFrame:
    """A row per image, with the metadata of its lesion and patient; missing as None."""
    table = cohort.images.merge(cohort.lesions, on=["lesion_id", "patient_id"], how="left")
    table = table.merge(cohort.patients, on="patient_id", how="left").astype(object)
    return table.where(table.notna(), None)


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    """Shard -> file name -> content, by the standard library alone."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found[path.name] = {m.name: tar.extractfile(m).read() for m in tar}
    return found


def test_examples_of_the_import_stay_at_home(cohort, tmp_path):
    """They name files and quote rows of which the cohort need not hold anything."""
    report = {
        "absent": 1,
        "absent_examples": ["Jane Doe.jpg"],
        "corrupt_examples": ["Jane Doe 2.jpg (damaged)"],
        "conflicting_labels_example": "l Doe",
        "disagreements": [{"column": "age", "count": 2, "example": "Doe: 3, 4"}],
    }
    cohort = replace(cohort, info=replace(cohort.info, import_report=report))
    for published in ("licence", "all"):
        out = tmp_path / published
        export_cohort(cohort, out, "webdataset", options=ExportOptions(published=published))
        content = (out / "export.json").read_text()
        assert "Doe" not in content
        assert json.loads(content)["info"]["import_report"] == {
            "absent": 1,
            "absent_examples": [],
            "corrupt_examples": [],
            "conflicting_labels_example": "",
            "disagreements": [{"column": "age", "count": 2, "example": ""}],
        }


def test_a_webdataset_holds_every_image_with_its_metadata(cohort, tmp_path):
    metrics = export_cohort(cohort, tmp_path / "out", "webdataset")
    assert metrics["splits"] == cohort.images["split"].value_counts().to_dict()
    shards, rows, table = members(tmp_path / "out"), set(), whole(cohort)
    assert sorted(shards) == ["test-000000.tar", "train-000000.tar"]
    for name, files in shards.items():
        keys = list(files)
        for picture, text in zip(keys[::2], keys[1::2], strict=True):
            key, ending = picture.split(".")
            assert text == f"{key}.json", "a sample's files lie together"
            row, sample = int(key), json.loads(files[text])
            rows.add(row)
            assert files[picture] == cohort.read_image(row)
            assert ending == ("jpg" if row % 4 else "png")
            assert name.startswith(sample["split"])
            want = table.loc[row]
            for column in ("image_id", "lesion_id", "patient_id", "label", "split"):
                assert sample[column] == want[column]
            for level in cohort.schema.levels:
                assert sample["metadata"][level.name] == {c: want[c] for c in level.columns}
            assert sample["published"] == {"copyright_license": want["copyright_license"]}
    assert rows == set(range(len(cohort)))


@pytest.mark.parametrize("format", ["webdataset", "hf"])
def test_the_same_cohort_gives_the_same_bytes(cohort, tmp_path, format):
    for name in ("a", "b"):
        export_cohort(cohort, tmp_path / name, format)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) >= 5
    for file in files:
        assert sha256_of(tmp_path / "a" / file) == sha256_of(tmp_path / "b" / file), file


def test_names_stay_at_home_unless_told_otherwise(cohort, tmp_path):
    metrics = export_cohort(cohort, tmp_path / "out", "webdataset")
    assert metrics["columns_left_out"] == ["biopsied", "surname"]
    for path in (tmp_path / "out").rglob("*"):
        if path.suffix in (".tar", ".parquet"):
            content = path.read_bytes()
            assert b"surname" not in content
            assert "Müller".encode() not in content
    options = ExportOptions(published="all")
    metrics = export_cohort(cohort, tmp_path / "all", "webdataset", options=options)
    assert metrics["columns_left_out"] == []
    sample = json.loads(members(tmp_path / "all")["train-000000.tar"].popitem()[1])
    assert sample["published"]["surname"] == "Müller"


@given(st.lists(st.integers(1, 20), min_size=1, unique=True), st.integers(0, 400_000))
@settings(max_examples=20, deadline=None)
def test_no_patient_is_in_two_shards(patients, more):
    cohort = make_cohort().select_patients([f"P{number:06d}" for number in patients])
    large = [cohort.read_image(row) + b"\0" * more for row in range(len(cohort))]
    cohort = replace(cohort, store=ImagesInMemory(large), positions=np.arange(len(cohort)))
    planned = plan_shards(cohort, ExportOptions(shard_mib=1))
    shards = [(split, rows) for split, parts in planned.items() for rows in parts]
    everything = np.concatenate([rows for _, rows in shards])
    assert sorted(everything.tolist()) == list(range(len(cohort)))
    ids = [set(cohort.images["patient_id"].iloc[rows]) for _, rows in shards]
    assert sum(map(len, ids)) == len(set.union(*ids))
    for (split, rows), people in zip(shards, ids, strict=True):
        assert set(cohort.images["split"].iloc[rows]) == {split}
        size = sum(len(cohort.read_image(row)) for row in rows.tolist())
        assert size <= 2**20 or len(people) == 1


def test_a_patient_in_two_splits_is_refused(cohort, tmp_path):
    images = cohort.images.copy()
    first = images.index[images["patient_id"] == "P000003"][0]
    images.loc[first, "split"] = "test"
    mixed = replace(cohort, tables=replace(cohort.tables, images=images))
    with pytest.raises(CohortError, match=r"patient 'P000003' has images in the official splits"):
        export_cohort(mixed, tmp_path / "out", "webdataset")
    assert list(tmp_path.iterdir()) == []
    options = ExportOptions(ignore_splits=True)
    export_cohort(mixed, tmp_path / "out", "webdataset", options=options)
    assert list(members(tmp_path / "out")) == ["images-000000.tar"]


def test_splits_that_differ_in_case_get_files_that_do_not(cohort, tmp_path):
    """`Train-0.tar` would overwrite `train-0.tar` on Windows and macOS."""
    parts = cohort.images["patient_id"].map(
        lambda name: ("Train", "train", "../TRAIN")[int(name[1:]) % 3]
    )
    images = cohort.images.assign(split=parts.astype("str"))
    own = replace(cohort, tables=replace(cohort.tables, images=images))
    export_cohort(own, tmp_path / "out", "webdataset")
    files = [path.name.casefold() for path in (tmp_path / "out").rglob("*.tar")]
    assert len(set(files)) == len(files) == 3


def test_nothing_half_written_stays(cohort, tmp_path):
    def progress(done: int, total: int) -> None:
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_cohort(cohort, tmp_path / "new", "webdataset", progress=progress)
    assert not list(tmp_path.iterdir())
    export_cohort(cohort, tmp_path / "new", "webdataset")
    export_cohort(cohort, tmp_path / "new", "hf", overwrite=True)
    assert not list((tmp_path / "new").glob("*.tar"))
    settings = json.loads((tmp_path / "new" / "config.json").read_text())["export"]
    assert settings["format"] == "hf"


def test_parquet_shards_read_by_pyarrow_alone(cohort, tmp_path):
    export_cohort(cohort, tmp_path / "out", "hf")
    paths = sorted((tmp_path / "out" / "data").iterdir())
    assert [p.name for p in paths] == [f"{x}-00000-of-00001.parquet" for x in ("test", "train")]
    features = json.loads(pq.read_schema(paths[0]).metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"names": [*cohort.classes], "_type": "ClassLabel"}
    assert features["itch"] == {"dtype": "bool", "_type": "Value"}
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    by_id = {row["image_id"]: row for row in rows}
    assert len(by_id) == len(rows) == len(cohort)
    assert list(rows[0]) == list(features)
    for i, want in whole(cohort).iterrows():
        row = by_id[want["image_id"]]
        image, label = row.pop("image"), row.pop("label")
        assert image["bytes"] == cohort.read_image(i)
        assert image["path"] == f"{want['image_id']}.{'jpg' if i % 4 else 'png'}"
        assert (None if label is None else cohort.classes[label]) == want["label"]
        assert row == {column: want[column] for column in row}


def test_a_dataset_without_splits_is_called_train(cohort, tmp_path):
    options = ExportOptions(ignore_splits=True)
    for format, name in (("hf", "train"), ("webdataset", "images")):
        metrics = export_cohort(cohort, tmp_path / format, format, options=options)
        assert metrics["splits"] == {name: len(cohort)}
    assert '"split": "train"' in (tmp_path / "hf/README.md").read_text()


def test_the_dataset_card_says_whose_it_is(cohort, tmp_path):
    export_cohort(cohort, tmp_path / "out", "hf", options=ExportOptions(published="all"))
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    header = text.split("---")[1]
    assert 'license: "cc-by-4.0"' in header
    assert '"path": "data/train-*.parquet"' in header
    assert "Cite: Müller 2024" in text
    assert "| `diameter_mm` | lesion | continuous | mm |" in text
    assert "- `biopsied`: " in text
    export_cohort(cohort, tmp_path / "tar", "webdataset")
    text = (tmp_path / "tar" / "README.md").read_text("utf-8")
    assert '"path": "train-*.tar"' in text.split("---")[1]
    assert "Cite: Müller 2024" in text
    assert "biopsied" not in text, "the column stayed at home"
    odd = replace(cohort, info=replace(cohort.info, licence="ask us: a\nlot"))
    export_cohort(odd, tmp_path / "odd", "hf")
    header = (tmp_path / "odd" / "README.md").read_text("utf-8").split("---")[1]
    assert 'license: "other"\nlicense_name: "ask-us:-a-lot"' in header


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files left open
def test_the_webdataset_package_reads_it(cohort, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    export_cohort(cohort, tmp_path / "out", "webdataset")
    url = str(tmp_path / "out" / "train-000000.tar")
    data = webdataset.WebDataset(url, shardshuffle=False).decode("pil")
    samples = list(data)
    assert len(samples) == int((cohort.images["split"] == "train").sum())
    for sample in samples:
        picture = sample.get("jpg") or sample["png"]
        assert picture.size == (16, 16)
        assert sample["json"]["image_id"] == cohort.images["image_id"][int(sample["__key__"])]


def test_the_datasets_package_reads_it(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    export_cohort(cohort, tmp_path / "out", "hf")
    data = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    counts = cohort.images["split"].value_counts().to_dict()
    assert {name: len(part) for name, part in data.items()} == counts
    assert data["train"].features["label"].names == [*cohort.classes]
    row = data["train"][0]
    want = whole(cohort).set_index("image_id").loc[row["image_id"]]
    assert row["image"].size == (16, 16)
    assert (row["diameter_mm"], row["age"]) == (want["diameter_mm"], want["age"])


@pytest.mark.parametrize("format", ["webdataset", "hf"])
def test_croissant_names_the_files_and_the_columns(cohort, tmp_path, format):
    export_cohort(cohort, tmp_path / "out", format)
    content = json.loads((tmp_path / "out" / "croissant.json").read_text("utf-8"))
    assert content["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert content["license"] == "CC BY 4.0"
    for file in content["distribution"]:
        assert file["sha256"] == sha256_of(tmp_path / "out" / file["contentUrl"])
    every = set[str]()
    for record in content["recordSet"]:
        columns = pq.read_schema(tmp_path / "out" / record["name"]).names
        named = {field["name"] for field in record["field"]}
        assert named == set(columns) - {"byte_offset", "byte_length"}
        every |= named
    assert {"image_id", "label", "field_mm", "copyright_license", "age"} <= every


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("format", ["webdataset", "hf"])
def test_the_croissant_library_reads_the_rows(cohort, tmp_path, format):
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    export_cohort(cohort, tmp_path / "out", format)
    dataset = mlcroissant.Dataset(tmp_path / "out" / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    found = {}
    for record in dataset.metadata.record_sets:
        for row in dataset.records(record.uuid):
            row = {key.rpartition("/")[2]: value for key, value in row.items()}
            if "image_id" in row:
                found[row["image_id"].decode()] = row
    assert set(found) == {*cohort.images["image_id"]}
    want = whole(cohort).set_index("image_id")
    for name, row in found.items():
        if format == "hf":
            assert row["image"].size == (16, 16)
            assert row["diameter_mm"] == pytest.approx(want.loc[name, "diameter_mm"], nan_ok=True)


@pytest.fixture(scope="module")
def shards(cohort, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "raw"
    export_cohort(cohort, out, "webdataset", options=ExportOptions(published="all"))
    return out


@pytest.fixture
def exported(shards, tmp_path) -> Path:
    return shutil.copytree(shards, tmp_path / "raw")


def test_export_and_import_give_the_same_files(cohort, exported, tmp_path):
    """Tables, images, schema, licence and report, to the byte."""
    cohort.save(tmp_path / "saved")
    again = import_source("webdataset", exported, tmp_path / "again")
    assert repr(again) == repr(cohort)
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert sha256_of(tmp_path / "again" / name) == sha256_of(tmp_path / "saved" / name), name


def test_rows_in_any_order_of_patients_keep_their_images(cohort, tmp_path):
    order = np.random.default_rng(0).permutation(len(cohort))
    images = cohort.images.iloc[order].reset_index(drop=True)
    mixed = replace(cohort, tables=replace(cohort.tables, images=images), positions=order)
    export_cohort(mixed, tmp_path / "raw", "webdataset", options=ExportOptions(published="all"))
    again = import_source("webdataset", tmp_path / "raw", tmp_path / "again")
    pd.testing.assert_frame_equal(again.images, images)
    found = [again.read_image(row) for row in range(len(again))]
    assert found == [cohort.read_image(row) for row in order.tolist()]


def test_what_happens_on_the_way_is_added_to_the_report(cohort, tmp_path):
    report = {"absent": 8, "absent_examples": ["x"], "corrupt": 1, "stripped": 3, "resized": 1}
    own = replace(cohort, info=replace(cohort.info, import_report=report))
    export_cohort(own, tmp_path / "raw", "webdataset")
    options = ImportOptions(shorter_side=8)
    again = import_source("webdataset", tmp_path / "raw", tmp_path / "again", options=options)
    found = again.info.import_report
    assert {name: found[name] for name in report} == {
        **{"absent": 8, "absent_examples": [], "corrupt": 1, "stripped": 3},
        "resized": len(again),
    }
    assert found["options"]["shorter_side"] == 8


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

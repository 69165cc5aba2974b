"""The known datasets: their facts, their reviewed schemas, and the one call that imports them."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from raw_data import fill, jpeg

from slimp.cli import data_sources
from slimp.data.schema import Schema
from slimp.data.settings import read_toml
from slimp.errors import TableError, UserError
from slimp.sources import NAMES, RawFiles, get_source, import_source, sources
from slimp.sources.level_tables import type_rows
from slimp.sources.recognise import layouts_of

PUBLIC = ["slice3d", "pad-ufes-20", "hiba", "ham10000", "bcn20000"]
REVIEWED = [*PUBLIC, "isic"]
ARCHIVE = {
    *("diagnosis_1", "diagnosis_2", "diagnosis_3", "diagnosis_4", "diagnosis_5"),
    *("benign_malignant", "melanocytic", "concomitant_biopsy", "diagnosis_confirm_type"),
    *("mel_class", "mel_type", "mel_thick_mm", "mel_mitotic_index", "mel_ulcer", "nevus_type"),
    *("attribution", "copyright_license"),
}
NEVER_INPUTS = {
    "slice3d": {
        *("iddx_full", "iddx_1", "iddx_2", "iddx_3", "iddx_4", "iddx_5", "lesion_id"),
        *("mel_mitotic_index", "mel_thick_mm", "tbp_lv_dnn_lesion_confidence"),
        *("attribution", "copyright_license"),
    },
    "pad-ufes-20": {"biopsed"},
    "hiba": ARCHIVE,
    "ham10000": {"dx_type", "dataset"},
    "bcn20000": ARCHIVE,
    "isic": ARCHIVE,
}


def test_every_source_is_listed():
    assert set(sources()) == set(NAMES) == {*REVIEWED, "csv", "webdataset", "synthetic"}
    for name, source in sources().items():
        assert source.name == name
        assert source.title
        assert source.licence
        assert source.how_to_get


@pytest.mark.parametrize("name", PUBLIC)
def test_public_sources_say_where_they_come_from(name):
    source = get_source(name)
    assert not source.classes or sum(source.classes.values()) == source.images
    assert re.search(r"CC", source.licence)
    assert re.search(r"doi:10\.\d{4,}/\S+", source.citation)
    assert source.homepage.startswith("https://")


def test_the_page_on_publishing_states_the_licence_of_every_dataset():
    page = Path(__file__).parents[2] / "docs" / "data-card.md"
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|", page.read_text("utf-8"), re.MULTILINE)
    stated = {name: licence for name, licence in rows if name != "csv"}
    assert stated == {name: get_source(name).licence for name in (*REVIEWED, "synthetic")}


@pytest.mark.parametrize("name", [*REVIEWED, "synthetic"])
def test_reviewed_schemas(name):
    schema = get_source(name).schema()
    assert schema.label is not None
    assert set(NEVER_INPUTS.get(name, ())) <= set(schema.refused)
    assert all(len(reason) > 10 for reason in schema.refused.values())
    assert Schema.from_dict(schema.to_dict()) == schema
    for level in ("lesion", "patient"):
        assert schema.level(level).features, f"{level} level"


@pytest.mark.parametrize("name", REVIEWED)
def test_refused_columns_stay_out_of_the_levels_and_in_sight(name):
    schema = get_source(name).schema()
    columns = {*schema.roles, *schema.refused}
    columns |= {column for feature in schema.features for column in feature.columns}
    table = pd.DataFrame({column: ["1", "2"] for column in sorted(columns)}, dtype="str")
    if schema.split is not None:
        table[schema.split] = "train"
    for feature in schema.features:
        if feature.kind == "checkbox":
            table[list(feature.columns)] = "True"
    rows = type_rows(table, schema)
    kept = {name.removesuffix("_published") for name in rows.unused}
    assert kept == set(schema.refused) & columns - {schema.lesion, schema.patient}


def test_what_a_source_is_not(tmp_path):
    with pytest.raises(
        UserError, match=r"no source 'isic24'\. Known sources: slice3d, pad-ufes-20"
    ):
        get_source("isic24")
    with pytest.raises(UserError, match="'csv' needs a schema file"):
        get_source("csv").schema()
    with pytest.raises(UserError, match=r"slimp data import synthetic - COH"):
        import_source("synthetic", tmp_path, tmp_path / "c")
    files = RawFiles(schema=Schema.from_dict({"image": "img_id"}))
    for name, said in (("pad-ufes-20", "has a reviewed"), ("webdataset", "brings its own")):
        with pytest.raises(UserError, match=f"'{name}' {said} schema"):
            import_source(name, tmp_path, tmp_path / "c", files=files)


def test_a_schema_file_says_the_licence_of_ones_own_data(tmp_path):
    raw = fill(tmp_path / "raw", {"metadata.csv": "photo\na\n", "images/a.jpg": jpeg()})
    file = tmp_path / "mine.toml"
    file.write_text('image = "photo"\n[dataset]\nlicence = "CC BY 4.0"\ncitation = "We, 2024"\n')
    info = import_source("csv", raw, tmp_path / "a", files=RawFiles.from_toml(file)).info
    assert (info.licence, info.citation) == ("CC BY 4.0", "We, 2024")
    file.write_text('image = "photo"\n')
    info = import_source("csv", raw, tmp_path / "b", files=RawFiles.from_toml(file)).info
    assert (info.licence, info.citation) == ("unknown", "")
    for text, named in (("[dataset]\nlicence = 4", "licence"), ("[table]\nheader = 0", ".*header")):
        file.write_text(f'image = "photo"\n{text}\n')
        with pytest.raises(TableError, match=rf"mine\.toml: {named}"):
            RawFiles.from_toml(file)


@pytest.mark.parametrize("name", REVIEWED)
def test_an_empty_place_is_answered_with_what_should_be_there(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "raw.zip", "w"):
        pass
    (tmp_path / "raw").mkdir()
    for raw, message in (
        ("raw", r"raw: there is no table .*metadata"),
        ("raw.zip", r"raw\.zip: there is no table .*metadata"),
        ("nowhere", r"no such folder or zip file\. It should hold"),
    ):
        with pytest.raises(TableError, match=message):
            import_source(name, tmp_path / raw, tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("below", ["raw/own.csv", "own.csv"])
def test_a_table_that_is_there_is_not_said_to_be_missing_without_the_reason(below, tmp_path):
    (tmp_path / "raw").mkdir()
    file = tmp_path / below
    file.write_text("image,diagnosis\n")
    with pytest.raises(TableError, match=r"a path from .*raw on: begin it there, or move"):
        import_source("ham10000", tmp_path / "raw", tmp_path / "c", files=RawFiles(table=str(file)))


@pytest.mark.parametrize("name", REVIEWED)
def test_columns_of_the_layouts_are_those_of_the_schema(name):
    """What a layout may lack, derives, renames to or sets is a column that the schema names."""
    source = get_source(name)
    schema = source.schema()
    known = {*schema.roles, *schema.refused}
    known |= {column for feature in schema.features for column in feature.columns}
    labels = {*schema.label_names, *schema.label_names.values()}
    for layout in layouts_of(read_toml(source.schema_file)):
        assert {*layout.may_lack} - {"*"} <= known
        assert {*layout.table.rename.values()} <= known
        assert {column for rows in layout.rows for column in rows.set} <= known
        assert {rule.column for rule in layout.table.derive} <= known
        assert {*layout.one_hot} <= labels


PAGES = Path(__file__).resolve().parents[2] / "docs" / "datasets"


@pytest.mark.parametrize("name", REVIEWED)
def test_each_dataset_has_a_page_that_says_what_its_file_says(name):
    source, text = get_source(name), (PAGES / f"{name}.md").read_text(encoding="utf-8")
    schema = source.schema()
    named = set(re.findall(r"`([^`\n]+)`", text))
    columns, refused = text.partition("| refused | why |")[::2]
    for level in schema.levels:
        for feature in level.features:
            kind = {"checkbox": "yes/no"}.get(feature.kind, feature.kind)
            kind += f", {feature.unit}" if feature.unit else ""
            for column in feature.columns:
                row = rf"^\| {level.name} \|[^|\n]*`{column}`[^|\n]*\| {re.escape(kind)}"
                assert re.search(row, columns, re.MULTILINE), f"{column}: {kind}"
    assert {*schema.roles} <= named
    assert set(re.findall(r"^\| `(\w+)` \|", refused, re.MULTILINE)) == set(schema.refused)
    for count in (source.images, source.lesions, source.patients):
        assert count is None or f"{count:,}" in text
    for label, count in source.classes.items():
        assert re.search(rf"^\| {label}\b[^|]*\| {count:,} \|$", text, re.MULTILINE)
    for layout in source.layouts:
        assert f"| {layout.name} |" in text
    doi = re.search(r"doi:\S+", source.citation)
    assert doi is None or doi[0] in text
    assert source.collection is None or f"--collections {source.collection} RAW" in text
    assert f"slimp data import {name} RAW" in text
    assert re.match(rf"# {name}: ", text)


def test_the_index_lists_each_dataset():
    text = (PAGES.parent / "datasets.md").read_text(encoding="utf-8")
    for name in REVIEWED:
        source = get_source(name)
        row = re.search(rf"^\| \[`{name}`\]\(datasets/{name}\.md\) \|.*$", text, re.MULTILINE)
        assert row, name
        for count in (source.images, source.lesions, source.patients):
            assert count is None or f"| {count:,} |" in row[0]
        if source.classes and "diagnoses" not in row[0]:
            assert all(label in row[0] for label in source.classes)
    assert {path.stem for path in PAGES.glob("*.md")} == set(REVIEWED)


def test_one_source_in_full(capsys):
    for name in sources():
        data_sources.run(data_sources.Arguments(source=name))
        shown = capsys.readouterr().out
        source = get_source(name)
        assert source.title in shown
        if source.schema_file is not None:
            schema = source.schema()
            columns = [column for feature in schema.features for column in feature.columns]
            assert all(word in shown for word in [*columns, *schema.refused])
    data_sources.run(data_sources.Arguments())
    shown = capsys.readouterr().out
    assert all(f"\n{name}: " in shown for name in sources())

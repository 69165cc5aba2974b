"""What is proposed for a table: by what is in it, valid whatever it is, and honest about doubts."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources import RawFiles, import_source
from slimp.sources.sketch.class_folders import table_of_folders
from slimp.sources.sketch.columns import describe
from slimp.sources.sketch.table import Sketch, sketch_table
from slimp.sources.sketch.words import header_unit, hints_at, parts_of, plain, slug, words


def described(cells: list[str], name: str = "x"):
    return describe(pd.Series(cells, name=name, dtype="str"))


@pytest.mark.parametrize(
    ("cells", "marks"),
    [
        (["4.5", "3", "12.25"], (".", None)),
        (["4,5", "3", "12,25"], (",", None)),
        (["1.234,5", "3", "12,25"], (",", ".")),
        (["1,234.5", "3", "12.25"], (".", ",")),
    ],
)
def test_numbers_in_every_style(cells, marks):
    found = described(cells * 4)
    assert (found.look, found.decimal, found.thousands) == ("number", *marks)


@pytest.mark.parametrize(
    ("cells", "unclear"),
    [
        (["950", "1,234", "2,500", "12,345"], "1,234"),
        (["1.234", "950", "2.500"], "1.234"),
        (["1,234 mm", "2,500 mm"], "1,234"),
        (["-1,234", "12.5"], "-1,234"),
        (["1,234", "2,5"], None),
        (["0,125", "1,234"], None),
        (["0.125", "1.234"], None),
        (["1,234,567", "1,234"], None),
        (["1234", "2500"], None),
    ],
)
def test_marks_that_may_stand_between_thousands(cells, unclear):
    assert described(cells * 2).unclear == unclear


@pytest.mark.parametrize(
    ("cells", "header", "unit", "units"),
    [
        (["4 mm", "5", "1,2 cm"] * 3, "size", "mm", {"cm": 10}),
        (["4", "5.5", "9", "12"], "diameter_mm", "mm", {}),
        (["41", "52", "90", "38"], "Alter", "years", {}),
        (["41", "52", "90", "38"], "image", None, {}),
    ],
)
def test_units_of_cells_and_headers(cells, header, unit, units):
    found = described(cells, header)
    assert (found.look, found.unit, found.units) == ("number", unit, units)


@pytest.mark.parametrize(
    ("cells", "missing", "codes"),
    [
        (["41", "k.A.", "-1", "UNK", "63", "k.A."], {"k.A.": 2, "-1": 1, "UNK": 1}, ("-1",)),
        (["-1", "-3", "2", "5"], {}, ()),
        (["41", "999", "63", "58"], {"999": 1}, ("999",)),
        (["950", "999", "963", "958"], {}, ()),
    ],
)
def test_missing_words_and_codes(cells, missing, codes):
    found = described(cells)
    assert (found.look, found.missing, found.odd) == ("number", missing, codes)


def test_cells_unlike_all_others_are_counted_as_missing(tmp_path):
    found = described(["m", "w", "-1", "w", "999"] * 5, "Geschlecht")
    assert (found.look, set(found.counts)) == ("category", {"m", "w"})
    assert found.missing == {"-1": 5, "999": 5}
    assert described(["I", "II", "-1", "3"] * 5).missing == {}, "other numbers stand beside"
    found = described([*map(str, range(20, 60)), "90+"])
    assert (found.look, found.missing, found.odd) == ("number", {"90+": 1}, ("90+",))


@pytest.mark.parametrize(
    ("cells", "aliases"),
    [
        (["yes", "no"], {}),
        (["ja", "nein"], {"ja": "yes", "nein": "no"}),
        (["Sí", "No"], {"Sí": "yes"}),
        (["sim", "não"], {"sim": "yes", "não": "no"}),
        (["1", "0"], {}),
        (["x", ""], {"x": "yes"}),
        (["YES", ""], {}),
        (["0", "1", "-1"], {}),
        (["ja", "nein", "999"], {"ja": "yes", "nein": "no"}),
    ],
)
def test_yes_and_no(cells, aliases):
    found = described(cells * 5)
    assert (found.look, found.aliases) == ("checkbox", aliases)


@pytest.mark.parametrize("cells", [["m", "f"], ["m", "w"], ["f", ""], ["1"], ["yes"], ["1", ""]])
def test_single_letters_and_single_ones_are_no_yes(cells):
    assert described(cells * 5).look != "checkbox"


@pytest.mark.parametrize(
    ("cells", "formats"),
    [
        (["1999-12-31", "2001-02-03"], ("%Y-%m-%d",)),
        (["31.12.1999", "01.02.2001"], ("%d.%m.%Y",)),
        (["31/12/1999", "01/02/2001"], ("%d/%m/%Y",)),
        (["12/31/1999", "01/02/2001"], ("%m/%d/%Y",)),
        (["01/02/1999", "01/03/2001"], ("%d/%m/%Y", "%m/%d/%Y")),
        (["19991231", "20010203"], ("%Y%m%d",)),
        (["03 Jan 2020", "14 Feb 2021"], ("%d %b %Y",)),
    ],
)
def test_dates(cells, formats):
    found = described(cells * 3)
    assert (found.look, found.formats) == ("date", formats)


@pytest.mark.parametrize(
    ("cells", "look"),
    [
        (["4.5", "12.2", "7.25"] * 3, "number"),
        (["20200101", "5", "17"], "number"),
        ([f"P-{i:03}" for i in range(30)], "code"),
        ([f"seen on day {i}, is well and comes back" for i in range(30)], "text"),
        (["a photo of a nevus", "a photo of a melanoma"] * 20, "text"),
        (["", " "], "empty"),
    ],
)
def test_other_looks(cells, look):
    assert described(cells).look == look


def test_spellings_of_a_category_are_joined():
    found = described(["Leg", "leg", "Leg", "lower_arm", "Lower Arm", "lower_arm"])
    assert (found.look, found.aliases) == ("category", {"leg": "Leg", "Lower Arm": "lower_arm"})


def test_headers_in_six_languages():
    for header in ("Patienten-Nr.", "ID_paciente", "patientId", "Paziente", "N° patient"):
        assert hints_at(header, "patient"), header
    for header in ("Läsion", "lésion", "lesión", "lesão", "lesione"):
        assert hints_at(header, "lesion"), header
    assert not hints_at("image", "age"), "no part of a word, unless it is a long one"
    assert header_unit("Größe (mm)") == "mm"
    assert parts_of("patientId2_nr") == ["patient", "id", "nr"]
    assert slug("???") == "column"
    for topic in words()["headers"].values():
        listed = topic if isinstance(topic, list) else [w for ws in topic.values() for w in ws]
        assert not [word for word in listed if plain(word) != word or " " in word]


def draw(folder: Path, names: list[str]) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 9, 3), dtype=np.uint8)).save(path)


def clinic(patients: int = 12) -> pd.DataFrame:
    """Long: patient, lesion (unique within one), image; a column at each level."""
    rows = [
        {
            "subject": f"P{p:02}",
            "spot": str(spot + 1),
            "file": f"p{p:02}_{spot}_{k}.jpg",
            "dx": ["melanoma", "nevus", "bcc"][(p + spot) % 3],
            "age": str(30 + 3 * p),
            "site": ["leg", "arm", "back"][(2 * p + spot) % 3],
            "camera": ["phone", "scope"][k],
        }
        for p in range(patients)
        for spot in range(1 + p % 3)
        for k in range(2)
    ]
    return pd.DataFrame(rows, dtype="str")


def sketched(tmp_path: Path, frame: pd.DataFrame, **more: object) -> Sketch:
    path = tmp_path / "metadata.csv"
    frame.to_csv(path, index=False)
    return sketch_table(path, **more)


@pytest.mark.parametrize(("mark", "other"), [(",", "."), (".", ",")])
def test_unclear_marks_decide_nothing_and_are_named(tmp_path, mark, other):
    cells = ["950", f"1{mark}234", f"2{mark}500", f"12{mark}345"] * 12
    frame = clinic().assign(dose=cells)
    text = sketched(tmp_path, frame).text
    entry = tomllib.loads(text)
    assert entry.get("table", {}).get("decimal", ".") == "."
    assert entry_of(entry, "dose").get("decimal", ".") == mark
    assert f'write: decimal = "{other}", thousands = "{mark}"' in text.replace("\n#  ", "")
    clear = frame.assign(width=["4,5", "3,25", "2", "7,75"] * 12)
    entry = tomllib.loads(sketched(tmp_path, clear).text)
    assert entry["table"]["decimal"] == ","
    assert entry_of(entry, "dose").get("decimal", ",") == mark


def test_numbers_of_a_typed_file_are_clear(tmp_path):
    cells = [1.234, 2.567, 12.345, 3.001] * 12
    draw(tmp_path / "images", clinic()["file"].tolist())
    clinic().assign(dose=cells).to_parquet(tmp_path / "t.parquet")
    assert "thousands" not in sketch_table(tmp_path / "t.parquet", tmp_path / "images").text


def entry_of(entry, name: str) -> dict[str, object]:
    levels = ("patient_metadata", "lesion_metadata", "image_metadata")
    return next(entry[level][name] for level in levels if name in entry.get(level, {}))


def said(sketch: Sketch) -> str:
    """The text with its comments on one line each."""
    return " ".join(sketch.text.replace("\n#  ", " ").split())


def roles(schema: Schema) -> tuple[str | None, ...]:
    return schema.image, schema.lesion, schema.patient, schema.label


def test_roles_and_levels_of_a_long_table(tmp_path):
    frame = clinic()
    draw(tmp_path / "images", frame["file"].tolist())
    sketch = sketched(tmp_path, frame)
    schema = sketch.schema()
    assert roles(schema) == ("file", "spot", "subject", "dx")
    levels = {level.name: [f.name for f in level.features] for level in schema.levels}
    assert levels == {"image": ["camera"], "lesion": ["site"], "patient": ["age"]}
    assert "46 of the 46 images" in sketch.text or "images named are in images" in sketch.text
    assert "AN IMPORT WOULD STOP" not in sketch.text
    cohort = import_source(
        "csv",
        sketch.raw,
        tmp_path / "cohort",
        files=RawFiles(
            schema=schema, layout=sketch.layout(), table=sketch.table, images=sketch.images
        ),
    )
    assert len(cohort) == len(frame)
    assert cohort.info.import_report["disagreements"] == []


def test_columns_that_may_be_ids_are_named_where_no_name_says_so(tmp_path):
    frame = clinic()
    draw(tmp_path / "images", frame["file"].tolist())
    silent = dict(zip(frame.columns, ["k1", "k2", "k3", "k4", "k5", "k6", "k7"], strict=True))
    sketch = sketched(tmp_path, frame.rename(columns=silent))
    assert roles(sketch.schema()) == ("k3", None, None, "k4")
    assert "values recur, as such ids do: k1" in said(sketch)


def people(rows: int = 60) -> pd.DataFrame:
    """A row per image; who it is of is a number, two or three rows each."""
    who = np.arange(rows) * 2 // 5
    return pd.DataFrame(
        {
            "number": (1001 + 7 * who).astype(str),
            "file": [f"c{i}.jpg" for i in range(rows)],
            "dx": np.array(["melanoma", "nevus", "bcc"])[np.arange(rows) % 3],
            "sex": np.array(["m", "f"])[who % 2],
            "hair": np.array(["red", "fair", "dark"])[who % 3],
            "diameter_mm": (3 + 7 * np.arange(rows) % 19).astype(str),
        },
        dtype="str",
    )


@pytest.mark.parametrize(
    "header", ["pid", "record_id", "study_id", "ID", "client", "subject no", "case number"]
)
def test_numbers_that_recur_are_those_of_patients(tmp_path, header):
    schema = sketched(tmp_path, people().rename(columns={"number": header})).schema()
    assert schema.patient == header
    assert not {header} & {column for f in schema.features for column in f.columns}


def test_the_age_of_a_patient_is_no_id(tmp_path):
    for header in ("age", "patient_age", "Alter Patient"):
        frame = people().rename(columns={"number": header})
        frame[header] = (frame[header].astype(int) % 61 + 20).astype(str)
        schema = sketched(tmp_path, frame).schema()
        assert schema.patient is None
        assert header in {column for f in schema.features for column in f.columns}


def test_counters_and_numbers_called_ids_are_refused(tmp_path):
    frame = people().rename(columns={"number": "pid"})
    for header in ("photo_nr", "center_id", "Lfd. No."):
        frame[header] = (np.arange(len(frame)) % 5 % 3 + 1).astype(str)
    frame["anything"] = np.random.default_rng(0).permutation(len(frame)).astype(str)
    frame["number of moles"] = (np.arange(len(frame)) % 11).astype(str)
    schema = sketched(tmp_path, frame).schema()
    assert schema.patient == "pid"
    assert {f.name for f in schema.features} == {"sex", "hair", "diameter_mm", "number_of_moles"}
    assert set(schema.refused) == {"photo_nr", "center_id", "Lfd. No.", "anything"}
    assert "counter" in schema.refused["anything"]


@pytest.mark.parametrize("header", ["", "Unnamed: 0", "index", "level_0", "#", "no", "row", "ID"])
def test_row_counters_are_refused_whatever_their_name(tmp_path, header):
    frame, first = people(), len(header) % 2
    frame.insert(0, header, (np.arange(len(frame)) + first).astype(str))
    schema = sketched(tmp_path, frame.drop(columns="number")).schema()
    (name,) = [n for n in schema.refused if n in (header, "unnamed_1")]
    assert f"counter of rows ({first}, {first + 1}" in schema.refused[name]
    assert name not in (schema.image, schema.lesion, schema.patient)


@pytest.mark.parametrize(("header", "form"), [("mrn", "00{}"), ("NHS number", "943 47{}")])
def test_public_numbers_of_persons_are_to_be_pseudonymised(tmp_path, header, form):
    frame = people().rename(columns={"number": header})
    frame[header] = frame[header].map(form.format)
    sketch = sketched(tmp_path, frame)
    assert sketch.schema().patient == header
    assert "pseudonymise it before the import" in said(sketch)
    both = sketched(tmp_path, frame.assign(patient=(np.arange(60) // 3).astype(str)))
    assert both.schema().patient == "patient"
    assert both.layout().drop == (header,)
    assert "pseudonymise" not in both.text


def test_without_patients_nothing_is_of_one(tmp_path):
    frame = people().drop(columns="number").assign(age=(np.arange(60) % 50 + 20).astype(str))
    schema = sketched(tmp_path, frame).schema()
    assert [f.name for f in schema.levels[-1].features] == []
    assert {f.name for level in schema.levels for f in level.features} >= {"age", "sex"}


def test_names_that_mislead_are_not_followed(tmp_path):
    frame = clinic().rename(columns={"site": "image", "file": "target_x"})
    draw(tmp_path / "images", frame["target_x"].tolist())
    schema = sketched(tmp_path, frame).schema()
    assert schema.image == "target_x"
    assert schema.label == "dx"


def test_wide_tables_and_windows_paths(tmp_path):
    frame = clinic()
    wide = frame.pivot_table(
        index=["subject", "spot", "dx", "age"], columns="camera", values="file", aggfunc="first"
    ).reset_index()
    draw(tmp_path / "images" / "2024", frame["file"].tolist())
    for column in ("phone", "scope"):
        wide[column] = "D:\\Derma\\2024\\" + wide[column].str.upper()
    sketch = sketched(tmp_path, wide)
    layout = sketch.layout()
    assert set(layout.images) == {"phone", "scope"}
    assert layout.image_root == "D:\\Derma"
    assert sketch.schema().image == "photo"


def test_several_names_in_one_cell(tmp_path):
    frame = clinic().groupby(["subject", "spot", "dx"], as_index=False)["file"].agg("; ".join)
    draw(tmp_path / "images", clinic()["file"].tolist())
    sketch = sketched(tmp_path, frame.drop(columns="spot"))
    assert sketch.layout().separator == ";"
    assert sketch.layout().row_id == sketch.schema().lesion == "row"
    assert "a row is taken for a lesion" in sketch.text


def test_a_part_of_the_images_is_enough(tmp_path):
    names = [f"IMG_{number}" for number in range(3000)]
    draw(tmp_path / "images", [f"{name}.png" for name in names[:30]])
    lesions = [f"L{number // 2}" for number in range(3000)]
    dx = ["nevus" if number % 3 else "melanoma" for number in range(3000)]
    sketch = sketched(tmp_path, pd.DataFrame({"name": names, "lesion": lesions, "dx": dx}))
    assert sketch.schema().image == "name"
    assert "30 of the 3000 images named are in images, which holds 30" in sketch.text


def test_files_named_by_ids(tmp_path):
    frame = clinic()
    files = (frame["subject"] + "/" + frame["spot"] + "_" + frame["camera"] + ".png").tolist()
    draw(tmp_path / "images", files)
    rows = frame.drop(columns=["file", "camera"]).drop_duplicates()
    sketch = sketched(tmp_path, rows)
    assert sketch.layout().image_names == "{subject}/{spot}_*"
    cohort = import_source(
        "csv",
        sketch.raw,
        tmp_path / "c",
        files=RawFiles(schema=sketch.schema(), layout=sketch.layout()),
    )
    assert len(cohort) == len(files)


def test_numbers_name_files_with_leading_zeros(tmp_path):
    frame = people().assign(photo_id=np.arange(60).astype(str)).drop(columns="file")
    draw(tmp_path / "images", [f"ISIC_{i:07}.png" for i in range(60)])
    sketch = sketched(tmp_path, frame)
    assert sketch.layout().image_names == "ISIC_{photo_id:07}"
    assert "60 of the 60 images" in sketch.text
    assert "AN IMPORT WOULD STOP" not in sketch.text


def test_images_may_lie_in_the_table(tmp_path):
    frame = clinic()
    draw(tmp_path, frame["file"].tolist())
    images = [{"bytes": (tmp_path / name).read_bytes(), "path": name} for name in frame["file"]]
    frame.assign(image=images).drop(columns="file").to_parquet(tmp_path / "t.parquet")
    sketch = sketch_table(tmp_path / "t.parquet")
    assert sketch.schema().image == "image"
    assert "The images lie in the table." in sketch.text
    assert "--images" not in sketch.next_command(Path("s.toml"))


def test_personal_data_are_dropped(tmp_path):
    frame = clinic(20)
    count = len(frame)
    frame["surname"] = [f"Doe{chr(97 + i % 26)}" for i in range(count)]
    frame["contact"] = [f"someone{i}@example.org" for i in range(count)]
    frame["record"] = [f"R-{i * 7919 % 10007:05}" for i in range(count)]
    frame["seen"] = [f"{1 + i % 28:02}.03.2021" for i in range(count)]
    frame["remarks"] = [f"she says that it grew {i} times" for i in range(count)]
    draw(tmp_path / "images", frame["file"].tolist())
    sketch = sketched(tmp_path, frame)
    assert set(sketch.layout().drop) == {"surname", "contact", "record", "seen", "remarks"}
    assert not {"surname", "contact", "record", "seen", "remarks"} & {
        column for feature in sketch.schema().features for column in feature.columns
    }


def test_two_dates_become_an_age(tmp_path):
    frame = clinic().drop(columns="age")
    frame["date of birth"] = "07.05." + (1950 + frame.index % 2).astype(str)
    frame["visit"] = "01.03.2021"
    draw(tmp_path / "images", frame["file"].tolist())
    (age,) = [f for f in sketched(tmp_path, frame).schema().features if f.name == "age"]
    assert (age.from_date, age.to_date, age.date_format) == ("date of birth", "visit", "%d.%m.%Y")


@pytest.mark.parametrize("header", ["Aufnahme", "seen", "captured_on", "T0"])
def test_a_birth_and_any_other_date_become_an_age(tmp_path, header):
    frame = people().rename(columns={"number": "pid"})
    frame["Geburtsdatum"] = "07.05." + (1950 + frame.index * 2 // 5 % 20).astype(str)
    frame[header] = "31.03.2021"
    sketch = sketched(tmp_path, frame)
    (age,) = [f for f in sketch.schema().features if f.name == "age"]
    assert (age.from_date, age.to_date) == ("Geburtsdatum", header)
    assert ("as the only other date" in said(sketch)) == (header == "T0")


def test_columns_that_follow_the_label_are_refused(tmp_path):
    frame = clinic(90).drop(columns="site")
    frame["biopsied"] = np.where(frame["dx"] == "nevus", "no", "yes")
    frame["excision margin"] = [str(i % 7 + 1.5) for i in range(len(frame))]
    frame["other"] = np.where(frame["dx"] == "melanoma", "urgent", "soon")
    frame["clinical impression"] = ["naevus", "unclear", "see photo"] * 120
    frame["iddx_2"] = [f"Benign::{i % 9}" for i in range(len(frame))]
    frame["mel_thick_mm"] = [str(i % 5 / 4) for i in range(len(frame))]
    schema = sketched(tmp_path, frame).schema()
    assert set(schema.refused) == {
        *("biopsied", "excision margin", "other", "clinical impression", "iddx_2", "mel_thick_mm")
    }
    assert "follows the label" in schema.refused["other"]


def test_the_fullest_label_wins_and_its_rivals_are_named(tmp_path):
    frame = clinic(30).rename(columns={"dx": "clinical diagnosis"})
    frame["Histological Diagnosis"] = frame["clinical diagnosis"].where(frame.index % 5 == 0, "")
    sketch = sketched(tmp_path, frame)
    assert sketch.schema().label == "clinical diagnosis"
    assert "'Histological Diagnosis' (20% filled)" in said(sketch)
    assert "Histological Diagnosis" in sketch.schema().refused
    alone = sketched(tmp_path, frame.drop(columns="clinical diagnosis"))
    assert alone.schema().label == "Histological Diagnosis"
    assert "only 20% of its cells are filled" in said(alone)


def ticks(frame: pd.DataFrame, yes: str = "1", no: str = "0") -> pd.DataFrame:
    """A column per class of `dx`."""
    classes = {"MEL": "melanoma", "NV": "nevus", "BCC": "bcc"}
    columns = {name: np.where(frame["dx"] == dx, yes, no) for name, dx in classes.items()}
    return pd.DataFrame(columns, dtype="str")


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("X", "")])
def test_columns_of_one_class_each_are_the_label(tmp_path, yes, no):
    frame = pd.concat([clinic().drop(columns="dx"), ticks(clinic(), yes, no)], axis=1)
    content = tomllib.loads(sketched(tmp_path, frame).text)
    assert content["label"] == {"one_hot": ["MEL", "NV", "BCC"]}
    assert "mel" not in content.get("lesion_metadata", {})
    assert "MEL" not in content.get("refused", {})
    rest = frame.drop(columns="BCC")
    content = tomllib.loads(sketched(tmp_path, rest).text)
    assert content["label"] == {"one_hot": ["MEL", "NV"], "unmarked": "other"}


def test_columns_of_one_kind_each_are_no_label(tmp_path):
    frame = clinic()
    sites = pd.get_dummies(frame.pop("site"), prefix="at").astype(int).astype(str)
    assert sketched(tmp_path, pd.concat([frame, sites], axis=1)).schema().label == "dx"


def test_a_label_in_a_table_of_its_own_is_joined(tmp_path):
    frame = clinic()
    truth = pd.concat([frame[["file"]], ticks(frame)], axis=1)
    truth.to_csv(tmp_path / "truth.csv", index=False)
    frame[["file"]].assign(zoom="20").to_csv(tmp_path / "zoom.csv", index=False)
    sketch = sketched(tmp_path, frame.drop(columns="dx"))
    content = tomllib.loads(sketch.text)
    classes = ["MEL", "NV", "BCC"]
    assert content["label"] == {"one_hot": classes}
    join = {"file": "truth.csv", "on": "file", "columns": classes}
    assert content["table"]["join"] == [join]
    assert "zoom.csv (by file: zoom)" in said(sketch)
    assert "join" not in tomllib.loads(sketched(tmp_path, frame).text).get("table", {})


def test_text_that_names_the_diagnosis_is_refused(tmp_path):
    frame = clinic(30)
    frame["title"] = "a photo of a " + frame["dx"]
    frame["site text"] = "on the skin of the " + frame["site"]
    schema = sketched(tmp_path, frame).schema()
    assert "names the diagnosis" in schema.refused["title"]
    assert not {"title", "site_text"} & {f.name for f in schema.features}


def test_both_readings_of_a_blank_cell_are_offered(tmp_path):
    sketch = sketched(tmp_path, clinic().assign(itching=["YES", "", ""] * 16))
    assert entry_of(tomllib.loads(sketch.text), "itching") == {"kind": "checkbox"}
    assert "67% of the cells are blank" in said(sketch)
    assert 'aliases = { "" = "no" }' in said(sketch)


@pytest.mark.parametrize(
    "parts", [["Train", "TEST"], ["training", "testing"], ["fold1", "fold2", "fold3"], ["0", "1"]]
)
def test_splits_in_common_spellings(tmp_path, parts):
    frame = clinic().assign(split_set=[parts[i % len(parts)] for i in range(48)])
    schema = sketched(tmp_path, frame).schema()
    assert schema.split == "split_set"


def test_labels_are_joined_and_emptied(tmp_path):
    frame = clinic()
    frame.loc[0, "dx"], frame.loc[1, "dx"] = "Melanoma", "unknown"
    assert sketched(tmp_path, frame).schema().label_names == {"unknown": "", "Melanoma": "melanoma"}


def test_a_header_within_the_table_is_told(tmp_path):
    frame = people().rename(columns={"number": "pid"})
    header = pd.DataFrame([list(frame.columns)], columns=frame.columns)
    frame = pd.concat([frame[:30], header, frame[30:]])
    sketch = sketched(tmp_path, frame)
    assert "# Row 32 repeats the header: remove it." in sketch.text
    assert sketch.schema().patient == "pid"
    assert "missing =" not in sketch.text
    assert "AN IMPORT WOULD STOP HERE" in said(sketch)


def test_without_images_endings_count(tmp_path):
    sketch = sketched(tmp_path, clinic())
    assert sketch.schema().image == "file"
    assert sketch.images is None
    assert "No image folder was found" in sketch.text
    no_image = sketched(tmp_path, clinic().drop(columns="file"))
    assert "NO COLUMN NAMES IMAGE FILES" in no_image.text


def test_folders_may_lie_apart(tmp_path):
    frame = clinic()
    (tmp_path / "tables").mkdir()
    draw(tmp_path / "pictures" / "all", frame["file"].tolist())
    sketch = sketched(tmp_path / "tables", frame, images=tmp_path / "pictures")
    assert (sketch.raw, sketch.table, sketch.images) == (
        tmp_path,
        "tables/metadata.csv",
        "pictures",
    )
    assert "--table tables/metadata.csv --images pictures" in sketch.next_command(Path("s.toml"))


def test_images_near_the_table_are_found(tmp_path):
    frame = clinic()
    draw(tmp_path / "a" / "b", frame["file"].tolist())
    assert sketched(tmp_path, frame).images == "a"
    draw(tmp_path / "c", frame["file"].tolist())
    assert sketched(tmp_path, frame).images == "."


CELL = st.sampled_from(
    [
        *("", " ", "UNK", "-1", "999", "4,5", "4.5", "1.234", "1,234.5", "3 mm", "2 cm", "yes"),
        *("nein", "x", "01.02.1999", "1999-01-02", "a.jpg", "D:\\x\\b.png", "../c.jpg", "P-01"),
        *(
            "Leg",
            "leg",
            'a "quote"',
            "back\\slash",
            "line\nbreak",
            "\x7f\u2028",
            "ß\u0301",
            "#",
            "{a}",
        ),
        *(
            "melanoma",
            "nevus",
            "train",
            "test",
            "a@b.org",
            "1e400",
            "٣",
            "'''",
            "a.jpg;b.jpg",
            "\t",
        ),
    ]
)
HEADER = st.sampled_from(
    [
        *("image", "patient", "lesion", "dx", "label", "age", "split", "image_id", "lesion_id"),
        *("birth", "visit", "size_mm", "Größe (mm)", "a.b", 'q"q', "{x}", "#", "name", "unnamed_2"),
        *("biopsy", "photo", "row", "byte_offset", "Alter", "[table]", "=", "\\", "' '", "z\x7f"),
    ]
)


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_table_has_a_valid_sketch(tmp_path_factory, data):
    names = data.draw(st.lists(HEADER, min_size=1, max_size=6, unique=True))
    size = data.draw(st.integers(1, 12))
    cells = {name: data.draw(st.lists(CELL, min_size=size, max_size=size)) for name in names}
    folder = tmp_path_factory.mktemp("any")
    pd.DataFrame(cells, dtype="str").to_csv(folder / "t.csv", index=False)
    if data.draw(st.booleans()):
        draw(folder / "images", ["a.jpg", "b.png", "P-01_1.jpg"])
    try:
        sketch = sketch_table(folder / "t.csv")
    except TableError:
        return
    tomllib.loads(sketch.text)
    schema, layout = sketch.schema(), sketch.layout()
    known = {*(" ".join(name.split()) for name in names), layout.row_id, schema.image}
    for column in (schema.lesion, schema.patient, schema.label, schema.split, *layout.drop):
        assert column is None or column in known


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("table", "patient", "label", "refused"),
    [
        ("pad-ufes-20/metadata.csv", "patient_id", "diagnostic", {"biopsed"}),
        ("ham10000/HAM10000_metadata.csv", None, "dx", {"dx_type"}),
    ],
)
def test_published_tables(real_data, table, patient, label, refused):
    """Without a look at the reviewed schema, the sketch comes to its main points."""
    schema = sketch_table(real_data / table).schema()
    assert schema.label == label
    assert schema.patient == patient
    assert set(schema.refused) >= refused


CASES = {
    "ddi/ddi_metadata.csv": {"image": "DDI_file", "label": "disease"},
    "ddi/idx_hash.csv": {"image": "DDI_file", "label": "disease"},
    "isic2019/merged.csv": {"image": "image", "lesion": "lesion_id"},
    "isic2019/ISIC_2019_Training_Metadata.csv": {"image": "image", "lesion": "lesion_id"},
    "milk/MILK10k_Training_Metadata.csv": {"image": "isic_id", "lesion": "lesion_id"},
    "caption/metadata.csv": {"image": "filepath"},
    "blank-means-no/metadata.csv": {"image": "file", "label": "dx"},
    "floatid/m_nan.csv": {"patient": "patient_id", "label": "diagnosis"},
    "zeros/metadata.csv": {"image": "photo", "label": "diagnosis"},
    "hfham/data/train-00000-of-00001.parquet": {"lesion": "lesion_id", "label": "dx"},
    "two/sp_fold.csv": {"patient": "patient", "label": "dx", "split": "split_set"},
    "two/sp_title.csv": {"patient": "patient", "label": "dx", "split": "split_set"},
}


@pytest.mark.real_data
@pytest.mark.parametrize("table", CASES)
def test_tables_as_people_hold_them(real_data, table):
    path = real_data / "cases" / table
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    sketch = sketch_table(path)
    assert "AN IMPORT WOULD STOP" not in sketch.text
    content = tomllib.loads(sketch.text)
    assert {key: content.get(key) for key in CASES[table]} == CASES[table]
    refused = {
        "ddi": {"DDI_ID", "malignant", {"ddi_metadata.csv": "unnamed_1"}.get(path.name, "#")},
        "caption": {"title"},
        "data": {"dx_type"},
    }
    assert set(content.get("refused", {})) == refused.get(path.parent.name, set())
    if path.parent.name in ("isic2019", "milk"):
        assert len(content["label"]["one_hot"]) == (9 if path.parent.name == "isic2019" else 11)
        assert ("join" in content.get("table", {})) == (path.name != "merged.csv")
    if path.parent.name == "zeros":
        assert sketch.layout().image_names == "{image_id:06}"


@pytest.mark.real_data
def test_folders_of_classes_as_people_hold_them(real_data):
    folder = real_data / "cases" / "folders"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    table = pd.read_csv(io.StringIO(table_of_folders(folder)))
    assert sorted(table.groupby(["split", "class"]).size().index) == [
        *(("test", "benign"), ("test", "malignant")),
        *(("train", "benign"), ("train", "malignant")),
    ]

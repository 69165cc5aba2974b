"""What is proposed for a table: by what is in it, valid whatever it is, and honest about doubts."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_data import fill, jpeg

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS
from slimp.errors import TableError
from slimp.sources import RawFiles, import_source
from slimp.sources.sketch.columns import describe
from slimp.sources.sketch.image_columns import table_of_folders
from slimp.sources.sketch.table import Sketch, sketch_table
from slimp.sources.words import hints_at, plain, spaced, words

TICKS = {"ja": "yes", "nein": "no"}
COLUMNS = [  # cells, header, what they are described as
    (["4.5", "3", "12.25"], "x", {"kind": "number", "decimal": ".", "unclear": False}),
    (["4,5", "3", "12,25"], "x", {"decimal": ",", "thousands": None, "unclear": False}),
    (["1.234,5", "3", "12,25"], "x", {"decimal": ",", "thousands": ".", "unclear": False}),
    (["1,234.5", "3", "12.25"], "x", {"decimal": ".", "thousands": ",", "unclear": False}),
    (["950", "1,234", "2,500", "12,345"], "x", {"decimal": ",", "unclear": True}),
    (["1.234", "950", "2.500"], "x", {"decimal": ".", "unclear": True}),
    (["1,234 mm", "2,500 mm"], "x", {"decimal": ",", "unclear": True}),
    (["-1,234", "12.5"], "x", {"decimal": ",", "unclear": True}),
    (["0,125", "1,234"], "x", {"decimal": ",", "unclear": False}),
    (["1,234,567", "1,234"], "x", {"decimal": ".", "thousands": ",", "unclear": False}),
    (["1234", "2500", "3100"], "x", {"kind": "number", "decimal": None}),
    (["4 mm", "5", "1,2 cm"], "size", {"kind": "number", "unit": "mm", "units": {"cm": 10}}),
    (["4 mm", "0,5", "1,2"], "size (cm)", {"unit": "cm", "units": {"mm": 0.1}}),
    (["1,2", "1,4 cm", "2,5 cm", "0,3 cm"], "size", {"unit": "cm", "units": {}}),
    (["41 Jahre", "6 Monate"], "x", {"unit": "years", "units": {"Jahre": 1, "Monate": 1 / 12}}),
    (["4", "5.5", "9", "12"], "diameter_mm", {"unit": "mm", "units": {}}),
    (["41", "52", "90", "38"], "Alter", {"unit": "years"}),
    (["410", "52", "90", "38"], "Alter (Monate)", {"unit": "months"}),
    (["410", "8 years", "90", "38"], "age_months", {"unit": "months", "units": {"years": 12}}),
    (["410", "52", "90", "38"], "age in days", {"unit": "days"}),
    (["41", "52", "90", "38"], "image", {"unit": None}),
    (["41", "k.A.", "-1", "UNK", "63", "5"], "x", {"missing": {"k.A.", "UNK", "-1"}}),
    (["-1", "-3", "2", "5"], "x", {"kind": "number", "missing": set()}),
    (["-1"], "x", {"kind": "category", "missing": set()}),
    (["41", "999", "63", "58"], "x", {"kind": "number", "missing": {"999"}}),
    (["950", "999", "963", "958"], "x", {"kind": "number", "missing": set()}),
    (["m", "w", "-1", "w", "999"], "x", {"kind": "category", "missing": {"-1", "999"}}),
    ([*map(str, range(20, 60)), "90+"], "x", {"kind": "number", "missing": {"90+"}}),
    (["yes", "no"], "x", {"kind": "checkbox", "aliases": {}}),
    (["ja", "nein"], "x", {"kind": "checkbox", "aliases": TICKS}),
    (["Sí", "No"], "x", {"kind": "checkbox", "aliases": {"Sí": "yes"}}),
    (["sim", "não"], "x", {"kind": "checkbox", "aliases": {"sim": "yes", "não": "no"}}),
    (["1", "0"], "x", {"kind": "checkbox", "aliases": {}}),
    (["+", "-", ""], "x", {"kind": "checkbox", "aliases": {"+": "yes", "-": "no"}}),
    (["x", ""], "x", {"kind": "checkbox", "aliases": {"x": "yes"}}),
    (["YES", ""], "x", {"kind": "checkbox", "aliases": {}}),
    (["0", "1", "-1"], "x", {"kind": "checkbox", "missing": {"-1"}}),
    (["ja", "nein", "999"], "x", {"kind": "checkbox", "aliases": TICKS}),
    *[(cells, "x", {"kind": "category"}) for cells in (["m", "f"], ["m", "w"], ["f", ""], ["yes"])],
    *[(cells, "x", {"kind": "category"}) for cells in (["1"], ["1", ""], ["1", "2"])],
    (["1999-12-31", "2001-02-03"], "x", {"kind": "date", "formats": ("%Y-%m-%d",)}),
    (["31.12.1999", "01.02.2001"], "x", {"kind": "date", "formats": ("%d.%m.%Y",)}),
    (["12/31/1999", "01/02/2001"], "x", {"kind": "date", "formats": ("%m/%d/%Y",)}),
    (["01/02/1999", "01/03/2001"], "x", {"formats": ("%d/%m/%Y", "%m/%d/%Y")}),
    (["19991231", "20010203"], "x", {"kind": "date", "formats": ("%Y%m%d",)}),
    (["03 Jan 2020", "14 Feb 2021"], "x", {"kind": "date", "formats": ("%d %b %Y",)}),
    (["20200101", "5", "17"], "x", {"kind": "number"}),
    ([f"P-{i:03}" for i in range(70)], "x", {"kind": "code"}),
    ([f"seen on day {i}, is well and comes back" for i in range(30)], "x", {"kind": "text"}),
    (["a photo of a nevus", "a photo of a melanoma"], "x", {"kind": "text"}),
    (["", " "], "x", {"kind": "empty"}),
    (["Leg", "leg", "Leg"], "x", {"kind": "category", "aliases": {"leg": "Leg"}}),
    (["lower_arm", "Lower Arm", "lower_arm"], "x", {"aliases": {"Lower Arm": "lower_arm"}}),
    (["F", "female", "M", "Male"], "sex", {"aliases": {"F": "female", "M": "Male"}}),
    (["F", "female", "M", "Male"], "x", {"kind": "category", "aliases": {}}),
    (
        ["w", "weiblich", "m.", "männl."],
        "Geschlecht",
        {"aliases": {"w": "weiblich", "m.": "männl."}},
    ),
    (["W", "F", "female", "d", "x"], "gender", {"aliases": {"W": "female", "F": "female"}}),
    (["Hombre", "Mujer", "H", "M"], "Género", {"aliases": {"H": "Hombre", "M": "Mujer"}}),
    (["V", "vrouw", "M", "man"], "geslacht", {"aliases": {"V": "vrouw", "M": "man"}}),
    (["V", "varón", "M", "mujer"], "sexo", {"aliases": {"V": "varón", "M": "mujer"}}),
    (
        ["weiblich", "female", "w", "female"],
        "sex",
        {"aliases": dict.fromkeys(("weiblich", "w"), "female")},
    ),
    *[
        (cells, "sex", {"kind": "category", "aliases": {}})
        for cells in (["m", "w", "f"], ["F", "M"])
    ],
    (["M", "male", "mtf", "female"], "sex", {"aliases": {}}),
    (["нос", "рука"], "x", {"kind": "category", "aliases": {}}),
    ([*map(str, range(20, 30)), *["void"] * 5], "x", {"kind": "number", "missing": {"void"}}),
    (["0", "1", "9"], "itch", {"kind": "checkbox", "missing": {"9"}}),
    (["1", "2.0", "9.0"], "x", {"kind": "category", "missing": {"9.0"}}),
    ([*map(str, range(30)), "99"], "x", {"kind": "number", "missing": {"99"}}),
    (["ja", "nein", "9"], "x", {"kind": "checkbox", "missing": {"9"}}),
    (["0", "1", "9"], "centre", {"missing": set()}),
    (["0.5", "1", "9"], "x", {"kind": "number", "missing": set()}),
    (["1", "2", "3", "9"], "x", {"kind": "number", "missing": set()}),
    (["1956", "1971"], "year_of_birth", {"kind": "date", "formats": ("%Y",)}),
    (["21916", "30211.0"], "date of birth", {"kind": "date", "formats": ()}),
    (["2001", "2060", "2002"], "patient_id", {"kind": "number"}),
    (["01.01.1900", "02.03.1960"], "x", {"kind": "date", "missing": {"01.01.1900"}}),
]


@pytest.mark.parametrize(("cells", "header", "expected"), COLUMNS)
def test_what_a_column_holds(cells, header, expected):
    column = describe(pd.Series(cells * 5, name=header, dtype="str"))
    own = {"kind": column.kind, "missing": {*column.missing}, "unclear": column.unclear}
    found = {key: {**column.settings, **own}.get(key) for key in expected}
    assert (found.pop("units", {}) or {}) == pytest.approx(expected.get("units", {}))
    assert found == {key: value for key, value in expected.items() if key != "units"}


CONVENTIONS = [  # letters and words of one table: male, female
    (("M", "F"), ("male", "female")),
    (("m", "w"), ("männlich", "weiblich")),
    (("M", "F"), ("Masculino", "Feminino")),
    (("H", "M"), ("Hombre", "Mujer")),
    (("H", "M"), ("Homem", "Mulher")),
    (("V", "M"), ("Varón", "Mujer")),
    (("H", "F"), ("Homme", "Femme")),
    (("M", "F"), ("Maschio", "Femmina")),
    (("M", "V"), ("man", "vrouw")),
]


SWAPPED = [{("V", "M"), ("man", "vrouw")}, {("M", "V"), ("Varón", "Mujer")}]  # nobody can tell


@pytest.mark.parametrize(
    ("letters", "own", "spelled"),
    [
        (letters, own, spelled)
        for (letters, own), (_, spelled) in product(CONVENTIONS, repeat=2)
        if {letters, spelled} not in SWAPPED
    ],
)
def test_two_sexes_are_never_one(letters, own, spelled):
    for cells in ([*letters, *spelled], [*letters, *spelled, *own]):
        column = describe(pd.Series(cells * 5, name="sex", dtype="str"))
        meant = {cell: position % 2 for position, cell in enumerate(cells)}
        for cell, alias in column.settings["aliases"].items():
            assert meant[cell] == meant[alias], (cell, alias)
        if own == spelled:
            assert set(letters) <= set(column.settings["aliases"])


def test_words_of_the_two_sexes_differ():
    female, male = (words()["cells"][sex] for sex in ("female", "male"))
    assert not set(female) & set(male)
    assert not [word for word in (*female, *male) if spaced(word) != word]


def test_headers_in_six_languages():
    for header in ("Patienten-Nr.", "ID_paciente", "patientId", "Paziente", "N° patient"):
        assert hints_at(header, "patient"), header
    for header in ("Läsion", "lésion", "lesión", "lesão", "lesione"):
        assert hints_at(header, "lesion"), header
    assert not hints_at("image", "person_level"), "no part of a word, unless it is a long one"
    for topic in words()["headers"].values():
        assert not [word for word in topic if plain(word) != word or " " in word]


def draw(folder: Path, names: Iterable[str]) -> None:
    fill(folder, dict.fromkeys(names, jpeg()))


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


def people(rows: int = 60) -> pd.DataFrame:
    """A row per image; who it is of is a number, two or three rows each."""
    who = np.arange(rows) * 2 // 5
    return pd.DataFrame(
        {
            "number": (1001 + 7 * who).astype(str),
            "file": [f"c{i}.jpg" for i in range(rows)],
            "dx": np.array(["melanoma", "nevus", "bcc"])[np.arange(rows) % 3],
            "sex": np.array(["m", "f"])[who % 2],
            "diameter_mm": (3 + 7 * np.arange(rows) % 19).astype(str),
        },
        dtype="str",
    )


def sketched(tmp_path: Path, frame: pd.DataFrame, **more: object) -> Sketch:
    path = tmp_path / "metadata.csv"
    frame.to_csv(path, index=False)
    return sketch_table(path, **more)


def said(sketch: Sketch) -> str:
    """The text with its comments on one line each."""
    return " ".join(sketch.text.replace("\n#  ", " ").split())


def feature(sketch: Sketch, name: str) -> dict[str, object]:
    content = tomllib.loads(sketch.text)
    return next(content[f"{x}_metadata"][name] for x in LEVELS if name in content[f"{x}_metadata"])


def imported(sketch: Sketch, tmp_path: Path) -> Cohort:
    assert "AN IMPORT WOULD STOP" not in sketch.text
    layout = {"layout": sketch.layout(), "table": sketch.table, "images": sketch.images}
    files = RawFiles(schema=sketch.schema(), **layout)
    return import_source("csv", sketch.raw, tmp_path / "cohort", files=files)


@pytest.mark.parametrize(("mark", "other"), [(",", "."), (".", ",")])
def test_unclear_marks_decide_nothing_and_are_named(tmp_path, mark, other):
    cells = ["950", f"1{mark}234", f"2{mark}500", f"12{mark}345"] * 12
    frame = clinic().assign(dose=cells)
    sketch = sketched(tmp_path, frame)
    assert "decimal" not in tomllib.loads(sketch.text).get("table", {})
    assert feature(sketch, "dose").get("decimal", ".") == mark
    assert f'write: decimal = "{other}", thousands = "{mark}"' in said(sketch)
    sketch = sketched(tmp_path, frame.assign(width=["4,5", "3,25", "2", "7,75"] * 12))
    assert tomllib.loads(sketch.text)["table"]["decimal"] == ","
    assert feature(sketch, "dose").get("decimal", ",") == mark


def test_numbers_of_a_typed_file_are_clear(tmp_path):
    clinic().assign(dose=[1.234, 2.567, 12.345, 3.001] * 12).to_parquet(tmp_path / "t.parquet")
    assert "thousands" not in sketch_table(tmp_path / "t.parquet").text


def test_roles_and_levels_of_a_long_table(tmp_path):
    frame = clinic()
    draw(tmp_path / "images", frame["file"])
    sketch = sketched(tmp_path, frame)
    schema = sketch.schema()
    assert (schema.image, schema.lesion, schema.patient) == ("file", "spot", "subject")
    assert schema.label == "dx"
    levels = {level.name: [f.name for f in level.features] for level in schema.levels}
    assert levels == {"image": ["camera"], "lesion": ["site"], "patient": ["age"]}
    assert "48 of the 48 images named are in images" in sketch.text
    cohort = imported(sketch, tmp_path)
    assert len(cohort) == len(frame)
    assert cohort.info.import_report["disagreements"] == []


def test_the_level_is_that_of_the_values_however_they_are_spelled(tmp_path):
    frame, row = clinic(), np.arange(48)
    male = frame["subject"].str[-1].astype(int) % 2
    frame["Geschlecht"] = np.array([["w", "weiblich"], ["M", "männlich"]])[male, row // 2 % 2]
    frame["smoker"] = np.array([["nein", "0"], ["ja", "True"]])[male, row // 2 % 2]
    frame["weight"] = np.array([["50 kg", "50.0"], ["70", "70.0 kg"]])[male, row // 2 % 2]
    frame["side"] = np.array([["left", "Left"], ["right", "RIGHT"]])[row // 2 % 2, row % 2]
    draw(tmp_path / "images", frame["file"])
    sketch = sketched(tmp_path, frame)
    levels = {level.name: {f.name for f in level.features} for level in sketch.schema().levels}
    assert levels["patient"] == {"age", "geschlecht", "smoker", "weight"}
    assert levels["lesion"] == {"site", "side"}
    assert "spellings?" not in sketch.text
    cohort = imported(sketch, tmp_path)
    assert cohort.patients["Geschlecht"].value_counts().to_dict() == {"weiblich": 6, "männlich": 6}
    assert cohort.info.import_report["disagreements"] == []


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        *[("sex", ["Frau Dr.", "F"]), ("skin type", ["II", "two"]), ("smoking", ["never", "none"])],
        *[("birth_date", ["1950-03-01", "1951-03-01"])],
    ],
)
def test_what_differs_within_one_person_is_asked_about(tmp_path, header, cells):
    frame = clinic().assign(**{header: np.resize(cells, 48)})
    assert "differs within 12 of 12 patients" in said(sketched(tmp_path, frame))
    once = clinic().assign(**{header: cells[0]})
    once.loc[[0, 1], header] = cells[1]  # all that there is of the first patient
    assert "differs within" not in said(sketched(tmp_path, once))
    some = once.assign(**{header: once[header].mask(once.index == 2, cells[1])})
    assert "differs within 1 of 12 patients" in said(sketched(tmp_path, some))


def test_dates_of_birth_that_differ_within_one_person_are_asked_about(tmp_path):
    frame = clinic().drop(columns="age").assign(dob="1950-03-01", visit="2020-05-06")
    assert "differs" not in said(sketched(tmp_path, frame))
    frame.loc[3, "dob"] = "1951-03-01"
    asked = "dob differs within 1 of 12 patients: spellings? Is each of these ids one person's?"
    assert asked in said(sketched(tmp_path, frame))


@pytest.mark.parametrize("header", ["pid", "subject no", "Fallnummer", "mrn"])
def test_patients_are_known_by_the_name_of_their_ids(tmp_path, header):
    sketch = sketched(tmp_path, people().rename(columns={"number": header}))
    assert sketch.schema().patient == header
    assert header not in {column for f in sketch.schema().features for column in f.columns}
    assert ("pseudonymise it before the import" in said(sketch)) == (header == "mrn")


@pytest.mark.parametrize("header", ["record_id", "study_id", "ID", "client no", "k1"])
def test_other_ids_are_named_as_possible_patients(tmp_path, header):
    sketch = sketched(tmp_path, people().rename(columns={"number": header}))
    assert sketch.schema().patient is None
    assert f"values recur, as such ids do: {header}." in said(sketch)
    assert (header in sketch.schema().refused) == (header != "k1")
    assert not sketch.schema().level("patient").features
    coded = people().assign(number="S-" + people()["number"]).rename(columns={"number": header})
    schema = sketched(tmp_path, coded).schema()
    assert (header in schema.refused) == (header != "k1"), "nor are codes an input"


def test_patients_may_be_numbered_as_the_rows_are(tmp_path):
    frame = people().assign(number=[str(row) for row in range(1, 61)])
    sketch = sketched(tmp_path, frame.rename(columns={"number": "patient_id"}))
    assert sketch.schema().patient == "patient_id"
    assert "each row would be another person: is that so?" in said(sketch)


@pytest.mark.parametrize("header", ["age", "patient_age", "patient_weight", "lesion count"])
def test_what_is_measured_of_a_patient_or_lesion_is_no_id(tmp_path, header):
    frame = people().rename(columns={"number": header})
    frame[header] = (frame[header].astype(int) % 61 + 20).astype(str)
    schema = sketched(tmp_path, frame).schema()
    assert (schema.patient, schema.lesion) == (None, None)
    assert header in {column for f in schema.features for column in f.columns}


def test_numbers_called_ids_are_refused_and_counts_are_not(tmp_path):
    frame = people().rename(columns={"number": "pid"})
    for header in ("photo_nr", "center_id", "Lfd. No."):
        frame[header] = (np.arange(len(frame)) % 5 % 3 + 1).astype(str)
    frame["number of moles"] = (np.arange(len(frame)) % 11).astype(str)
    schema = sketched(tmp_path, frame).schema()
    assert {f.name for f in schema.features} == {"sex", "diameter_mm", "number_of_moles"}
    assert set(schema.refused) == {"photo_nr", "center_id", "Lfd. No."}


@pytest.mark.parametrize("header", ["", "Unnamed: 0", "index", "level_0", "#", "no", "row", "any"])
def test_row_counters_are_refused_whatever_their_name(tmp_path, header):
    frame, first = people().drop(columns="number"), len(header) % 2
    order = np.random.default_rng(0).permutation(60) if header == "any" else np.arange(60)
    frame.insert(0, header, (order + first).astype(str))
    schema = sketched(tmp_path, frame).schema()
    (name,) = [n for n in schema.refused if n in (header, "unnamed_1")]
    assert "counter of rows" in schema.refused[name]
    assert name not in (schema.image, schema.lesion, schema.patient)


def test_a_part_of_the_images_is_enough(tmp_path):
    frame = pd.DataFrame({"name": [f"IMG_{number}" for number in range(900)]})
    frame["dx"] = np.where(frame.index % 3 == 0, "nevus", "melanoma")
    draw(tmp_path / "images", frame["name"].head(30) + ".png")
    sketch = sketched(tmp_path, frame)
    assert sketch.schema().image == "name"
    assert "30 of the 900 images named are in images, which holds 30" in sketch.text


def test_files_named_by_ids(tmp_path):
    frame = clinic()
    files = frame["subject"] + "/" + frame["spot"] + "_" + frame["camera"] + ".png"
    draw(tmp_path / "images", files)
    sketch = sketched(tmp_path, frame.drop(columns=["file", "camera"]).drop_duplicates())
    assert sketch.layout().image_names == "{subject}/{spot}_*"
    assert len(imported(sketch, tmp_path)) == len(files)


def test_personal_data_are_dropped(tmp_path):
    frame, number = clinic(20), np.arange(len(clinic(20)))
    frame["surname"] = [f"Doe{chr(97 + i % 26)}" for i in number]
    frame["contact"] = [f"someone{i}@example.org" for i in number]
    frame["entry"] = [f"R-{i * 7919 % 10007:05}" for i in number]
    frame["seen"] = [f"{1 + i % 28:02}.03.2021" for i in number]
    frame["remarks"] = [f"she says that it grew {i} times" for i in number]
    sketch = sketched(tmp_path, frame)
    assert sketch.layout().drop == ("surname", "contact", "entry", "seen", "remarks")
    used = {column for f in sketch.schema().features for column in f.reads}
    assert used == {"age", "site", "camera"}


def test_columns_that_follow_the_label_are_refused(tmp_path):
    frame, number = clinic(90).drop(columns="site"), range(360)
    frame["biopsied"] = np.where(frame["dx"] == "nevus", "no", "yes")
    frame["excision margin"] = [str(i % 7 + 1.5) for i in range(len(frame))]
    frame["other"] = np.where(frame["dx"] == "melanoma", "urgent", "soon")
    frame["clinical impression"] = ["naevus", "unclear", "see photo"] * 120
    frame["iddx_2"] = [f"Benign::{i % 9}" for i in range(len(frame))]
    frame["mel_thick_mm"] = [str(i % 5 / 4) for i in range(len(frame))]
    frame["title"] = "a photo of a " + frame["dx"]
    frame["width"] = np.where(frame["dx"] == "melanoma", [f"{i % 9}.5" for i in number], "")
    schema = sketched(tmp_path, frame).schema()
    assert set(schema.refused) == {
        *("biopsied", "excision margin", "other", "clinical impression", "iddx_2"),
        *("mel_thick_mm", "title", "width"),
    }
    assert schema.refused["width"] == "filled in where the label is melanoma alone"
    assert "follows the label" in schema.refused["other"]
    assert "names the diagnosis" in schema.refused["title"]


@pytest.mark.parametrize("mark", [".", ","])
def test_numbers_that_follow_the_label_are_refused_whatever_their_marks(tmp_path, mark):
    frame, rng = clinic(90), np.random.default_rng(0)
    values = rng.normal(0, 0.5, len(frame)) + np.where(frame["dx"] == "melanoma", 9, 4)
    frame["score"] = [f"{value:.2f}".replace(".", mark) for value in values]
    assert "follows the label" in sketched(tmp_path, frame).schema().refused["score"]


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
    assert "MEL" not in {**content["lesion_metadata"], **content.get("refused", {})}
    content = tomllib.loads(sketched(tmp_path, frame.drop(columns="BCC")).text)
    assert content["label"] == {"one_hot": ["MEL", "NV"], "unmarked": "other"}


def test_columns_of_one_site_each_are_no_label(tmp_path):
    frame = clinic()
    sites = pd.get_dummies(frame.pop("site"), prefix="at").astype(int).astype(str)
    assert sketched(tmp_path, pd.concat([frame, sites], axis=1)).schema().label == "dx"


def test_a_label_in_a_table_of_its_own_is_joined(tmp_path):
    frame = clinic()
    truth = pd.concat([frame[["file"]], ticks(frame)], axis=1)
    truth = pd.concat([truth, truth.tail(2).assign(file="unknown")])
    truth.to_csv(tmp_path / "truth.csv", index=False)
    frame[["file"]].assign(zoom="20").to_csv(tmp_path / "zoom.csv", index=False)
    sketch = sketched(tmp_path, frame.drop(columns="dx"))
    content = tomllib.loads(sketch.text)
    classes = ["MEL", "NV", "BCC"]
    assert content["label"] == {"one_hot": classes}
    assert content["table"]["join"] == [{"file": "truth.csv", "on": "file", "columns": classes}]
    assert "zoom.csv (by file: zoom)" in said(sketch)
    assert "join" not in tomllib.loads(sketched(tmp_path, frame).text).get("table", {})


def test_both_readings_of_a_blank_cell_are_offered(tmp_path):
    sketch = sketched(tmp_path, clinic().assign(itching=["YES", "", ""] * 16))
    assert feature(sketch, "itching") == {"kind": "checkbox"}
    assert "67% of the cells are blank" in said(sketch)
    assert 'aliases = { "" = "no" }' in said(sketch)


@pytest.mark.parametrize(
    "parts", [["Train", "TEST"], ["training", "testing"], ["fold1", "fold2", "fold3"], ["0", "1"]]
)
def test_splits_in_common_spellings(tmp_path, parts):
    frame = clinic().assign(split_set=[parts[i % len(parts)] for i in range(48)])
    assert sketched(tmp_path, frame).schema().split == "split_set"


def test_labels_are_joined_and_emptied(tmp_path):
    frame = clinic()
    frame.loc[0, "dx"], frame.loc[1, "dx"] = "Melanoma", "unknown"
    assert sketched(tmp_path, frame).schema().label_names == {"unknown": "", "Melanoma": "melanoma"}


def test_a_row_of_several_lesions_is_refused(tmp_path):
    frame = clinic()[["subject", "file", "dx"]].iloc[::2]
    frame = frame.assign(spot=frame.groupby("subject").cumcount() + 1)
    wide = frame.pivot(index="subject", columns="spot", values=["file", "dx"])
    wide.columns = [f"spot{number}_{name}" for name, number in wide.columns]
    with pytest.raises(TableError, match="labels in spot1_dx, spot2_dx, spot3_dx, so it is about"):
        sketched(tmp_path, wide.reset_index())


def test_numbers_of_lesions_whose_labels_differ_are_no_ids(tmp_path):
    frame = clinic()
    numbered = frame.assign(spot=frame["subject"].str[-1].astype(int) % 2 + 1)
    sketch = sketched(tmp_path, numbered)
    assert "the labels of one spot differ in" in said(sketch)
    assert sketch.schema().lesion is None
    assert "spot" not in {column for f in sketch.schema().features for column in f.columns}
    coded = sketched(tmp_path, numbered.assign(spot="S" + numbered["spot"].astype(str)))
    assert coded.schema().lesion == "spot"
    assert "the labels of one spot differ in" in said(coded)
    assert "the labels of one" not in said(sketched(tmp_path, frame))


def test_ids_that_may_stand_for_several_people_or_name_one_are_asked_about(tmp_path):
    frame = people(120)
    unknown = frame["number"].mask(frame.index % 3 == 0, "0")
    assert "'0' has 40 rows, any other" in said(sketched(tmp_path, frame.assign(pid=unknown)))
    assert "has 40 rows" not in said(sketched(tmp_path, frame.assign(pid=frame["number"])))
    names = frame["number"].map(lambda cell: "Doe" + chr(97 + int(cell) % 26))
    assert "if they are names, pseudonymise" in said(sketched(tmp_path, frame.assign(pid=names)))


def test_ids_that_a_spreadsheet_has_damaged_stay_ids_and_are_refused(tmp_path):
    frame = people()
    sketch = sketched(tmp_path, frame.assign(pid=[f"1.23{i % 30:02}E+12" for i in range(60)]))
    assert sketch.schema().patient == "pid"
    assert "AN IMPORT WOULD STOP" in said(sketch)


def test_of_numbers_that_name_files_those_of_patients_are_not_the_images(tmp_path):
    frame = people().drop(columns="file")
    frame["number"] = frame["number"].rank(method="dense").astype(int).astype(str)
    frame["n"] = [str(row) for row in range(1, 61)]
    draw(tmp_path / "images", frame["n"] + ".png")
    assert sketched(tmp_path, frame).schema().image == "n"


def test_whole_numbers_of_many_digits_and_columns_of_classes_are_refused(tmp_path):
    frame, number = clinic().drop(columns="dx"), np.arange(48)
    frame["code"] = (300_000 + 17 * (number % 20)).astype(str)
    frame["MEL"], frame["Basal cell carcinoma"] = (number % 7 / 7).astype(str), number % 2
    frame["report"] = np.array(["Nevus, benign", "Solid BCC", "Melanoma 1 mm"])[number % 3]
    frame["skin history"] = np.array(["melanoma before", "none known"])[number % 2]
    schema = sketched(tmp_path, frame).schema()
    assert set(schema.refused) == {"code", "MEL", "Basal cell carcinoma", "report"}
    assert "skin_history" in {f.name for f in schema.features}


def test_cells_without_a_unit_are_asked_about(tmp_path):
    frame = clinic().assign(size=["0.4 cm", "5", "7"] * 16)
    assert "32 cells name no unit: they count as cm. Is that so?" in said(sketched(tmp_path, frame))
    named = frame.rename(columns={"size": "size_mm"})
    assert "name no unit" not in said(sketched(tmp_path, named))


def test_without_images_endings_count(tmp_path):
    sketch = sketched(tmp_path, clinic())
    assert (sketch.schema().image, sketch.images) == ("file", None)
    assert "No image folder was found" in sketch.text
    no_image = sketched(tmp_path, clinic().drop(columns="file"))
    assert "NO COLUMN NAMES IMAGE FILES" in no_image.text


def test_folders_may_lie_apart_or_near(tmp_path):
    frame = clinic(2)
    (tmp_path / "tables").mkdir()
    draw(tmp_path / "pictures" / "all", frame["file"])
    sketch = sketched(tmp_path / "tables", frame, images=tmp_path / "pictures")
    assert (sketch.raw, sketch.table) == (tmp_path, "tables/metadata.csv")
    assert "--table tables/metadata.csv --images pictures" in sketch.next_command(Path("s.toml"))
    assert sketched(tmp_path, frame).images == "pictures"
    draw(tmp_path / "more", frame["file"])
    assert sketched(tmp_path, frame).images == "."


CELL = st.sampled_from(
    [
        *("", " ", "UNK", "-1", "999", "4,5", "4.5", "1.234", "1,234.5", "3 mm", "2 cm", "yes"),
        *("nein", "x", "01.02.1999", "1999-01-02", "a.jpg", "D:\\x\\b.png", "../c.jpg", "P-01"),
        *("Leg", "leg", 'a "quote"', "back\\slash", "line\nbreak", "\x7f\u2028", "ß\u0301", "#"),
        *("melanoma", "nevus", "train", "test", "a@b.org", "1e400", "٣", "'''", "{a}", "\t"),
    ]
)
HEADER = st.sampled_from(
    [
        *("image", "patient", "lesion", "dx", "label", "age", "split", "image_id", "lesion_id"),
        *("birth", "visit", "size_mm", "Größe (mm)", "a.b", 'q"q', "{x}", "#", "name", "unnamed_2"),
        *("biopsy", "photo", "row", "byte_offset", "Alter", "[table]", "=", "\\", "' '", "z\x7f"),
    ]
)


@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
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


HOT_9 = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
HOT_11 = ["AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC"]
DDI = {"image": "DDI_file", "label": "disease"}
ISIC = {"image": "image", "lesion": "lesion_id", "label": {"one_hot": HOT_9}}
MILK = {"image": "isic_id", "lesion": "lesion_id", "label": {"one_hot": HOT_11}}
SPLIT = {"patient": "patient", "label": "dx", "split": "split_set"}
TABLES = [  # table, what stands on top, what is refused
    ("pad-ufes-20/metadata.csv", {"patient": "patient_id", "label": "diagnostic"}, {"biopsed"}),
    pytest.param(
        "ham10000/HAM10000_metadata.csv",
        {"patient": None, "label": "dx"},
        {"dx_type"},
        marks=pytest.mark.slow,
    ),
    ("cases/ddi/ddi_metadata.csv", DDI, {"DDI_ID", "malignant", "unnamed_1"}),
    ("cases/ddi/idx_hash.csv", DDI, {"DDI_ID", "malignant", "#"}),
    ("cases/isic2019/merged.csv", ISIC, set()),
    ("cases/isic2019/ISIC_2019_Training_Metadata.csv", ISIC, set()),
    ("cases/milk/MILK10k_Training_Metadata.csv", MILK, set()),
    ("cases/caption/metadata.csv", {"image": "filepath"}, {"title"}),
    ("cases/blank-means-no/metadata.csv", {"image": "file", "label": "dx"}, set()),
    ("cases/floatid/m_nan.csv", {"patient": "patient_id", "label": "diagnosis"}, set()),
    ("cases/zeros/metadata.csv", {"image": "photo", "label": "diagnosis"}, set()),
    ("cases/hfham/data/train-00000-of-00001.parquet", {"lesion": "lesion_id"}, {"dx_type"}),
    ("cases/two/sp_fold.csv", SPLIT, set()),
    ("cases/two/sp_title.csv", SPLIT, set()),
]


@pytest.mark.real_data
@pytest.mark.parametrize(("table", "top", "refused"), TABLES)
def test_tables_as_people_hold_them(real_data, table, top, refused):
    if not (real_data / table).is_file():
        pytest.skip(f"there is no {real_data / table}")
    sketch = sketch_table(real_data / table)
    assert "AN IMPORT WOULD STOP" not in sketch.text
    content = tomllib.loads(sketch.text)
    assert {key: content.get(key) for key in top} == top
    assert set(content.get("refused", {})) == refused
    assert ("join" in content.get("table", {})) == table.endswith("Training_Metadata.csv")
    assert (sketch.layout().image_names == "{image_id:06}") == ("zeros" in table)


@pytest.mark.real_data
def test_folders_of_classes_as_people_hold_them(real_data):
    folder = real_data / "cases" / "folders"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    table = table_of_folders(folder)
    assert sorted(table.groupby(["split", "class"]).size().index) == [
        *(("test", "benign"), ("test", "malignant")),
        *(("train", "benign"), ("train", "malignant")),
    ]

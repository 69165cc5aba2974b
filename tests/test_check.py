from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import mutual_info_score

from slimp.check import CheckReport, check_cohort
from slimp.checks.columns import edit_distance, far_values, twin_spellings
from slimp.checks.leaks import is_leak
from slimp.checks.link import as_categories, measure_link, uncertainty
from slimp.cohort import Cohort, CohortInfo
from slimp.schema import Feature, Schema
from slimp.sources import import_source
from slimp.storage import ImagesInMemory

SCHEMA = {
    "image": "file",
    "lesion": "lesion",
    "patient": "patient",
    "label": "diagnosis",
    "lesion_metadata": {
        "diameter": {"kind": "continuous", "unit": "mm"},
        "symptoms": {"kind": "checkbox", "columns": ["itch", "bleed"], "missing": ["UNK"]},
    },
    "patient_metadata": {
        "age": {"kind": "continuous", "unit": "years"},
        "origin": {"kind": "categorical"},
    },
    "refused": {"biopsied": "follows from the diagnosis"},
}
CLASSES = np.array(["BCC", "MEL", "NEV"])


def encode(pixels: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@lru_cache
def picture(seed: int) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 255, (40, 36, 3), dtype=np.uint8))


def clean_tables(seed: int = 0, patients: int = 60) -> dict[str, pd.DataFrame]:
    """Two lesions per patient, an image each; clinical columns depend on the label, by chance."""
    rng = np.random.default_rng(seed)
    n = 2 * patients
    of = np.arange(n) // 2
    label = CLASSES[(of + rng.integers(0, 2, n)) % 3]
    chances = {"BCC": 0.7, "MEL": 0.4, "NEV": 0.1}
    bleeds = rng.random(n) < np.array([chances[name] for name in label])
    images = pd.DataFrame(
        {
            "image_id": [f"i{k:03}" for k in range(n)],
            "lesion_id": [f"l{k:03}" for k in range(n)],
            "patient_id": [f"p{k:03}" for k in of],
            "label": label,
        }
    )
    lesions = images[["lesion_id", "patient_id"]].assign(
        diameter=rng.uniform(2, 20, n).round(1),
        itch=pd.array(rng.random(n) < 0.4, dtype="boolean"),
        bleed=pd.array(bleeds, dtype="boolean"),
    )
    people = pd.DataFrame(
        {
            "patient_id": [f"p{k:03}" for k in range(patients)],
            "age": rng.integers(20, 60, patients).astype(float),
            "origin": rng.choice(["ITALY", "BRASIL", "POMERANIA"], patients),
        }
    ).astype({"origin": "str"})
    people.loc[rng.random(patients) < 0.2, "age"] = np.nan
    return {"images": images, "lesions": lesions, "patients": people}


def cohort(
    tables: dict[str, pd.DataFrame] | None = None,
    *,
    encoded: dict[str, bytes] | None = None,
    schema: dict[str, object] | None = None,
    report: dict[str, object] | None = None,
) -> Cohort:
    tables = tables or clean_tables()
    own = encoded or {}
    ids = tables["images"]["image_id"]
    return Cohort.from_tables(
        **tables,
        schema=Schema.from_dict({**SCHEMA, **(schema or {})}),
        store=ImagesInMemory([own.get(i, picture(k)) for k, i in enumerate(ids)]),
        info=CohortInfo(name="ours", import_report=report or {}),
    )


def with_column(table: str, column: str, values: object) -> dict[str, pd.DataFrame]:
    tables = clean_tables()
    tables[table] = tables[table].assign(**{column: values})
    return tables


def codes(report: CheckReport, *severities: str) -> set[str]:
    return {f.code for f in report.findings if not severities or f.severity in severities}


def only(report: CheckReport, code: str):
    found = [finding for finding in report.findings if finding.code == code]
    assert len(found) == 1, (code, report.findings)
    return found[0]


# The whole report


@pytest.mark.parametrize("seed", range(8))
def test_a_clean_cohort_has_nothing_to_report(seed):
    report = check_cohort(cohort(clean_tables(seed)))
    assert report.findings == ()
    assert report.usable
    assert "Nothing to report" in report.render()


def test_counts():
    tables = clean_tables()
    tables["images"] = tables["images"].assign(split=["train"] * 80 + ["test"] * 40)
    tables["images"].loc[0, "label"] = None
    counts = check_cohort(cohort(tables)).counts
    assert (counts["patients"], counts["lesions"], counts["images"]) == (60, 120, 120)
    assert counts["lesions_per_patient"] == {"min": 2, "median": 2.0, "max": 2}
    assert counts["images_per_lesion"] == {"min": 1, "median": 1.0, "max": 1}
    assert counts["parts"]["test"] == {"images": 40, "lesions": 40, "patients": 20}
    assert sum(entry["images"] for entry in counts["classes"].values()) == 119
    assert counts["unlabelled_images"] == 1
    assert counts["missing"]["age"] == pytest.approx(tables["patients"]["age"].isna().mean(), 1e-3)
    assert counts["width_px"] == {"min": 36, "median": 36.0, "max": 36}
    assert counts["height_px"] == {"min": 40, "median": 40.0, "max": 40}


def troubled() -> tuple[dict[str, pd.DataFrame], dict[str, bytes]]:
    """A cohort with much to report."""
    tables = clean_tables()
    images = tables["images"]
    tables["images"] = images.assign(
        biopsied=np.where(
            images["label"] != "NEV", "True", np.where(images.index % 4, "False", "True")
        ),
        note=[f"free text {k}" for k in range(len(images))],
        split=np.where(images.index < 61, "train", "test"),
    )
    tables["patients"].loc[[3, 4], "age"] = [999.0, -1.0]
    tables["patients"].loc[[5, 6], "origin"] = ["Italy", "BRAZIL"]
    encoded = {"i007": picture(8), "i030": picture(90), "i011": b"no image"}
    return tables, encoded


def test_the_order_of_rows_makes_no_difference():
    tables, encoded = troubled()
    straight = check_cohort(cohort(tables, encoded=encoded))
    assert len(straight.findings) >= 8
    bytes_of = {i: encoded.get(i, picture(k)) for k, i in enumerate(tables["images"]["image_id"])}
    for seed in range(3):
        mixed = {
            name: table.sample(frac=1, random_state=seed, ignore_index=True)
            for name, table in tables.items()
        }
        assert check_cohort(cohort(mixed, encoded=bytes_of)) == straight


def test_the_report_survives_json_and_says_everything_as_text():
    tables, encoded = troubled()
    report = check_cohort(cohort(tables, encoded=encoded))
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["usable"] is report.usable is False
    assert [entry["code"] for entry in content["findings"]] == [f.code for f in report.findings]
    text = " ".join(report.render().split())
    assert all(" ".join(f"{f.code}: {f.message}".split()) in text for f in report.findings)
    assert max(map(len, report.render().splitlines())) <= 100
    severities = [f.severity for f in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_progress_is_told_image_by_image():
    calls = []
    check_cohort(cohort(), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k + 1, 120) for k in range(120)]


def test_a_cohort_checks_itself():
    assert cohort().check() == check_cohort(cohort())


# Images


def test_corrupt_images_are_errors_with_their_reason():
    whole = encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), "jpeg")
    report = check_cohort(cohort(encoded={"i003": b"<html>", "i002": whole[: len(whole) // 2]}))
    finding = only(report, "corrupt-image")
    assert not report.usable
    assert finding.count == 2
    assert finding.example.startswith("i002: image file is truncated")
    assert (
        "no known image format"
        in only(check_cohort(cohort(encoded={"i003": b"<html>"})), "corrupt-image").example
    )


def test_a_decompression_bomb_is_not_decoded():
    header = encode(np.zeros((40, 40, 3), dtype=np.uint8), "bmp")
    bomb = header[:18] + (60_000).to_bytes(4, "little") * 2 + header[26:]
    finding = only(check_cohort(cohort(encoded={"i003": bomb})), "corrupt-image")
    assert finding.example == "i003: too large: 60000 x 60000 px"


def test_tiny_and_blank_images():
    tiny = encode(np.random.default_rng(0).integers(0, 255, (8, 50, 3), dtype=np.uint8))
    blank = encode(np.full((40, 40, 3), 200, dtype=np.uint8))
    report = check_cohort(cohort(encoded={"i004": tiny, "i009": blank}))
    assert codes(report) == {"tiny-image", "blank-image", "blurred-image"}
    assert only(report, "tiny-image").example == "i004: 50 x 8 px"
    assert only(report, "blank-image").example.startswith("i009")


def test_the_same_pixels_in_another_encoding_are_duplicates():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    tables = clean_tables()
    tables["images"].loc[[0, 9], "label"] = ["NEV", "BCC"]
    twins = {"i000": encode(pixels), "i009": encode(pixels, "bmp")}
    report = check_cohort(cohort(tables, encoded=twins))
    assert codes(report) == {"duplicate-labels", "duplicate-across-patients"}
    example = "i000 (NEV, patient p000) and i009 (BCC, patient p004)"
    assert {f.example for f in report.findings} == {example}
    assert {f.severity for f in report.findings} == {"warning"}
    pixels[0, 0, 0] ^= 1
    other = {**twins, "i009": encode(pixels)}
    near = {"near-duplicate-labels", "near-duplicate-across-patients"}
    assert codes(check_cohort(cohort(tables, encoded=other))) == near
    assert check_cohort(cohort(tables, encoded=other), near_duplicates=False).findings == ()


def test_how_far_duplicates_reach():
    tables = clean_tables()
    images = tables["images"] = tables["images"].assign(label="NEV")
    images["label"] = np.where(images.index % 4 < 2, "NEV", "MEL")
    images["split"] = np.where(images.index < 60, "train", "test")
    lesions = tables["lesions"]
    images.loc[5, "lesion_id"] = images.loc[4, "lesion_id"]
    tables["lesions"] = lesions[lesions["lesion_id"].isin(images["lesion_id"])]
    for second, code, severity in (
        (5, "duplicate-within-lesion", "note"),
        (1, "duplicate-across-lesions", "warning"),
        (8, "duplicate-across-patients", "warning"),
        (60, "duplicate-across-parts", "error"),
    ):
        first = {5: 4, 1: 0, 8: 0, 60: 0}[second]
        report = check_cohort(cohort(tables, encoded={f"i{second:03}": picture(first)}))
        assert only(report, code).severity == severity
        assert sum(f.code.startswith("duplicate") for f in report.findings) == 1
        assert report.usable == (severity != "error")


# Patients, lesions, labels


def test_one_patient_is_an_error():
    tables = clean_tables(patients=1)
    assert not check_cohort(cohort(tables)).usable
    assert "one-patient" in codes(check_cohort(cohort(tables)), "error")


def test_one_class_small_classes_and_missing_labels():
    one = check_cohort(cohort(with_column("images", "label", "NEV")))
    assert codes(one) == {"one-class"}
    assert one.usable
    labels = np.array(["NEV"] * 60 + ["MEL"] * 52 + ["SCC"] * 6 + [None, None], dtype=object)
    few = check_cohort(cohort(with_column("images", "label", labels)))
    assert codes(few) == {"small-class", "unlabelled", "small-subgroup"}
    assert only(few, "small-class").example == "SCC (3 patients)"
    assert only(few, "unlabelled").count == 2
    nothing = pd.Series([None] * 120, dtype="str")
    assert codes(check_cohort(cohort(with_column("images", "label", nothing)))) == {"unlabelled"}


def test_labels_that_disagree_within_a_lesion():
    tables = clean_tables()
    tables["images"].loc[[0, 1], ["lesion_id", "label"]] = [["l000", "NEV"], ["l000", "MEL"]]
    tables["lesions"] = tables["lesions"].drop(index=1)
    finding = only(check_cohort(cohort(tables)), "lesion-labels")
    assert finding.example == "lesion l000: i000 NEV and i001 MEL"


def test_a_patient_in_two_parts_is_an_error():
    split = ["train"] * 61 + ["test"] * 59
    report = check_cohort(cohort(with_column("images", "split", split)))
    assert not report.usable
    assert only(report, "patient-across-parts").example == "patient p030: in test and train"


# Columns


def test_columns_that_carry_nothing():
    report = check_cohort(cohort(with_column("patients", "age", np.nan)))
    assert "holds no value" in only(report, "empty-column").message
    report = check_cohort(cohort(with_column("patients", "origin", "ITALY")))
    assert "'ITALY'" in only(report, "constant-column").message


def test_identifiers_are_named_and_never_leaks():
    tables = clean_tables()
    tables["images"]["isic_id"] = [f"ISIC_{k:07}" for k in range(120)]
    tables["patients"]["origin"] = [f"record {k}" for k in range(60)]
    report = check_cohort(cohort(tables))
    assert codes(report, "note") == {"identifier"}
    assert codes(report, "warning") == {"identifier-feature"}
    assert only(report, "identifier").example == "ISIC_0000000"


@pytest.mark.parametrize(
    ("table", "column", "value", "code", "words"),
    [
        ("patients", "age", 130.0, "impossible-value", "outside 0 to 120 years"),
        ("patients", "age", -1.0, "impossible-value", "outside 0 to 120 years"),
        ("lesions", "diameter", 0.0, "impossible-value", "not above 0 mm"),
        ("lesions", "diameter", 9999.0, "outlier", "far outside the others"),
    ],
)
def test_impossible_numbers(table, column, value, code, words):
    tables = clean_tables()
    tables[table].loc[7, column] = value
    finding = only(check_cohort(cohort(tables)), code)
    assert words in finding.message
    assert finding.example == f"{table.removesuffix('s')} {tables[table].iloc[7, 0]}: {value:g}"


def test_a_column_of_positions_may_be_negative():
    tables = with_column("lesions", "diameter", np.random.default_rng(0).normal(0, 100, 120))
    assert check_cohort(cohort(tables)).findings == ()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential", "uniform", "standard_t"])
def test_long_tails_are_no_outliers(seed, draw):
    rng = np.random.default_rng(seed)
    sizes = {"standard_t": (4, 2000), "lognormal": (1, 1.2, 2000)}
    numbers = pd.Series(
        getattr(rng, draw)(*sizes.get(draw, (0, 1, 2000) if draw != "exponential" else (1, 2000)))
    )
    assert not far_values(numbers).any()
    assert far_values(pd.concat([numbers, pd.Series([1e6])], ignore_index=True)).tolist()[-1]


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_equals_its_definition(first, second):
    @lru_cache(None)
    def slow(i, j):
        if i == 0 or j == 0:
            return i + j
        replaced = slow(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(slow(i - 1, j) + 1, slow(i, j - 1) + 1, replaced)

    assert edit_distance(first, second) == slow(len(first), len(second))


@pytest.mark.parametrize(
    ("first", "second", "twins"),
    [
        ("BRASIL", "BRAZIL", True),
        ("Face", "FACE", True),
        ("lower-extremity", "lower extremity", True),
        ("lower extremity", "lower extremety", True),
        ("lower extremity", "upper extremity", False),
        ("anterior torso", "posterior torso", False),
        ("male", "female", False),
        ("type 11", "type 12", False),
        ("ARM", "EAR", False),
    ],
)
def test_twin_spellings(first, second, twins):
    known = pd.Series([first] * 50 + [second] * 5 + ["other thing"] * 9)
    assert bool(list(twin_spellings(known, "column"))) == twins


def test_labels_spelled_twice():
    tables = clean_tables()
    tables["images"].loc[:24, "label"] = "nev"
    assert "'NEV'" in only(check_cohort(cohort(tables)), "twin-spellings").example


# Leaks


def leak_columns(rng, label):
    malignant = label != "NEV"
    return {
        "copy": pd.Series(label).map({"BCC": "1", "MEL": "2", "NEV": "3"}),
        "biopsied": pd.Series(
            np.where(malignant | (rng.random(len(label)) < 0.2), "True", "False")
        ),
        "thickness": pd.Series(
            np.where(label == "MEL", rng.random(len(label)).round(3).astype(str), "")
        ),
        "fine": pd.Series(label) + "-" + pd.Series(rng.integers(0, 4, len(label)).astype(str)),
        "score": pd.Series(
            (rng.normal(0, 1, len(label)) + 5 * (label == "MEL")).round(4).astype(str)
        ),
    }


@pytest.mark.parametrize("name", ["copy", "biopsied", "thickness", "fine", "score"])
@pytest.mark.parametrize("seed", range(3))
def test_leaks_are_found_whatever_they_look_like(name, seed):
    tables = clean_tables(seed, patients=150)
    label = tables["images"]["label"].to_numpy(dtype=object)
    column = leak_columns(np.random.default_rng(seed), label)[name]
    tables["images"] = tables["images"].assign(biopsied=column, hint=column)
    report = check_cohort(cohort(tables))
    assert codes(report) == {"leak-refused", "leak-unused"}
    assert codes(report) == codes(report, "note")
    assert "follows from the diagnosis" in only(report, "leak-refused").remedy


def test_a_leaking_feature_is_a_warning_with_its_evidence():
    tables = clean_tables(patients=200)
    malignant = (tables["images"]["label"] != "NEV").to_numpy()
    kept = malignant | (np.arange(400) % 4 == 0)
    tables["lesions"]["itch"] = pd.array(kept, dtype="boolean")
    finding = only(check_cohort(cohort(tables)), "leak")
    assert finding.severity == "warning"
    assert f"all {malignant.sum()} images of BCC, MEL have itch = True" in finding.message
    share = kept[~malignant].mean()
    assert f"against {share:.0%} of the others" in finding.message
    assert "move 'itch' to [refused]" in finding.remedy


def test_a_feature_that_is_the_label_is_an_error():
    tables = clean_tables()
    labels = np.where(tables["images"]["label"] == "NEV", "benign", "malignant")
    tables["images"]["label"] = labels
    tables["lesions"]["bleed"] = pd.array(labels == "malignant", dtype="boolean")
    report = check_cohort(cohort(tables))
    assert not report.usable
    assert "'bleed' is the label under another name" in only(report, "leak").message


def test_gaps_that_give_the_label_away():
    tables = clean_tables(patients=200)
    nevus = (tables["images"]["label"] == "NEV").to_numpy()
    unseen = nevus & (np.arange(400) % 5 > 0)
    tables["lesions"].loc[unseen, ["diameter", "itch"]] = [[np.nan, pd.NA]]
    finding = only(check_cohort(cohort(tables)), "leak-by-gaps")
    assert finding.severity == "warning"
    assert finding.example == "diameter and itch"
    assert "have diameter filled in" in finding.message


def people(n: int, patients: int, seed: int):
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, n)
    label = pd.Series(CLASSES[rng.choice(3, n, p=[0.6, 0.3, 0.1])])
    return rng, patient, label, pd.Series(patient.astype(str))


@pytest.mark.parametrize("n", [30, 300])
def test_independent_columns_are_never_leaks(n):
    for seed in range(60):
        rng, patient, label, ids = people(n, max(8, n // 3), seed)
        columns = {
            "coin": pd.Series(rng.choice(["a", "b"], n)),
            "rare": pd.Series(rng.choice(["a", "b"], n, p=[0.98, 0.02])),
            "many": pd.Series(rng.integers(0, n // 5, n).astype(str)),
            "unique": pd.Series(rng.permutation(n).astype(str)) + "x",
            "number": pd.Series(rng.normal(size=n)),
            "of patient": pd.Series(rng.integers(0, 9, n)[patient % n].astype(str)),
        }
        for name, column in columns.items():
            link = measure_link(as_categories(column), label, ids)
            assert link is None or not is_leak(link), (name, seed, link)


@pytest.mark.parametrize("seed", range(20))
def test_a_copy_of_the_label_is_always_a_leak(seed):
    rng, _, label, ids = people(300, 100, seed)
    copy = measure_link(label.str.lower(), label, ids)
    assert copy is not None
    assert copy.one_to_one
    assert is_leak(copy)
    assert copy.column_share > 0.95
    assert copy.balanced_accuracy == 1
    noisy = label.where(rng.random(300) > 0.05, "NEV")
    link = measure_link(noisy, label, ids)
    assert link is not None
    assert is_leak(link)
    assert not link.one_to_one


@pytest.mark.parametrize("seed", range(10))
def test_a_link_ignores_names_order_and_repeated_images(seed):
    rng, _, label, ids = people(200, 60, seed)
    column = pd.Series(np.where(rng.random(200) < 0.5, label, rng.choice(CLASSES, 200)))
    link = measure_link(column, label, ids)
    order = rng.permutation(200)
    assert measure_link(column[order], label[order], ids[order]) == link
    thrice = [pd.concat([series] * 3, ignore_index=True) for series in (column, label, ids)]
    again = measure_link(*thrice)
    assert again is not None
    assert asdict(replace(again, rule=None)) == asdict(replace(link, rule=None))


def test_uncertainty_is_mutual_information_over_entropy_less_the_bias():
    rng, _, label, _ = people(500, 500, 0)
    column = pd.Series(np.where(rng.random(500) < 0.3, label, "other"))
    table = pd.crosstab(column, label).to_numpy(dtype=float)
    share, p_value = uncertainty(table)
    entropy = mutual_info_score(column, column)
    bias = (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * 500)
    assert share == pytest.approx((mutual_info_score(column, label) - bias) / entropy)
    assert p_value < 1e-20
    assert uncertainty(np.outer([3.0, 5.0], [2.0, 7.0]))[0] == 0


def test_numbers_are_cut_at_their_deciles_and_few_values_stay():
    rng = np.random.default_rng(0)
    cut = as_categories(pd.Series(np.append(rng.normal(size=1000), np.nan)))
    assert cut.isna().tolist() == [False] * 1000 + [True]
    assert cut.value_counts().tolist() == [100] * 10
    text = pd.Series(["1", "2", "", "2"]).mask(lambda s: s == "")
    assert as_categories(text).dropna().tolist() == ["1", "2", "2"]
    mostly = as_categories(pd.Series([0.0] * 970 + list(range(1, 31))))
    assert sorted(mostly.value_counts()) == [30, 970]


# What the import met


def test_what_the_import_settled_is_told_again():
    report = {
        "disagreements": [
            {
                "level": "patient",
                "column": "age",
                "count": 34,
                "rule": "median",
                "example": "p: 1, 2",
            }
        ],
        "missing_spellings": {"origin": {"": 3, "UNK": 2}, "age": {"": 9}, "itch": {"UNK": 0}},
    }
    found = check_cohort(cohort(report=report))
    assert codes(found, "note") == codes(found) == {"level-disagreement", "missing-spellings"}
    assert "'age' differs within 34 patients" in only(found, "level-disagreement").message
    spelled = only(found, "missing-spellings")
    assert "empty cells (12 cells of 2 columns) and 'UNK' (2 cells of 1 column)" in spelled.message
    assert spelled.example.endswith(": origin")
    one = {"missing_spellings": {"origin": {"": 3}, "age": {"": 9}}}
    assert check_cohort(cohort(report=one)).findings == ()


def test_rows_that_the_import_lost_or_mended():
    report = {
        "rows": 150,
        "absent": 12,
        "absent_examples": ["a.png", "b.png", "c.png", "d.png"],
        "corrupt": 1,
        "corrupt_examples": ["e.png (not an image)"],
        "empty_patient_ids": 2,
        "empty_lesion_ids": 0,
        "duplicate_rows": 3,
    }
    found = check_cohort(cohort(report=report))
    assert codes(found, "note") == {"absent-image", "duplicate-row"}
    assert codes(found, "warning") == {"dropped-image", "empty-id"}
    assert only(found, "dropped-image").example == "e.png (not an image)"
    assert only(found, "absent-image").example == "a.png, b.png and c.png"
    assert only(found, "empty-id").message == "2 rows without a patient id."


def test_unused_columns_that_seem_to_belong_to_patients():
    rng = np.random.default_rng(0)
    of_patient = rng.choice(list("abcdef"), 60)[np.arange(120) // 2]
    report = check_cohort(cohort(with_column("images", "clinic", of_patient)))
    assert report.findings == ()
    torn = np.where(np.arange(120) == 9, "z", of_patient)
    finding = only(
        check_cohort(cohort(with_column("images", "clinic", torn))), "level-disagreement"
    )
    assert finding.example == f"patient p004: {of_patient[8]} and z"
    noise = rng.choice(list("abcdef"), 120)
    assert check_cohort(cohort(with_column("images", "noise", noise))).findings == ()


# Real cohorts


@pytest.fixture(scope="module")
def pad(real_data, tmp_path_factory) -> Cohort:
    """The part of PAD-UFES-20 whose images are at hand."""
    target = tmp_path_factory.mktemp("check") / "pad"
    return import_source("pad-ufes-20", real_data / "pad-ufes-20", target)


@pytest.mark.real_data
def test_pad_ufes_20_shows_its_traps(pad):
    report = check_cohort(pad)
    assert report.usable

    malignant = int(pad.images["label"].isin(["BCC", "MEL", "SCC"]).sum())
    evidence = f"all {malignant} images of BCC, MEL, SCC have biopsed = True"
    assert evidence in only(report, "leak-refused").message
    assert not [f for f in report.findings if f.code == "leak"], "honest columns were accused"
    gaps = only(report, "leak-by-gaps")
    assert {"smoke", "gender", "diameter_1"} <= set(gaps.example.replace(" and ", ", ").split(", "))

    twins = only(report, "duplicate-across-lesions")
    assert twins.count == 1
    assert "PAT_701_1321_156" in twins.example
    settled = [f for f in report.findings if f.code == "level-disagreement"]
    assert any("column 'age' differs within" in f.message for f in settled)
    spelled = only(report, "missing-spellings")
    assert "empty cells" in spelled.message
    assert "'UNK'" in spelled.message
    assert "background_father" in spelled.example
    assert "0 mm" in " ".join(f.message for f in report.findings)
    assert only(report, "absent-image").severity == "note"


@pytest.mark.real_data
def test_biopsed_is_found_from_the_data_not_from_the_refused_list(pad):
    trusting = replace(pad, schema=replace(pad.schema, refused={}))
    assert "column 'biopsed'" in only(check_cohort(trusting), "leak-unused").message
    of_lesion = pad.images.groupby("lesion_id")["biopsed"].first()
    ticks = pd.array(pad.lesions["lesion_id"].map(of_lesion) == "True", dtype="boolean")
    lesions = pad.lesions.assign(biopsed=ticks)
    lesion_level = pad.schema.level("lesion")
    feature = Feature(name="biopsed", kind="checkbox", columns=("biopsed",))
    levels = tuple(
        replace(level, features=(*level.features, feature)) if level == lesion_level else level
        for level in pad.schema.levels
    )
    fooled = replace(
        trusting,
        schema=replace(trusting.schema, levels=levels),
        tables=replace(pad.tables, lesions=lesions, images=pad.images.drop(columns="biopsed")),
    )
    finding = only(check_cohort(fooled), "leak")
    assert finding.severity == "warning"
    assert "move 'biopsed' to [refused]" in finding.remedy


@pytest.mark.real_data
def test_pad_ufes_20_with_a_picture_filed_twice(pad):
    """As PAT_759_1433_914 (NEV) and PAT_759_1538_566 (BCC) in the whole dataset."""
    labels = pad.images["label"]
    first = int(labels.index[labels == "NEV"][0])
    second = int(labels.index[labels == "BCC"][0])
    positions = pad.positions.copy()
    positions[second] = positions[first]
    finding = only(check_cohort(replace(pad, positions=positions)), "duplicate-labels")
    for row in (first, second):
        assert f"{pad.images['image_id'][row]} ({labels[row]}" in finding.example


@pytest.mark.real_data
def test_ham10000_leaks_how_the_diagnosis_was_made(real_data, tmp_path):
    report = check_cohort(import_source("ham10000", real_data / "ham10000", tmp_path / "ham"))
    assert codes(report, "note") == {
        "absent-image",
        "leak-refused",
        "missing-spellings",
        "small-subgroup",
        "dark-corners",
        "near-duplicate-within-lesion",
    }
    assert codes(report, "warning") == {"framed-image", "near-duplicate-across-patients"}
    assert "ISIC_0027636" in only(report, "near-duplicate-across-patients").example
    assert "dx_type = follow_up are nv" in only(report, "leak-refused").message

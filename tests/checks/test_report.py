from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.checks.image_statistics import MEASURES
from slimp.checks.missingness import MOST_PATTERNS, missingness
from slimp.checks.published import Published
from slimp.checks.report import cautions, check_cohort
from slimp.data.cohort import Cohort
from slimp.data.schema import Feature
from slimp.sources import import_source


@pytest.mark.parametrize("seed", range(4))
def test_a_clean_cohort_has_nothing_to_report(clean_tables, cohort, seed):
    report = check_cohort(cohort(clean_tables(seed)))
    assert report.findings == ()
    assert report.usable
    assert "Nothing to report" in report.render()


def test_counts(clean_tables, cohort):
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


@pytest.fixture
def troubled(clean_tables, picture) -> tuple[dict[str, pd.DataFrame], dict[str, bytes]]:
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


def test_the_order_of_rows_makes_no_difference(picture, cohort, troubled):
    tables, encoded = troubled
    straight = check_cohort(cohort(tables, encoded=encoded))
    assert len(straight.findings) >= 8
    bytes_of = {i: encoded.get(i, picture(k)) for k, i in enumerate(tables["images"]["image_id"])}
    for seed in range(2):
        mixed = {
            name: table.sample(frac=1, random_state=seed, ignore_index=True)
            for name, table in tables.items()
        }
        assert check_cohort(cohort(mixed, encoded=bytes_of)) == straight


def test_the_report_survives_json_and_says_everything_as_text(cohort, troubled):
    tables, encoded = troubled
    report = check_cohort(cohort(tables, encoded=encoded))
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["usable"] is report.usable is False
    assert [entry["code"] for entry in content["findings"]] == [f.code for f in report.findings]
    text = " ".join(report.render().split())
    assert all(" ".join(f"{f.code}: {f.message}".split()) in text for f in report.findings)
    assert max(map(len, report.render().splitlines())) <= 100
    severities = [f.severity for f in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_progress_is_reported_image_by_image(cohort):
    calls = []
    check_cohort(cohort(), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k + 1, 120) for k in range(120)]


def test_cautions_repeat_what_every_result_depends_on(clean_tables, cohort):
    assert cautions(cohort()) == []
    tables = clean_tables()
    tables["lesions"]["bleed"] = pd.array(tables["images"]["label"] == "MEL", dtype="boolean")
    owners = {"patient_id": tables["lesions"]["lesion_id"]}
    tables = {
        "images": tables["images"].assign(**owners),
        "lesions": tables["lesions"].assign(**owners),
        "patients": tables["patients"]
        .iloc[np.arange(120) // 2]
        .assign(patient_id=owners["patient_id"].to_numpy()),
    }
    found = cautions(
        cohort(tables, schema={"patient": "lesion"}, report={"missing_patient_ids": 2})
    )
    assert len(found) == 3
    assert any("'bleed' gives the label away" in text for text in found)
    assert any(text.startswith("No patient ids") for text in found)


@pytest.fixture(scope="module")
def pad(real_data, tmp_path_factory) -> Cohort:
    """The part of PAD-UFES-20 whose images are at hand."""
    target = tmp_path_factory.mktemp("check") / "pad"
    return import_source("pad-ufes-20", real_data / "pad-ufes-20", target)


@pytest.mark.real_data
def test_pad_ufes_20_shows_its_traps(only, pad):
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
    resolved = [f for f in report.findings if f.code == "level-disagreement"]
    assert any("column 'age' differs within" in f.message for f in resolved)
    spelled = only(report, "missing-spellings")
    assert "empty cells" in spelled.message
    assert "'UNK'" in spelled.message
    assert "background_father" in spelled.example
    assert "0 mm" in " ".join(f.message for f in report.findings)
    assert only(report, "absent-image").severity == "note"


@pytest.mark.real_data
def test_biopsed_is_found_from_the_data_not_from_the_refused_list(only, pad):
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
def test_pad_ufes_20_with_a_picture_filed_twice(only, pad):
    """As PAT_759_1433_914 (NEV) and PAT_759_1538_566 (BCC) in the whole dataset."""
    labels = pad.images["label"]
    first = int(labels.index[labels == "NEV"][0])
    second = int(labels.index[labels == "BCC"][0])
    positions = pad.positions.copy()
    positions[second] = positions[first]
    finding = only(check_cohort(replace(pad, positions=positions)), "duplicate-labels")
    for row in (first, second):
        assert f"{pad.images['image_id'][row]} ({labels[row]}" in finding.example


@pytest.fixture(scope="module")
def ham(real_data, tmp_path_factory) -> Cohort:
    """Some rows of HAM10000, and three images that occur twice."""
    raw, target = (tmp_path_factory.mktemp("ham") / name for name in ("raw", "cohort"))
    raw.mkdir()
    [table] = (real_data / "ham10000").rglob("*.csv")
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    twice = ["0027636", "0027994", "0034228", "0034248", "0024366", "0029861"]
    kept = (rows.index % 24 == 0) | rows["image_id"].isin([f"ISIC_{number}" for number in twice])
    rows[kept].to_csv(raw / table.name, index=False)
    for path in (real_data / "ham10000").rglob("*.jpg"):
        if path.stem in set(rows["image_id"][kept]):
            (raw / path.name).symlink_to(path)
    return import_source("ham10000", raw, target)


@pytest.mark.real_data
def test_ham10000_leaks_how_the_diagnosis_was_made(codes, only, ham):
    report = check_cohort(ham)
    assert {"leak-refused", "near-duplicate-within-lesion"} <= codes(report, "note")
    assert {"near-duplicate-across-patients", "no-patient-ids"} <= codes(report, "warning")
    assert "leak" not in codes(report)
    near = report.duplicates[report.duplicates["kind"] == "near"]
    assert sorted(near["first_id"]) == ["ISIC_0024366", "ISIC_0027636", "ISIC_0034228"]
    assert "dx_type = follow_up are nv" in only(report, "leak-refused").message
    assert len(cautions(ham)) == 1


# Ranking, missingness, import report


def test_the_most_informative_comes_first_and_survives_json(cohort):
    ranking = check_cohort(cohort()).ranking
    bits = [row.found.information for row in ranking]
    assert bits == sorted(bits, reverse=True)
    assert {"bleed", "itch", "diameter", "origin", "age", "gaps of age"} <= {
        row.name for row in ranking
    }
    assert {row.name for row in ranking if row.kind == "image"} <= set(MEASURES)
    best = ranking[0].to_dict()
    assert best["column"] == "bleed"
    assert best["balanced_accuracy_low"] <= best["balanced_accuracy"]
    json.dumps([row.to_dict() for row in ranking], allow_nan=False)


def test_columns_empty_in_the_same_rows_are_one_row(clean_tables, cohort):
    tables = clean_tables()
    tables["lesions"].loc[::3, ["diameter", "itch", "bleed"]] = np.nan
    ranking = check_cohort(cohort(tables)).ranking
    gaps = {row.name: row for row in ranking if row.kind == "gaps"}
    assert set(gaps) == {"gaps of diameter and 2 more", "gaps of age"}
    row = gaps["gaps of diameter and 2 more"]
    assert [column.name for column in row.columns] == ["diameter", "itch", "bleed"]
    assert row.known == pytest.approx(2 / 3)


def test_without_labels_nothing_is_ranked(with_column, cohort):
    assert check_cohort(cohort(with_column("images", "label", "NEV"))).ranking == ()


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=30))
def test_patterns_equal_a_count_row_by_row(rows):
    empty = np.array(rows)
    names = [f"c{k}" for k in range(5)]
    columns = []
    for k, name in enumerate(names):
        values = pd.Series(np.where(empty[:, k], np.nan, 1.0))
        columns.append(Published(name=name, role="feature", own=values, values=values))
    columns.append(Published(name="other", role="unused", own=values, values=values))
    found = missingness(columns)
    slow = Counter(tuple(n for n, gap in zip(names, row, strict=True) if gap) for row in rows)
    assert found.num_patterns == len(slow)
    patterns = dict(found.patterns)
    assert len(patterns) == min(len(slow), MOST_PATTERNS)
    assert all(slow[missing] == images for missing, images in patterns.items())
    assert list(patterns.values()) == sorted(slow.values(), reverse=True)[: len(patterns)]
    assert list(found.shares.values()) == empty.mean(axis=0).tolist()
    for block in found.blocks:
        gaps = [empty[:, names.index(name)].tolist() for name in block]
        assert len(gaps) > 1
        assert all(gap == gaps[0] for gap in gaps)


def test_a_form_that_was_not_used(clean_tables, cohort, codes, only):
    tables = clean_tables()
    unused = np.random.default_rng(0).random(120) < 0.3
    tables["lesions"].loc[unused, ["diameter", "itch"]] = np.nan
    assert codes(check_cohort(cohort(tables))) == set()
    tables["lesions"].loc[unused, "bleed"] = pd.NA
    finding = only(check_cohort(cohort(tables)), "missing-block")
    assert finding.example == "diameter, itch and bleed"
    assert f"{unused.mean():.1%} of the images" in finding.message


def test_no_features_no_pattern():
    assert missingness([]).patterns == ()


def test_what_the_import_resolved_is_repeated(cohort, codes, only):
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


def test_rows_that_the_import_lost_or_mended(cohort, codes, only):
    report = {
        "rows": 150,
        "absent": 12,
        "absent_examples": ["a.png", "b.png", "c.png", "d.png"],
        "corrupt": 1,
        "corrupt_examples": ["e.png (not an image)"],
        "missing_patient_ids": 2,
        "missing_lesion_ids": 0,
        "duplicate_rows": 3,
        "assumed": ["'100' and '100.0' are one patient"],
    }
    found = check_cohort(cohort(report=report))
    assert codes(found, "note") == {"absent-image", "duplicate-row", "import-note"}
    assert codes(found, "warning") == {"dropped-image", "empty-id"}
    assert only(found, "dropped-image").example == "e.png (not an image)"
    assert only(found, "absent-image").example == "a.png, b.png and c.png"
    assert only(found, "empty-id").message == "2 rows without a patient id."


def test_ages_that_differ_are_called_normal(cohort, only):
    entry = {"level": "patient", "count": 3, "rule": "median", "example": "p: 41, 44 -> 42.5"}
    report = {"disagreements": [{**entry, "column": "age"}]}
    finding = only(check_cohort(cohort(report=report)), "level-disagreement")
    assert finding.remedy.startswith("A patient seen over years has several ages")
    report = {"disagreements": [{**entry, "column": "origin", "rule": "most frequent"}]}
    finding = only(check_cohort(cohort(report=report)), "level-disagreement")
    assert finding.remedy.startswith("Correct the table if it is wrong")

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from spoilt import clean_tables, codes, cohort, only, picture, without_patients

from slimp.checks.finding import kinds
from slimp.checks.report import cautions, check_cohort
from slimp.data.cohort import Cohort
from slimp.data.schema import Feature
from slimp.sources import import_source


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_cohort_has_nothing_to_report(seed):
    calls = []
    whole = cohort(clean_tables(seed))
    report = check_cohort(whole, progress=lambda done, total: calls.append((done, total)))
    assert report.findings == ()
    assert report.usable
    assert "Nothing to report" in report.render()
    assert calls == [*((k + 1, 120) for k in range(120)), (120, 120)]
    assert cautions(whole) == []


def test_the_docs_have_a_row_for_each_finding():
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (\w+)", page, flags=re.MULTILINE))
    assert rows == {code: severity for code, (severity, *_) in kinds().items()}


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


@pytest.fixture
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


def test_the_order_of_rows_makes_no_difference(troubled):
    tables, encoded = troubled
    straight = check_cohort(cohort(tables, encoded=encoded))
    assert len(straight.findings) >= 7
    bytes_of = {i: encoded.get(i, picture(k)) for k, i in enumerate(tables["images"]["image_id"])}
    mixed = {
        name: table.sample(frac=1, random_state=0, ignore_index=True)
        for name, table in tables.items()
    }
    assert check_cohort(cohort(mixed, encoded=bytes_of)) == straight


def test_the_report_survives_json_and_says_everything_as_text(troubled):
    tables, encoded = troubled
    report = check_cohort(cohort(tables, encoded=encoded))
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["usable"] is report.usable is False
    assert [entry["code"] for entry in content["findings"]] == [f.code for f in report.findings]
    text = " ".join(report.render().split())
    assert all(" ".join(f"{f.code}: {f.message}".split()) in text for f in report.findings)
    assert all(" ".join(f.remedy.split()) in text for f in report.findings)
    assert max(map(len, report.render().splitlines())) <= 100
    severities = [f.severity for f in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_cautions_repeat_what_every_result_depends_on():
    tables = without_patients()
    tables["lesions"]["bleed"] = pd.array(tables["images"]["label"] == "MEL", dtype="boolean")
    report = {"missing_patient_ids": 2}
    found = cautions(cohort(tables, schema={"patient": "lesion"}, report=report))
    assert len(found) == 3
    assert any("'bleed' gives the label away" in text for text in found)
    assert any(text.startswith("No patient ids") for text in found)


# Missing values


def test_a_form_that_was_not_used():
    tables = clean_tables()
    unused = np.random.default_rng(0).random(120) < 0.3
    tables["lesions"].loc[unused, ["diameter", "itch"]] = np.nan
    assert codes(check_cohort(cohort(tables))) == set()
    tables["lesions"].loc[unused, "bleed"] = pd.NA
    finding = only(check_cohort(cohort(tables)), "missing-block")
    assert finding.example == "diameter, itch and bleed"
    assert f"{unused.mean():.1%} of the images" in finding.message


# Real data


@pytest.fixture(scope="module")
def pad(real_data, tmp_path_factory) -> Cohort:
    """The part of PAD-UFES-20 whose images are at hand, and its report."""
    target = tmp_path_factory.mktemp("check") / "pad"
    return import_source("pad-ufes-20", real_data / "pad-ufes-20", target)


@pytest.mark.real_data
def test_pad_ufes_20_shows_its_traps(pad):
    """One image is filed twice, as PAT_759_1433_914 and PAT_759_1538_566 in the whole dataset."""
    labels = pad.images["label"]
    first, second = (int(labels.index[labels == name][0]) for name in ("NEV", "BCC"))
    positions = pad.positions.copy()
    positions[second] = positions[first]
    report = check_cohort(replace(pad, positions=positions))
    assert report.usable

    malignant = int(labels.isin(["BCC", "MEL", "SCC"]).sum())
    evidence = f"all {malignant} images of BCC, MEL, SCC have biopsed = True"
    assert evidence in only(report, "leak-refused").message
    assert not [f for f in report.findings if f.code == "leak"], "honest columns were accused"
    gaps = only(report, "leak-by-gaps")
    assert {"smoke", "gender", "diameter_1"} <= set(gaps.example.replace(" and ", ", ").split(", "))

    twins = only(report, "duplicate-across-lesions")
    assert twins.count == 1
    assert "PAT_701_1321_156" in twins.example
    for row in (first, second):
        example = only(report, "duplicate-labels").example
        assert f"{pad.images['image_id'][row]} ({labels[row]}" in example
    resolved = [f for f in report.findings if f.code == "level-disagreement"]
    assert any("column 'age' differs within" in f.message for f in resolved)
    spelled = only(report, "missing-spellings")
    assert "empty cells" in spelled.message
    assert "'UNK'" in spelled.message
    assert "0 mm" in " ".join(f.message for f in report.findings)
    assert only(report, "absent-image").severity == "note"


@pytest.mark.real_data
def test_biopsed_is_found_from_the_data_not_from_the_refused_list(pad):
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
        pad,
        schema=replace(pad.schema, levels=levels, refused={}),
        tables=replace(pad.tables, lesions=lesions, images=pad.images.drop(columns="biopsed")),
    )
    assert any(
        text.startswith("Column 'biopsed' gives the label away") for text in cautions(fooled)
    )


@pytest.mark.slow
@pytest.mark.real_data
def test_ham10000_leaks_how_the_diagnosis_was_made(real_data, tmp_path):
    """Some rows of HAM10000, and three images that occur twice."""
    raw = tmp_path / "raw"
    raw.mkdir()
    [table] = (real_data / "ham10000").rglob("*.csv")
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    twice = ["0027636", "0027994", "0034228", "0034248", "0024366", "0029861"]
    kept = (rows.index % 24 == 0) | rows["image_id"].isin([f"ISIC_{number}" for number in twice])
    rows[kept].to_csv(raw / table.name, index=False)
    for path in (real_data / "ham10000").rglob("*.jpg"):
        if path.stem in set(rows["image_id"][kept]):
            (raw / path.name).symlink_to(path)
    ham = import_source("ham10000", raw, tmp_path / "cohort")
    report = check_cohort(ham)
    assert {"leak-refused", "near-duplicate-within-lesion"} <= codes(report, "note")
    assert {"near-duplicate-across-patients", "no-patient-ids"} <= codes(report, "warning")
    assert "leak" not in codes(report)
    near = report.duplicates[report.duplicates["kind"] == "near"]
    assert sorted(near["first_image_id"]) == ["ISIC_0024366", "ISIC_0027636", "ISIC_0034228"]
    assert "dx_type = follow_up are nv" in only(report, "leak-refused").message
    assert len(cautions(ham)) == 1

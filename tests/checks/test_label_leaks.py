from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from slimp.checks.report import check_cohort


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
@pytest.mark.parametrize("seed", range(2))
def test_leaks_are_found_whatever_they_look_like(clean_tables, cohort, codes, only, name, seed):
    tables = clean_tables(seed, patients=150)
    label = tables["images"]["label"].to_numpy(dtype=object)
    column = leak_columns(np.random.default_rng(seed), label)[name]
    tables["images"] = tables["images"].assign(biopsied=column, hint=column)
    report = check_cohort(cohort(tables))
    assert codes(report) == {"leak-refused", "leak-unused"}
    assert codes(report) == codes(report, "note")
    assert "follows from the diagnosis" in only(report, "leak-refused").remedy


def test_a_leaking_feature_is_a_warning_with_its_evidence(clean_tables, cohort, only):
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


def test_a_feature_that_is_the_label_is_an_error(clean_tables, cohort, only):
    tables = clean_tables()
    labels = np.where(tables["images"]["label"] == "NEV", "benign", "malignant")
    tables["images"]["label"] = labels
    tables["lesions"]["bleed"] = pd.array(labels == "malignant", dtype="boolean")
    report = check_cohort(cohort(tables))
    assert not report.usable
    assert "'bleed' is the label under another name" in only(report, "leak").message


def test_gaps_that_give_the_label_away(clean_tables, cohort, only):
    tables = clean_tables(patients=200)
    nevus = (tables["images"]["label"] == "NEV").to_numpy()
    unseen = nevus & (np.arange(400) % 5 > 0)
    tables["lesions"].loc[unseen, ["diameter", "itch"]] = [[np.nan, pd.NA]]
    finding = only(check_cohort(cohort(tables)), "leak-by-gaps")
    assert finding.severity == "warning"
    assert finding.example == "diameter and itch"
    assert "have diameter = filled in" in finding.message


def sizes(encode, follows):
    """Images of 40 x 36 px or 60 x 36 px; the larger ones are those of a mask."""
    rng = np.random.default_rng(0)
    return {
        f"i{k:03}": encode(rng.integers(0, 255, (60 if large else 40, 36, 3), dtype=np.uint8))
        for k, large in enumerate(follows)
    }


def test_the_size_of_images_as_a_shortcut(clean_tables, cohort, encode, codes, only):
    tables = clean_tables()
    nevus = (tables["images"]["label"] == "NEV").to_numpy()
    rng = np.random.default_rng(1)
    mostly = nevus ^ (rng.random(120) < 0.05)
    report = check_cohort(cohort(tables, encoded=sizes(encode, mostly)))
    found = [f for f in report.findings if f.code == "shortcut"]
    assert any("height, px" in f.message for f in found)
    assert {f.severity for f in found} == {"warning"}
    by_chance = check_cohort(cohort(tables, encoded=sizes(encode, rng.random(120) < 0.5)))
    assert codes(by_chance) == set()

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from spoilt import clean_tables, codes, cohort, encode, with_column

from slimp.checks.images import MEASURES
from slimp.checks.label_leaks import leak_findings, rank_columns
from slimp.checks.published import published_columns
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


def leaks(cohort):
    return list(leak_findings(rank_columns(cohort, list(published_columns(cohort)))))


@pytest.mark.parametrize("name", ["copy", "biopsied", "thickness", "fine", "score"])
def test_leaks_are_found_whatever_they_look_like(name):
    for seed in range(2):
        tables = clean_tables(seed, patients=150)
        label = tables["images"]["label"].to_numpy(dtype=object)
        column = leak_columns(np.random.default_rng(seed), label)[name]
        tables["images"] = tables["images"].assign(biopsied=column, hint=column)
        found = {finding.code: finding for finding in leaks(cohort(tables))}
        assert set(found) == {"leak-refused", "leak-unused"}
        assert {finding.severity for finding in found.values()} == {"note"}
        assert "follows from the diagnosis" in found["leak-refused"].remedy


def test_a_word_for_missing_of_one_feature_is_a_value_of_other_columns():
    tables = clean_tables(patients=150)
    malignant = tables["images"]["label"] != "NEV"
    tables["images"]["target"] = np.where(malignant, "1", "0")
    lesion = {"diameter": {"kind": "continuous", "missing": ["0"]}}
    [finding] = leaks(cohort(tables, schema={"lesion_metadata": lesion}))
    assert finding.message.startswith("column 'target' gives the label away")


def test_a_leaking_feature_is_a_warning_with_its_evidence():
    tables = clean_tables(patients=200)
    malignant = (tables["images"]["label"] != "NEV").to_numpy()
    kept = malignant | (np.arange(400) % 4 == 0)
    tables["lesions"]["itch"] = pd.array(kept, dtype="boolean")
    [finding] = leaks(cohort(tables))
    assert (finding.code, finding.severity) == ("leak", "warning")
    assert f"all {malignant.sum()} images of BCC, MEL have itch = True" in finding.message
    share = kept[~malignant].mean()
    assert f"against {share:.0%} of the others" in finding.message
    assert "move 'itch' to [refused]" in finding.remedy


def test_a_feature_that_is_the_label_is_an_error():
    tables = clean_tables()
    labels = np.where(tables["images"]["label"] == "NEV", "benign", "malignant")
    tables["images"]["label"] = labels
    tables["lesions"]["bleed"] = pd.array(labels == "malignant", dtype="boolean")
    [finding] = leaks(cohort(tables))
    assert (finding.code, finding.severity) == ("leak", "error")
    assert "'bleed' is the label under another name" in finding.message


def test_gaps_that_give_the_label_away():
    tables = clean_tables(patients=200)
    nevus = (tables["images"]["label"] == "NEV").to_numpy()
    unseen = nevus & (np.arange(400) % 5 > 0)
    tables["lesions"].loc[unseen, ["diameter", "itch"]] = [[np.nan, pd.NA]]
    [finding] = leaks(cohort(tables))
    assert (finding.code, finding.severity) == ("leak-by-gaps", "warning")
    assert finding.example == "diameter and itch"
    assert "have diameter = filled in" in finding.message


def sizes(follows):
    """Images of 40 x 36 px or 60 x 36 px; the larger ones are those of a mask."""
    rng = np.random.default_rng(0)
    return {
        f"i{k:03}": encode(rng.integers(0, 255, (60 if large else 40, 36, 3), dtype=np.uint8))
        for k, large in enumerate(follows)
    }


def test_the_size_of_images_as_a_shortcut():
    tables = clean_tables()
    nevus = (tables["images"]["label"] == "NEV").to_numpy()
    rng = np.random.default_rng(1)
    mostly = nevus ^ (rng.random(120) < 0.05)
    report = check_cohort(cohort(tables, encoded=sizes(mostly)))
    found = [f for f in report.findings if f.code == "shortcut"]
    assert any("height, px" in f.message for f in found)
    assert {f.severity for f in found} == {"warning"}
    by_chance = check_cohort(cohort(tables, encoded=sizes(rng.random(120) < 0.5)))
    assert codes(by_chance) == set()


# Ranking


def test_the_most_informative_comes_first_and_survives_json():
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


def test_columns_empty_in_the_same_rows_are_one_row():
    tables = clean_tables()
    tables["lesions"].loc[::3, ["diameter", "itch", "bleed"]] = np.nan
    whole = cohort(tables)
    ranking = rank_columns(whole, list(published_columns(whole)))
    gaps = {row.name: row for row in ranking if row.kind == "gaps"}
    assert set(gaps) == {"gaps of diameter and 2 more", "gaps of age"}
    row = gaps["gaps of diameter and 2 more"]
    assert [column.name for column in row.columns] == ["diameter", "itch", "bleed"]
    assert row.known == pytest.approx(2 / 3)


def test_one_class_has_no_ranking_and_no_subgroups():
    report = check_cohort(cohort(with_column("images", "label", "NEV")))
    assert report.ranking == ()
    assert report.subgroups == {}

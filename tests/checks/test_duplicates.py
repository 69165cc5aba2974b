from __future__ import annotations

import numpy as np

from slimp.check import check_cohort


def test_the_same_pixels_in_another_encoding_are_duplicates(encode, clean_tables, cohort, codes):
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


def test_how_far_duplicates_reach(picture, clean_tables, cohort, only):
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

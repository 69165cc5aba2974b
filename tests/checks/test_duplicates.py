from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from spoilt import clean_tables, codes, cohort, encode, only, picture

from slimp.checks.duplicates import duplicate_sets, exact_pairs, find_near_duplicates
from slimp.checks.images import scan_images
from slimp.checks.report import check_cohort


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


def lesion(seed: int) -> np.ndarray:
    """Smooth noise: something that survives compression."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(96, 96, 3)), (3, 3, 0))
    noise -= noise.min()
    return (255 * noise / noise.max()).astype(np.uint8)


@pytest.fixture(scope="module")
def edited() -> dict[str, bytes]:
    """Pictures of which 4 are 0 again: compressed, halved, turned, and 0 itself."""
    own = {f"i{k:03}": encode(lesion(k)) for k in range(120)}
    first = lesion(0)
    return own | {
        "i009": encode(first, "jpeg", quality=60),
        "i031": encode(first[::2, ::2]),
        "i058": encode(np.rot90(first, 1)),
        "i090": encode(first, "bmp"),
    }


def test_images_that_hang_together_are_one_set(edited):
    scan = scan_images(cohort(encoded=edited))
    pairs, crowded = find_near_duplicates(scan)
    assert crowded.empty
    assert (pairs["kind"] == "near").all()
    assert pairs["likeness"].is_monotonic_decreasing
    assert not pairs.duplicated(["first", "second"]).any()
    [group] = duplicate_sets(scan.facts, pairs, exact_pairs(scan))
    assert group["image_id"].tolist() == ["i000", "i009", "i031", "i058", "i090"]
    turned = pairs[(pairs["first_image_id"] == "i000") & (pairs["second_image_id"] == "i058")]
    assert turned["turn"].tolist() == ["turned by 90 degrees to the right"]
    [copy] = exact_pairs(scan).to_dict("records")
    assert (copy["first_image_id"], copy["second_image_id"], copy["kind"]) == (
        "i000",
        "i090",
        "exact",
    )


REACHES = {
    "within-lesion": (4, 5, "note"),
    "across-lesions": (12, 13, "warning"),
    "across-patients": (20, 28, "warning"),
    "across-parts": (36, 96, "error"),
}
"""Code -> two rows whose images are the same, and how grave that is."""


def test_duplicates_are_told_apart_by_how_far_they_reach():
    tables = clean_tables()
    images, lesions = tables["images"], tables["lesions"]
    images["label"] = np.where(images.index % 4 < 2, "NEV", "MEL")
    images["split"] = np.where(images.index < 60, "train", "test")
    images.loc[5, "lesion_id"] = images.loc[4, "lesion_id"]
    tables["lesions"] = lesions[lesions["lesion_id"].isin(images["lesion_id"])]
    pairs = [(first, second) for first, second, _ in REACHES.values()]
    copies = {f"i{second:03}": picture(first) for first, second in pairs}
    exact = check_cohort(cohort(tables, encoded=copies))
    again = {f"i{first:03}": encode(lesion(first)) for first, _ in pairs}
    again |= {f"i{second:03}": encode(lesion(first), "jpeg") for first, second in pairs}
    near = check_cohort(cohort(tables, encoded=again))
    assert not exact.usable
    assert not near.usable
    for report, prefix in ((exact, ""), (near, "near-")):
        found = {code for code in codes(report) if "duplicate" in code}
        assert found == {f"{prefix}duplicate-{code}" for code in REACHES}
        for code, (first, second, severity) in REACHES.items():
            finding = only(report, f"{prefix}duplicate-{code}")
            assert finding.severity == severity
            assert f"i{first:03}" in finding.example
            assert f"i{second:03}" in finding.example
    without = check_cohort(cohort(tables, encoded=again), near_duplicates=False)
    assert not any("duplicate" in code for code in codes(without))


def test_labels_of_one_picture_that_disagree(edited):
    tables = clean_tables()
    tables["images"].loc[[0, 9], "label"] = ["NEV", "BCC"]
    finding = only(check_cohort(cohort(tables, encoded=edited)), "near-duplicate-labels")
    assert finding.severity == "warning"
    assert "i009 (BCC" in finding.example


def test_blank_images_are_not_near_each_other():
    even = {f"i{k:03}": encode(np.full((40, 40, 3), 100 + k, dtype=np.uint8)) for k in range(40)}
    scan = scan_images(cohort(encoded=even))
    pairs, crowded = find_near_duplicates(scan)
    assert pairs.empty
    assert crowded.empty
    assert duplicate_sets(scan.facts, pairs) == []


def disc(seed: int) -> np.ndarray:
    """A dark disc on plain skin."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:64, :64]
    inside = np.hypot(down - 27.3, across - 22.1) < 14.2
    grey = 200 - rng.uniform(90, 100) * inside + rng.normal(0, 0.3, inside.shape)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def test_images_like_a_crowd_of_others_are_one_finding():
    plain = {f"i{k:03}": encode(disc(k)) for k in range(110)}
    twins = {f"i{k:03}": encode(lesion(0), "jpeg", quality=90 - k % 10) for k in (115, 118)}
    report = check_cohort(cohort(encoded={**plain, **twins}))
    finding = only(report, "alike-images")
    assert finding.severity == "warning"
    assert finding.count == 110
    assert finding.example.startswith("i000 (")
    near = report.duplicates[["first_image_id", "second_image_id"]].to_numpy().tolist()
    assert near == [["i115", "i118"]]
    without = check_cohort(cohort(encoded=plain), near_duplicates=False)
    assert not [found for found in without.findings if found.code == "alike-images"]

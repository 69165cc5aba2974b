from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from pages import read
from PIL import Image
from tiny import with_images

from slimp.checks.report import CheckReport, check_cohort
from slimp.data.cohort import Cohort
from slimp.data.files import ImagesInMemory
from slimp.errors import UserError
from slimp.report.audit import MOST_PAIRS, audit_tables, render_audit, write_audit
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize

DATE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """A drawn cohort in which some pictures are those of others again, or turned."""
    whole = synthesize(SyntheticConfig(patients=24, lesions=3, seed=1))
    encoded = [whole.read_image(row) for row in range(len(whole))]
    first = Image.open(io.BytesIO(encoded[0])).convert("RGB")
    buffer = io.BytesIO()
    first.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(buffer, "JPEG", quality=80)
    encoded[-1], encoded[-2] = buffer.getvalue(), encoded[1]
    return replace(whole, store=ImagesInMemory(encoded), positions=np.arange(len(whole)))


@pytest.fixture(scope="module")
def report(cohort) -> CheckReport:
    return check_cohort(cohort)


def page_of(report, cohort, *, images=True, command="slimp data check"):
    return render_audit(report, cohort, images=images, command=command, date=DATE)


@pytest.fixture(scope="module")
def page(cohort, report) -> str:
    return page_of(report, cohort)


def test_every_finding_is_on_the_page_the_gravest_first(report, page):
    shown = read(page).shown
    for finding in report.findings:
        for text in (finding.code, finding.message[1:], finding.remedy):
            assert re.sub(r"\s+", " ", text) in shown
    heads = re.findall(r'<span class="severity (\w+)">', page)
    assert heads == [finding.severity for finding in report.findings]
    assert len(heads) > 3


def test_the_page_shows_the_tables_of_the_report(report, page):
    shown = read(page).shown
    best = next(row for row in report.ranking if row.kind == "values")
    assert f"{best.name} {best.role} {100 * best.known:.1f} % {best.found.information:.3f}" in shown
    [(column, counts), *_] = report.subgroups.items()
    label = counts.index[0]
    cells = " ".join(f"{n} (few)" if n < 5 else str(n) for n in counts.loc[label])
    assert f"Patients by class and “{column}”" in shown
    assert re.search(rf"{label} {re.escape(cells)[:12]}", shown)
    name, share = max(report.counts["missing"].items(), key=lambda item: item[1])
    assert f"{name} {100 * share:.1f} %" in shown


def test_pairs_are_shown_with_what_they_have_in_common(cohort, report, page):
    assert sorted(report.duplicates["kind"]) == ["exact", "near"]
    found = read(page)
    assert len(found.of("img")) == 4
    assert "pixel-identical" in found.shown
    assert "mirrored left to right" in found.shown
    ids = cohort.images["image_id"]
    alts = {image["alt"] for image in found.of("img")}
    assert alts == {f"Image {ids.iloc[row]}" for row in (0, 1, -1, -2)}
    assert page_of(report, cohort) == page, "the same report gives the same bytes"


def test_without_images_there_are_none(cohort, report):
    page = read(page_of(report, cohort, images=False))
    assert not page.of("img")
    assert "2 pairs, in near_duplicates.csv. Images were not asked for." in page.shown


def test_at_most_so_many_pairs_the_weightiest_first(cohort, report):
    row = report.duplicates.iloc[[0]]
    one = {
        f"second_{level}": row[f"first_{level}"] for level in ("patient_id", "lesion_id", "label")
    }
    many = pd.concat([row.assign(**one)] * 40 + [report.duplicates], ignore_index=True)
    page = page_of(replace(report, duplicates=many), cohort)
    assert page.count('<div class="pair">') == MOST_PAIRS
    assert f"The {MOST_PAIRS} that matter most of 42" in page
    assert f'alt="Image {cohort.images["image_id"].iloc[-1]}"' in page


def test_names_from_tables_are_text(cohort, report):
    hostile = replace(report, cohort="<script>alert(1)</script>")
    page = page_of(hostile, cohort, images=False, command="<b>")
    assert "<script" not in page
    assert "<b>" not in page


def test_the_folder_holds_page_and_tables(cohort, report, tmp_path):
    target = write_audit(tmp_path / "audit", report, cohort, config={"cohort": "c"})
    assert {path.name for path in target.iterdir()} == {
        *("report.html", "metrics.json", "config.json", "images.parquet"),
        *("findings.csv", "columns.csv", "near_duplicates.csv", "subgroups.csv"),
    }
    content = json.loads((target / "metrics.json").read_text())
    assert content["duplicate_pairs"] == {"exact": 1, "near": 1}
    assert len(content["columns"]) == len(report.ranking)
    findings = pd.read_csv(target / "findings.csv", keep_default_na=False)
    assert findings["code"].tolist() == [finding.code for finding in report.findings]
    pairs = pd.read_csv(target / "near_duplicates.csv")
    assert set(pairs["first_image_id"]) == set(cohort.images["image_id"].iloc[:2])
    images = pd.read_parquet(target / "images.parquet")
    assert len(images) == len(cohort)
    assert {"sharpness", "frame", "width"} <= set(images)
    subgroups = pd.read_csv(target / "subgroups.csv")
    assert subgroups["patients"].sum() == sum(t.to_numpy().sum() for t in report.subgroups.values())
    config = json.loads((target / "config.json").read_text())
    assert config["cohort"] == "c"
    assert "slimp" in config["versions"]
    with pytest.raises(UserError, match="audit"):
        write_audit(target, report, cohort, config={})
    write_audit(target, report, cohort, config={}, overwrite=True)


def test_an_audit_of_little_has_a_page(cohort):
    """No labels, no features missing, images that cannot be decoded."""
    unlabelled = with_images(cohort, label=pd.Series([None] * len(cohort), dtype="str"))
    broken = replace(unlabelled, store=ImagesInMemory([b"no image"] * len(cohort)))
    report = check_cohort(broken)
    assert not report.usable
    shown = read(page_of(report, broken)).shown
    for text in ("cannot be used as it is", "No image can be decoded.", "it needs two classes"):
        assert text in shown
    assert audit_tables(report)["near_duplicates"].empty

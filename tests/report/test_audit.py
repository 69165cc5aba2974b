from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from slimp.checks.report import CheckReport, check_cohort
from slimp.data.cohort import Cohort
from slimp.data.files import ImagesInMemory
from slimp.errors import UserError
from slimp.report.audit import MOST_PAIRS, audit_tables, render_audit, write_audit
from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic

DATE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    """A drawn cohort in which some pictures are those of others again, or turned."""
    folder = tmp_path_factory.mktemp("audit") / "cohort"
    write_synthetic(folder, SyntheticConfig(patients=24, lesions=3, seed=1))
    whole = Cohort.load(folder)
    encoded = [whole.read_image(row) for row in range(len(whole))]
    first = Image.open(io.BytesIO(encoded[0])).convert("RGB")
    buffer = io.BytesIO()
    first.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(buffer, "JPEG", quality=80)
    encoded[-1], encoded[-2] = buffer.getvalue(), encoded[1]
    positions = np.arange(len(whole))
    return replace(whole, store=ImagesInMemory(encoded), positions=positions)


@pytest.fixture(scope="module")
def report(cohort) -> CheckReport:
    return check_cohort(cohort)


@pytest.fixture(scope="module")
def page(cohort, report) -> str:
    return render_audit(report, cohort, images=True, command="slimp data check", date=DATE)


class Reader(HTMLParser):
    """Tags, ids, links, and whether every element is closed."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key == "href"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_finding_is_on_the_page_the_gravest_first(report, page):
    text = re.sub(r"\s+", " ", page)
    places = [text.index(f"</span>{finding.code}</h3>") for finding in report.findings]
    assert len(places) > 3
    heads = re.findall(r'<span class="severity (\w+)">', page)
    assert heads == [finding.severity for finding in report.findings]
    for finding in report.findings:
        assert finding.remedy.split("'")[0][:40] in text


def test_the_page_is_whole_and_needs_nothing_else(page):
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert {link.removeprefix("#") for link in reader.links} <= set(reader.ids)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert "default-src 'none'" in page
    for tag, attributes in reader.tags:
        if tag == "img":
            assert attributes["alt"].startswith("Image ")
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "div" and "scroll" in (attributes.get("class") or ""):
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
    assert sum(tag == "table" for tag, _ in reader.tags) == page.count("<caption")


def test_pairs_are_shown_with_what_they_have_in_common(cohort, report, page):
    kinds = report.duplicates["kind"].tolist()
    assert sorted(kinds) == ["exact", "near"]
    assert page.count("<img ") == 4
    assert "pixel-identical</p>" in page
    assert "mirrored left to right" in page
    ids = cohort.images["image_id"]
    for image_id in (ids.iloc[0], ids.iloc[-1], ids.iloc[1], ids.iloc[-2]):
        assert f'alt="Image {image_id}"' in page


def test_without_images_there_are_none(cohort, report):
    page = render_audit(report, cohort, images=False, command="", date=DATE)
    assert "<img" not in page
    assert "data:image" not in page
    assert "2 pairs, in near_duplicates.csv. Images were not asked for." in page


def test_at_most_so_many_pairs_the_weightiest_first(cohort, report):
    ids = cohort.images["image_id"]
    row = report.duplicates.iloc[[0]]
    many = pd.concat([row.assign(same_patient=True, same_lesion=True)] * 40 + [report.duplicates])
    page = render_audit(
        replace(report, duplicates=many.reset_index(drop=True)),
        cohort,
        images=True,
        command="",
        date=DATE,
    )
    assert page.count('<div class="pair">') == MOST_PAIRS
    assert f"The {MOST_PAIRS} that matter most of 42" in page
    assert f'alt="Image {ids.iloc[-1]}"' in page


def test_the_same_report_gives_the_same_bytes(cohort, report, page):
    again = render_audit(report, cohort, images=True, command="slimp data check", date=DATE)
    assert again == page


def test_names_from_tables_are_text(cohort, report):
    hostile = replace(report, cohort="<script>alert(1)</script>")
    page = render_audit(hostile, cohort, images=False, command="<b>", date=DATE)
    assert "<script" not in page
    assert "<b>" not in page.replace("<b ", "")


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
    ids = cohort.images["image_id"]
    assert set(pairs["first_id"]) == {ids.iloc[0], ids.iloc[1]}
    images = pd.read_parquet(target / "images.parquet")
    assert len(images) == len(cohort)
    assert {"sharpness", "frame", "width"} <= set(images)
    subgroups = pd.read_csv(target / "subgroups.csv")
    assert subgroups["patients"].sum() == sum(t.to_numpy().sum() for t in report.subgroups.values())
    config = json.loads((target / "config.json").read_text())
    assert config["cohort"] == "c"
    assert "slimp" in config["versions"]
    with pytest.raises(UserError, match="is not empty"):
        write_audit(target, report, cohort, config={})
    write_audit(target, report, cohort, config={}, overwrite=True)


def test_an_audit_of_little_has_a_page(cohort):
    """No labels, no features missing, images that cannot be decoded."""
    images = cohort.images.assign(label=pd.Series([None] * len(cohort), dtype="str"))
    broken = replace(
        cohort,
        tables=replace(cohort.tables, images=images),
        store=ImagesInMemory([b"no image"] * len(cohort)),
    )
    report = check_cohort(broken)
    assert not report.usable
    page = render_audit(report, broken, images=True, command="", date=DATE)
    assert "cannot be used as it is" in page
    assert "No image can be decoded." in page
    assert "it needs two classes" in page
    assert Reader(page).open == []
    tables = audit_tables(report)
    assert tables["near_duplicates"].empty

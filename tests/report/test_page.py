"""The page of a run: repeatable, safe, and with the figures that it was given."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pages import assessed, read
from tables import hinting_features
from tiny import tiny_config, with_images, with_tables

from slimp.checks.report import check_cohort
from slimp.cli.probe import show
from slimp.data.cohort import Cohort
from slimp.data.files import ImagesInMemory, write_json
from slimp.errors import UserError
from slimp.evaluation.protocol import Assessment
from slimp.evaluation.similarity import similarity
from slimp.experiments.cohorts import lesions_as_patients
from slimp.explain.config import ExplainConfig
from slimp.explain.explain import explain
from slimp.features.embed import embed
from slimp.report.audit import render_audit
from slimp.report.explanation import write_explanation_report
from slimp.report.page import PageOptions, write_report
from slimp.report.retrieval import write_retrieval_report
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.extrapolate import extrapolate
from slimp.retrieval.index import EmbeddedCohort
from slimp.training.build_model import build_model

DATE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; --x: url(http://evil.example/a)",
    "$\\frac{1}{0",
    "_hidden & {{ 7 * 7 }} {% raw %}",
    "黒子\u202e",
)


@pytest.fixture
def run(tmp_path: Path, cohort: Cohort) -> Path:
    return make_run(tmp_path / "run", cohort)


def make_run(folder: Path, cohort: Cohort, encoder: str = "vit_x") -> Path:
    folder.mkdir()
    settings = {"pretrain": {"encoder": encoder, "epochs": 7}, "versions": {"slimp": "9.9.9"}}
    write_json(folder / "config.json", settings)
    rows = [{"kind": "step", "step": k, "epoch": 0, "loss": 2.0 / k} for k in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = cohort.patients["patient_id"]
    part = np.array(["train", "validation", "held_out"])[np.arange(len(ids)) % 3]
    pd.DataFrame({"patient_id": ids, "part": part}).to_parquet(folder / "patients.parquet")
    return folder


def page(run: Path, cohort: Cohort, found: Assessment | None = None, **given: Any) -> str:
    options = PageOptions(date=DATE, command="slimp probe here", **given.pop("options", {}))
    target = run / "report.html"
    assert write_report(target, run, cohort, found, options=options, **given) == target
    return target.read_text(encoding="utf-8")


def full_page(run: Path, cohort: Cohort, found: Assessment) -> str:
    image, noise = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    level = {"lesion": similarity(image, image + noise, ks=(1, 5))}
    return page(run, cohort, found, table=hinting_features(cohort), similarity=level)


def test_a_page_shows_the_figures_that_it_was_given(run, cohort, found):
    html = full_page(run, cohort, found)
    shown = read(html).shown
    score = found.main.balanced_accuracy
    low, high = score.ci95
    assert f"{score.mean:.3f} ({low:.3f} to {high:.3f})" in shown
    assert f"--mean:{100 * score.mean:.2f}%" in html
    for name, baseline in found.baselines.items():
        assert f"{name} {baseline.balanced_accuracy.mean:.3f}" in shown
    assert f"{found.verdict.difference.difference:+.3f}" in shown[: shown.index("Patients")]
    tested = found.main.predictions
    images, patients = (tested[name].nunique() for name in ("image_id", "patient_id"))
    assert f"Tested on {images} images of {patients} patients" in shown
    assert "vit_x, pre-trained on 20 patients" in shown
    assert f"{len(cohort.patients)}" in shown
    for point in found.low_shot.points:
        assert f"{point.balanced_accuracy.mean:.3f}" in shown
    for gap in found.subgroups.gaps:
        assert gap.sentence in shown
    for text in ("Only the split by patient is an honest estimate", "2026-01-02 03:04 UTC"):
        assert text in shown
    for text in ("Research software, not a medical device.", "slimp 9.9.9", "slimp probe here"):
        assert text in shown
    assert html.count("data:image/jpeg") > 5
    assert full_page(run, cohort, found) == html, "the same input gives the same bytes"


def test_the_terminal_names_what_its_calibration_is_of(found, capsys):
    show(replace(found, probes={**found.probes, "fine-tuned": found.main}))
    assert "calibration of 'fine-tuned': ECE" in " ".join(capsys.readouterr().out.split())


def test_confusion_and_reliability_count_all_predictions(run, cohort, found):
    html = page(run, cohort, found, options={"images": False})
    rows = html[html.index('class="confusion"') :].partition("</table>")[0]
    cells = re.findall(r"([\d.]+) % <small>(\d+)</small>", rows)
    table = found.main.predictions
    counts = pd.crosstab(table["label"], table["predicted"]).reindex(columns=found.main.classes)
    counts = counts.fillna(0).to_numpy()
    np.testing.assert_array_equal([int(n) for _, n in cells], counts.ravel())
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose([float(share) for share, _ in cells], shares.ravel(), atol=0.051)
    section = html[html.index('id="calibration"') :].partition("</section>")[0]
    rows = re.findall(r'</th><td class="figure">([\d,]+)</td>', section)
    assert sum(int(n.replace(",", "")) for n in rows) == len(table)
    assert "the largest probability relative to the class's share of the training images" in (
        section.replace("&#39;", "'")
    )


def test_text_from_the_data_stays_text(tmp_path, cohort):
    names = dict(zip(cohort.classes, HOSTILE, strict=False))
    report = {HOSTILE[0]: [HOSTILE[1], {HOSTILE[4]: HOSTILE[2]}]}
    info = replace(
        cohort.info, name=HOSTILE[1], citation=HOSTILE[0], import_report=report, licence=HOSTILE[3]
    )
    named = with_images(cohort, label=cohort.images["label"].map(names))
    strange = replace(named, info=info)
    run = make_run(tmp_path / "run", cohort, encoder=HOSTILE[5])
    shown = read(full_page(run, strange, assessed(strange))).shown
    for text in HOSTILE:  # shown as it is
        assert re.sub(r"\s+", " ", text) in shown


def test_a_bare_run_says_what_is_missing(tmp_path, cohort):
    (tmp_path / "bare").mkdir()
    bare = with_images(cohort, label=pd.Series([None] * len(cohort), dtype="str"))
    found = read(page(tmp_path / "bare", bare))
    for text in (
        "no probe has measured what its features are worth",
        "the cohort has no labels to probe with",
        "no similarities of held-out rows were given",
        "no embeddings were given",
        "the run has no log",
        "The cohort has no labels.",
        "does not say which patients it set aside",
        "The run has no settings",
    ):
        assert text in found.shown
    assert not found.of("figure")
    assert not found.of("img")


def test_what_was_not_asked_for_says_so(run, cohort, found):
    plain = replace(found, low_shot=None, leakage=None, subgroups=None)
    shown = read(page(run, cohort, plain, options={"images": False}))
    for text in ("--subgroups", "--fractions 0.01,0.1,1 --shots 1,5,20", "--leakage"):
        assert text in shown.shown
    assert not shown.of("img")
    assert "images were not asked for" in shown.shown


@pytest.mark.parametrize(
    ("ends", "answer"),
    [
        ((0.1, 0.3), "are ahead of"),
        ((-0.3, -0.1), "fall short of"),
        ((-0.1, 0.3), "are not told from"),
    ],
)
def test_the_first_sentence_says_whether_the_features_are_ahead(run, cohort, found, ends, answer):
    difference = replace(found.verdict.difference, difference=float(np.mean(ends)), ci95=ends)
    verdict = replace(found.verdict, difference=difference)
    html = page(run, cohort, replace(found, verdict=verdict, gain=found.verdict))
    best = found.verdict.baseline
    lead = (
        f"The features “{list(found.probes)[-1]}” {answer} the best baseline without them, {best}:"
    )
    assert f'<p class="lead">{lead}' in html
    assert found.verdict.sentence in read(html).shown  # what fine-tuning gained
    assert f"{np.mean(ends):+.3f} ({ends[0]:+.3f} to {ends[1]:+.3f})" in html


def test_sections_without_content_are_listed_at_the_end(run, cohort, found):
    html = page(run, cohort, replace(found, leakage=None))
    assert html.index('id="left-out"') > html.index('id="configuration"')
    assert 'href="#leakage"' not in html
    assert 'id="leakage"' not in html
    assert "Leakage" in html[html.index('id="left-out"') :]


def test_cautions_name_what_makes_scores_doubtful(run, cohort, found):
    main = replace(found.main, config=replace(found.main.config, split="image"))
    doubtful = replace(found, imputed=("lesion",), saw_test_patients=True, seen_patients=5)
    shown = read(page(run, cohort, replace(doubtful, probes={"image": main}))).shown
    assert "features lesion are imputed by retrieval, not observed" in shown
    assert re.search(r"\d+ of \d+ test patients took part in pre-training", shown)
    assert "on test images" in shown
    assert "split by image" in shown
    *_, known = replace(doubtful, seen_labels=3).cautions
    assert re.search(r"3 of \d+ test patients took part in training that used their", known)
    assert "not their labels" not in known
    assert (
        "pre-training never saw"
        in read(page(run, cohort, replace(found, saw_test_patients=False))).shown
    )


def without_ids(cohort: Cohort) -> Cohort:
    found = lesions_as_patients(cohort, seed=0)
    return replace(found, schema=replace(found.schema, patient=None))


@pytest.mark.parametrize("kind", ["run", "audit", "retrieval", "explanation"])
def test_without_patient_ids_no_page_counts_patients_or_says_that_they_are_resampled(
    kind, run, cohort, found
):
    nobody, target = without_ids(cohort), run / "report.html"
    if kind == "run":
        table = hinting_features(nobody)
        page(run, nobody, replace(found, unit="lesions", saw_test_patients=False), table=table)
    elif kind == "audit":
        checked = check_cohort(twice(nobody))
        assert set(checked.duplicates["kind"]) == {"exact"}
        target.write_text(render_audit(checked, twice(nobody), images=True), encoding="utf-8")
    else:
        model = build_model(nobody, tiny_config()).eval()
        if kind == "retrieval":
            own = EmbeddedCohort(cohort=nobody, images=embed(model, nobody).features["image"])
            config = RetrievalConfig(impute="all", replicates=5)
            write_retrieval_report(target, extrapolate(model, own, own, config, parts={}))
        else:
            few = ExplainConfig(images=4, deletion=False, shift=False)
            write_explanation_report(target, explain(model, nobody, few), nobody)
    shown = read(target.read_text(encoding="utf-8")).shown
    assert "no patient ids" in shown.lower()
    shown = re.sub("An error makes .*? Subgroups", "", shown)  # findings have their own words
    assert not re.findall(r".{20}(?:\d|over|all|held-out|two|on) patients\b.{20}", shown)


def test_a_retrieval_counts_the_images_that_lack_metadata(cohort, tmp_path):
    """Of the others nothing is imputed because nothing has to be."""
    few = cohort.lesions.index < 3
    columns = [*cohort.schema.level("lesion").columns]
    lesions = cohort.lesions.assign(**{c: cohort.lesions[c].mask(few) for c in columns})
    model = build_model(cohort, tiny_config()).eval()
    reference, target = (
        EmbeddedCohort(cohort=x, images=embed(model, x).features["image"])
        for x in (cohort, with_tables(cohort, lesions=lesions))
    )
    found = extrapolate(model, reference, target, RetrievalConfig(replicates=5), parts={})
    lacks = few[cohort.lesion_of_image]
    refused = replace(found, abstained=lacks & (np.arange(len(lacks)) == np.argmax(lacks)))
    assert refused.abstention_rate == 1 / lacks.sum()
    write_retrieval_report(tmp_path / "page.html", refused)
    shown = read((tmp_path / "page.html").read_text(encoding="utf-8")).shown
    assert f"metadata of {lacks.sum()} of {len(cohort)} images are imputed" in shown
    everyone, columns = cohort.patients.index >= 0, cohort.schema.level("patient").columns
    empty = cohort.patients.assign(**{c: cohort.patients[c].mask(everyone) for c in columns})
    bare = replace(target, cohort=with_tables(target.cohort, patients=empty))
    found = extrapolate(model, reference, bare, RetrievalConfig(replicates=5), parts={})
    assert found.lacking_images == f"{len(cohort)} images (lesion of {lacks.sum()})"


def twice(cohort: Cohort) -> Cohort:
    """The second image is the first one again, of another lesion."""
    pictures = [cohort.read_image(row) for row in range(len(cohort))]
    store = ImagesInMemory([pictures[0], pictures[0], *pictures[2:]])
    assert cohort.images["lesion_id"].iloc[0] != cohort.images["lesion_id"].iloc[1]
    return replace(cohort, store=store, positions=np.arange(len(cohort)))


def test_the_map_shows_held_out_patients_where_there_are_any(run, cohort):
    table = hinting_features(cohort)
    held_out = cohort.images["patient_id"].isin(cohort.patients["patient_id"][2::3]).sum()
    assert f"{held_out} images of held-out patients" in read(page(run, cohort, table=table)).shown
    (run / "patients.parquet").unlink()
    assert f"{len(cohort)} images of all patients" in read(page(run, cohort, table=table)).shown
    few = table.select(np.arange(len(table)) < 5)
    assert "too few images for a map" in read(page(run, cohort, table=few)).shown


def test_a_run_on_other_patients_is_not_called_trained_on_these(run, cohort):
    path = run / "patients.parquet"
    parts = pd.read_parquet(path)
    parts.assign(patient_id="other-" + parts["patient_id"]).to_parquet(path)
    shown = read(page(run, cohort)).shown
    assert f"on other patients as far as ids tell, applied to {cohort.info.name}" in shown
    assert "does not say which patients it set aside" in shown


def test_a_run_that_went_on_to_others_says_whom_it_learned_from_here(run, cohort):
    """Adapted to another clinic, on whose patients its log is; the reference is shown."""
    log = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    epoch = {"kind": "epoch", "step": 3, "epoch": 1, "knn_balanced_accuracy": 0.4}
    log.append({**epoch, "recall_at_1": 0.3, "chance_recall_at_1": 0.125})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    assert "by chance" in page(run, cohort)
    path = run / "patients.parquet"
    parts = pd.read_parquet(path)
    parts.assign(stage=1, label_known=False).to_parquet(run / "earlier_patients.parquet")
    parts.assign(patient_id="other-" + parts["patient_id"]).to_parquet(path)
    found = page(run, cohort, table=hinting_features(cohort))
    shown = read(found).shown
    assert "trained on 20 patients (" in shown
    assert f"of {cohort.info.name}, then on others" in shown
    assert "on other patients as far as ids tell" not in shown
    assert "does not say which patients it set aside" not in shown
    assert "images of held-out patients" in shown
    assert found.count("by chance 0.") == found.count("by chance 0.125") == 1  # not of its classes


def test_an_adapted_run_shows_the_settings_of_its_adaptation(run, cohort):
    settings = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", {**settings, "adapt": {"epochs": 3}})
    shown = read(page(run, cohort)).shown
    assert "vit_x, adapted to 20 patients" in shown
    assert "epochs 3" in shown


def test_refusals(tmp_path, run, cohort, found):
    with pytest.raises(UserError, match="nowhere"):
        page(tmp_path / "nowhere", cohort)
    half = cohort.select(np.arange(len(cohort)) < len(cohort) // 2)
    with pytest.raises(UserError, match="Give the cohort that was probed"):
        page(run, half, found)

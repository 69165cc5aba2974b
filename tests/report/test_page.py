"""The page: well-formed, self-contained, repeatable, safe, and with the numbers it was given."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from slimp.evaluation.bootstrap import Estimate
from slimp.evaluation.folds import Split
from slimp.evaluation.leakage import Leakage
from slimp.evaluation.low_shot import LowShot, LowShotPoint
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Answer, Task, summarise
from slimp.evaluation.similarity import similarity
from slimp.evaluation.subgroups import Gap, Group, Subgroups
from slimp.report import CohortFacts, ProbeFacts, ReportInputs, Score, render
from slimp.report.page import DASH

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr", "col", "source"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; --x: url(http://evil.example/a)",
    "$\\frac{1}{0",
    "_hidden & {{ 7 * 7 }} {% raw %}",
    "黒子\u202e",
)


class Page(HTMLParser):
    """The elements of a page; refuses what is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def said(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def jpeg(image_id: str) -> bytes:
    pixels = np.full((40, 60, 3), len(image_id) % 255, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", comment=b"secret")
    return buffer.getvalue()


def make_probe(name: str, mean: float, classes: tuple[str, ...], **changes: Any) -> ProbeFacts:
    rng = np.random.default_rng(len(name))
    rows = []
    for seed in (0, 1):
        for i in range(60):
            p = rng.dirichlet(np.ones(len(classes)))
            label = classes[i % len(classes)]
            predicted = label if rng.random() < mean else classes[int(p.argmax())]
            shares = {f"p_{c}": share for c, share in zip(classes, p, strict=True)}
            ids = {"image_id": f"image{i}", "patient_id": f"patient{i // 2}", "seed": seed}
            rows.append({**ids, "label": label, "predicted": predicted, **shares})
    score = Score(mean=mean, low=mean - 0.0511, high=mean + 0.0522, per_seed=(mean, mean + 0.01))
    facts: dict[str, Any] = {
        "metrics": {"balanced_accuracy": score, "ece": Score(mean=0.0713)},
        "class_recall": dict.fromkeys(classes, score),
        "classes": classes,
        "predictions": pd.DataFrame(rows),
        "split": "patient",
        "n_train": 240,
        "n_test": 60,
    }
    return ProbeFacts(name=name, **{**facts, **changes})


def make_log() -> pd.DataFrame:
    steps = [
        {"kind": "step", "step": k, "epoch": 0, "loss": 5 / k, "loss_lesion": 4 / k}
        | {"loss_patient": 3 / k, "learning_rate": 1e-3, "temperature_lesion": 0.07}
        for k in range(1, 31)
    ]
    epochs = [
        {"kind": "epoch", "step": 10 * k, "epoch": k, "validation_loss": 3.0 + k}
        | {"validation_loss_lesion": 2.5, "recall_at_1": 0.1 * k, "recall_at_5": 0.2 * k}
        | {"knn_balanced_accuracy": 0.4}
        for k in range(1, 4)
    ]
    return pd.DataFrame(steps + epochs)


def make_inputs(classes: tuple[str, ...] = ("bcc", "mel", "nv"), **changes: Any) -> ReportInputs:
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, 50, 8, generator=generator)
    counts = [{"label": c, "images": 30, "lesions": 20, "patients": 10} for c in classes]
    parts = {"part": ["train", "held_out"], "patients": [71, 23], "images": [143, 47]}
    features = [
        {"level": "lesion", "feature": "size", "kind": "continuous", "unit": "mm", "missing": 0.351}
    ]
    inputs: dict[str, Any] = {
        "title": "A report",
        "date": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "cohort": CohortFacts(
            name="moles",
            source="csv",
            licence="CC BY 4.0",
            citation="Someone et al. 2020",
            import_report={"rows": 190, "absent": ["a.jpg"], "disagree": {"age": 2}},
            patients=94,
            lesions=120,
            images=190,
            classes=pd.DataFrame(counts),
            features=pd.DataFrame(features),
            parts=pd.DataFrame(parts),
        ),
        "config": {"encoder": "vit_tiny", "epochs": 3, "learning_rate": 5e-4, "pretrained": False},
        "versions": {"slimp": "9.9.9"},
        "command": "slimp demo --out runs/demo",
        "log": make_log(),
        "probes": (make_probe("image", 0.5, classes), make_probe("full", 0.7317, classes)),
        "floors": (
            make_probe("majority", 0.3333, classes),
            make_probe("metadata-only", 0.6217, classes),
        ),
        "similarity": {"lesion": similarity(image, image + noise, ks=(1, 5))},
        "embedding": np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32),
        "embedding_labels": (*(classes[k % len(classes)] for k in range(39)), None),
        "read_image": jpeg,
    }
    return ReportInputs(**{**inputs, **changes})


@pytest.fixture(scope="module")
def html() -> str:
    return render(make_inputs())


def test_every_element_is_closed_and_ids_are_unique(html):
    page = Page(html)
    assert html.lstrip().startswith("<!DOCTYPE html>")
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert max(ids.values()) == 1


def test_nothing_outside_the_file_is_needed(html):
    page = Page(html)
    assert not page.of("script")
    assert not page.of("link")
    for _, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/jpeg;base64,"))
        assert not [key for key in attributes if key.startswith("on")]
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert "default-src 'none'" in html


def test_links_and_references_within_the_page_lead_somewhere(html):
    page = Page(html)
    ids = {a["id"] for _, a in page.elements if "id" in a}
    targets = {a["href"][1:] for _, a in page.elements if (a.get("href") or "").startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", html))
    assert targets
    assert targets <= ids


def test_the_same_input_gives_the_same_bytes(html):
    assert render(make_inputs()) == html


def test_images_and_figures_have_alternative_texts_and_tables_have_headers(html):
    page = Page(html)
    assert all(image["alt"] for image in page.of("img"))
    drawn = [svg for svg in page.of("svg") if svg.get("aria-hidden") != "true"]
    assert len(drawn) >= 6
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawn)
    assert all(th.get("scope") in ("row", "col") for th in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table"))
    assert page.of("html") == [{"lang": "en"}]


def test_the_numbers_shown_are_the_numbers_given(html):
    said = Page(html).said
    inputs = make_inputs()
    assert "0.732 (95 % interval 0.681 to 0.784)" in said  # 0.7317, -0.0511, +0.0522
    assert "floors: majority 0.333, metadata-only 0.622." in said
    assert "71 patients (143 images) of moles" in said
    assert "0.071" in said  # ECE
    found = inputs.similarity["lesion"]
    assert f"{found.median_matching:.3f}" in said
    assert f"{found.auroc:.3f}" in said
    assert f"1: {found.image_to_metadata[1]:.3f}; 5: {found.image_to_metadata[5]:.3f}" in said
    for text in ("35 %", "CC BY 4.0", "Someone et al. 2020", "slimp 9.9.9", "2026-01-02 03:04 UTC"):
        assert text in said
    assert "Research software, not a medical device." in said


def test_the_confusion_matrix_counts_all_predictions(html):
    probe = make_inputs().probes[-1]
    table = pd.crosstab(probe.predictions["label"], probe.predictions["predicted"])
    rows = html[html.index('class="confusion"') :].partition("</table>")[0]
    cells = re.findall(r"(\d+) % <small>(\d+)</small>", rows)
    counts = np.array([int(count) for _, count in cells]).reshape(3, 3)
    shares = np.array([int(share) for share, _ in cells]).reshape(3, 3)
    np.testing.assert_array_equal(counts, table.to_numpy())
    expected = 100 * counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected, atol=0.5)


def test_positions_on_the_scale_are_the_values(html):
    assert "--mean:73.17%" in html
    assert "--low:68.06%" in html
    assert "--limit:62.17%" in html  # the hardest floor


def test_hostile_text_from_the_data_stays_text():
    inputs = make_inputs(HOSTILE, title=HOSTILE[0], command=HOSTILE[1])
    probe = inputs.probes[-1]
    table = probe.predictions.assign(
        image_id=[f"{HOSTILE[1]}{k}" for k in range(len(probe.predictions))]
    )
    cohort = replace(
        inputs.cohort,
        name=HOSTILE[1],
        citation=HOSTILE[0],
        import_report={HOSTILE[0]: [HOSTILE[1], {HOSTILE[4]: HOSTILE[2]}]},
    )
    inputs = replace(
        inputs,
        cohort=cohort,
        config={"encoder": HOSTILE[0], HOSTILE[1]: HOSTILE[2]},
        probes=(replace(probe, name=HOSTILE[1], predictions=table),),
        versions={HOSTILE[0]: HOSTILE[1]},
    )
    page = Page(render(inputs))
    assert not page.of("script")
    assert all((image["src"] or "").startswith("data:") for image in page.of("img"))
    for tag, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")], tag
    styles = " ".join(attributes.get("style") or "" for _, attributes in page.elements)
    assert "evil" not in styles
    for text in HOSTILE:  # shown as it is
        assert re.sub(r"\s+", " ", text) in page.said


def test_without_ingredients_sections_say_why():
    bare = ReportInputs(
        title="Bare", date=datetime(2026, 1, 1, tzinfo=UTC), cohort=CohortFacts(name="none")
    )
    page = Page(render(bare))
    for text in (
        "no probe has measured what its features are worth",
        "the cohort has no labels to probe with",
        "there are no predictions of a probe to count",
        "there are no predictions of a probe to show",
        "no similarities of held-out rows were given",
        "no embeddings were given",
        "the run has no log",
        "The cohort has no labels.",
        "does not say which patients it set aside",
        "The cohort has no metadata features.",
        "The run has no settings",
    ):
        assert text in page.said
    assert not page.of("figure")
    assert not page.of("img")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"read_image": None}, "images were not asked for"),
        ({"embedding": np.zeros((4, 3), np.float32)}, "too few images for a map"),
    ],
)
def test_a_section_left_out_gives_its_own_reason(changes, text):
    labels = {"embedding_labels": (None,) * 4} if "embedding" in changes else {}
    assert text in Page(render(make_inputs(**changes, **labels))).said


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (0.90, "The whole interval lies above the hardest floor, metadata-only."),
        (0.64, "The hardest floor, metadata-only, is not clearly beaten"),
        (0.40, "The whole interval lies below metadata-only"),
    ],
)
def test_the_verdict_follows_the_interval(mean, text):
    inputs = make_inputs(embedding=None, log=pd.DataFrame(), similarity={}, read_image=None)
    probe = make_probe("full", mean, ("bcc", "mel", "nv"))
    assert text in Page(render(replace(inputs, probes=(probe,)))).said


def test_leakage_is_said_aloud():
    light = {"embedding": None, "log": pd.DataFrame(), "similarity": {}, "read_image": None}
    probe = make_probe("full", 0.7, ("bcc", "mel", "nv"), split="image")
    said = Page(render(make_inputs(**light, probes=(probe,)))).said
    assert "“full” was split by image, so a patient may be in both training and test" in said
    seen = frozenset({"patient0", "patient1", "elsewhere"})
    said = Page(render(make_inputs(**light, seen_patients=seen))).said
    assert "2 of 30 test patients took part in pre-training" in said
    assert "on test images" in said
    said = Page(render(make_inputs(**light, seen_patients=frozenset({"elsewhere"})))).said
    assert "on patients that pre-training never saw" in said


def test_unknown_values_are_dashes_not_nan():
    score = Score(mean=math.nan)
    probe = ProbeFacts(name="odd", metrics={"balanced_accuracy": score, "ece": score})
    inputs = make_inputs(embedding=None, similarity={}, probes=(probe,), floors=())
    assert not re.search(r"\bnan\b", Page(render(inputs)).said, re.IGNORECASE)


def test_a_probe_without_a_class_in_the_test_part_still_renders():
    probe = make_probe("full", 0.7, ("bcc", "mel", "nv"))
    table = probe.predictions[probe.predictions["label"] != "mel"]
    inputs = make_inputs(
        embedding=None, similarity={}, probes=(replace(probe, predictions=table, class_recall={}),)
    )
    assert "mel" in Page(render(inputs)).said


def estimate(mean: float) -> Estimate:
    return Estimate(mean=mean, ci95=(mean - 0.0511, mean + 0.0522), per_seed=(mean,))


def make_protocols() -> dict[str, Any]:
    """Low-shot, leakage and subgroups with numbers of our own, and hostile names."""
    point = LowShotPoint(
        setting="fraction 0.01",
        value=0.01,
        n_images=8.4,
        n_patients=6.3,
        balanced_accuracy=estimate(0.3031),
        auroc_macro_ovr=0.6512,
        spread=0.0383,
        unreached={HOSTILE[0]: 0.84},
        short=(),
    )
    rows = {"balanced_accuracy": estimate(0.7777), "ece": estimate(0.1234)}
    groups = [
        Group(
            column="sex",
            group=name,
            n_images=n,
            n_patients=n,
            classes=("mel",),
            metrics=rows,
        )
        for name, n in (("female", 40), (HOSTILE[1], 4))
    ]
    gap = Gap(
        column="sex",
        better="female",
        worse=HOSTILE[1],
        classes=("mel",),
        difference=estimate(0.2222),
    )
    rng = np.random.default_rng(0)
    n, classes = 40, ("bcc", "mel")
    ids = pd.DataFrame(
        {
            "image_id": [f"i{i}" for i in range(n)],
            "patient_id": [f"p{i}" for i in range(n)],
            "label": np.array(classes)[np.arange(n) % 2],
        }
    )
    p = rng.dirichlet(np.ones(2), size=n)
    result = summarise(
        Task(
            ids=ids,
            classes=classes,
            y=(np.arange(n) % 2).astype(np.int64),
            splits=(Split(seed=0, train=np.arange(3), test=np.arange(n)),),
            held_out=False,
        ),
        [Answer(probabilities=p, predicted=p.argmax(axis=1))],
        ProbeConfig(replicates=20),
        name="linear",
    )
    return {
        "low_shot": LowShot(points=(point,), draws=5, rows=pd.DataFrame()),
        "leakage": Leakage(
            results={"patient": result, "image": result}, excess={"image": estimate(0.0471)}
        ),
        "subgroups": Subgroups(groups=tuple(groups), gaps=(gap,)),
    }


def test_protocols_are_shown_with_their_numbers_and_cautions():
    page = Page(render(make_inputs(**make_protocols())))
    assert not page.of("script")
    for text in (
        *("0.303 [0.252, 0.355]", "0.651", "0.038", "84 %"),
        "0.047 [-0.004, 0.099]",
        "Only the split by patient is an honest estimate",
        *(f"0.778 0.727{DASH}0.830", f"0.123 0.072{DASH}0.176"),
        "fewer than 10 patients",
        "'female' is 0.222 [0.171, 0.274] above",
        "in balanced accuracy over mel",
        "Each pair was picked for being the largest of its column",
    ):
        assert text in page.said, text
    assert "0.778 0.123" in page.said  # the group of 4 patients, without intervals
    assert all(th.get("scope") in ("row", "col") for th in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table"))


def test_protocols_that_were_not_asked_for_say_how_to_ask(html):
    said = Page(html).said
    for flag in ("--subgroups", "--fractions 0.01,0.1,1 --shots 1,5,20", "--leakage"):
        assert flag in said


def test_reliability_counts_every_prediction_before_and_after(html):
    probe = make_inputs().probes[-1]
    shares = probe.predictions[[f"p_{c}" for c in probe.classes]].to_numpy() ** 2
    shares /= shares.sum(axis=1, keepdims=True)
    named = {f"q_{c}": shares[:, i] for i, c in enumerate(probe.classes)}
    scaled = replace(probe, predictions=probe.predictions.assign(**named))
    text = render(make_inputs(probes=(scaled,)))
    for part, times in ((html, 1), (text, 2)):
        section = part[part.index('id="calibration"') :].partition("</section>")[0]
        rows = re.findall(r'</th><td class="figure">(\d+)</td>', section)
        assert sum(map(int, rows)) == times * len(probe.predictions)
    assert "After scaling" in Page(text).said
    assert "After scaling" not in Page(html).said

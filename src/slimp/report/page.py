"""ReportInputs -> HTML. Numbers are chosen and worded here; how they look is in the template."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat, SupportsInt

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from slimp.evaluation.calibration import reliability
from slimp.evaluation.result import Kind, codes_of, has_probabilities, probabilities_of
from slimp.report.embedding_map import FEWEST_ROWS, draw_rows, project
from slimp.report.examples import draw_examples
from slimp.report.figures import (
    MARKERS,
    curve_figures,
    low_shot_figure,
    map_figure,
    reliability_figure,
    similarity_figure,
)
from slimp.report.inputs import ProbeFacts, ReportInputs, Score

DASH = "\N{EN DASH}"
"""Stands for what is unknown, and between the ends of an interval."""

METRICS = {
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "auroc_macro_ovr": "AUROC",
    "f1_macro": "F1",
    "average_precision_macro": "Average precision",
    "pauc_above_80tpr": "pAUC above 80 % TPR",
    "sensitivity_at_90_specificity": "Sensitivity at 90 % specificity",
    "sensitivity_at_95_specificity": "Sensitivity at 95 % specificity",
    "ece": "ECE",
    "brier": "Brier",
    "ece_scaled": "ECE, scaled",
    "brier_scaled": "Brier, scaled",
}
"""Metric -> heading, in the order of the table; AUROC, F1 and AP are macro averages."""

SUBGROUP_METRICS = {
    "balanced_accuracy": "Balanced accuracy",
    "auroc_macro_ovr": "AUROC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ece": "ECE",
    "ece_scaled": "ECE, scaled",
}
"""Of the table of subgroups."""

SETTINGS = {
    "encoder": "Image encoder",
    "encoder_options": "Encoder options",
    "image_size": "Image side, px",
    "pretrained": "Published encoder weights",
    "hierarchy": "Hierarchy",
    "view_weight": "Weight of the view level",
    "image_weight": "Weight of the image level",
    "lesion_weight": "Weight of the lesion level",
    "patient_weight": "Weight of the patient level",
    "duplicates": "Rows of equal metadata",
    "missing": "Missing cells",
    "pooling": "Pooling",
    "patients": "Patients per batch",
    "lesions": "Lesions per patient, at most",
    "epochs": "Epochs",
    "learning_rate": "Peak learning rate",
    "weight_decay": "Weight decay",
    "feature_dropout": "Metadata cells dropped",
    "seed": "Seed",
    "precision": "Precision",
    "monitor": "Weights kept by",
}
"""Settings that most explain a result, each with its heading; the rest is folded away."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of one probe, all seeds together."""

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    """(true, predicted)."""
    shares: NDArray[np.float64]
    """Of each row; 0 in a row without images."""
    seeds: int


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """How one class fares."""

    label: str
    images: int
    """Test images, all seeds together."""
    patients: int
    recall: Score
    precision: float
    f1: float
    confused_with: str
    """The commonest wrong answer; empty if there is none."""


def render(inputs: ReportInputs) -> str:
    """The page; the same inputs give the same bytes."""
    environment = Environment(
        loader=PackageLoader("slimp", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "number": _number, "count": _count, "share": _share}
    environment.filters |= {"percent": _percent, "value": _value}
    environment.tests["known"] = lambda x: x is not None and not math.isnan(x)
    environment.tests["table"] = lambda x: isinstance(x, Mapping)
    environment.tests["sequence_of"] = lambda x: isinstance(x, list | tuple)
    return environment.get_template("page.html.j2").render(**_context(inputs))


def _context(inputs: ReportInputs) -> dict[str, Any]:
    best = inputs.probes[-1] if inputs.probes else None
    floor = _best_floor(inputs)
    confusion = _confusion(best) if best else None
    return {
        "r": inputs,
        "best": best,
        "floor": floor,
        "sentence": _sentence(inputs, best),
        "verdict": _verdict(best, floor),
        "cautions": _cautions(inputs, best),
        "metrics": _metrics_shown(inputs),
        "settings": _settings(inputs.config),
        "config_json": json.dumps(dict(inputs.config), indent=2, ensure_ascii=False, default=str),
        "curves": curve_figures(inputs.log),
        "similarities": [
            (level, found, similarity_figure(level, found))
            for level, found in inputs.similarity.items()
        ],
        "confusion": confusion,
        "reliability": _reliability(best) if best else None,
        "low_shot_figure": low_shot_figure(inputs.low_shot) if inputs.low_shot else None,
        "subgroup_metrics": _subgroup_metrics(inputs),
        "class_rows": _class_rows(best, confusion) if best and confusion else [],
        "map": _map(inputs),
        "markers": MARKERS,
        "examples": draw_examples(best, inputs.read_image, inputs.seed)
        if best and inputs.read_image
        else [],
    }


def _best_floor(inputs: ReportInputs) -> ProbeFacts | None:
    """The floor that is hardest to beat."""
    known = [floor for floor in inputs.floors if floor.key is not None]
    return max(known, key=lambda f: f.key.mean if f.key else -math.inf, default=None)


def _sentence(inputs: ReportInputs, best: ProbeFacts | None) -> str:
    """What was trained on what, and the key figure beside the floors."""
    encoder = inputs.config.get("encoder", "An image encoder")
    parts, said = inputs.cohort.parts, ""
    if parts is not None and (parts["part"] == "train").any():
        train = parts[parts["part"] == "train"].iloc[0]
        said = f"{_count(train['patients'])} patients ({_count(train['images'])} images) of "
    text = f"{encoder}, pre-trained on {said}{inputs.cohort.name}"
    if best is None or best.key is None:
        return f"{text}; no probe has measured what its features are worth."
    tested = _tested(best)
    unseen = inputs.seen_patients and tested and not tested & inputs.seen_patients
    text += (
        f": with the features “{best.name}” a probe reaches a balanced accuracy of "
        f"{_score(best.key, interval='long')} on "
        f"{'patients that pre-training never saw' if unseen else 'test images'}"
    )
    floors = [f"{f.name} {_number(f.key.mean)}" for f in inputs.floors if f.key is not None]
    return f"{text}; floors: {', '.join(floors)}." if floors else f"{text}."


def _verdict(best: ProbeFacts | None, floor: ProbeFacts | None) -> str:
    """What the interval says about the hardest floor, in plain words."""
    if best is None or best.key is None or floor is None or floor.key is None:
        return ""
    mean = floor.key.mean
    if best.key.low > mean:
        return f"The whole interval lies above the hardest floor, {floor.name}."
    if best.key.high < mean:
        return (
            f"The whole interval lies below {floor.name}: here the features are worth less than "
            "what they are compared with."
        )
    return (
        f"The hardest floor, {floor.name}, is not clearly beaten: "
        "its score is not below the interval."
    )


def _cautions(inputs: ReportInputs, best: ProbeFacts | None) -> list[str]:
    """What a reader must know before trusting the scores."""
    found = [
        f"The probe “{probe.name}” was split by {probe.split}, so a patient may be in both "
        "training and test: its scores are optimistic."
        for probe in inputs.probes
        if probe.split in ("lesion", "image")
    ]
    if inputs.imputed:
        found.append(
            f"The features {', '.join(inputs.imputed)} are imputed by retrieval, not observed: "
            "they are those of other patients with similar images."
        )
    tested = _tested(best)
    if seen := tested & inputs.seen_patients:
        found.append(
            f"{_count(len(seen))} of {_count(len(tested))} test patients took part in "
            "pre-training (their images and metadata, not their labels)."
        )
    return found


def _tested(probe: ProbeFacts | None) -> frozenset[str]:
    """The patients of a probe's test rows, as far as known."""
    if probe is None or probe.predictions is None:
        return frozenset()
    return frozenset(probe.predictions["patient_id"])


def _metrics_shown(inputs: ReportInputs) -> dict[str, str]:
    """The metrics that some probe or floor has."""
    everyone = (*inputs.probes, *inputs.floors)
    return {key: head for key, head in METRICS.items() if any(key in p.metrics for p in everyone)}


def _settings(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(head, config[key]) for key, head in SETTINGS.items() if config.get(key) is not None]


def _confusion(probe: ProbeFacts) -> Confusion | None:
    table = probe.predictions
    if table is None or table.empty:
        return None
    order = {label: k for k, label in enumerate(probe.classes)}
    counts = np.zeros((len(order), len(order)), dtype=np.int64)
    np.add.at(counts, (table["label"].map(order), table["predicted"].map(order)), 1)
    totals = counts.sum(axis=1, keepdims=True)
    return Confusion(
        classes=probe.classes,
        counts=counts,
        shares=counts / np.maximum(totals, 1),
        seeds=table["seed"].nunique(),
    )


def _class_rows(probe: ProbeFacts, confusion: Confusion) -> list[ClassRow]:
    table, counts = probe.predictions, confusion.counts
    patients = {} if table is None else table.groupby("label")["patient_id"].nunique().to_dict()
    rows = []
    for k, label in enumerate(confusion.classes):
        hits, own, named = int(counts[k, k]), int(counts[k].sum()), int(counts[:, k].sum())
        wrong = counts[k].copy()
        wrong[k] = 0
        recall = probe.class_recall.get(label) or Score(mean=hits / own if own else math.nan)
        rows.append(
            ClassRow(
                label=label,
                images=own,
                patients=patients.get(label, 0),
                recall=recall,
                precision=hits / named if named else math.nan,
                f1=2 * hits / (own + named) if own + named else math.nan,
                confused_with=confusion.classes[int(wrong.argmax())] if wrong.any() else "",
            )
        )
    return rows


def _reliability(probe: ProbeFacts) -> dict[str, Any] | None:
    """The diagrams before and after scaling: a figure, and the counts of its bins."""
    table = probe.predictions
    if table is None or table.empty or not has_probabilities(table, "p"):
        return None
    y = codes_of(table["label"], probe.classes)
    kinds: tuple[tuple[str, Kind], ...] = (("before scaling", "p"), ("after scaling", "q"))
    found = {
        name: reliability(y, probabilities_of(table, probe.classes, kind))
        for name, kind in kinds
        if has_probabilities(table, kind)
    }
    return {"figure": reliability_figure(found), "bins": found, "seeds": table["seed"].nunique()}


def _subgroup_metrics(inputs: ReportInputs) -> dict[str, str]:
    """The metrics that some group has, in the order of the table."""
    groups = inputs.subgroups.groups if inputs.subgroups else ()
    return {
        key: head
        for key, head in SUBGROUP_METRICS.items()
        if any(key in group.metrics for group in groups)
    }


def _map(inputs: ReportInputs) -> dict[str, Any] | None:
    """The figure and its legend: class, count, number of its colour (0: the shared grey)."""
    if inputs.embedding is None or len(inputs.embedding) < FEWEST_ROWS:
        return None
    rows = draw_rows(len(inputs.embedding), inputs.seed)
    labels = pd.Series([inputs.embedding_labels[row] for row in rows], dtype=object)
    counts = labels.value_counts()
    classes = sorted(counts.index, key=lambda label: (-counts[label], label))
    codes = labels.map({label: k for k, label in enumerate(classes)}).fillna(-1)
    points = project(inputs.embedding[rows], inputs.seed)
    legend = [
        (label, int(counts[label]), k if k <= len(MARKERS) else 0)
        for k, label in enumerate(classes, start=1)
    ]
    if unlabelled := int(labels.isna().sum()):
        legend.append(("no label", unlabelled, 0))
    figure = map_figure(points, codes.to_numpy(dtype=int), classes)
    return {"figure": figure, "legend": legend, "shown": len(rows), "all": len(inputs.embedding)}


def _number(value: float | None) -> str:
    """Three decimals, as everywhere; a dash where unknown."""
    return DASH if value is None or math.isnan(value) else f"{value:.3f}"


def _score(score: Score | None, interval: str = "short") -> str:
    """A score with its interval, if it has one."""
    if score is None:
        return DASH
    if math.isnan(score.low) or math.isnan(score.high):
        return _number(score.mean)
    low, high = _number(score.low), _number(score.high)
    if interval == "long":
        return f"{_number(score.mean)} (95 % interval {low} to {high})"
    return f"{_number(score.mean)} ({low}{DASH}{high})"


def _count(value: SupportsInt) -> str:
    return f"{int(value):,}"


def _share(value: SupportsFloat) -> str:
    """A CSS length for a value of 0 to 1, cut there; tables of figures use it as a position."""
    return f"{100 * min(max(float(value), 0.0), 1.0):.2f}%"


def _percent(value: SupportsFloat) -> str:
    """A share of 0 to 1 in whole percent; shares that only round to 0 or 100 say so."""
    value = float(value)
    if 0 < value < 0.005:
        return "< 1 %"
    if 0.995 < value < 1:
        return "> 99 %"
    return f"{100 * value:.0f} %"


def _value(value: Any) -> str:
    """A setting or a cell, as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)

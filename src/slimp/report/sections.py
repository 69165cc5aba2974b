"""What the sections of a run's page show: rows of tables, figures, and the words beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from slimp.data.cohort import Cohort
from slimp.evaluation.bootstrap import Estimate
from slimp.evaluation.calibration import Reliability, reliability
from slimp.evaluation.leakage import Leakage
from slimp.evaluation.low_shot import LowShot
from slimp.evaluation.protocol import Assessment
from slimp.evaluation.result import Predictions, ProbeResult, codes_of
from slimp.evaluation.similarity import Similarity
from slimp.evaluation.subgroups import Subgroups
from slimp.features.embed import FeatureTable
from slimp.report.embedding_map import FEWEST_ROWS, draw_rows, project
from slimp.report.figures import (
    low_shot_figure,
    map_figure,
    reliability_figure,
    similarity_figure,
)
from slimp.report.html import DASH, bar, count, estimate, number, percent, track, value
from slimp.report.svg import MARKERS

METRICS = {
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "auroc_macro_ovr": "AUROC",
    "f1_macro": "F1",
    "average_precision_macro": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "pauc_above_80tpr": "pAUC above 80 % TPR",
    "sensitivity_at_90_specificity": "Sensitivity at 90 % specificity",
    "sensitivity_at_95_specificity": "Sensitivity at 95 % specificity",
    "ece": "ECE",
    "brier": "Brier",
    "ece_scaled": "ECE, scaled",
    "brier_scaled": "Brier, scaled",
}
"""Metric -> heading, in the order of the tables; AUROC, F1 and AP are macro averages."""

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
"""Settings that most explain a result, each with its heading; the others are folded away."""

Row = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder says: settings, versions, log, and which patients it set aside."""

    config: Mapping[str, Any]
    versions: Mapping[str, str]
    log: pd.DataFrame
    """Rows of `metrics.jsonl`."""
    parts: pd.DataFrame | None
    """`patient_id part`, if the run was trained on patients of the cohort."""


def scores(found: Assessment) -> dict[str, Any]:
    """Every baseline and feature set: balanced accuracy on a scale, then all metrics."""
    best, limit = found.main, found.baselines[found.verdict.baseline]
    results = {**found.baselines, **found.probes}
    metrics = [key for key in METRICS if any(key in r.metrics for r in results.values())]
    dashed = limit.balanced_accuracy.mean
    return {
        "kinds": [
            "best" if r is best else "baseline" if name in found.baselines else ""
            for name, r in results.items()
        ],
        "short": [
            (name, track(r.balanced_accuracy, dashed), estimate(r.balanced_accuracy))
            for name, r in results.items()
        ],
        "heads": [f"#{METRICS[key]}" for key in metrics],
        "all": [
            (
                name,
                *(_stacked(r.metrics.get(key)) for key in metrics),
                r.to_dict()["split"].replace("_", "-"),
                f"{count(r.n_train)} / {count(r.n_test)}",
            )
            for name, r in results.items()
        ],
    }


def confusion(best: ProbeResult) -> dict[str, Any]:
    """Scores per class, and the matrix of shares and counts, all seeds together."""
    table, counts = best.predictions, best.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = Markup('<span{} style="--share:{:.3f}">{} <small>{}</small></span>')
    hit = (Markup(""), Markup(' class="hit"'))
    return {
        "classes": list(best.classes),
        "seeds": table["seed"].nunique(),
        "rows": list(_class_rows(best)),
        "matrix": [
            (
                label,
                *(
                    cell.format(hit[i == j], shares[i, j], percent(shares[i, j]), count(n))
                    for j, n in enumerate(counts[i])
                ),
            )
            for i, label in enumerate(best.classes)
        ],
    }


def _class_rows(best: ProbeResult) -> Iterator[Row]:
    counts = best.confusion
    patients = best.predictions.groupby("label")["patient_id"].nunique()
    for k, label in enumerate(best.classes):
        hits, own, predicted = int(counts[k, k]), int(counts[k].sum()), int(counts[:, k].sum())
        wrong = np.where(np.arange(len(counts)) == k, 0, counts[k])
        recall = best.recall.get(label)
        yield (
            *(label, count(own), count(patients.get(label, 0))),
            *(track(recall), estimate(recall)),
            number(hits / predicted if predicted else math.nan),
            number(2 * hits / (own + predicted) if own + predicted else math.nan),
            best.classes[int(wrong.argmax())] if wrong.any() else DASH,
        )


def calibration(best: ProbeResult) -> dict[str, Any] | None:
    """The reliability diagram before and after scaling, and the counts of its bins."""
    if best.predictions.empty:
        return None
    y = codes_of(best.predictions["label"], best.classes)
    all_seeds = Predictions.of_rows(best.predictions, best.classes)
    found = {"before scaling": reliability(y, all_seeds.probabilities)}
    if all_seeds.calibrated is not None:
        found["after scaling"] = reliability(y, all_seeds.calibrated)
    bins = {name: list(_bins(diagram)) for name, diagram in found.items()}
    return {"figure": reliability_figure(found), "bins": bins}


def _bins(diagram: Reliability) -> Iterator[Row]:
    for k in np.flatnonzero(diagram.counts):
        edges = f"{number(diagram.edges[k])} to {number(diagram.edges[k + 1])}"
        figures = (number(diagram.confidence[k]), number(diagram.accuracy[k]))
        yield (edges, count(diagram.counts[k]), *figures)


def subgroups(found: Subgroups) -> dict[str, Any]:
    """A row per group, without intervals where there are too few patients, and the gaps."""
    metrics = [key for key in METRICS if any(key in group.metrics for group in found.groups)]
    return {
        "heads": [f"#{METRICS[key]}" for key in metrics],
        "kinds": ["baseline" if group.caution else "" for group in found.groups],
        "rows": [
            (
                group.group + " *" * group.caution,
                group.column,
                *map(count, (group.n_images, group.n_patients, len(group.classes))),
                *(
                    number(group.metrics[key].mean)
                    if group.caution and key in group.metrics
                    else _stacked(group.metrics.get(key))
                    for key in metrics
                ),
            )
            for group in found.groups
        ],
        "gaps": [gap.sentence for gap in found.gaps],
    }


def low_shot(found: LowShot) -> dict[str, Any]:
    """The curve, its table, and which classes are missing from draws."""
    return {
        "draws": found.draws,
        "figure": low_shot_figure(found),
        "rows": [
            (
                *(point.setting, f"{point.n_images:.1f}", f"{point.n_patients:.1f}"),
                *(estimate(point.balanced_accuracy), number(point.auroc_macro_ovr)),
                number(point.spread),
            )
            for point in found.points
        ],
        "remarks": [point.remark for point in found.points if point.remark],
    }


def leakage(found: Leakage) -> list[Row]:
    """The probe under each kind of split, and what leaking splits add."""
    return [
        (mode, estimate(result.balanced_accuracy), estimate(found.excess.get(mode)))
        for mode, result in found.results.items()
    ]


def similarity(found: Mapping[Any, Similarity]) -> dict[str, Any]:
    """Histograms and a table, a row per level."""
    return {
        "figures": [similarity_figure(level, s) for level, s in found.items()],
        "rows": [
            (
                *(level, count(len(s.matching)), number(s.median_matching)),
                *map(number, (s.median_nonmatching, s.auroc, s.overlap)),
                *(
                    "; ".join(f"{k}: {number(share)}" for k, share in recall.items())
                    for recall in (s.image_to_metadata, s.metadata_to_image)
                ),
            )
            for level, s in found.items()
        ],
    }


def embedding_map(table: FeatureTable | None, run: Run, seed: int) -> dict[str, Any] | None:
    """The figure and its legend of held-out patients if there are any; {} of too few images.

    A legend's entry is (class, count, number of its mark; 0 is shared by the classes beyond).
    """
    if table is None:
        return None
    rows, of = table, "all patients"
    if run.parts is not None:
        held_out = run.parts.loc[run.parts["part"] == "held_out", "patient_id"]
        if (mask := table.ids["patient_id"].isin(held_out)).any():
            rows, of = table.select(mask), "held-out patients"
    if len(rows) < FEWEST_ROWS:
        return {}
    shown = draw_rows(len(rows), seed)
    labels = rows.ids["label"].iloc[shown]
    counts = labels.value_counts()
    classes = sorted(counts.index, key=lambda label: (-counts[label], label))
    codes = codes_of(labels, classes)
    legend = [
        (label, int(counts[label]), k if k <= len(MARKERS) else 0)
        for k, label in enumerate(classes, start=1)
    ]
    if unlabelled := int(labels.isna().sum()):
        legend.append(("no label", unlabelled, 0))
    figure = map_figure(project(rows.matrix("image")[shown], seed), codes, classes)
    return {"figure": figure, "legend": legend, "shown": len(shown), "all": len(rows), "of": of}


def data(cohort: Cohort, run: Run) -> dict[str, Any]:
    """Classes, parts of pre-training, and how much of each feature is missing."""
    images, parts = cohort.images, run.parts
    if parts is not None:
        images = images.merge(parts, on="patient_id", how="left")
    return {
        "info": cohort.info,
        "classes": list(_class_counts(cohort)) if cohort.classes else None,
        "parts": None
        if parts is None
        else [
            (part.replace("_", "-"), count(rows["patient_id"].nunique()), count(len(rows)))
            for part in ("train", "validation", "held_out")
            if len(rows := images[images["part"] == part])
        ],
        "features": [
            (feature.name, level.name, feature.kind, feature.unit or DASH, bar(missing))
            for level in cohort.schema.levels
            for feature in level.features
            # A checkbox group is missing where all its columns are.
            for missing in [
                cohort.tables.of_level(level.name)[list(feature.columns)].isna().all(axis=1).mean()
            ]
        ],
    }


def _class_counts(cohort: Cohort) -> Iterator[Row]:
    for label, rows in cohort.images.groupby("label"):
        ids = ["lesion_id", "patient_id"][: 1 + cohort.has_patient_ids]
        counts = (len(rows), *(rows[name].nunique() for name in ids))
        yield (label, bar(len(rows) / len(cohort)), *map(count, counts))
    if unlabelled := cohort.images["label"].isna().sum():
        yield ("no label", bar(unlabelled / len(cohort)), count(unlabelled))


def configuration(run: Run) -> dict[str, Any]:
    """Key settings as rows, and all of them as JSON."""
    return {
        "settings": [
            (head, value(run.config[key]))
            for key, head in SETTINGS.items()
            if run.config.get(key) is not None
        ],
        "config_json": json.dumps(dict(run.config), indent=2, ensure_ascii=False, default=str),
    }


def _stacked(found: Estimate | None) -> Markup | str:
    """A figure and its interval in two lines, for tables of many columns."""
    mean, _, interval = estimate(found).partition(" ")
    return Markup("{}<br><small>{}</small>").format(mean, interval) if interval else mean

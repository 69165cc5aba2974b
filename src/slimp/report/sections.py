"""What the sections of the pages show: plain values for tables, and figures."""

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
from slimp.evaluation.low_shot import LowShot
from slimp.evaluation.metrics import ECE_BINS, reliability
from slimp.evaluation.probe_config import RULES
from slimp.evaluation.protocol import Assessment
from slimp.evaluation.result import Predictions, ProbeResult
from slimp.evaluation.similarity import Similarity
from slimp.evaluation.subgroups import Subgroups
from slimp.features.feature_table import FeatureTable
from slimp.report.figures import (
    FEWEST_ROWS,
    draw_rows,
    low_shot_figure,
    map_figure,
    project,
    reliability_figure,
    similarity_figure,
)
from slimp.report.html import DASH, bar, count, number, percent, track, value

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
}
"""Metric -> heading, in the order of the tables; AUROC, F1 and AP are macro averages."""

SETTINGS = (
    *("encoder", "encoder_options", "image_size", "pretrained", "hierarchy", "view_weight"),
    *("image_weight", "lesion_weight", "patient_weight", "duplicates", "missing", "pooling"),
    *("patients", "lesions", "epochs", "learning_rate", "weight_decay", "feature_dropout"),
    *("seed", "precision", "monitor"),
)
"""Settings that most explain a result; the others are folded away."""

PER_BIN, FEWEST_BINS = 20, 5
"""Images per bin of the reliability diagram, on average; and its bins, at least."""
Row = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder says about itself; empty or None where it does not."""

    config: Mapping[str, Any]
    """Settings of the pre-training, those of a later stage in place of them."""
    verb: str
    """What was done to it on the cohort, in words."""
    purpose: str
    """What the training was, for the title."""
    versions: Mapping[str, str]
    log: pd.DataFrame
    parts: pd.DataFrame | None
    """`patient_id part`, if a stage of the run was trained on patients of the cohort."""
    latest: bool = True
    """Whether that was the last stage, of which settings and log are."""


def scores(found: Assessment) -> dict[str, Any]:
    """Every baseline and feature set: balanced accuracy on a scale, then all metrics."""
    results, main = {**found.baselines, **found.probes}, found.main
    metrics = [key for key in METRICS if any(key in r.metrics for r in results.values())]
    limit = found.baselines[found.verdict.baseline].balanced_accuracy.mean
    each = f", in each of {n} splits" if (n := len(main.splits)) > 1 else ""
    return {
        "each": "folds" if main.by_fold else "seeds",
        "several": len(main.splits) > 1,
        "by_fold": main.by_fold,
        "kinds": [
            "best" if result is main else "baseline" if name in found.baselines else ""
            for name, result in results.items()
        ],
        "short": [
            (name, track(result.balanced_accuracy, limit), result.balanced_accuracy)
            for name, result in results.items()
        ],
        "heads": [f"#{METRICS[key]}" for key in metrics],
        "all": [
            (
                name,
                *(result.metrics.get(key) for key in metrics),
            )
            for name, result in results.items()
        ],
        "split": f"Split: {main.split.replace('_', '-')}; {count(main.n_train)} "
        f"images train and {count(main.n_test)} test{each}.",
    }


def confusion(best: ProbeResult) -> dict[str, Any]:
    """Scores per class, and the matrix of shares and counts, all seeds together."""
    counts = best.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = Markup('<span{} style="--share:{:.3f}">{} <small>{}</small></span>')
    hit = (Markup(""), Markup(' class="hit"'))
    matrix = [
        [
            shown.format(hit[i == j], share, percent(share), count(counts[i, j]))
            for j, share in enumerate(row)
        ]
        for i, row in enumerate(shares)
    ]
    return {
        "classes": list(best.classes),
        "seeds": best.predictions["seed"].nunique(),
        "rows": list(_class_rows(best)),
        "matrix": [(label, *row) for label, row in zip(best.classes, matrix, strict=True)],
    }


def _class_rows(best: ProbeResult) -> Iterator[Row]:
    counts = best.confusion
    patients = best.predictions.groupby("label")["patient_id"].nunique()
    for k, label in enumerate(best.classes):
        hits, own, predicted = int(counts[k, k]), int(counts[k].sum()), int(counts[:, k].sum())
        wrong = np.where(np.arange(len(counts)) == k, 0, counts[k])
        recall = best.recall.get(label)
        yield (
            *(label, own, int(patients.get(label, 0)), track(recall), recall),
            hits / predicted if predicted else math.nan,
            2 * hits / (own + predicted) if own + predicted else math.nan,
            best.classes[int(wrong.argmax())] if wrong.any() else DASH,
        )


def calibration(best: ProbeResult) -> dict[str, Any] | None:
    """The reliability diagram and the counts of its bins."""
    if best.predictions.empty:
        return None
    all_seeds = Predictions.of_rows(best.predictions, best.classes)
    bins = best.predictions["image_id"].nunique() // PER_BIN
    bins = int(np.clip(bins, FEWEST_BINS, ECE_BINS))
    found = reliability(all_seeds.y, all_seeds.probabilities, bins=bins)
    columns = ("rows", "confidence", "accuracy")
    return {
        "figure": reliability_figure(found),
        "bins": [
            (f"{number(b['low'])} to {number(b['high'])}", *map(b.get, columns))
            for b in found.to_dict("records")
        ],
        **{"decision": best.decision, "rule": f"the {RULES[best.decision]}"},
    }


def subgroups(found: Subgroups) -> dict[str, Any]:
    """A row per group, without intervals where there are too few patients, and the gaps."""
    groups = found.groups
    metrics = [key for key in METRICS if any(key in group.metrics for group in groups)]
    return {
        "heads": [f"#{METRICS[key]}" for key in metrics],
        "kinds": ["baseline" if group.caution else "" for group in groups],
        "rows": [
            (
                f"{g.group}{' *' * g.caution}",
                *(g.column, g.n_images, g.n_patients, len(g.classes)),
                *map(g.metrics.get, metrics),
            )
            for g in groups
        ],
        "gaps": [gap.sentence for gap in found.gaps],
    }


def low_shot(found: LowShot) -> dict[str, Any]:
    """The curve, its table, and which classes are missing from draws."""
    return {
        "draws": found.draws,
        "figure": low_shot_figure(found),
        "rows": [point.row for point in found.points],
        "remarks": [point.remark for point in found.points if point.remark],
    }


def similarity(found: Mapping[Any, Similarity]) -> dict[str, Any]:
    """Histograms and a table, a row per level; {} without levels."""
    if not found:
        return {}
    return {
        "figures": [similarity_figure(level, s) for level, s in found.items()],
        "rows": [
            (
                *(level, len(s.matching), s.median_matching, s.median_nonmatching),
                *(s.auroc, s.overlap),
                *(
                    "; ".join(f"{k}: {number(share)}" for k, share in recall.items())
                    for recall in (s.image_to_metadata, s.metadata_to_image, s.by_chance)
                ),
            )
            for level, s in found.items()
        ],
    }


def embedding_map(
    table: FeatureTable | None, run: Run, unit: str, seed: int
) -> dict[str, Any] | None:
    """The figure, of held-out patients (`unit`) if there are any; {} of too few images."""
    if table is None:
        return None
    rows, of = table, f"all {unit}"
    if run.parts is not None:
        held_out = run.parts.loc[run.parts["part"] == "held_out", "patient_id"]
        if (mask := table.ids["patient_id"].isin(held_out)).any():
            rows, of = table.select(mask), f"held-out {unit}"
    if len(rows) < FEWEST_ROWS:
        return {}
    shown = draw_rows(len(rows), seed)
    points = project(rows.matrix("image")[shown], seed)
    figure = map_figure(points, rows.ids["label"].iloc[shown])
    return {"figure": figure, "shown": len(shown), "all": len(rows), "of": of}


def data(cohort: Cohort, run: Run) -> dict[str, Any]:
    """Classes, parts of pre-training, and how much of each feature is missing."""
    images, parts = cohort.images, None
    if run.parts is not None:
        part = images["patient_id"].map(run.parts.set_index("patient_id")["part"])
        parts = [
            (name.replace("_", "-"), rows["patient_id"].nunique(), len(rows))
            for name in ("train", "validation", "held_out")
            if len(rows := images[part == name])
        ]
    features = []
    for level in cohort.schema.levels:
        for feature in level.features:
            # A checkbox group is missing where all its columns are.
            cells = cohort.tables.of_level(level.name)[list(feature.columns)]
            missing = bar(cells.isna().all(axis=1).mean())
            name = f"{feature.name} ({feature.unit})" if feature.unit else feature.name
            features.append((name, level.name, feature.kind, missing))
    report = json.dumps(cohort.info.import_report, indent=2, ensure_ascii=False, default=str)
    return {
        "info": cohort.info,
        "import_report": report if cohort.info.import_report else "",
        "classes": list(_class_counts(cohort)) if cohort.classes else None,
        "parts": parts,
        "features": features,
    }


def _class_counts(cohort: Cohort) -> Iterator[Row]:
    for label, rows in cohort.images.groupby("label"):
        ids = ["lesion_id", "patient_id"][: 1 + cohort.has_patient_ids]
        counts = (len(rows), *(rows[name].nunique() for name in ids))
        yield (label, bar(len(rows) / len(cohort)), *counts)
    if unlabelled := int(cohort.images["label"].isna().sum()):
        yield ("no label", bar(unlabelled / len(cohort)), unlabelled)


def configuration(run: Run) -> dict[str, Any]:
    """Key settings as rows, and all of them as JSON."""
    return {
        "settings": [
            (key.replace("_", " "), value(run.config[key]))
            for key in SETTINGS
            if run.config.get(key) is not None
        ],
        "config_json": json.dumps(dict(run.config), indent=2, ensure_ascii=False, default=str),
    }

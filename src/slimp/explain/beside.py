"""Several models explained on the same images by the same methods: which one looks at the lesion?

A model without metadata has no match with them, so all answer one other question: a linear probe of
the image features, fitted in the same way on the same patients, of the class of each image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.in_order import Progress
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate
from slimp.evaluation.linear_probe import probe_design
from slimp.evaluation.paired_bootstrap import compare
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.protocol import task_of
from slimp.evaluation.result import ProbeResult
from slimp.evaluation.run_features import cached_features
from slimp.explain.config import ExplainConfig, name_and_run
from slimp.explain.explain import Explanation, explain
from slimp.explain.maps import default_methods
from slimp.explain.scores import MEASURES, estimates, known
from slimp.features.encode import InferenceConfig
from slimp.models.nested import Slimp
from slimp.training.parts import parts_of_run
from slimp.training.weights_run import as_run

ACCURACY = "balanced_accuracy"
"""Of the probe that is explained: where it is at chance, its maps show nothing."""
COLUMNS = (
    *("model", "map", "figure", "mean", "low", "high"),
    *("difference", "difference_low", "difference_high"),
)


class Probed(NamedTuple):
    """A run, and a probe of its image features."""

    run: str
    result: ProbeResult


def image_probes(
    runs: Sequence[str],
    cohort: Path,
    *,
    held_out: bool = True,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Probed]:
    """By name, a probe of the image features of each run, on one split by patient for all.

    Args:
        runs: folders, or `weights:NAME`, each with `NAME=` before it or called by its place; the
            first is the one that others are compared with.
        cohort: folder.
        held_out: test the patients that the first run set aside, or that it never met, if there
            are any; else the split is drawn.
        seed: of the split that is drawn.
        device: where to embed.

    Raises:
        UserError: the labels do not allow a probe.
    """
    found, whole, named = {}, Cohort.load(cohort), dict(map(name_and_run, runs))
    config = ProbeConfig(features="image", seeds=1, seed=seed)
    parts = parts_of_run(as_run(next(iter(named.values()))), whole) or {}
    if parts and "held_out" not in parts.values():  # trained on a cohort without a fold
        parts = dict.fromkeys(whole.patients["patient_id"], "held_out") | parts
    task, _ = task_of(whole.images, config, run_parts=parts, held_out=held_out)
    for name, run in named.items():
        table = cached_features(
            as_run(run), cohort, InferenceConfig(device=device), lacking="missing"
        )
        result = probe_design(table.design("image"), task, config, name=name)
        found[name] = Probed(run, result)
    return found


def explain_beside(
    probes: Mapping[str, Probed],
    cohort: Cohort,
    config: ExplainConfig,
    masks: Path,
    *,
    label: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Explanation:
    """The explanation of the first run, with all of them in its table `beside`.

    Args:
        probes: of `image_probes`; images of their test patients are explained.
        cohort: that of the probes.
        config: methods and number of images; without methods, the default ones that fit all runs.
        masks: folder of lesion masks.
        label: class; None: of each image its own.
        device: where the encoders run.
        progress: called with (images done, images in all), from 0 again for each run.

    Raises:
        UserError: as `explain`.
    """
    first = next(iter(probes.values())).result
    tested = np.zeros(len(cohort), dtype=bool)
    tested[first.splits[0].test] = True
    models = {name: Slimp.from_pretrained(as_run(of.run)) for name, of in probes.items()}
    if not config.methods:
        each = [default_methods(model.image_encoder) for model in models.values()]
        config = replace(config, methods=max(each, key=len))
    found = {}
    for name, model in models.items():
        probe = probes[name].result.probe
        assert probe is not None
        found[name] = explain(
            model,
            cohort.select(tested),
            config,
            probe=(probe, label),
            masks=masks,
            device=device,
            progress=progress,
        )
    own = next(iter(found.values()))
    table = pd.concat([_accuracies(probes), beside_table(found)], ignore_index=True)
    return replace(own, rows=np.flatnonzero(tested)[own.rows], beside=table)


def beside_table(found: Mapping[str, Explanation]) -> pd.DataFrame:
    """A row per run, map and figure: its mean, and the first run's less it, paired over patients.

    Deletion and insertion are left out: they are in units of each probe's log-odds.
    """
    images = [f.by_image for f in found.values()]
    if any(list(one["image_id"]) != list(images[0]["image_id"]) for one in images):
        raise UserError("the runs were not explained on the same images.")
    patients, rows = images[0]["patient_id"].to_numpy(), []
    kept = (*MEASURES, "randomised_correlation")
    each = {name: _figures(explanation, kept) for name, explanation in found.items()}
    base = next(iter(each))
    for name, figures in each.items():
        means, less = estimates(known(figures), patients), dict[str, Estimate]()
        if name != base:
            pairs = {k: each[base][k] - v for k, v in figures.items()}
            less = estimates(known(pairs), patients)
        for key, mean in means.items():
            method, figure = key.split(" ")
            rows.append([name, method, figure, mean.mean, *mean.ci95, *_ends(less.get(key))])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _figures(found: Explanation, measures: Sequence[str]) -> dict[str, Any]:
    """`METHOD MEASURE` -> values per image, and their differences from the spot in the middle."""
    out = {}
    for method in found.maps:
        for measure in measures:
            values = found.by_image[f"{method} {measure}"].to_numpy(dtype=float)
            out[f"{method} {measure}"] = values
            if measure in MEASURES:
                centre = found.by_image[f"centre {measure}"].to_numpy(dtype=float)
                out[f"{method} minus_centre_{measure}"] = values - centre
    return out


def _accuracies(probes: Mapping[str, Probed]) -> pd.DataFrame:
    rows, first = [], next(iter(probes.values())).result
    for name, (_, one) in probes.items():
        less = None
        if one is not first:
            both = compare(first.predictions, one.predictions, headline_only=True)
            pair = both.differences[ACCURACY]
            less = Estimate(mean=pair.difference, ci95=pair.ci95, per_seed=())
        of = one.balanced_accuracy
        rows.append([name, "", ACCURACY, of.mean, *of.ci95, *_ends(less)])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _ends(found: Estimate | None) -> tuple[float, float, float]:
    return (np.nan,) * 3 if found is None else (found.mean, *found.ci95)

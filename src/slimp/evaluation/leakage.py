"""The same probe split by patient, by lesion and by image, so that what leaks is a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from slimp.evaluation.bootstrap import Array, Estimate, bootstrap
from slimp.evaluation.metrics import recall_per_class
from slimp.evaluation.probe_config import LEAKING, SplitMode
from slimp.evaluation.result import ProbeResult, codes_of

HONEST: SplitMode = "patient"
MODES: tuple[SplitMode, ...] = (HONEST, *(mode for mode in get_args(SplitMode) if mode in LEAKING))


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What a split that lets patients be on both sides adds to the score."""

    results: Mapping[str, ProbeResult]
    """Split -> the probe under it; patient, lesion, image."""
    excess: Mapping[str, Estimate]
    """Split -> its balanced accuracy minus the one of the patient split. One draw of patients
    serves both, so what makes a patient hard for both does not blur the difference."""

    def to_dict(self) -> dict[str, Any]:
        """The entry `leakage` of `metrics.json`."""
        return {
            mode: {
                "balanced_accuracy": result.balanced_accuracy.to_dict(),
                "auroc_macro_ovr": result.metrics["auroc_macro_ovr"].to_dict(),
                "n_train": result.n_train,
                "n_test": result.n_test,
                **({"excess": self.excess[mode].to_dict()} if mode in self.excess else {}),
            }
            for mode, result in self.results.items()
        }


def leakage(results: Mapping[str, ProbeResult]) -> Leakage:
    """The excess of each leaking split over the honest one.

    Args:
        results: split -> the same probe with as many seeds; `patient` and others.
    """
    honest, config = results[HONEST], results[HONEST].config
    excess = {
        mode: _difference(result, honest, replicates=config.replicates, seed=config.seed)
        for mode, result in results.items()
        if mode != HONEST
    }
    return Leakage(results=results, excess=excess)


def _difference(a: ProbeResult, b: ProbeResult, *, replicates: int, seed: int) -> Estimate:
    """Balanced accuracy of A minus B, each the mean over its own splits."""
    sides = [(sign, part) for sign, r in ((1, a), (-1, b)) for part in _seeds(r)]
    y = [codes_of(part["label"], a.classes) for _, part in sides]
    said = [codes_of(part["predicted"], a.classes) for _, part in sides]

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        recall = recall_per_class(y[split], said[split], weights, len(a.classes))
        # Twice, because the mean is taken over the splits of both sides together.
        return {"excess": 2 * sides[split][0] * np.nanmean(recall, axis=1)}

    groups = [part["patient_id"].to_numpy(dtype=str) for _, part in sides]
    found = bootstrap(groups, statistic, replicates=replicates, seed=seed)["excess"]
    ours, theirs = np.split(np.array(found.per_seed), 2)
    return replace(found, per_seed=tuple(((ours + theirs) / 2).tolist()))


def _seeds(result: ProbeResult) -> Sequence[Any]:
    return [part for _, part in result.predictions.groupby("seed", sort=True)]

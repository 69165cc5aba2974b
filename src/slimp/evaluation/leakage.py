"""The same probe split by patient, by lesion and by image: a measure of what leaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slimp.evaluation.bootstrap import Array, Estimate, bootstrap
from slimp.evaluation.metrics import balanced_accuracy
from slimp.evaluation.probe_config import LEAKING, SplitMode
from slimp.evaluation.result import ProbeResult, codes_of

MODES: tuple[SplitMode, ...] = ("patient", *LEAKING)


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What a split with the same patients in train and test adds to the score."""

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
    """The excess of each leaking split over the one by patient; the same probe and seeds in all."""
    honest = results["patient"]
    others = {mode: result for mode, result in results.items() if mode != "patient"}
    return Leakage(results=results, excess={m: _excess(r, honest) for m, r in others.items()})


def _excess(a: ProbeResult, b: ProbeResult) -> Estimate:
    """Balanced accuracy of A minus B, each the mean over its own splits."""
    sides = [(s, rows) for s, r in ((1, a), (-1, b)) for _, rows in r.predictions.groupby("seed")]
    y = [codes_of(rows["label"], a.classes) for _, rows in sides]
    predicted = [codes_of(rows["predicted"], a.classes) for _, rows in sides]

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        score = balanced_accuracy(y[split], predicted[split], weights, len(a.classes))
        # Twice, because the mean is taken over the splits of both sides together.
        return {"excess": 2 * sides[split][0] * score}

    groups = [rows["patient_id"].to_numpy(dtype=str) for _, rows in sides]
    config = b.config
    found = bootstrap(groups, statistic, replicates=config.replicates, seed=config.seed)["excess"]
    ours, theirs = np.split(np.array(found.per_seed), 2)
    return replace(found, per_seed=tuple(((ours + theirs) / 2).tolist()))

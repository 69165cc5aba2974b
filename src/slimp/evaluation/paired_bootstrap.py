"""Two probes on the same test images: is the difference more than which patients were tested?

Axis names: n = test images of one seed that both probes have, k = classes, r = replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slimp.errors import UserError
from slimp.evaluation.bootstrap import Array, or_none, resample
from slimp.evaluation.metrics import metrics
from slimp.evaluation.result import codes_of, has_probabilities, probabilities_of, scaled_metrics

KEYS = ["image_id", "patient_id", "seed", "label"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of both probes, and A minus B with what speaks against chance."""

    a: float
    b: float
    difference: float
    """A minus B; mean over seeds, like each of them."""
    ci95: tuple[float, float]
    """Percentiles over replicates, in which both probes are tested on the same patients."""
    p_value: float
    """Two-sided: share of replicates that are as far from their mean as the difference is from 0
    (Efron and Tibshirani 1993, section 16). At least 1 / (replicates + 1)."""
    effect_size: float
    """Difference over the standard deviation of one patient's contribution to it (a paired
    Cohen's d): standard error times the root of the number of patients."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; None where undefined."""
        content = {name: or_none(value) for name, value in asdict(self).items() if name != "ci95"}
        return {**content, "ci95": [or_none(end) for end in self.ci95]}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `slimp compare` found."""

    differences: Mapping[str, Difference]
    classes: tuple[str, ...]
    images: int
    """Pairs of image and seed that both probes were tested on."""
    patients: int
    only_a: int
    """Pairs that only one of them was tested on; they are left out."""
    only_b: int
    replicates: int

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        found = {name: difference.to_dict() for name, difference in self.differences.items()}
        return {**asdict(self), "differences": found}


def compare(
    a: pd.DataFrame, b: pd.DataFrame, *, replicates: int = 2000, seed: int = 0
) -> Comparison:
    """A paired bootstrap over patients of two probes' predictions.

    Args:
        a: as in `ProbeResult.predictions`.
        b: of the same classes; images that only one of the two has are left out and counted.
        replicates: of the bootstrap.
        seed: of its draws.

    Raises:
        UserError: the predictions have other classes, no image in common, or other labels.
    """
    classes = _classes(a, "the first")
    if classes != _classes(b, "the second"):
        raise UserError(
            f"the probes tell other classes apart: {', '.join(classes)} and "
            f"{', '.join(_classes(b, 'the second'))}. Probe the same cohort with both runs."
        )
    both = _join(a, b)
    splits = [part for _, part in both.groupby("seed", sort=True)]
    calibrated = all(has_probabilities(table, "q") for table in (a, b))
    y, said = [], []
    for part in splits:
        y.append(codes_of(part["label"], classes))
        said.append([_answer(part, classes, side, calibrated) for side in ("_a", "_b")])

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        ours, theirs = (
            {**metrics(y[split], p, d, weights), **scaled_metrics(y[split], q, weights)}
            for p, d, q in said[split]
        )
        return {
            **{f"{name} a": ours[name] for name in ours},
            **{f"{name} b": theirs[name] for name in ours},
            **{name: ours[name] - theirs[name] for name in ours},
        }

    groups = [part["patient_id"].to_numpy(dtype=str) for part in splits]
    values, draws = resample(groups, statistic, replicates=replicates, seed=seed)
    patients = both["patient_id"].nunique()
    names = [name for name in values if not name.endswith((" a", " b"))]
    return Comparison(
        differences={name: _difference(name, values, draws, patients) for name in names},
        classes=classes,
        images=len(both),
        patients=patients,
        only_a=len(a) - len(both),
        only_b=len(b) - len(both),
        replicates=replicates,
    )


def read_predictions(folder: str | Path) -> pd.DataFrame:
    """The predictions that a probe left in `folder`.

    Raises:
        UserError: there are none, or they are damaged.
    """
    path = Path(folder) / "predictions.parquet"
    if not path.is_file():
        raise UserError(f"{folder}: holds no predictions.parquet. Make one with: slimp probe.")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}). Run slimp probe again.") from None
    if lacking := {*KEYS, "predicted"} - set(table.columns):
        raise UserError(f"{path}: has no column '{min(lacking)}'. Run slimp probe again.")
    return table


def _classes(table: pd.DataFrame, which: str) -> tuple[str, ...]:
    """In the order of the columns, which puts the positive class last."""
    found = tuple(name[2:] for name in table.columns if name.startswith("p_"))
    if unknown := set(table["label"]) - set(found):
        raise UserError(f"{which} predictions have label '{min(unknown)}', but no column for it.")
    return found


def _join(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    keys = ["image_id", "seed"]
    for table, which in ((a, "first"), (b, "second")):
        if table.duplicated(keys).any():
            raise UserError(f"the {which} predictions have an image twice in one seed.")
    both = a.merge(b, on=keys, suffixes=("_a", "_b"), validate="one_to_one")
    if both.empty:
        raise UserError(
            "the probes were tested on no image in common (of the same seed), so they cannot be "
            "compared in pairs. Probe both runs with the same --seed and split; runs of one "
            "pre-training seed set the same patients aside."
        )
    for name in ("label", "patient_id"):
        differ = (both[f"{name}_a"] != both[f"{name}_b"]).to_numpy(dtype=bool)
        if differ.any():
            image = both["image_id"].iloc[int(np.argmax(differ))]
            raise UserError(
                f"image '{image}' has another {name} in the second probe ({differ.sum()} image(s) "
                "in all). Probe the same cohort with both runs."
            )
    return both.rename(columns={"label_a": "label", "patient_id_a": "patient_id"})


def _answer(
    part: pd.DataFrame, classes: Sequence[str], side: str, calibrated: bool
) -> tuple[Array, Array, Array | None]:
    """(probabilities (n, k), class decided on (n,), calibrated probabilities) of one probe."""
    q = probabilities_of(part, classes, "q", suffix=side) if calibrated else None
    decided = codes_of(part[f"predicted{side}"], classes)
    return probabilities_of(part, classes, suffix=side), decided, q


def _difference(
    name: str, values: Mapping[str, Array], draws: Mapping[str, Array], patients: int
) -> Difference:
    found = draws[name][~np.isnan(draws[name])]
    difference = float(values[name].mean())
    low, high = np.quantile(found, [0.025, 0.975]).tolist() if len(found) else (difference,) * 2
    far = np.abs(found - found.mean()) >= abs(difference) if len(found) else np.ones(0)
    error = float(found.std()) if len(found) else 0.0
    spread = error * float(np.sqrt(patients))
    return Difference(
        a=float(values[f"{name} a"].mean()),
        b=float(values[f"{name} b"].mean()),
        difference=difference,
        ci95=(low, high),
        p_value=float((1 + far.sum()) / (1 + len(found))),
        effect_size=difference / spread if spread > 0 else 0.0,
    )

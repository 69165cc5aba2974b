"""Two probes on the same test images: is the difference more than which patients were tested?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slimp.data.files import read_json
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Array, or_none, resample
from slimp.evaluation.metrics import balanced_accuracy, metrics
from slimp.evaluation.result import Predictions, codes_of

KEYS = ["image_id", "seed"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of both probes, and A minus B."""

    a: float
    b: float
    difference: float
    """A minus B; mean over seeds, like each of them."""
    ci95: tuple[float, float]
    """Percentiles over replicates, in which both probes are tested on the same patients."""
    p_value: float
    """Two-sided: fraction of replicates that are as far from their mean as the difference is from
    0 (Efron and Tibshirani 1993, section 16). At least 1 / (replicates + 1)."""
    effect_size: float
    """Difference over the standard deviation of one patient's contribution to it (a paired
    Cohen's d): standard error times the root of the number of patients."""

    def __str__(self) -> str:
        return f"{self.difference:+.3f} [{self.ci95[0]:+.3f}, {self.ci95[1]:+.3f}]"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; None where undefined."""
        numbers = {name: or_none(value) for name, value in vars(self).items() if name != "ci95"}
        return {**numbers, "ci95": [or_none(end) for end in self.ci95]}


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


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a probe beats the best of its baselines, in balanced accuracy."""

    sentence: str
    baseline: str
    """The best one."""
    difference: Difference
    """Probe minus baseline, as `slimp compare` computes it."""

    def to_dict(self) -> dict[str, Any]:
        """The entry `verdict` of `metrics.json`."""
        return {"sentence": self.sentence, "baseline": self.baseline, **self.difference.to_dict()}


def verdict(
    features: str,
    predictions: pd.DataFrame,
    baselines: Mapping[str, pd.DataFrame],
    *,
    unit: str = "patients",
) -> Verdict:
    """The one sentence on probe and baselines that the terminal and every report show.

    Args:
        features: name of the probe.
        predictions: of the probe, as in `ProbeResult.predictions`.
        baselines: name -> predictions on the same rows; the best one is compared with.
        unit: what is resampled, in words: lesions where a cohort has no patient ids.
    """
    found = {
        name: compare(predictions, table, headline_only=True) for name, table in baselines.items()
    }
    best = max(found, key=lambda name: found[name].differences["balanced_accuracy"].b)
    row = found[best].differences["balanced_accuracy"]
    low, high = row.ci95
    side = "above" if low > 0 else "below" if high < 0 else "not clearly different from"
    text = (
        f"'{features}' is {side} the best baseline, '{best}': {row} in balanced accuracy "
        f"(95 % interval, paired over {found[best].patients} {unit})."
    )
    return Verdict(sentence=text, baseline=best, difference=row)


def compare(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    replicates: int = 2000,
    seed: int = 0,
    headline_only: bool = False,
) -> Comparison:
    """A paired bootstrap over patients of two probes' predictions.

    Args:
        a: as in `ProbeResult.predictions`.
        b: of the same classes; images that only one of the two has are left out and counted.
        replicates: of the bootstrap.
        seed: of its draws.
        headline_only: balanced accuracy alone, which takes a tenth of the time.

    Raises:
        UserError: the predictions have other classes, no image in common, or other labels.
    """
    classes = _classes(a, "first")
    if classes != (others := _classes(b, "second")):
        raise UserError(
            f"the probes have different classes: {', '.join(classes)} and {', '.join(others)}. "
            "Probe the same cohort with both runs."
        )
    pair = _common_rows(a, b)
    if not all(f"q_{classes[0]}" in table for table in pair):  # not every probe is calibrated
        pair = [table[[name for name in table if not str(name).startswith("q_")]] for table in pair]
    splits = [index for _, index in sorted(pair[0].groupby("seed").groups.items())]
    y = [codes_of(pair[0]["label"].loc[index], classes) for index in splits]
    said = [[Predictions.of_rows(t.loc[index], classes) for t in pair] for index in splits]

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        ours, theirs = (
            {"balanced_accuracy": balanced_accuracy(y[split], one.predicted, weights, len(classes))}
            if headline_only
            else metrics(y[split], one.probabilities, one.predicted, weights, one.calibrated)
            for one in said[split]
        )
        return {
            **{f"{name} a": ours[name] for name in ours},
            **{f"{name} b": theirs[name] for name in ours},
            **{name: ours[name] - theirs[name] for name in ours},
        }

    groups = [pair[0]["patient_id"].loc[index].to_numpy(dtype=str) for index in splits]
    values, draws = resample(groups, statistic, replicates=replicates, seed=seed)
    patients = pair[0]["patient_id"].nunique()
    names = [name for name in values if not name.endswith((" a", " b"))]
    return Comparison(
        differences={name: _difference(name, values, draws, patients) for name in names},
        classes=classes,
        images=len(pair[0]),
        patients=patients,
        only_a=len(a) - len(pair[0]),
        only_b=len(b) - len(pair[0]),
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
    if missing := {*KEYS, "patient_id", "label", "predicted"} - set(table.columns):
        raise UserError(f"{path}: has no column '{min(missing)}'. Run slimp probe again.")
    return table


def resampling_unit(folder: str | Path) -> str:
    """What a probe's intervals resample, in words: lesions where a cohort has no patient ids."""
    path = Path(folder) / "metrics.json"
    content = read_json(path) if path.is_file() else {}
    return str(content.get("resampling", {}).get("unit", "patients"))


def _classes(table: pd.DataFrame, which: str) -> tuple[str, ...]:
    """In the order of the columns, which puts the positive class last."""
    found = tuple(name[2:] for name in table.columns if name.startswith("p_"))
    if unknown := set(table["label"]) - set(found):
        raise UserError(
            f"the {which} predictions have label '{min(unknown)}', but no column of it."
        )
    return found


def _common_rows(a: pd.DataFrame, b: pd.DataFrame) -> list[pd.DataFrame]:
    """Both tables on the images and seeds that both have, in the order of the first."""
    for table, which in ((a, "first"), (b, "second")):
        if table.duplicated(KEYS).any():
            raise UserError(f"the {which} predictions have an image twice in one seed.")
    common = a[KEYS].merge(b[KEYS], on=KEYS)
    if common.empty:
        raise UserError(
            "the probes were tested on no image in common (of the same seed), so they cannot be "
            "compared in pairs. Probe both runs with the same --seed and split; runs of one "
            "pre-training seed set the same patients aside."
        )
    ours, theirs = (common.merge(table, on=KEYS) for table in (a, b))
    for name in ("label", "patient_id"):
        differ = (ours[name] != theirs[name]).to_numpy(dtype=bool)
        if differ.any():
            image = ours["image_id"].iloc[int(np.argmax(differ))]
            raise UserError(
                f"image '{image}' has another {name} in the second probe ({differ.sum()} image(s) "
                "in all). Probe the same cohort with both runs."
            )
    return [ours, theirs]


def _difference(
    name: str, values: Mapping[str, Array], draws: Mapping[str, Array], patients: int
) -> Difference:
    found = draws[name][~np.isnan(draws[name])]
    difference = float(values[name].mean())
    low, high = np.quantile(found, [0.025, 0.975]).tolist() if len(found) else (difference,) * 2
    far = np.abs(found - found.mean()) >= abs(difference) if len(found) else np.ones(0)
    spread = float(found.std()) * patients**0.5 if len(found) else 0.0
    return Difference(
        a=float(values[f"{name} a"].mean()),
        b=float(values[f"{name} b"].mean()),
        difference=difference,
        ci95=(low, high),
        p_value=float((1 + far.sum()) / (1 + len(found))),
        effect_size=difference / spread if spread > 0 else 0.0,
    )

"""Two probes, or two kinds of split: is the difference more than which patients were tested?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from slimp.data.files import read_json
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, Record, percentiles, resample
from slimp.evaluation.metrics import Array
from slimp.evaluation.result import Predictions, ProbeResult

KEYS = ["image_id", "seed"]
MOST_FOLDS = 100
"""Whose folders are looked for."""
FOLDER = "folder"
"""Key in `DataFrame.attrs` of the probe's folder that predictions were read from."""


@dataclass(frozen=True, kw_only=True)
class Difference(Record):
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


@dataclass(frozen=True, kw_only=True)
class Comparison(Record):
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


@dataclass(frozen=True, kw_only=True)
class Verdict(Record):
    """Whether a probe beats the best of its baselines, in balanced accuracy."""

    sentence: str
    baseline: str
    """The best one."""
    difference: Difference
    """Probe minus baseline, as `slimp compare` computes it."""


@dataclass(frozen=True, kw_only=True)
class Leakage(Record):
    """What a split with the same patients in train and test adds to the score."""

    balanced_accuracy: Mapping[str, Estimate]
    """Of the probe split by patient, lesion and image."""
    excess: Mapping[str, Estimate]
    """Split -> its balanced accuracy minus the one of the patient split. One draw of patients
    serves both, so what makes a patient hard for both does not blur the difference."""

    @property
    def rows(self) -> list[tuple[object, ...]]:
        """For a table: split, balanced accuracy, excess."""
        return [(m, score, self.excess.get(m)) for m, score in self.balanced_accuracy.items()]


def verdict(
    features: str,
    predictions: pd.DataFrame,
    baselines: Mapping[str, pd.DataFrame],
    *,
    unit: str = "patients",
) -> Verdict:
    """The one sentence on probe and baselines that the terminal and every report show.

    The best of `baselines`, whose predictions are on the same rows, is compared with. `unit` is
    what is resampled, in words: lesions where a cohort has no patient ids.
    """
    found = {n: compare(predictions, b, headline_only=True) for n, b in baselines.items()}
    rows = {name: comparison.differences["balanced_accuracy"] for name, comparison in found.items()}
    best = max(rows, key=lambda name: rows[name].b)
    row = rows[best]
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
    """A paired bootstrap over patients of two probes' predictions, as in `ProbeResult.predictions`.

    Images that only one of the two has are left out and counted. With `headline_only` balanced
    accuracy is compared alone, which takes a tenth of the time.

    Raises:
        UserError: the predictions have other classes, no image in common, or other labels.
    """
    classes, pair = _common_classes(a, b), _common_rows(a, b)
    said = list(zip(*(Predictions.per_split(table, classes) for table in pair), strict=True))

    def scores(one: Predictions, weights: Array) -> dict[str, Array]:
        if headline_only:
            return {"balanced_accuracy": one.balanced_accuracy(weights)}
        return one.metrics(weights)

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        ours, theirs = (scores(one, weights) for one in said[split])
        return {name: values - theirs[name] for name, values in ours.items()}

    patients = [one.patients for one, _ in said]
    values, draws = resample(patients, statistic, replicates=replicates, seed=seed)
    once = [[scores(one, np.ones((1, len(one.y)))) for one in both] for both in said]
    count = len(np.unique(np.concatenate(patients)))
    differences = {}
    for name, each in values.items():
        difference, spread = float(each.mean()), float(draws[name].std()) * count**0.5
        far = np.abs(draws[name] - draws[name].mean()) >= abs(difference)
        differences[name] = Difference(
            a=float(np.mean([ours[name] for ours, _ in once])),
            b=float(np.mean([theirs[name] for _, theirs in once])),
            difference=difference,
            ci95=percentiles(draws[name], difference),
            p_value=float((1 + far.sum()) / (1 + replicates)),
            effect_size=difference / spread if spread > 0 else 0.0,
        )
    return Comparison(
        differences=differences,
        classes=classes,
        images=len(pair[0]),
        patients=count,
        only_a=len(a) - len(pair[0]),
        only_b=len(b) - len(pair[0]),
        replicates=replicates,
    )


def leakage(results: Mapping[str, ProbeResult]) -> Leakage:
    """The excess of each leaking split over the one by patient; the same probe and seeds in all."""
    honest = results["patient"]
    return Leakage(
        balanced_accuracy={mode: result.balanced_accuracy for mode, result in results.items()},
        excess={m: _excess(r, honest) for m, r in results.items() if r is not honest},
    )


def _excess(a: ProbeResult, b: ProbeResult) -> Estimate:
    """Balanced accuracy of A minus B, each the mean over those of its own splits that are drawn."""
    ours, theirs = (Predictions.per_split(r.predictions, r.classes) for r in (a, b))
    sides = [*ours, *theirs]

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        score = sides[split].balanced_accuracy(weights)
        undefined = np.full(len(weights), np.nan)
        pair = (score, undefined) if split < len(ours) else (undefined, score)
        return dict(zip("ab", pair, strict=True))

    per_split, draws = resample(
        [one.patients for one in sides],
        statistic,
        replicates=b.config.replicates,
        seed=b.config.seed,
    )
    each = per_split["a"][: len(ours)] - per_split["b"][len(ours) :]
    ends = percentiles(draws["a"] - draws["b"], float(each.mean()))
    return Estimate(mean=float(each.mean()), ci95=ends, per_seed=tuple(each.tolist()))


def read_predictions(folder: str | Path) -> pd.DataFrame:
    """The predictions that a probe left in `folder`.

    `{fold}` in its name stands for the number of a fold: of runs that each held out one fold, the
    probes are read as one cross-validation.

    Raises:
        UserError: there are none, or they are damaged.
    """
    if probes := _of_folds(folder):
        tables = [read_predictions(path).assign(fold=k) for k, path in probes.items()]
        return pd.concat(tables, ignore_index=True)
    path = Path(folder) / "predictions.parquet"
    if not path.is_file():
        raise UserError(f"{folder}: holds no predictions.parquet. Make one with: slimp probe.")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}). Run slimp probe again.") from None
    if missing := {*KEYS, "patient_id", "label", "predicted", "decision"} - set(table.columns):
        raise UserError(f"{path}: has no column '{min(missing)}'. Run slimp probe again.")
    table.attrs[FOLDER] = str(folder)
    return table


def resampling_unit(folder: str | Path) -> str:
    """What a probe's intervals resample, in words: lesions where a cohort has no patient ids."""
    path = next(iter(_of_folds(folder).values()), Path(folder)) / "metrics.json"
    content = read_json(path) if path.is_file() else {}
    return str(content.get("resampling", {}).get("unit", "patients"))


def _of_folds(folder: str | Path) -> dict[int, Path]:
    """Number -> folder, of the folds that `{fold}` in a name stands for and that are there."""
    numbers = range(MOST_FOLDS if "{fold}" in str(folder) else 0)
    found = {k: Path(str(folder).replace("{fold}", str(k))) for k in numbers}
    return {k: path for k, path in found.items() if path.is_dir()}


def _common_classes(a: pd.DataFrame, b: pd.DataFrame) -> tuple[str, ...]:
    """In the order of the columns, which puts the positive class last."""
    found = []
    for table, which in ((a, "first"), (b, "second")):
        found.append(tuple(name[2:] for name in table.columns if name.startswith("p_")))
        if unknown := set(table["label"]) - set(found[-1]):
            raise UserError(
                f"the {which} predictions have label '{min(unknown)}', but no column of it."
            )
    if found[0] != found[1]:
        ours, theirs = map(", ".join, found)
        raise UserError(
            f"the probes have different classes: {ours} and {theirs}. "
            "Probe the same cohort with both runs."
        )
    return found[0]


def _all_images(table: pd.DataFrame) -> set[str]:
    """The images of a probe's cohort, as its split lists them; none where it is not known."""
    if FOLDER not in table.attrs:
        return set()
    path = Path(table.attrs[FOLDER]) / "split.csv"
    return set(pd.read_csv(path, dtype=str)["image_id"]) if path.is_file() else set()


def _common_rows(a: pd.DataFrame, b: pd.DataFrame) -> list[pd.DataFrame]:
    """Both tables on the images and seeds that both have, in the order of the first."""
    for table, which in ((a, "first"), (b, "second")):
        if table.duplicated(KEYS).any():
            raise UserError(f"the {which} predictions have an image twice in one seed.")
    if all("fold" in table and table["seed"].nunique() == 1 for table in (a, b)):
        b = b.assign(seed=a["seed"].iloc[0])  # the folds must agree, which is checked below
    common = a[KEYS].merge(b[KEYS], on=KEYS)
    if common.empty:
        remedy = (
            "Probe both runs with the same --seed and split; runs of one pre-training seed set the "
            "same patients aside."
        )
        if all(images := [_all_images(table) for table in (a, b)]) and images[0].isdisjoint(
            images[1]
        ):
            remedy = "They are of different cohorts. Probe the same cohort with both runs."
        raise UserError(
            "the probes were tested on no image in common (of the same seed), so they cannot be "
            f"compared in pairs. {remedy}"
        )
    ours, theirs = (common.merge(table, on=KEYS) for table in (a, b))
    for name in ("label", "patient_id", *(["fold"] if "fold" in ours and "fold" in theirs else [])):
        differ = (ours[name] != theirs[name]).to_numpy(dtype=bool)
        if differ.any():
            image = ours["image_id"].iloc[int(np.argmax(differ))]
            raise UserError(
                f"image '{image}' has another {name} in the second probe ({differ.sum()} image(s) "
                "in all). Probe the same cohort with both runs."
            )
    if ("fold" in ours) != ("fold" in theirs):  # then a seed is all that both divide images by
        ours, theirs = (x.drop(columns="fold", errors="ignore") for x in (ours, theirs))
    return [ours, theirs]

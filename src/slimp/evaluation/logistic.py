"""Multinomial logistic regression whose strength is chosen on training patients only.

Axis names: n = rows, d = features, k = classes, s = candidate strengths.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from slimp.data.files import new_file, read_json, write_json
from slimp.errors import CheckpointError, UserError
from slimp.evaluation.calibration import apply_temperature, fit_temperature
from slimp.evaluation.folds import grouped_folds

Array = np.ndarray[Any, np.dtype[Any]]
FORMAT = 1
"""Version of `probe.json`."""
MAX_ITER = 5000
"""Steps of L-BFGS; a fit that needs more is reported as not converged."""
TOLERANCE = 1e-5
"""Largest gradient at which a fit counts as converged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe:
    """A fitted probe, standardisation included."""

    classes: tuple[str, ...]
    features: str
    """The feature set it was fitted on, in the order of `FeatureTable.matrix`."""
    mean: Float[Array, " d"]
    scale: Float[Array, " d"]
    """Standard deviation of the training rows; 1 where it is 0."""
    coef: Float[Array, "k d"]
    intercept: Float[Array, " k"]
    threshold: float | None = None
    """Of two classes: the last one is decided on from this probability upwards."""
    temperature: float = 1.0
    """Divisor of the logits in `calibrated_proba`; 1 in probes of older versions."""
    shares: Float[Array, " k"] | None = None
    """Of each class among the training rows; None, in older versions: all alike."""

    def predict_proba(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Probability per row and class.

        Raises:
            UserError: `x` has another number of columns than the probe was fitted on.
        """
        if x.shape[1] != len(self.mean):
            raise UserError(
                f"the probe was fitted on {len(self.mean)} features ('{self.features}'), "
                f"got {x.shape[1]}. Use the model and the feature set it was fitted with."
            )
        z = (x.astype(np.float64) - self.mean) / self.scale
        return np.asarray(softmax(z @ self.coef.T + self.intercept, axis=1))

    def calibrated_proba(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Probability per row and class where classes are as frequent as in training.

        Temperature scaling, then the shares that balanced class weights had taken out (see
        `apply_temperature`). Decisions are made on `predict_proba`, never on these.
        """
        shares = np.ones(len(self.classes)) if self.shares is None else self.shares
        return apply_temperature(self.predict_proba(x), self.temperature, shares)

    def decide(self, probabilities: Float[Array, "n k"]) -> Int[Array, " n"]:
        """Class per row: the most probable one, or by the threshold where there are two."""
        if self.threshold is None:
            return np.asarray(probabilities.argmax(axis=1))
        return (probabilities[:, 1] >= self.threshold).astype(np.int64)

    def predict(self, x: Float[Array, "n d"]) -> Shaped[Array, " n"]:
        """Name of the class decided on, per row."""
        return np.array(self.classes)[self.decide(self.predict_proba(x))]

    def save(self, folder: str | Path) -> None:
        """Writes `probe.json` and `probe.safetensors`."""
        folder = Path(folder)
        names = ("mean", "scale", "coef", "intercept")
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in names}
        with new_file(folder / "probe.safetensors") as partial:
            save_file(tensors, partial)
        content = {
            "format": FORMAT,
            "classes": list(self.classes),
            "features": self.features,
            "threshold": self.threshold,
            "temperature": self.temperature,
            "shares": None if self.shares is None else self.shares.tolist(),
        }
        write_json(folder / "probe.json", content)

    @classmethod
    def load(cls, folder: str | Path) -> LinearProbe:
        """The inverse of `save`.

        Raises:
            CheckpointError: the folder holds no probe, or a damaged one.
        """
        folder = Path(folder)
        if not (folder / "probe.json").is_file():
            raise CheckpointError(
                f"{folder}: no linear probe here (no probe.json). Make one with: slimp probe."
            )
        content = read_json(folder / "probe.json")
        if content.pop("format", None) != FORMAT:
            raise CheckpointError(f"{folder / 'probe.json'}: written by another version.")
        path = folder / "probe.safetensors"
        try:
            content |= {"classes": tuple(content["classes"]), **load_file(path)}
            if content.get("shares") is not None:
                content["shares"] = np.array(content["shares"], dtype=np.float64)
            return cls(**content)
        except Exception as error:  # safetensors raises many kinds for damaged files
            raise CheckpointError(f"{path}: missing or damaged ({error}).") from None


def load_probe(folder: str | Path) -> LinearProbe:
    """The linear probe that `slimp probe` left in `folder`."""
    return LinearProbe.load(folder)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A probe and how it was found."""

    probe: LinearProbe
    strength: float
    """The chosen C."""
    scores: Float[Array, " s"]
    """Cross-validated log-loss of each candidate, every class weighing the same; NaN: not tried."""
    converged: bool
    """Every fit reached its optimum, those of the folds included."""
    out_of_fold: Float[Array, "n k"]
    """Probability per training row and class, of a fit that did not see its patient."""


def fit_logistic(
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    groups: Shaped[Array, " n"],
    classes: tuple[str, ...],
    *,
    strengths: tuple[float, ...],
    folds: int,
    seed: int,
    features: str = "",
) -> Fit:
    """Class-balanced multinomial logistic regression on standardised features.

    The strength is the candidate with the least class-balanced log-loss over all rows, each
    predicted by a fit that did not see its patient. The loss has one valley along the path of
    strengths, so the search stops where it rises. Choosing by balanced accuracy instead gives
    the same test scores, but a choice that jumps between patients' draws, because a step
    function of few rare cases is noisy. The threshold of a two-class problem and the temperature of
    `calibrated_proba` come from the same out-of-fold predictions.

    Args:
        x: features of the training rows.
        y: class per row; every class occurs.
        groups: patient per row; folds are disjoint in it.
        classes: name per class.
        strengths: candidates for C.
        folds: number of folds.
        seed: of the folds.
        features: kept in the probe.

    Raises:
        UserError: there is only one patient.
    """
    x, ladder = x.astype(np.float64), tuple(sorted(strengths))
    fold = grouped_folds(y, groups, folds, seed=seed)
    paths = [_path(x[fold != f], y[fold != f], classes, ladder) for f in range(fold.max() + 1)]
    scores = np.full(len(ladder), np.nan)
    best, converged = 0, True
    for s in range(len(ladder)):
        out = np.zeros((len(y), len(classes)))
        for f, path in enumerate(paths):
            probe, reached = next(path)
            out[fold == f] = probe.predict_proba(x[fold == f])
            converged &= reached
        scores[s] = balanced_log_loss(y, out)
        if s and scores[s] >= scores[best]:
            break  # past the valley; weaker fits are the slowest ones
        best, best_out = s, out
    *_, (probe, reached) = _path(x, y, classes, ladder[: best + 1])
    threshold = best_threshold(y, best_out[:, 1]) if len(classes) == 2 else None
    shares = np.bincount(y, minlength=len(classes)) / len(y)
    temperature = fit_temperature(best_out, y, shares)
    return Fit(
        probe=replace(
            probe, features=features, threshold=threshold, temperature=temperature, shares=shares
        ),
        strength=ladder[best],
        scores=scores,
        converged=bool(converged and reached),
        out_of_fold=best_out,
    )


def fit_at(
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    classes: tuple[str, ...],
    *,
    strength: float,
    features: str = "",
) -> LinearProbe:
    """The probe of a given strength, where there are too few rows to choose one.

    A class without rows gets probability 0. Two classes are told apart at 0.5.
    """
    probe, _ = next(_path(x.astype(np.float64), y, classes, (strength,)))
    shares = np.bincount(y, minlength=len(classes)) / len(y)
    return replace(probe, features=features, shares=shares)


def balanced_log_loss(y: Int[Array, " n"], probabilities: Float[Array, "n k"]) -> float:
    """Mean over classes of the mean -log probability of a class's rows; a 0 counts as 1e-12."""
    loss = -np.log(np.maximum(probabilities[np.arange(len(y)), y], 1e-12))
    return float(np.mean([loss[y == c].mean() for c in np.unique(y)]))


def best_threshold(y: Int[Array, " n"], scores: Float[Array, " n"]) -> float:
    """The cut with the best balanced accuracy (Youden's J); among equals the one nearest 0.5.

    Cuts lie half way between neighbouring scores; 0.5 itself is one of them.
    """
    distinct = np.unique(scores)
    cuts = np.unique([*(distinct[1:] + distinct[:-1]) / 2, 0.5])
    cuts = cuts[np.argsort(np.abs(cuts - 0.5), kind="stable")]
    positives, negatives = np.sort(scores[y == 1]), np.sort(scores[y == 0])
    found = 1 - np.searchsorted(positives, cuts) / len(positives)
    spared = np.searchsorted(negatives, cuts) / len(negatives)
    return float(cuts[np.argmax(found + spared)])


def _path(
    x: Array, y: Array, classes: tuple[str, ...], strengths: tuple[float, ...]
) -> Iterator[tuple[LinearProbe, bool]]:
    """A probe per strength, weakest fit first, each starting from the one before."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale < 1e-12 * np.maximum(np.abs(mean), 1)] = 1.0  # constant up to rounding
    z = (x - mean) / scale
    present = np.unique(y)  # a fold may lack a class of few patients
    model = LogisticRegression(
        class_weight="balanced", max_iter=MAX_ITER, tol=TOLERANCE, warm_start=True
    )
    for strength in strengths:
        coef = np.zeros((len(classes), x.shape[1]))
        intercept = np.full(len(classes), -np.inf)  # probability 0 for an absent class
        intercept[present] = 0.0
        reached = True
        if len(present) > 1:
            model.C = strength
            reached = _fit(model, z, y)
            # Of two classes scikit-learn keeps only the second one's logit.
            rows = present[1:] if len(present) == 2 else present
            coef[rows], intercept[rows] = model.coef_, model.intercept_
        yield (
            LinearProbe(
                classes=classes,
                features="",
                mean=mean,
                scale=scale,
                coef=coef,
                intercept=intercept,
            ),
            reached,
        )


def _fit(model: LogisticRegression, z: Array, y: Array) -> bool:
    """Fits in place; whether it converged. Other warnings are passed on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(z, y)
    failed = False
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            failed = True
        else:
            warnings.warn(warning.message, category=warning.category, stacklevel=2)
    return not failed

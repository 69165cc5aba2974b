"""Multinomial logistic regression whose regularisation is chosen on training patients only.

Balanced class weights take all classes for equally frequent. Calibrated probabilities are
softmax(z / T + log frequency), z being the logits; only the temperature T is fitted.

Axis names: n = rows, d = features, k = classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from slimp.data.files import new_file, read_json, write_json
from slimp.errors import CheckpointError, UserError
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.metrics import Array

FORMAT = 2
"""Version of `probe.json`."""
MAX_ITER = 5000
"""Steps of L-BFGS; a fit that needs more is reported as not converged."""
TOLERANCE = 1e-5
"""Largest gradient at which a fit counts as converged."""
TEMPERATURES = (0.05, 20.0)
"""Bounds; reached where the rows are separated, or where the probe knows nothing."""
SMALLEST = 1e-300
"""Stands for a probability of 0, so that its logarithm is finite."""
TENSORS = ("mean", "scale", "coef", "intercept", "priors")


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe:
    """A fitted probe, standardisation included."""

    classes: tuple[str, ...]
    features: str = ""
    """The feature set it was fitted on, in the order of `FeatureTable.matrix`."""
    mean: Float[Array, " d"]
    scale: Float[Array, " d"]
    """Standard deviation of the training rows; 1 where it is 0."""
    coef: Float[Array, "k d"]
    intercept: Float[Array, " k"]
    priors: Float[Array, " k"]
    """Class frequencies of the training rows."""
    threshold: float | None = None
    """Of two classes: the last one is decided on from this probability upwards."""
    temperature: float = 1.0
    """Divisor of the logits in `calibrated_proba`."""
    strength: float = 1.0
    """scikit-learn's C, the inverse of the regularisation."""
    converged: bool = True
    """Every fit reached its optimum, those of the folds included."""

    def predict_proba(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Probability per row and class, as if all classes were equally frequent."""
        if x.shape[1] != len(self.mean):
            raise UserError(
                f"the probe was fitted on {len(self.mean)} features ('{self.features}'), "
                f"got {x.shape[1]}. Use the model and the feature set it was fitted with."
            )
        z = (x.astype(np.float64) - self.mean) / self.scale
        return np.asarray(softmax(z @ self.coef.T + self.intercept, axis=1))

    def calibrated_proba(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Probability per row and class where classes are as frequent as in training.

        Decisions are made on `predict_proba`, never on these.
        """
        return apply_temperature(self.predict_proba(x), self.temperature, self.priors)

    def decide(self, probabilities: Float[Array, "n k"]) -> Int[Array, " n"]:
        """Class per row: the most probable one, or by the threshold where there are two."""
        if self.threshold is None:
            return np.asarray(probabilities.argmax(axis=1))
        return (probabilities[:, 1] >= self.threshold).astype(np.int64)

    def save(self, folder: str | Path) -> None:
        """Writes `probe.json` and `probe.safetensors`."""
        folder = Path(folder)
        with new_file(folder / "probe.safetensors") as partial:
            tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in TENSORS}
            save_file(tensors, partial)
        content = {name: value for name, value in vars(self).items() if name not in TENSORS}
        write_json(folder / "probe.json", {"format": FORMAT, **content})

    @classmethod
    def load(cls, folder: str | Path) -> LinearProbe:
        """The inverse of `save`.

        Raises:
            CheckpointError: the folder holds no probe, or a damaged one.
        """
        record, path = Path(folder) / "probe.json", Path(folder) / "probe.safetensors"
        if not record.is_file():
            raise CheckpointError(
                f"{folder}: no logistic probe here (no probe.json). Make one with: slimp probe."
            )
        content = read_json(record)
        if content.pop("format", None) != FORMAT:
            raise CheckpointError(f"{record}: written by another version.")
        try:
            return cls(**content | {"classes": tuple(content["classes"]), **load_file(path)})
        except Exception as error:  # safetensors raises many kinds for damaged files
            raise CheckpointError(f"{path}: missing or damaged ({error}).") from None


def fit_logistic(
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    groups: Shaped[Array, " n"],
    classes: tuple[str, ...],
    *,
    strengths: tuple[float, ...],
    folds: int,
    seed: int,
) -> LinearProbe:
    """Class-balanced multinomial logistic regression on standardised features.

    The strength has the least class-balanced log-loss over out-of-fold predictions, which also
    give the threshold of two classes and the temperature. The loss has one valley along the path
    of strengths, so the search stops where it rises. Balanced accuracy, a step function of few
    rare cases, would choose strengths that jump with the draw of patients.

    Args:
        x: features of the training rows.
        y: class per row; every class occurs.
        groups: patient per row; the folds are disjoint in it.
        classes: name per class.
        strengths: candidates for C.
        folds: at most; there are no more than patients.
        seed: of the folds.

    Raises:
        UserError: there is only one patient.
    """
    x, ladder = x.astype(np.float64), tuple(sorted(strengths))
    fold = grouped_folds(y, groups, folds, seed=seed)
    paths = [_path(x[fold != f], y[fold != f], classes, ladder) for f in range(fold.max() + 1)]
    best, least, converged = 0, np.inf, True
    for s in range(len(ladder)):
        out = np.zeros((len(y), len(classes)))
        for f, path in enumerate(paths):
            probe = next(path)
            out[fold == f] = probe.predict_proba(x[fold == f])
            converged &= probe.converged
        loss = balanced_log_loss(y, out)
        if s and loss >= least:
            break  # past the valley; the least regularised fits are the slowest
        best, least, out_of_fold = s, loss, out
    *_, probe = _path(x, y, classes, ladder[: best + 1])
    return replace(
        probe,
        threshold=best_threshold(y, out_of_fold[:, 1]) if len(classes) == 2 else None,
        temperature=fit_temperature(out_of_fold, y, probe.priors),
        converged=converged and probe.converged,
    )


def fit_at(
    x: Float[Array, "n d"], y: Int[Array, " n"], classes: tuple[str, ...], strength: float
) -> LinearProbe:
    """The probe of a given strength; a class without rows gets probability 0."""
    return next(_path(x.astype(np.float64), y, classes, (strength,)))


def fit_temperature(
    probabilities: Float[Array, "n k"], y: Int[Array, " n"], priors: Float[Array, " k"]
) -> float:
    """The temperature with the least log-loss of `apply_temperature` on these rows (Guo et al.).

    Rows whose true class has probability 0 are left out: their fold did not know the class.
    """
    known = probabilities[np.arange(len(y)), y] > 0
    if not known.any():
        return 1.0
    z, y = np.log(np.maximum(probabilities[known], SMALLEST)), y[known]
    bias = np.log(np.maximum(priors, SMALLEST))

    def loss(inverse: float) -> float:
        logits = inverse * z + bias
        return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]))

    low, high = TEMPERATURES
    found = minimize_scalar(loss, bounds=(1 / high, 1 / low), method="bounded")
    return float(1 / found.x)


def apply_temperature(
    probabilities: Float[Array, "n k"], temperature: float, priors: Float[Array, " k"]
) -> Float[Array, "n k"]:
    """Balanced probabilities at this temperature, for a population with these class frequencies.

    A temperature above 1 is less certain. Equal `priors` keep the most probable class.
    """
    z = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    return np.asarray(softmax(z + np.log(np.maximum(priors, SMALLEST)), axis=1))


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
    sensitivity = 1 - np.searchsorted(positives, cuts) / len(positives)
    specificity = np.searchsorted(negatives, cuts) / len(negatives)
    return float(cuts[np.argmax(sensitivity + specificity)])


def _path(
    x: Array, y: Array, classes: tuple[str, ...], strengths: tuple[float, ...]
) -> Iterator[LinearProbe]:
    """A probe per strength, each starting from the one before."""
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
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            if len(present) > 1:
                model.set_params(C=strength).fit(z, y)
                # Of two classes scikit-learn keeps only the second one's logit.
                rows = present[1:] if len(present) == 2 else present
                coef[rows], intercept[rows] = model.coef_, model.intercept_
        others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
        for warning in others:
            warnings.warn(warning.message, category=warning.category, stacklevel=2)
        yield LinearProbe(
            classes=classes,
            mean=mean,
            scale=scale,
            coef=coef,
            intercept=intercept,
            priors=np.bincount(y, minlength=len(classes)) / len(y),
            strength=strength,
            converged=len(others) == len(caught),
        )

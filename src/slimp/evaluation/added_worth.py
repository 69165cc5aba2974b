"""Whether further features are worth having, by cross-validation on training patients alone.

The one-standard-error rule (Breiman et al. 1984, section 3.4.3), for features that may well be
noise, as metadata that `slimp retrieve` imputed: they enter if the log-loss without them is higher
by more than one standard error of the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from slimp.errors import UserError
from slimp.evaluation.blocks import SMALLEST
from slimp.evaluation.bootstrap import Record
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.linear_probe import fit
from slimp.evaluation.metrics import Array, standard_error
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Task
from slimp.features.design import Design


@dataclass(frozen=True, kw_only=True)
class AddedWorth(Record):
    """What features added in cross-validation."""

    without: float
    """Log-loss per image in nats, out of fold."""
    with_them: float
    standard_error: float
    """Of the difference, over patients."""
    patients: int

    @property
    def enough(self) -> bool:
        """Whether the log-loss falls by more than one standard error."""
        return self.without - self.with_them > self.standard_error

    def __str__(self) -> str:
        fall = self.without - self.with_them
        return (
            f"over {self.patients} training patients, cross-validated log-loss "
            f"{'falls' if fall > 0 else 'rises'} by {abs(fall):.3f} with them, "
            f"{'more' if self.enough else 'no fall of more'} than one standard error "
            f"({self.standard_error:.3f})"
        )


def added_worth(
    more: Design, less: Design, task: Task, rows: Int[Array, " m"], config: ProbeConfig
) -> AddedWorth:
    """The worth of what `more` has and `less` has not, by the probe that `config` describes.

    Args:
        more: a row per row of the task's ids, with the features in question.
        less: the same rows without them.
        task: labels and patients.
        rows: training rows, those that may be looked at.
        config: method, strengths and folds; both are fitted on the same folds of patients.

    Raises:
        UserError: there are fewer than two patients, or than two classes in a fold.
    """
    fold = grouped_folds(task.y[rows], task.groups[rows], config.folds, seed=config.seed)
    losses = np.stack([_losses(x, task, rows, fold, config) for x in (less, more)])  # (2, m)
    error = standard_error(losses[0] - losses[1], task.groups[rows])
    without, with_them = losses.mean(axis=1).tolist()
    return AddedWorth(
        without=without,
        with_them=with_them,
        standard_error=error,
        patients=len(np.unique(task.groups[rows])),
    )


def _losses(
    design: Design, task: Task, rows: Int[Array, " m"], fold: Int[Array, " m"], config: ProbeConfig
) -> Float[Array, " m"]:
    """Out-of-fold log-loss of each row."""
    found = np.empty(len(rows))
    for number in np.unique(fold):
        own, rest = rows[fold == number], rows[fold != number]
        if len(np.unique(task.y[rest])) < 2:
            raise UserError("cross-validation leaves a single class to train on: label more.")
        fitted = fit(design, task, rest, config, seed=config.seed)
        p = fitted.predict_proba(design[own])[np.arange(len(own)), task.y[own]]
        found[fold == number] = -np.log(np.maximum(p, SMALLEST))
    return found

"""Features that may be noise enter by a rule that looks at training patients alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tables import ids_of

from slimp.errors import UserError
from slimp.evaluation.added_worth import added_worth
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.logistic import fit_logistic
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Task, make_task
from slimp.features.design import Design

CONFIG = ProbeConfig(strengths=(0.1,), folds=3, seeds=1)


def drawn(seed: int, signal: float) -> tuple[Task, Design, Design]:
    """60 patients of 1 to 5 images; a block that knows the class, and a second that may."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    y = (np.arange(60) % 3)[patient]
    task = make_task(ids_of(np.array(list("abc"))[y], patient), CONFIG)
    known = rng.normal(size=(len(y), 4)) + rng.normal(size=(3, 4))[y]
    further = rng.normal(size=(len(y), 4)) + signal * rng.normal(size=(3, 4))[y]
    less = Design(blocks={"image": known})
    return task, Design(blocks={"image": known, "patient_metadata": further}), less


def test_equals_the_rule_written_out():
    task, more, less = drawn(0, 1.0)
    rows = task.splits[0].train
    found = added_worth(more, less, task, rows, CONFIG)
    fold = grouped_folds(task.y[rows], task.groups[rows], 3, seed=CONFIG.seed)
    losses = []
    for design in (less, more):
        own = {}
        for f in range(3):
            rest = rows[fold != f]
            probe = fit_logistic(
                design[rest], task.y[rest], task.groups[rest], task.classes, CONFIG, seed=0
            )
            for row in rows[fold == f]:
                p = probe.predict_proba(design[np.array([row])])[0]
                own[row] = -math.log(p[task.y[row]])
        losses.append([own[row] for row in rows])
    assert found.without == pytest.approx(np.mean(losses[0]))
    assert found.with_them == pytest.approx(np.mean(losses[1]))
    # The standard error of a ratio of sums over patients, by leaving each patient out.
    gain = np.subtract(*losses)
    patients = task.groups[rows]
    names = np.unique(patients)
    left = [gain[patients != name].mean() for name in names]
    jackknife = np.sqrt((len(names) - 1) / len(names) * ((left - np.mean(left)) ** 2).sum())
    assert found.standard_error == pytest.approx(jackknife, rel=0.1)
    assert found.patients == len(names)


@pytest.mark.parametrize("seed", range(4))
def test_what_helps_enters_and_noise_does_not(seed):
    for signal in (0.0, 1.0):
        task, more, less = drawn(seed, signal)
        found = added_worth(more, less, task, task.splits[0].train, CONFIG)
        assert found.enough == (signal > 0)
        assert ("no fall" in str(found)) == (signal == 0)


def test_test_patients_are_not_looked_at():
    task, more, less = drawn(1, 1.0)
    split = task.splits[0]
    once = added_worth(more, less, task, split.train, CONFIG)
    for values in more.blocks.values():
        values[split.test] = 0
    assert added_worth(more, less, task, split.train, CONFIG) == once


def test_too_few_labels_are_refused():
    task, more, less = drawn(0, 1.0)
    with pytest.raises(UserError):
        added_worth(more, less, task, np.flatnonzero(task.groups == task.groups[0]), CONFIG)

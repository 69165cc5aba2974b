"""One result from several runs: means as they are, patients not counted twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pooling import pool_results
from slimp.errors import UserError
from slimp.evaluation.folds import Split
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import ProbeResult, Task, summarise

CLASSES = ("bcc", "mel", "nev")


def run(seed: int, patients: range = range(40), classes: tuple[str, ...] = CLASSES) -> ProbeResult:
    """The result of one run: two images per patient, guessed right about two times in three."""
    rng = np.random.default_rng(seed)
    ids = pd.DataFrame(
        [(f"p{p}i{i}", f"p{p}l{i}", f"p{p}") for p in patients for i in range(2)],
        columns=["image_id", "lesion_id", "patient_id"],
    )
    y = np.arange(len(ids)) % len(classes)
    ids["label"] = [classes[k] for k in y]
    probabilities = rng.dirichlet(np.ones(len(classes)), size=len(ids))
    probabilities[np.arange(len(ids)), y] += 0.5
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    split = Split(seed=seed, train=np.arange(10 + seed), test=np.arange(len(ids)))
    task = Task(ids=ids, classes=classes, y=y.astype(np.int64), splits=(split,), split="held_out")
    config = ProbeConfig(seed=seed, replicates=200)
    found = summarise(task, [task.answer(split, probabilities)], config, name="logistic")
    return replace(found, settings=({"image": 0.1 * (seed + 1)},), converged=seed != 2)


def width(result: ProbeResult) -> float:
    low, high = result.balanced_accuracy.ci95
    return high - low


def test_one_result_pools_to_itself() -> None:
    alone = run(0)
    pooled = pool_results([alone], replicates=200)
    assert pooled.to_dict() == alone.to_dict()
    pd.testing.assert_frame_equal(pooled.predictions, alone.predictions)


def test_figures_are_means_over_runs_and_counts_are_sums() -> None:
    runs = [run(seed, range(10 * seed, 10 * seed + 25)) for seed in range(3)]
    pooled = pool_results(runs)
    for name, estimate in pooled.metrics.items():
        each = tuple(result.metrics[name].mean for result in runs)
        assert estimate.per_seed == pytest.approx(each, nan_ok=True)
        assert estimate.mean == pytest.approx(np.mean(each), nan_ok=True)
    for name, estimate in pooled.recall.items():
        assert estimate.per_seed == pytest.approx([result.recall[name].mean for result in runs])
    np.testing.assert_array_equal(pooled.confusion, sum(result.confusion for result in runs))
    assert pooled.n_test_patients == 45  # 0 to 44; those that several runs tested count once
    assert (pooled.n_train, pooled.n_test) == (11, 50)
    assert [chosen["image"] for chosen in pooled.settings] == pytest.approx([0.1, 0.2, 0.3])
    assert not pooled.converged
    assert pooled.predictions["seed"].tolist() == [seed for seed in range(3) for _ in range(50)]


def test_runs_do_not_pass_for_independent_patients() -> None:
    """The same answers four times tell nothing new; the interval must not shrink."""
    one = run(0)
    assert width(pool_results([one] * 4, replicates=200)) == pytest.approx(width(one))


def test_what_cannot_be_pooled_is_refused() -> None:
    with pytest.raises(UserError, match="no result to pool"):
        pool_results([])
    with pytest.raises(UserError, match="different classes cannot be pooled"):
        pool_results([run(0), run(1, classes=("bcc", "mel"))])

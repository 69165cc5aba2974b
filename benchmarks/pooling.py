"""One result from several, each with its own model and held-out patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from slimp.errors import UserError
from slimp.evaluation.folds import Split
from slimp.evaluation.result import Predictions, ProbeResult, Task, codes_of, summarise


def pool_results(results: Sequence[ProbeResult], *, replicates: int = 1000) -> ProbeResult:
    """The mean over runs of different seeds, with intervals over patients.

    A patient held out in several runs counts once in the bootstrap, so that runs do not count as
    independent patients.

    Raises:
        UserError: there are none, or their classes differ.
    """
    if not results:
        raise UserError("there is no result to pool.")
    first = results[0]
    if any(result.classes != first.classes for result in results):
        raise UserError("results of different classes cannot be pooled.")
    frames = [result.predictions for result in results]
    rows = pd.concat(frames, ignore_index=True)
    ends = np.cumsum([len(frame) for frame in frames])
    splits = tuple(
        Split(
            seed=result.config.seed,
            train=np.zeros(result.n_train, dtype=np.int64),  # only counted
            test=np.arange(end - len(frame), end),
        )
        for result, frame, end in zip(results, frames, ends, strict=True)
    )
    task = Task(
        ids=rows,
        classes=first.classes,
        y=codes_of(rows["label"], first.classes),
        splits=splits,
        split=first.split,
    )
    answers = [Predictions.of_rows(frame, first.classes) for frame in frames]
    config = replace(first.config, replicates=replicates)
    pooled = summarise(task, answers, config, name=first.name, decision=first.decision)
    return replace(
        pooled,
        settings=tuple(chosen for result in results for chosen in result.settings),
        class_shares=first.class_shares,
        converged=all(result.converged for result in results),
        probe=first.probe,
        splits=first.splits,
    )

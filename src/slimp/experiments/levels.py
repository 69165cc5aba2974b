"""What is asked of a model's levels: do images meet their metadata, is a cancer seen among lesions?

Axis names: c = rows of the level below, n = rows of a level, d = width.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from slimp.data.cohort import Cohort
from slimp.evaluation.folds import Split
from slimp.evaluation.linear_probe import probe_matrix
from slimp.evaluation.result import TWO, Task
from slimp.evaluation.similarity import similarity
from slimp.experiments.asked import Asked
from slimp.features.backends import inference
from slimp.features.encode import (
    as_model_reads,
    cohort_levels,
    encode_level,
    evaluating,
    known_rows,
)
from slimp.models.nested import Slimp
from slimp.models.pooling import mean_pool

CPU = torch.device("cpu")
PAIRS = ("other", "matching")
"""The classes of pairs of a row and a row of metadata; the positive one is last."""


def matching(asked: Asked, *, others: int = 5) -> pd.DataFrame:
    """How far the metadata of tested rows are from those of others (SLIMP, Table 4 and Fig. 3).

    A feature set is a level here, a row of predictions a pair: of a row and its own metadata, or
    those of another one. Rows with equal metadata are no others. The columns are Table 4's.

    Args:
        asked: its `features` are the names of levels.
        others: pairs of each row that do not match, at most.
    """
    split, model = asked.task.splits[0], Slimp.from_pretrained(asked.run)
    patients = asked.task.ids["patient_id"]
    tests = patients.isin(patients.iloc[split.test]).to_numpy(np.bool_)
    cohort = as_model_reads(model, asked.cohort.select(tests))
    images = torch.from_numpy(asked.table.features["image"][tests])
    with evaluating(model, CPU), inference(CPU, "32"):
        levels = {level.name: level for level in cohort_levels(model, cohort, CPU)}
        climbed = model.climb(images, [*levels.values()], lambda x, _: encode_level(model, x))
        pairs = {pair.name: pair for pair in climbed if pair.name in asked.features}
    found = []
    for name, pair in pairs.items():
        level, rng = levels[pair.name], np.random.default_rng(split.seed)  # type: ignore[index]
        known = np.flatnonzero(known_rows(level))
        assert level.groups is not None
        groups = level.groups[torch.from_numpy(known)]
        a, b = (F.normalize(x[torch.from_numpy(known)], dim=-1) for x in (pair.anchor, pair.target))
        table = similarity(a, b, groups, seed=split.seed)
        own = np.arange(len(known))
        i, j = np.repeat(own, others), rng.integers(len(own), size=others * len(own))
        differ = (groups[i] != groups[j]).numpy()
        drawn = np.unique(i[differ] * len(own) + j[differ])
        i = np.concatenate([own, drawn // len(own)])
        j = np.concatenate([own, drawn % len(own)])
        cosine = (a[i] * b[j]).sum(dim=-1).clamp(-1, 1).double().numpy()
        ids = cohort.tables.of_level(level.name).iloc[known].reset_index(drop=True)
        names = ids[f"{name}_id"].astype(str).to_numpy(dtype=object)
        frame = pd.DataFrame(
            {
                "image_id": names[i] + "/" + names[j],
                "patient_id": ids["patient_id"].to_numpy()[i],
                "label": np.array(PAIRS)[(i == j).astype(int)],
                "predicted": np.array(PAIRS)[(cosine > 0).astype(int)],
                "p_other": (1 - cosine) / 2,
                "p_matching": (1 + cosine) / 2,
                "median cosine, matching": table.median_matching,
                "median cosine, others": table.median_nonmatching,
                "overlap": table.overlap,
            }
        )
        found.append(frame.assign(features=name))
    parts = {"seed": split.seed} | ({} if split.fold is None else {"fold": split.fold})
    return pd.concat(found, ignore_index=True).assign(setting="", **parts)


def patients(asked: Asked) -> pd.DataFrame:
    """The probe of whole patients: is any of their lesions malignant?

    A row is a patient, its features what the model itself makes of the lesions below the patient
    level: images and lesion metadata, pooled. Of labels that are malignant against the rest.
    """
    model = Slimp.from_pretrained(asked.run)
    cohort, h = as_model_reads(model, asked.cohort), asked.table.features["image"]
    with evaluating(model, CPU), inference(CPU, "32"):
        pooled = _pooled(model, cohort, torch.from_numpy(h)).numpy()  # (n, d)
    split, ids = asked.task.splits[0], cohort.patients["patient_id"]
    of_image = asked.task.ids["patient_id"]
    y = pd.Series(asked.task.y).groupby(of_image.to_numpy()).max().reindex(ids).to_numpy()
    rows = pd.DataFrame({"image_id": ids, "lesion_id": ids, "patient_id": ids})
    train, test = (
        np.flatnonzero(ids.isin(of_image.iloc[part])) for part in (split.train, split.test)
    )
    task = Task(
        ids=rows.assign(label=np.array(TWO)[y]),
        classes=TWO,
        y=y,
        splits=(Split(seed=split.seed, fold=split.fold, train=train, test=test),),
        held_out=True,
    )
    found = probe_matrix(pooled, task, asked.config, name="patients").predictions
    return found.assign(features="patients", setting="")


def _pooled(model: Slimp, cohort: Cohort, h: Tensor) -> Tensor:
    """What `Recursion.climb` projects at the patient level."""
    for level in cohort_levels(model, cohort, CPU):
        if level.name not in model.levels:
            h = mean_pool(h, level.parent, level.count)  # (c, d) -> (n, d)
            continue
        h = model.level(level.name).pool(h, level.parent, level.count)
        if level.name != "patient":
            h = torch.cat([h, encode_level(model, level)], dim=-1)
    return h

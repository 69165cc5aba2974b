"""What is asked of a model's levels: do images meet their metadata, is a cancer seen among lesions?

Axis names: i = images, e = width of the image encoder, n = patients, d = width below them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float32

from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.evaluation.folds import Split
from slimp.evaluation.linear_probe import probe_design
from slimp.evaluation.metrics import Array
from slimp.evaluation.result import TWO, Task
from slimp.evaluation.similarity import known_pairs, similarity
from slimp.experiments.asked import Asked
from slimp.features.backends import inference
from slimp.features.design import Design
from slimp.features.encode import (
    as_model_reads,
    cohort_levels,
    encode_level,
    evaluating,
)
from slimp.models.nested import Slimp

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

    Raises:
        UserError: no two tested rows of such a level have known metadata that differ.
    """
    split, model = asked.task.splits[0], Slimp.from_pretrained(asked.run)
    patients = asked.task.ids["patient_id"]
    tests = patients.isin(patients.iloc[split.test]).to_numpy(np.bool_)
    cohort, images = asked.cohort.select(tests), asked.table.features["image"][tests]
    found = []
    for name, known, groups, *sides in known_pairs(model, cohort, images):
        if name not in asked.features:
            continue
        rng, (a, b) = np.random.default_rng(split.seed), (F.normalize(x, dim=-1) for x in sides)
        table = similarity(a, b, groups, seed=split.seed)
        own = np.arange(len(known))
        i, j = np.repeat(own, others), rng.integers(len(own), size=others * len(own))
        differ = (groups[i] != groups[j]).numpy()
        drawn = np.unique(i[differ] * len(own) + j[differ])
        i = np.concatenate([own, drawn // len(own)])
        j = np.concatenate([own, drawn % len(own)])
        cosine = (a[i] * b[j]).sum(dim=-1).clamp(-1, 1).double().numpy()
        ids = cohort.tables.of_level(name).iloc[known].reset_index(drop=True)
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
    if not found:
        raise UserError(
            f"cohort '{cohort.info.name}': no two of the tested rows have known metadata that "
            f"differ at level {' or '.join(asked.features)}, so no pair can fail to match."
        )
    parts = {"seed": split.seed} | ({} if split.fold is None else {"fold": split.fold})
    return pd.concat(found, ignore_index=True).assign(setting="", **parts)


def patients(asked: Asked) -> pd.DataFrame:
    """The probe of whole patients: is any of their lesions malignant?

    A row is a patient, its features what the model itself makes of the lesions below the patient
    level: images and lesion metadata, pooled. Of labels that are malignant against the rest.
    """
    model = Slimp.from_pretrained(asked.run)
    pooled = below_patients(model, asked.cohort, asked.table.features["image"])
    split, ids = asked.task.splits[0], asked.cohort.patients["patient_id"]
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
        split="held_out",
    )
    design = Design(blocks={"features": pooled})
    found = probe_design(design, task, asked.config, name="patients").predictions
    return found.assign(features="patients", setting="")


def below_patients(
    model: Slimp, cohort: Cohort, images: Float32[Array, "i e"]
) -> Float32[Array, "n d"]:
    """What a model projects at the patient level of a cohort, by its embeddings of the images.

    Raises:
        UserError: nothing was learned at that level.
    """
    with evaluating(model, CPU), inference(CPU, "32"):
        levels = cohort_levels(model, as_model_reads(model, cohort), CPU)
        walk = model.climb(
            torch.from_numpy(images), levels, lambda level, _: encode_level(model, level)
        )
        found = {pair.name: pair.below for pair in walk}
    if (below := found.get("patient")) is None:
        raise UserError(
            f"cohort '{cohort.info.name}': the model learned no patient level, so it has no "
            "features of patients. Name a cohort with metadata of patients."
        )
    return below.numpy()

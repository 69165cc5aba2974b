"""Extrapolation of metadata from a reference to a target, with what is needed to judge it.

Axis names: i = images.

Example:
    >>> from slimp.features.embed import embed
    >>> from slimp.sources.synthetic.cohort import example
    >>> from slimp.training.build_model import build_model
    >>> from slimp.training.config import PretrainConfig
    >>> cohort = example(40)
    >>> model = build_model(cohort, PretrainConfig.from_preset("tiny", image_size=32))
    >>> own = EmbeddedCohort(cohort=cohort, images=embed(model, cohort).features["image"])
    >>> extrapolate(model, own, own, RetrievalConfig(impute="all", replicates=10)).imputed
    ('lesion', 'patient')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Shaped

from slimp.errors import UserError
from slimp.evaluation.domain_shift import Shift, two_sample_test
from slimp.evaluation.metrics import Array
from slimp.evaluation.similarity import similarity_by_level
from slimp.evaluation.subgroups import group_values
from slimp.features.encode import as_model_reads
from slimp.models.nested import Slimp
from slimp.retrieval.abstention import (
    IMAGES,
    calibrate_thresholds,
    calibration_patients,
    mean_image_similarity,
)
from slimp.retrieval.agreement import Agreement, Compared, agreement, compare_columns
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.failure_analysis import Failures
from slimp.retrieval.index import EmbeddedCohort, Index
from slimp.retrieval.pseudo_table import pseudo_metadata, pseudo_table, retrieved_values
from slimp.retrieval.result import FEWEST_FOLDS, Calibration, Retrieval
from slimp.retrieval.routes import Retrieved, retrieve


def extrapolate(
    model: Slimp,
    reference: EmbeddedCohort,
    target: EmbeddedCohort,
    config: RetrievalConfig | None = None,
    *,
    parts: Mapping[str, str] | None = None,
    device: torch.device | str = "cpu",
) -> Retrieval:
    """Metadata of the reference for a target that lacks some, and how far to trust them.

    `model` made both cohorts' embeddings. `parts` (`parts_of_run`): part of pre-training of each
    patient, to calibrate on unseen ones. An example stands at the head of the module.

    Raises:
        UserError: nothing is missing, no metadata are known, or a named column is not there.
    """
    config, index = config or RetrievalConfig(), Index.build(model, reference, device=device)
    cells = group_values(target.cohort, config.groups)  # refuses before anything is searched
    retrieved = retrieve(model, index, target, config, device=device)
    if not retrieved.levels:
        raise UserError(
            f"target '{target.cohort.info.name}' has metadata at all levels, so none are missing. "
            "To impute all the same, and to compare with the known ones, pass --impute all."
        )
    draws: dict[str, Any] = {"replicates": config.replicates, "seed": config.seed}
    names, caution = calibration_patients(index.images.patients, parts)
    calibration = calibrate(model, index, names, retrieved, config, device)
    known, coverage = (calibration.similarity, calibration.patients), config.coverage
    abstention = calibrate_thresholds(*known, coverage, caution=caution, **draws)
    similarity = mean_image_similarity(index.images, target.images, target.patients, device=device)
    abstained = abstention.abstains(retrieved, similarity)
    flat, values = as_model_reads(model, target.cohort), retrieved_values(retrieved, index)
    compared = tuple(compare_columns(index.cohort, flat, values, config.rename))
    failures = Failures(compared=compared, patients=target.patients, **draws)
    near = next(iter(retrieved.levels.values()))
    bins, rank_correlation = failures.by_similarity(retrieved.nearest)
    return Retrieval(
        config=config,
        reference=index.cohort,
        target=flat,
        retrieved=retrieved,
        table=pseudo_table(retrieved, index, flat, abstained),
        features=pseudo_metadata(retrieved, flat, abstained, model),
        abstention=abstention,
        abstained=abstained,
        image_similarity=similarity,
        shift=_shift(reference, target, config.seed),
        calibration=calibration,
        compared=compared,
        agreement=_agreements(compared, target.patients, ~abstained, draws),
        reference_agreement=_agreements(calibration.compared, calibration.patients, None, draws),
        bins=bins,
        rank_correlation=rank_correlation,
        groups=list(failures.by_group(cells, near.similarity[:, 0], abstained)),
        cases=failures.worst_cases(near.similarity[:, 0], near.image[:, 0]),
        stale=tuple(level for level in retrieved.levels if level not in model.aligned),
    )


def calibrate(
    model: Slimp,
    index: Index,
    patients: frozenset[str],
    retrieved: Retrieved,
    config: RetrievalConfig,
    device: torch.device | str,
) -> Calibration:
    """Retrieval for some patients of the reference, with what was `retrieved` hidden of theirs."""
    mask = np.isin(index.images.patients, list(patients))
    some = EmbeddedCohort(cohort=index.cohort.select(mask), images=index.images.vectors[mask])
    # Metadata that the target has of its own, these patients may keep.
    config, levels = replace(config, impute="missing"), tuple(retrieved.levels)
    found = retrieve(model, index, some, config, hide=levels, device=device)
    near: dict[str, Array] = {name: found.nearest[name] for name in levels}
    near[IMAGES] = mean_image_similarity(index.images, some.images, some.patients, device=device)
    values = retrieved_values(found, index)
    return Calibration(
        similarity=near,
        patients=some.patients,
        compared=tuple(compare_columns(index.cohort, some.cohort, values, {})),
        matching=similarity_by_level(
            model, some.cohort, some.images, seed=config.seed, device=device
        ),
    )


def _shift(reference: EmbeddedCohort, target: EmbeddedCohort, seed: int) -> Shift | None:
    folds = min(5, *(len(side.cohort.patients) // 2 for side in (reference, target)))
    if folds < FEWEST_FOLDS:
        return None
    sides = reference.images, target.images, reference.patients, target.patients
    return two_sample_test(*sides, folds=folds, seed=seed)


def _agreements(
    compared: Sequence[Compared],
    patients: Shaped[Array, " i"],
    rows: Bool[Array, " i"] | None,
    draws: Mapping[str, Any],
) -> tuple[Agreement, ...]:
    """Of some rows, or of all; columns without a known truth are left out."""
    rows = np.ones(len(patients), dtype=bool) if rows is None else rows
    found = (agreement(column, patients, rows, **draws) for column in compared)
    return tuple(one for one in found if one is not None)

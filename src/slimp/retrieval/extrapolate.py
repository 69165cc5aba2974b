"""Extrapolation of metadata from a reference to a target, with what is needed to judge it.

Axis names: i = images.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from slimp.data.schema import LevelName
from slimp.errors import UserError
from slimp.evaluation.domain_shift import Shift, two_sample_test
from slimp.evaluation.groups import group_values
from slimp.evaluation.similarity import similarity_by_level
from slimp.features.levels import as_model_reads
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
from slimp.retrieval.routes import retrieve

Array = np.ndarray[Any, np.dtype[Any]]


def extrapolate(
    model: Slimp,
    reference: EmbeddedCohort,
    target: EmbeddedCohort,
    config: RetrievalConfig | None = None,
    *,
    parts: Mapping[str, str] | None = None,
    stale: Collection[LevelName] = (),
    device: torch.device | str = "cpu",
) -> Retrieval:
    """Metadata of the reference for a target that lacks some, and how far to trust them.

    Args:
        model: of both cohorts' embeddings; left as it was found.
        reference: has the metadata that the model reads.
        target: lacks some, or all.
        config: route, neighbours and coverage.
        parts: patient -> part of pre-training, to calibrate on patients that it did not learn
            from; see `parts_of_run`.
        stale: levels that the image encoder has moved away from, for a caution; see
            `slimp.training.adapt.left_behind`.
        device: where to compute.

    Raises:
        UserError: nothing is missing, the reference has no metadata, or the settings name columns
            that are not there.
    """
    config = config or RetrievalConfig()
    index = Index.build(model, reference, device=device)
    cells = group_values(target.cohort, config.groups)  # refuses before anything is searched
    retrieved = retrieve(model, index, target, config, device=device)
    if not retrieved.levels:
        raise UserError(
            f"target '{target.cohort.info.name}' has metadata at each level that could be imputed "
            f"({', '.join(index.levels)}), so nothing is missing. To impute all the same, and to "
            "compare with what is known, pass --impute all."
        )
    names, caution = calibration_patients(index.images.patients, parts)
    calibration = calibrate(model, index, names, tuple(retrieved.levels), config, device=device)
    settings: dict[str, Any] = {"replicates": config.replicates, "seed": config.seed}
    abstention = calibrate_thresholds(
        calibration.similarity, calibration.patients, config.coverage, caution=caution, **settings
    )
    image_similarity = mean_image_similarity(
        index.images, target.images, target.patients, device=device
    )
    abstained = abstention.abstains(retrieved, image_similarity)
    flat, patients = as_model_reads(model, target.cohort), target.patients
    values = retrieved_values(retrieved, index)
    compared = compare_columns(index.cohort, flat, values, config.rename)
    failures = Failures(compared=compared, patients=patients, **settings)
    near = {name: level.similarity[:, 0] for name, level in retrieved.levels.items()}
    finest = next(iter(retrieved.levels))
    bins, correlation = failures.by_similarity(near)
    return Retrieval(
        config=config,
        reference=index.cohort,
        target=flat,
        retrieved=retrieved,
        table=pseudo_table(retrieved, index, flat, abstained),
        features=pseudo_metadata(retrieved, flat, abstained, model),
        abstention=abstention,
        abstained=abstained,
        image_similarity=image_similarity,
        shift=_shift(reference, target, config.seed),
        calibration=calibration,
        compared=tuple(compared),
        agreement=_agreements(compared, patients, ~abstained, settings),
        reference_agreement=_agreements(
            calibration.compared,
            calibration.patients,
            np.ones(len(calibration.patients), dtype=bool),
            settings,
        ),
        bins=bins,
        rank_correlation=correlation,
        groups=list(failures.by_group(cells, near[finest], abstained)),
        cases=failures.worst_cases(near[finest], retrieved.levels[finest].image[:, 0]),
        stale=tuple(level for level in retrieved.levels if level in stale),
    )


def calibrate(
    model: Slimp,
    index: Index,
    patients: frozenset[str],
    levels: tuple[LevelName, ...],
    config: RetrievalConfig,
    *,
    device: torch.device | str,
) -> Calibration:
    """Retrieval for some patients of the reference, their own metadata at these levels hidden."""
    mask = np.isin(index.images.patients, list(patients))
    some = EmbeddedCohort(cohort=index.cohort.select(mask), images=index.images.vectors[mask])
    # Metadata that the target has of its own, these patients may keep.
    config = replace(config, impute="missing")
    found = retrieve(model, index, some, config, hide=levels, device=device)
    similarity: dict[str, Array] = {}
    similarity |= {name: found.levels[name].similarity[:, 0] for name in levels}
    similarity[IMAGES] = mean_image_similarity(
        index.images, some.images, some.patients, device=device
    )
    values = retrieved_values(found, index)
    return Calibration(
        similarity=similarity,
        patients=some.patients,
        compared=tuple(compare_columns(index.cohort, some.cohort, values, {})),
        matching=similarity_by_level(
            model, some.cohort, some.images, seed=config.seed, device=device
        ),
    )


def _shift(reference: EmbeddedCohort, target: EmbeddedCohort, seed: int) -> Shift | None:
    counts = (len(side.cohort.patients) // 2 for side in (reference, target))
    folds = min(5, *counts)
    if folds < FEWEST_FOLDS:
        return None
    return two_sample_test(
        *(reference.images, target.images, reference.patients, target.patients),
        folds=folds,
        seed=seed,
    )


def _agreements(
    compared: Sequence[Compared], patients: Array, rows: Array, settings: Mapping[str, Any]
) -> tuple[Agreement, ...]:
    found = (agreement(column, patients, rows, **settings) for column in compared)
    return tuple(one for one in found if one is not None)

"""Extrapolation of metadata from a reference to a target, with what is needed to judge it.

Axis names: i = images, e = width of the image encoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from slimp.data.cohort import Cohort
from slimp.data.schema import LevelName
from slimp.errors import UserError
from slimp.evaluation.domain_shift import Shift, two_sample_test
from slimp.evaluation.groups import group_values
from slimp.evaluation.similarity import Similarity, similarity_by_level
from slimp.features.levels import as_model_reads
from slimp.features.nearest import nearest_of_others
from slimp.models.nested import Slimp
from slimp.retrieval.abstention import (
    IMAGES,
    calibrate_thresholds,
    calibration_patients,
    mean_image_similarity,
)
from slimp.retrieval.agreement import Agreement, Compared, agreement, compare_columns
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.failure_analysis import by_group, by_similarity, worst_cases
from slimp.retrieval.index import Reference
from slimp.retrieval.pseudo_table import lent_features, lent_values, pseudo_table
from slimp.retrieval.result import FEWEST_FOLDS, Retrieval
from slimp.retrieval.routes import Loans, Search, lend

Array = np.ndarray[Any, np.dtype[Any]]


def extrapolate(
    model: Slimp,
    reference: Cohort,
    target: Cohort,
    reference_images: Float32[Array, "_ e"],
    target_images: Float32[Array, "i e"],
    config: RetrievalConfig | None = None,
    *,
    parts: Mapping[str, str] | None = None,
    left_behind: Collection[LevelName] = (),
    device: torch.device | str = "cpu",
) -> Retrieval:
    """Lends the target what it lacks, and measures what that is worth.

    Args:
        model: of both cohorts' embeddings; left as it was found.
        reference: has the metadata that the model reads.
        target: lacks some, or all.
        reference_images: embeddings of its images by the model, in its order.
        target_images: likewise.
        config: how to lend.
        parts: patient -> part of pre-training, to calibrate on patients whom it did not learn
            from; see `slimp.evaluation.run_features.parts_of_run`.
        left_behind: levels that the image encoder has moved away from, for a caution; see
            `slimp.training.adapt.left_behind`.
        device: where to compute.

    Raises:
        UserError: nothing is missing, the reference cannot lend, or the settings name columns
            that are not there.
    """
    config = config or RetrievalConfig()
    index = Reference.build(model, reference, reference_images, device=device)
    group_cells = group_values(target, config.groups)  # refuses before anything is searched
    finder = partial(nearest_of_others, device=device)
    loans = lend(model, index, target, target_images, config, search=finder, device=device)
    if not loans.levels:
        raise UserError(
            f"target '{target.info.name}' knows something at each level that could be lent "
            f"({', '.join(index.levels)}), so there is nothing to lend. To lend all the same, and "
            "to compare with what is known, pass --lend all."
        )
    flat = as_model_reads(model, target)
    names, caution = calibration_patients(index.cohort.patients["patient_id"].to_numpy(), parts)
    trial = _Trial.run(model, index, names, loans, config, finder, device)
    patients = target.images["patient_id"].to_numpy()
    settings: dict[str, Any] = {"replicates": config.replicates, "seed": config.seed}
    abstention = calibrate_thresholds(
        trial.similarity, trial.patients, config.coverage, caution=caution, **settings
    )
    near_images = mean_image_similarity(
        target_images, reference_images, finder, _owners(index.cohort, target)
    )
    abstained = abstention.abstains(loans, near_images)
    compared = compare_columns(index.cohort, flat, lent_values(loans, index), config.rename)
    near = {name: loan.similarity[:, 0] for name, loan in loans.levels.items()}
    bins, correlation = by_similarity(near, compared, patients, **settings)
    finest = next(iter(loans.levels.values()))
    return Retrieval(
        config=config,
        reference=index.cohort,
        target=flat,
        loans=loans,
        table=pseudo_table(loans, index, flat, abstained),
        features=lent_features(loans, flat, abstained, model),
        abstention=abstention,
        abstained=abstained,
        image_similarity=near_images,
        shift=_shift(reference, target, reference_images, target_images, config.seed),
        similarity=trial.matching,
        calibration_similarity=trial.similarity,
        compared=tuple(compared),
        agreement=_agreements(compared, patients, ~abstained, settings),
        reference_agreement=_agreements(
            trial.compared, trial.patients, np.ones(len(trial.patients), dtype=bool), settings
        ),
        bins=tuple(bins),
        rank_correlation=correlation,
        groups=tuple(
            by_group(
                group_cells, finest.similarity[:, 0], abstained, compared, patients, **settings
            )
        ),
        cases=tuple(worst_cases(finest.similarity[:, 0], finest.image[:, 0], compared, patients)),
        left_behind=tuple(level for level in loans.levels if level in left_behind),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """What patients of the reference borrow from the others when their own rows are hidden."""

    similarity: Mapping[str, Float32[Array, " _"]]
    """Per level, and for `IMAGES`."""
    patients: Array
    compared: list[Compared]
    matching: Mapping[LevelName, Similarity]

    @classmethod
    def run(
        cls,
        model: Slimp,
        index: Reference,
        patients: frozenset[str],
        loans: Loans,
        config: RetrievalConfig,
        finder: Search,
        device: torch.device | str,
    ) -> _Trial:
        mask = index.cohort.images["patient_id"].isin(patients).to_numpy(dtype=bool)
        cohort, images = index.cohort.select(mask), index.images[mask]
        # What the target had of its own, these patients may keep.
        own = lend(
            model,
            index,
            cohort,
            images,
            replace(config, lend="missing"),
            search=finder,
            hide=tuple(loans.levels),
            device=device,
        )
        similarity: dict[str, Array] = {
            name: own.levels[name].similarity[:, 0] for name in loans.levels
        }
        owners = _owners(index.cohort, cohort)
        similarity[IMAGES] = mean_image_similarity(images, index.images, finder, owners)
        return cls(
            similarity=similarity,
            patients=cohort.images["patient_id"].to_numpy(),
            compared=compare_columns(index.cohort, cohort, lent_values(own, index), {}),
            matching=similarity_by_level(model, cohort, images, seed=config.seed, device=device),
        )


def _owners(reference: Cohort, other: Cohort) -> tuple[Array, Array] | None:
    """Patients of the images of both as numbers; None if no patient is in both."""
    theirs, ours = (x.images["patient_id"].to_numpy() for x in (reference, other))
    if not np.isin(ours, theirs).any():
        return None
    codes = np.unique(np.concatenate([ours, theirs]), return_inverse=True)[1]
    return codes[: len(ours)], codes[len(ours) :]


def _shift(
    reference: Cohort, target: Cohort, theirs: Array, ours: Array, seed: int
) -> Shift | None:
    folds = min(5, len(reference.patients) // 2, len(target.patients) // 2)
    if folds < FEWEST_FOLDS:
        return None
    return two_sample_test(
        theirs,
        ours,
        reference.images["patient_id"].to_numpy(),
        target.images["patient_id"].to_numpy(),
        folds=folds,
        seed=seed,
    )


def _agreements(
    compared: list[Compared], patients: Array, rows: Array, settings: Mapping[str, Any]
) -> tuple[Agreement, ...]:
    found = [agreement(column, patients, rows, **settings) for column in compared]
    return tuple(one for one in found if one is not None)

"""Extrapolation of metadata from a reference to a target, with what is needed to judge it.

Axis names: i = images, e = width of the image encoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float32

from slimp.cohort import Cohort
from slimp.errors import UserError
from slimp.evaluate.groups import group_values
from slimp.evaluate.intervals import Estimate
from slimp.evaluate.lent import LentFeatures
from slimp.evaluate.shift import SIGNIFICANT, Shift, two_sample_test
from slimp.evaluate.similarity import Similarity
from slimp.models.nested import Slimp
from slimp.retrieve.agreement import Agreement, Compared, agreement, compare_columns
from slimp.retrieve.config import RetrievalConfig
from slimp.retrieve.failures import (
    Bin,
    LoanCase,
    LoanGroup,
    by_group,
    by_similarity,
    worst_cases,
)
from slimp.retrieve.finders import Finder, Recall
from slimp.retrieve.matching import matching_similarity
from slimp.retrieve.pseudo import lent_features, lent_values, pseudo_table, save_pseudo
from slimp.retrieve.reference import Reference
from slimp.retrieve.routes import Loans, lend
from slimp.retrieve.storeys import as_the_model_reads
from slimp.retrieve.trust import (
    IMAGES,
    Abstention,
    calibrate_thresholds,
    calibration_patients,
    nearness,
)
from slimp.runs import versions
from slimp.schema import LevelName
from slimp.storage import write_json

Array = np.ndarray[Any, np.dtype[Any]]
FEWEST_FOLDS = 2
"""Of the shift test, each with 2 patients of each side at least."""


@dataclass(frozen=True, kw_only=True)
class Medians:
    """Median similarity to the nearest lender; None where there is none."""

    calibration: float | None
    """Of images of the reference's patients who calibrated."""
    target: float | None

    @classmethod
    def of(cls, calibration: Float32[Array, " _"], target: Float32[Array, " i"]) -> Medians:
        """Of both, each over what is finite."""
        return cls(calibration=_median(calibration), target=_median(target))

    def to_dict(self) -> dict[str, float | None]:
        """For `metrics.json`."""
        return {"target_median": self.target, "calibration_median": self.calibration}


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrieval:
    """What a reference lends to a target, and how far it is to be trusted."""

    config: RetrievalConfig
    reference: Cohort
    target: Cohort
    loans: Loans
    table: pd.DataFrame
    """See `pseudo_table`."""
    features: LentFeatures
    """For `embed(..., pseudo=...)`."""
    abstention: Abstention
    abstained: Bool[Array, " i"]
    nearness: Float32[Array, " i"]
    """Mean similarity of each image to its nearest images of the reference."""
    shift: Shift | None
    """Between the image embeddings of reference and target; None: too few patients to say."""
    similarity: Mapping[LevelName, Similarity]
    """Of images and their own metadata, on the patients of the reference who calibrated."""
    calibration_similarity: Mapping[str, Float32[Array, " _"]]
    """Of each calibration image and its nearest lender of another patient, per level; and its
    nearness, for `IMAGES`."""
    compared: tuple[Compared, ...]
    agreement: tuple[Agreement, ...]
    """Of lent and true metadata of the target, where it has them and nothing was abstained."""
    reference_agreement: tuple[Agreement, ...]
    """The same for the patients who calibrated, with their own metadata hidden."""
    bins: tuple[Bin, ...]
    rank_correlation: Mapping[LevelName, Estimate]
    """Of similarity and agreement."""
    groups: tuple[LoanGroup, ...]
    cases: tuple[LoanCase, ...]
    recall: Recall | None
    """Of an approximate search; None: the search was exact."""
    left_behind: tuple[LevelName, ...] = ()
    """Lent levels that were not trained when the image encoder last moved."""

    @property
    def lent(self) -> tuple[LevelName, ...]:
        """Levels whose metadata are lent."""
        return tuple(self.loans.levels)

    @property
    def abstention_rate(self) -> float:
        """Share of the images that are lent nothing."""
        return float(self.abstained.mean())

    @property
    def lender_similarity(self) -> dict[LevelName, Medians]:
        """Of query and lender, per level that is lent."""
        return {
            name: Medians.of(self.calibration_similarity[name], loan.similarity[:, 0])
            for name, loan in self.loans.levels.items()
        }

    @property
    def median_nearness(self) -> Medians:
        """Of an image and its nearest images of the reference."""
        return Medians.of(self.calibration_similarity[IMAGES], self.nearness)

    @property
    def cautions(self) -> list[str]:
        """What weakens the loans beside a shift, in sentences."""
        found = []
        if self.left_behind:
            found.append(
                "The last adaptation moved the image encoder but had no "
                f"{' and '.join(self.left_behind)} metadata to train with, so "
                "similarities of images and these metadata are stale. "
                "Lend from the run before the adaptation, or adapt with --train heads."
            )
        if self.abstention.caution:
            found.append(self.abstention.caution)
        if self.loans.shared_patients:
            found.append(
                f"{self.loans.shared_patients:,} patient(s) are in both cohorts; "
                f"{self.loans.excluded:,} match(es) with themselves were passed over."
            )
        return found

    @property
    def verdict(self) -> str:
        """Whether the target resembles the reference, in a sentence."""
        if self.shift is None:
            return (
                "Whether the target looks like the reference cannot be tested: that takes at least "
                f"{2 * FEWEST_FOLDS} patients in each."
            )
        low, high = self.shift.ci95
        figure = f"AUROC {self.shift.auroc:.3f} [{low:.3f}, {high:.3f}], p {self.shift.p_value:.3g}"
        if self.shift.flagged:
            return (
                f"The target looks different from the reference ({figure}; 0.5 if alike): lent "
                "metadata are not to be trusted."
            )
        if self.shift.p_value < SIGNIFICANT:
            return (
                f"The target differs from the reference ({figure}; 0.5 if alike); how much is "
                "unsure, so lent metadata deserve no trust before they are compared with the truth."
            )
        return f"No difference of the target from the reference was found ({figure})."

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        lent = self.similarity.get(self.lent[0])
        return {
            "route": self.config.route,
            "k": self.config.k,
            "lent": list(self.lent),
            "images": len(self.target),
            "abstention_rate": self.abstention_rate,
            "median_matching": None if lent is None else lent.median_matching,
            "median_nonmatching": None if lent is None else lent.median_nonmatching,
            "overlap": None if lent is None else lent.overlap,
            "similarity": {name: found.to_dict() for name, found in self.similarity.items()},
            "lender_similarity": {
                name: medians.to_dict() for name, medians in self.lender_similarity.items()
            },
            "nearness": self.median_nearness.to_dict(),
            "abstention": self.abstention.to_dict(),
            "shift": None if self.shift is None else self.shift.to_dict(),
            "verdict": self.verdict,
            "cautions": self.cautions,
            "shared_patients": self.loans.shared_patients,
            "excluded_matches": self.loans.excluded,
            "agreement": [found.to_dict() for found in self.agreement],
            "agreement_on_reference": [found.to_dict() for found in self.reference_agreement],
            "by_similarity": [
                {**asdict(part), "agreement": _estimate(part.agreement)} for part in self.bins
            ],
            "rank_correlation": {k: _estimate(v) for k, v in self.rank_correlation.items()},
            "groups": [group.to_dict() for group in self.groups],
            "search": "exact" if self.recall is None else self.recall.to_dict(),
        }

    def save(self, folder: Path, *, run: Path, reference: Path, target: Path) -> None:
        """Writes `pseudo.parquet`, `metrics.json` and `config.json` into a folder that exists.

        Args:
            folder: where to.
            run: folder of the model, for the record.
            reference: cohort folder that lends, likewise.
            target: cohort folder that borrows, likewise.
        """
        save_pseudo(folder, self.table, self.features)
        write_json(folder / "metrics.json", self.to_dict())
        record = {
            "retrieve": asdict(self.config),
            "run": str(run),
            "reference": str(reference),
            "target": str(target),
            "versions": versions(),
        }
        write_json(folder / "config.json", record)


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
            from; see `slimp.assess.parts_of_run`.
        left_behind: levels that the image encoder has moved away from, for a caution; see
            `slimp.adapt.left_behind`.
        device: where to compute.

    Raises:
        UserError: nothing is missing, the reference cannot lend, or the settings name columns
            that are not there.
    """
    config = config or RetrievalConfig()
    index = Reference.build(model, reference, reference_images, device=device)
    group_cells = group_values(target, config.groups)  # refuses before anything is searched
    finder = Finder(approximate=config.approximate, device=device, seed=config.seed)
    loans = lend(model, index, target, target_images, config, search=finder, device=device)
    if not loans.levels:
        raise UserError(
            f"target '{target.info.name}' knows something at each level that could be lent "
            f"({', '.join(index.levels)}), so there is nothing to lend. To lend all the same, and "
            "to compare with what is known, pass --lend all."
        )
    flat = as_the_model_reads(model, target)
    names, caution = calibration_patients(index.cohort.patients["patient_id"].to_numpy(), parts)
    trial = _Trial.run(model, index, names, loans, config, finder, device)
    patients = target.images["patient_id"].to_numpy()
    settings: dict[str, Any] = {"replicates": config.replicates, "seed": config.seed}
    abstention = calibrate_thresholds(
        trial.similarity, trial.patients, config.coverage, caution=caution, **settings
    )
    near_images = nearness(target_images, reference_images, finder, _owners(index.cohort, target))
    abstained = abstention.abstains(loans, near_images)
    compared = compare_columns(index.cohort, flat, lent_values(loans, index), config.same)
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
        nearness=near_images,
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
        recall=finder.recall,
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
        finder: Finder,
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
        similarity[IMAGES] = nearness(images, index.images, finder, owners)
        return cls(
            similarity=similarity,
            patients=cohort.images["patient_id"].to_numpy(),
            compared=compare_columns(index.cohort, cohort, lent_values(own, index), {}),
            matching=matching_similarity(model, cohort, images, seed=config.seed, device=device),
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


def _median(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _estimate(found: Estimate) -> dict[str, Any]:
    return {
        "mean": found.mean if np.isfinite(found.mean) else None,
        "ci95": [x if np.isfinite(x) else None for x in found.ci95],
    }

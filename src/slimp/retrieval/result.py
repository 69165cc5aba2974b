"""What a retrieval lent, what speaks for and against it, and its folder on disk.

Axis names: i = images, e = width of the image encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from slimp.data.cohort import Cohort
from slimp.data.files import write_json
from slimp.data.schema import LevelName
from slimp.evaluation.bootstrap import Estimate
from slimp.evaluation.domain_shift import SIGNIFICANT, Shift
from slimp.evaluation.similarity import Similarity
from slimp.features.pseudo_metadata import PseudoMetadata
from slimp.retrieval.abstention import IMAGES, Abstention
from slimp.retrieval.agreement import Agreement, Compared
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.failure_analysis import Bin, LoanCase, LoanGroup
from slimp.retrieval.pseudo_table import save_pseudo
from slimp.retrieval.routes import Loans
from slimp.training.run_folder import versions

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
    features: PseudoMetadata
    """For `embed(..., pseudo=...)`."""
    abstention: Abstention
    abstained: Bool[Array, " i"]
    image_similarity: Float32[Array, " i"]
    """Mean similarity of each image to its nearest images of the reference."""
    shift: Shift | None
    """Between the image embeddings of reference and target; None: too few patients to say."""
    similarity: Mapping[LevelName, Similarity]
    """Of images and their own metadata, on the patients of the reference who calibrated."""
    calibration_similarity: Mapping[str, Float32[Array, " _"]]
    """Of each calibration image and its nearest lender of another patient, per level; and that
    of its nearest images, for `IMAGES`."""
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
    left_behind: tuple[LevelName, ...] = ()
    """Lent levels that were not trained when the image encoder last moved."""

    @property
    def imputed(self) -> tuple[LevelName, ...]:
        """Levels whose metadata are imputed."""
        return tuple(self.loans.levels)

    @property
    def abstention_rate(self) -> float:
        """Share of the images for which nothing is imputed."""
        return float(self.abstained.mean())

    @property
    def neighbour_similarity(self) -> dict[LevelName, Medians]:
        """Of query and lender, per level that is lent."""
        return {
            name: Medians.of(self.calibration_similarity[name], loan.similarity[:, 0])
            for name, loan in self.loans.levels.items()
        }

    @property
    def median_image_similarity(self) -> Medians:
        """Of an image and its nearest images of the reference."""
        return Medians.of(self.calibration_similarity[IMAGES], self.image_similarity)

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
                f"The target looks different from the reference ({figure}; 0.5 if alike): "
                "imputed metadata are not to be trusted."
            )
        if self.shift.p_value < SIGNIFICANT:
            return (
                f"The target differs from the reference ({figure}; 0.5 if alike); how much is "
                "unsure, so compare imputed metadata with the truth before use."
            )
        return f"No difference of the target from the reference was found ({figure})."

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        lent = self.similarity.get(self.imputed[0])
        return {
            "route": self.config.route,
            "k": self.config.k,
            "imputed": list(self.imputed),
            "images": len(self.target),
            "abstention_rate": self.abstention_rate,
            "median_matching": None if lent is None else lent.median_matching,
            "median_nonmatching": None if lent is None else lent.median_nonmatching,
            "overlap": None if lent is None else lent.overlap,
            "similarity": {name: found.to_dict() for name, found in self.similarity.items()},
            "neighbour_similarity": {
                name: medians.to_dict() for name, medians in self.neighbour_similarity.items()
            },
            "image_similarity": self.median_image_similarity.to_dict(),
            "abstention": self.abstention.to_dict(),
            "shift": None if self.shift is None else self.shift.to_dict(),
            "verdict": self.verdict,
            "cautions": self.cautions,
            "shared_patients": self.loans.shared_patients,
            "excluded_matches": self.loans.excluded,
            "agreement": [found.to_dict() for found in self.agreement],
            "agreement_on_reference": [found.to_dict() for found in self.reference_agreement],
            "by_similarity": [
                {**asdict(part), "agreement": part.agreement.to_dict(per_seed=False)}
                for part in self.bins
            ],
            "rank_correlation": {
                k: v.to_dict(per_seed=False) for k, v in self.rank_correlation.items()
            },
            "groups": [group.to_dict() for group in self.groups],
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


def _median(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None

"""The result of a retrieval, how far to trust it, and its folder on disk.

Axis names: i = images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Shaped

from slimp.data.cohort import Cohort
from slimp.data.files import write_json
from slimp.data.schema import LevelName
from slimp.evaluation.bootstrap import Estimate, plain
from slimp.evaluation.domain_shift import SIGNIFICANT, Shift
from slimp.evaluation.metrics import Array
from slimp.evaluation.similarity import Similarity
from slimp.features.pseudo_metadata import PseudoMetadata
from slimp.retrieval.abstention import IMAGES, Abstention
from slimp.retrieval.agreement import Agreement, Compared, matched_columns
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.pseudo_table import save_pseudo
from slimp.retrieval.routes import Retrieved
from slimp.training.run_folder import versions

FEWEST_FOLDS = 2
"""Of the shift test, each with 2 patients of each side at least."""
FINEST = ("median_matching", "median_nonmatching", "overlap")
"""Figures of the finest level's similarities that stand first in `metrics.json`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Retrieval for held-out patients of the reference, their own metadata hidden."""

    similarity: Mapping[str, Float32[Array, " _"]]
    """Of each image and its nearest neighbour of another patient, per level; and of its nearest
    images, for `IMAGES`."""
    patients: Shaped[Array, " _"]
    """Of each image."""
    compared: tuple[Compared, ...]
    """Retrieved and true metadata."""
    matching: Mapping[LevelName, Similarity]
    """Of images and their own metadata."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrieval:
    """Metadata retrieved from a reference for a target, and how far to trust them."""

    config: RetrievalConfig
    reference: Cohort
    target: Cohort
    retrieved: Retrieved
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
    calibration: Calibration
    compared: tuple[Compared, ...]
    agreement: tuple[Agreement, ...]
    """Of retrieved and true metadata of the target, where it has them and without abstentions."""
    reference_agreement: tuple[Agreement, ...]
    """The same for the patients who calibrated."""
    bins: list[dict[str, Any]]
    rank_correlation: Mapping[LevelName, Estimate]
    """Of similarity and agreement."""
    groups: list[dict[str, Any]]
    cases: list[tuple[int, int, float]]
    """As of `Failures.worst_cases`."""
    stale: tuple[LevelName, ...] = ()
    """Retrieved levels that are not `Slimp.aligned`."""

    def __repr__(self) -> str:
        what = f"{' and '.join(self.imputed)} metadata of {self.reference.info.name!r}"
        rows = f"{self.lacking_images} of {self.target.info.name!r}"
        return f"Retrieval({what} for {rows}, {self.abstention_rate:.0%} abstained; rows: .table)"

    @property
    def imputed(self) -> tuple[LevelName, ...]:
        """Levels whose metadata are imputed."""
        return tuple(self.retrieved.levels)

    @property
    def lacking(self) -> Bool[Array, " i"]:
        """Images without metadata of their own at one of these levels."""
        levels = self.retrieved.levels.values()
        return np.asarray(np.any([level.imputed for level in levels], axis=0))

    @property
    def lacking_images(self) -> str:
        """Their number, in words, and how many lack the metadata of a level that not all lack."""
        some, everything = int(self.lacking.sum()), len(self.target)
        counts = {name: int(level.imputed.sum()) for name, level in self.retrieved.levels.items()}
        few = ", ".join(f"{name} of {n:,}" for name, n in counts.items() if n < some)
        words = f"{some:,} images" if some == everything else f"{some:,} of {everything:,} images"
        return f"{words} ({few})" if few else words

    @property
    def abstention_rate(self) -> float:
        """Fraction of the images that lack metadata for which nothing is imputed."""
        return float(self.abstained[self.lacking].mean())

    @property
    def neighbour_similarity(self) -> dict[str, dict[str, float | None]]:
        """Medians per retrieved level, and for `IMAGES`, of calibration and target."""
        target: dict[str, Array] = {IMAGES: self.image_similarity}
        target |= {str(name): x for name, x in self.retrieved.nearest.items()}
        known = self.calibration.similarity
        return {
            name: {"target_median": _median(x), "calibration_median": _median(known[name])}
            for name, x in target.items()
        }

    @property
    def cautions(self) -> list[str]:
        """What weakens the result beside a shift, in sentences."""
        found = []
        if self.stale:
            found.append(
                "The image encoder has since learned without "
                f"{' and '.join(self.stale)} metadata, so similarities of images and these "
                "metadata are stale. Retrieve with the run before it did, or adapt with --train "
                "heads."
            )
        pairs = matched_columns(self.reference, self.target, self.config.rename)
        matched = {own.name for _, own in pairs}
        columns = [column for f in self.target.schema.features for column in f.columns]
        if alone := [column for column in columns if column not in matched]:
            found.append(
                f"{len(alone)} of the {len(columns)} metadata columns of the target are not in the "
                "reference by name, kind and unit, so imputed metadata are not compared with them: "
                f"{', '.join(alone)}. Where only the name differs, pass --rename "
                "NAME_IN_TARGET=NAME_IN_REFERENCE."
            )
        if self.abstention.caution:
            found.append(self.abstention.caution)
        if self.retrieved.shared_patients:
            found.append(
                f"{self.retrieved.shared_patients:,} patient(s) are in both cohorts; "
                f"{self.retrieved.excluded:,} match(es) with themselves were passed over."
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
        matching = {name: found.to_dict() for name, found in self.calibration.matching.items()}
        finest = matching.get(self.imputed[0], {})
        content = {
            "route": self.config.route,
            "k": self.config.k,
            "imputed": self.imputed,
            "images": len(self.target),
            "abstention_rate": self.abstention_rate,
            **{key: finest.get(key) for key in FINEST},
            "similarity": matching,
            "neighbour_similarity": self.neighbour_similarity,
            "abstention": {
                "coverage": self.abstention.coverage,
                "thresholds": self.abstention.thresholds,
                "calibration_images": self.abstention.n,
                "calibration_patients": self.abstention.n_patients,
                "calibrated_on_unseen_patients": self.abstention.unseen,
                "achieved_coverage": self.abstention.achieved,
                "caution": self.abstention.caution,
            },
            "shift": self.shift,
            "verdict": self.verdict,
            "cautions": self.cautions,
            "shared_patients": self.retrieved.shared_patients,
            "excluded_matches": self.retrieved.excluded,
            "agreement": [found.to_dict() for found in self.agreement],
            "agreement_on_reference": [found.to_dict() for found in self.reference_agreement],
            "by_similarity": self.bins,
            "rank_correlation": self.rank_correlation,
            "groups": self.groups,
        }
        return {name: plain(value, per_seed=False) for name, value in content.items()}

    def save(self, folder: Path, **origins: Path | str) -> None:
        """Writes `pseudo.parquet`, `metrics.json` and `config.json` into a folder that exists.

        `origins` are recorded in `config.json`: `run`, the cohorts `reference` and `target`, and
        how images were embedded.
        """
        save_pseudo(folder, self.table, self.features)
        write_json(folder / "metrics.json", self.to_dict())
        record = {
            "retrieve": asdict(self.config),
            **{name: str(value) for name, value in origins.items()},
            "versions": versions(),
        }
        write_json(folder / "config.json", record)


def _median(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None

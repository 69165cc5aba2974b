"""Patients set aside before anything is fitted: to validate, and for honest probes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from slimp.cohort import Cohort, require_disjoint
from slimp.config import PretrainConfig
from slimp.errors import CheckpointError, CohortError
from slimp.storage import new_file

PARTS = ("train", "validation", "held_out")
OFFICIAL_PARTS = {"train": "train", "validation": "validation", "held_out": "test"}
"""Our name of a part -> its name in a cohort's `split` column."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Patient-disjoint parts of a cohort; validation and held-out may be empty."""

    train: Cohort
    validation: Cohort | None
    held_out: Cohort | None

    def __post_init__(self) -> None:
        require_disjoint(
            **{name: part.patients["patient_id"] for name, part in self.named().items()}
        )

    def named(self) -> dict[str, Cohort]:
        """The parts that are not empty."""
        parts = {"train": self.train, "validation": self.validation, "held_out": self.held_out}
        return {name: part for name, part in parts.items() if part is not None}

    def save(self, path: Path) -> None:
        """Writes `patient_id` and `part` of every patient, so that probes can test honestly.

        Raises:
            CheckpointError: the file is there already, of other patients or parts.
        """
        rows = [
            part.patients[["patient_id"]].assign(part=name) for name, part in self.named().items()
        ]
        table = pd.concat(rows, ignore_index=True)
        if path.is_file() and pd.read_parquet(path).to_dict("list") != table.to_dict("list"):
            raise CheckpointError(
                f"{path}: the run was started with other patients, or other parts of them. Resume "
                "with the same cohort, or choose another --out."
            )
        with new_file(path) as partial:
            table.to_parquet(partial, index=False)


def set_aside(cohort: Cohort, config: PretrainConfig) -> Parts:
    """Training, validation and held-out patients: the cohort's own split, else a random one.

    Raises:
        CohortError: too few patients, or an official split that shares a patient.
    """
    flat = config.hierarchy == "flat"
    cohort = cohort.flatten() if flat else cohort
    if not any(level.features for level in cohort.schema.levels) and not config.view_weight:
        raise CohortError(
            f"cohort '{cohort.info.name}' has no metadata features, so there is nothing to "
            "contrast images with. Add features to its schema, or pass --view-weight 1."
        )
    fractions = {"validation": config.validation_fraction, "held_out": config.held_out_fraction}
    if "split" not in cohort.images:
        fractions = {name: share for name, share in fractions.items() if share > 0}
        fractions = {"train": 1.0 - sum(fractions.values()), **fractions}
        parts = cohort.split(fractions, seed=config.seed)
        return Parts(**{name: parts.get(name) for name in PARTS})  # type: ignore[arg-type]
    official = cohort.images["split"]
    if unknown := set(official.dropna()) - set(OFFICIAL_PARTS.values()):
        raise CohortError(
            f"cohort '{cohort.info.name}': its split column has '{min(unknown)}'; it may only "
            f"have {', '.join(OFFICIAL_PARTS.values())}, or be empty for images to leave out."
        )
    parts = {
        name: cohort.select(official == spelling)
        for name, spelling in OFFICIAL_PARTS.items()
        if (official == spelling).any()
    }
    if "train" not in parts:
        raise CohortError(
            f"cohort '{cohort.info.name}': its split column has no '{OFFICIAL_PARTS['train']}'."
        )
    if "validation" not in parts and config.validation_fraction > 0:
        share = config.validation_fraction
        parts |= parts["train"].split({"train": 1 - share, "validation": share}, seed=config.seed)
    return Parts(**{name: parts.get(name) for name in PARTS})  # type: ignore[arg-type]

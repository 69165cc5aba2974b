"""Settings of a probe; imports nothing heavy, because the command line makes its flags of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from slimp.errors import UserError
from slimp.features.feature_sets import FeatureSet

SplitMode = Literal["patient", "lesion", "image", "official"]
"""What must not be in both parts of a split; or the parts that the cohort names itself."""
LEAKING = ("lesion", "image")
"""Splits in which a patient may both train and test."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Everything that changes the result of a probe, given the features."""

    features: FeatureSet = "full"
    """image (SLIMP-Image), image+lesion, or full: with patient metadata (SLIMP)."""
    split: SplitMode = "patient"
    """What is in one part only; official: the cohort's split column. lesion and image leak."""
    method: Literal["linear", "knn"] = "linear"
    """Logistic regression, or a vote of nearest neighbours."""
    seeds: int = 5
    """Splits to average over. A held-out split is a single one, whatever stands here."""
    seed: int = 0
    """Of the first split (the next ones count up), the folds and the bootstrap."""
    test_fraction: float = 0.2
    """Share of the labelled images to test on."""
    folds: int = 5
    """Patient-disjoint folds of the training rows, on which the strength is chosen."""
    strengths: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Candidates for scikit-learn's C, the inverse of the regularisation."""
    neighbours: int = 20
    """Of the kNN probe."""
    temperature: float = 0.07
    """Of the kNN probe: a neighbour of cosine similarity s has the vote exp(s / temperature)."""
    replicates: int = 1000
    """Of the bootstrap over patients."""
    positive: str | None = None
    """The class of two that is looked for; None: the last one in alphabetical order."""
    malignant: tuple[str, ...] = ()
    """Classes that count as one, as in MEL,BCC, to be told from all others: benign, malignant."""

    def __post_init__(self) -> None:
        choices = (("features", FeatureSet), ("split", SplitMode))
        for name, allowed in (*choices, ("method", Literal["linear", "knn"])):
            if getattr(self, name) not in get_args(allowed):
                options = ", ".join(get_args(allowed))
                raise UserError(f"{name} '{getattr(self, name)}' is not one of: {options}.")
        for name in ("seeds", "neighbours", "temperature", "replicates"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, got {self.seed}.")
        if not 0 < self.test_fraction < 1:
            raise UserError(f"test_fraction must be in (0, 1), got {self.test_fraction}.")
        if self.folds < 2:
            raise UserError(f"folds must be at least 2, got {self.folds}.")
        if self.malignant and self.positive is not None:
            raise UserError("positive and malignant both say which class is looked for: give one.")
        if not self.strengths or min(self.strengths) <= 0:
            raise UserError(f"strengths must be positive numbers, got {self.strengths}.")

    @property
    def split_seeds(self) -> range:
        """The seed of each split."""
        return range(self.seed, self.seed + self.seeds)


@dataclass(frozen=True, kw_only=True)
class LowShotConfig:
    """The same probe with few labels."""

    fractions: tuple[float, ...] = ()
    """Shares of the training patients to learn from, as in 0.01,0.1,1."""
    shots: tuple[int, ...] = ()
    """Images per class to learn from, each of another patient, as in 1,5,20."""
    draws: int = 5
    """Random draws per split, for each share and each number of shots."""

    def __post_init__(self) -> None:
        if not all(0 < share <= 1 for share in self.fractions):
            raise UserError(f"fractions must be in (0, 1], got {_listed(self.fractions)}.")
        if not all(number >= 1 for number in self.shots):
            raise UserError(f"shots must be 1 or more, got {_listed(self.shots)}.")
        if self.draws < 1:
            raise UserError(f"draws must be at least 1, got {self.draws}.")


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig(LowShotConfig):
    """What is measured besides the score."""

    leakage: bool = False
    """Also probe with splits by lesion and by image, so that what leaks is a number."""
    subgroups: tuple[str, ...] = ("auto",)
    """Columns to score by, as in sex,age:30:60 (edges; without, quartiles); auto, or none."""

    def __post_init__(self) -> None:
        LowShotConfig.__post_init__(self)
        if not self.subgroups or (len(self.subgroups) > 1 and "none" in self.subgroups):
            raise UserError("subgroups takes names of columns, auto, or none alone.")


@dataclass(frozen=True, kw_only=True)
class FullProbeConfig(ProbeConfig, ProtocolConfig):
    """Everything that `slimp probe` can be asked for."""

    def __post_init__(self) -> None:
        ProbeConfig.__post_init__(self)
        ProtocolConfig.__post_init__(self)


def _listed(values: tuple[float | int, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)

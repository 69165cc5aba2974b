"""Settings of a probe; imports nothing heavy, because the command line derives flags from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slimp.data.config import require_choices, require_positive
from slimp.errors import UserError
from slimp.features.feature_sets import FeatureSet
from slimp.training.config import FinetuneConfig

SplitMode = Literal["patient", "lesion", "image", "official"]
"""What must not be in both parts of a split; or the parts that the cohort names itself."""
Decision = Literal["balanced", "likeliest"]
"""How a class follows from its probabilities, see `slimp.evaluation.logistic.decide`."""
RULES: dict[Decision, str] = {
    "balanced": "largest probability relative to the class's share of the training images",
    "likeliest": "largest probability",
}
"""The same in words."""
LEAKING: tuple[SplitMode, ...] = ("lesion", "image")
"""Splits in which a patient may both train and test."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Probe."""

    features: FeatureSet = "full"
    """image (SLIMP-Image), image+lesion: with lesion metadata, full: with patient metadata too."""
    split: SplitMode = "patient"
    """Unit that train and test never share (lesion and image leak), or the official split."""
    method: Literal["logistic", "boosting", "logistic+boosting", "knn"] = "logistic"
    """Logistic regression, gradient-boosted trees, the mean of both, or a vote of nearest
    neighbours. Only the first is kept for slimp predict."""
    decision: Decision = "balanced"
    """balanced: the class of largest probability relative to its share of the training images,
    for balanced accuracy; likeliest: of largest probability, for accuracy."""
    seeds: int = 5
    """Splits to average over. A held-out split is a single one, whatever the value."""
    seed: int = 0
    """Random seed: of the first split (the next ones count up), the folds and the bootstrap."""
    test_fraction: float = 0.2
    """Fraction of the labelled images to test on."""
    folds: int = 5
    """Patient-disjoint folds of the training rows, on which the strengths are chosen."""
    strengths: tuple[float, ...] = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 10.0)
    """Candidates for scikit-learn's C of each block, the inverse of its penalty."""
    neighbours: int = 20
    """Neighbours that vote, with --method knn."""
    temperature: float = 0.07
    """With --method knn: a neighbour of cosine similarity s has the vote exp(s / temperature)."""
    replicates: int = 1000
    """Bootstrap replicates over patients."""
    positive: str | None = None
    """The positive one of two classes; default: the last in alphabetical order."""
    malignant: tuple[str, ...] = ()
    """Classes to join, as in MEL,BCC: the probe then separates malignant from benign."""

    def __post_init__(self) -> None:
        require_choices(ProbeConfig, self)
        require_positive(self, "seeds", "neighbours", "temperature", "replicates")
        for name, sound, rule in (
            ("seed", self.seed >= 0, "0 or more"),
            ("test_fraction", 0 < self.test_fraction < 1, "in (0, 1)"),
            ("folds", self.folds >= 2, "at least 2"),
            ("strengths", self.strengths and min(self.strengths) > 0, "positive numbers"),
        ):
            if not sound:
                raise UserError(f"{name} must be {rule}, got {getattr(self, name)}.")
        if self.malignant and self.positive is not None:
            raise UserError("positive and malignant both name the positive class: give one.")

    @property
    def split_seeds(self) -> range:
        """The seed of each split."""
        return range(self.seed, self.seed + self.seeds)


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """Further evaluations."""

    fractions: tuple[float, ...] = ()
    """Fractions of the training patients to learn from, as in 0.01,0.1,1."""
    shots: tuple[int, ...] = ()
    """Images per class to learn from, each of another patient, as in 1,5,20."""
    draws: int = 5
    """Random draws per split, for each fraction and each number of shots."""
    leakage: bool = False
    """Also probe with splits by lesion and by image, to measure what leaks."""
    subgroups: tuple[str, ...] = ("auto",)
    """Columns to score by, as in sex,age:30:60 (edges; without, quartiles); auto, or none."""

    def __post_init__(self) -> None:
        require_positive(self, "draws")
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise UserError(f"fractions must be in (0, 1], got {self.fractions}.")
        if not all(number >= 1 for number in self.shots):
            raise UserError(f"shots must be 1 or more, got {self.shots}.")
        if not self.subgroups or (len(self.subgroups) > 1 and "none" in self.subgroups):
            raise UserError("subgroups takes names of columns, auto, or none alone.")


@dataclass(frozen=True, kw_only=True)
class FullProbeConfig(ProbeConfig, ProtocolConfig):
    """All settings of `slimp probe`."""

    def __post_init__(self) -> None:
        ProbeConfig.__post_init__(self)
        ProtocolConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class FullFinetuneConfig(ProbeConfig, FinetuneConfig):
    """All settings of `slimp finetune`: the splits and scores are those of a probe."""

    def __post_init__(self) -> None:
        ProbeConfig.__post_init__(self)
        FinetuneConfig.__post_init__(self)
        if self.split in LEAKING:
            raise UserError(
                f"split {self.split} leaks, and is there for probes only: pass --split patient."
            )
        if self.method != "logistic":
            raise UserError(
                f"a fine-tuned classifier has a linear head: leave --method {self.method} out."
            )

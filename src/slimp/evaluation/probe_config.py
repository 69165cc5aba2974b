"""Settings of a probe; imports nothing heavy, because the command line derives flags from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slimp.data.config import Settings, require_positive
from slimp.errors import UserError
from slimp.features.feature_sets import FeatureSet
from slimp.training.config import FinetuneConfig

SplitMode = Literal["patient", "lesion", "image", "official", "grouped-5"]
"""What must not be in both parts of a split; the parts that the cohort names itself; or folds."""
GROUPED_FOLDS = 5
"""Of the split grouped-5."""
FIRST_SHUFFLE = 42
"""The random_state of the first shuffle of grouped-5, as in the repository it is taken from."""
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
class ProbeConfig(Settings):
    """Probe."""

    features: FeatureSet = "full"
    """image (SLIMP-Image), image+lesion: with lesion metadata, full: with patient metadata too,
    relative: also with what sets the lesion apart from the patient's other lesions."""
    split: SplitMode = "patient"
    """Unit that train and test never share (lesion and image leak); official: the cohort's own
    split or folds; grouped-5: five stratified folds of patients, each tested once."""
    split_file: str | None = None
    """Table of image_id or patient_id, and fold or part: the split to use. A probe leaves its own
    as split.csv."""
    method: Literal["logistic", "boosting", "logistic+boosting", "knn"] = "logistic"
    """Logistic regression, gradient-boosted trees, the mean of both, or a vote of nearest
    neighbours. Only the first is kept for slimp predict."""
    decision: Decision = "balanced"
    """balanced: the class of largest probability relative to its share of the training images,
    for balanced accuracy; likeliest: of largest probability, for accuracy."""
    seeds: int | None = None
    """Splits to average over (default: 5; of grouped-5 1, and N are shuffles of random_state 42,
    43, ...). A split that is given is not repeated."""
    seed: int = 0
    """Random seed: of the first split (the next ones count up), the folds and the bootstrap."""
    test_fraction: float = 0.2
    """Fraction of the labelled images to test on."""
    folds: int = 5
    """Patient-disjoint folds of the training rows, on which the strengths are chosen."""
    strengths: tuple[float, ...] = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 10.0)
    """Candidates for scikit-learn's C of each block, the inverse of its penalty."""
    blanked_copies: int = 0
    """With --method logistic: copies of each training row with metadata cells blanked at random;
    with 1, cells missing at test cost far less (--missing-grid)."""
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

    def _check(self) -> None:
        require_positive(self, *(["seeds"] if self.seeds is not None else []))
        require_positive(self, "neighbours", "temperature", "replicates")
        for name, sound, rule in (
            ("seed", self.seed >= 0, "0 or more"),
            ("test_fraction", 0 < self.test_fraction < 1, "in (0, 1)"),
            ("blanked_copies", self.blanked_copies >= 0, "0 or more"),
            ("folds", self.folds >= 2, "at least 2"),
            ("strengths", self.strengths and min(self.strengths) > 0, "positive numbers"),
        ):
            if not sound:
                raise UserError(f"{name} must be {rule}, got {getattr(self, name)}.")
        if self.split_file is not None and self.split != "patient":
            raise UserError(f"split {self.split} and split_file both name a split: give one.")
        if self.malignant and self.positive is not None:
            raise UserError("positive and malignant both name the positive class: give one.")

    @property
    def split_seeds(self) -> range:
        """The seed of each split."""
        grouped = self.split == "grouped-5"
        first = self.seed + FIRST_SHUFFLE * grouped
        return range(first, first + (self.seeds or (1 if grouped else 5)))


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig(Settings):
    """Further evaluations."""

    fractions: tuple[float, ...] = ()
    """Fractions of the training patients to learn from, as in 0.01,0.1,1."""
    shots: tuple[int, ...] = ()
    """Images per class to learn from, each of another patient, as in 1,5,20."""
    draws: int = 5
    """Random draws per split, for each fraction, number of shots and rate of missing cells."""
    leakage: bool = False
    """Also probe with splits by lesion and by image, to measure what leaks."""
    missing_grid: bool = False
    """Also test with 0, 5, 10, 20, 30, 50 and 70 % of the metadata cells blanked at random."""
    subgroups: tuple[str, ...] = ("auto",)
    """Columns to score by, as in sex,age:30:60 (edges; without, quartiles); auto, or none."""

    def _check(self) -> None:
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


@dataclass(frozen=True, kw_only=True)
class FullFinetuneConfig(ProbeConfig, FinetuneConfig):
    """All settings of `slimp finetune`: the splits and scores are those of a probe."""

    def _check(self) -> None:
        if self.split in LEAKING:
            raise UserError(
                f"split {self.split} leaks, and is there for probes only: pass --split patient."
            )
        if self.features == "relative":
            raise UserError(
                "features relative come from all of a patient's lesions, which a batch may lack: "
                "fine-tune --features full, and probe the run that this leaves."
            )
        if self.method != "logistic":
            raise UserError(
                f"a fine-tuned classifier has a linear head: leave --method {self.method} out."
            )

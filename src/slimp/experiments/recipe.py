"""What an experiment is: a question, arms that differ in stated settings, and a control.

A recipe is a module of `slimp.experiments.recipes` with one `RECIPE`. Its arms are changes of the
typed configurations; there is no other language of settings.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from slimp.errors import UserError
from slimp.experiments import recipes as package

Changes = Mapping[str, Any]
"""Field of a configuration -> value."""
Labels = Literal["native", "malignant"]
"""The classes of the cohort, or malignant against the rest."""
ScaleName = Literal["laptop", "paper"]
WITHOUT_MODEL = ("metadata", "majority")
"""Trainers that train nothing: the probe of the raw metadata alone, and the majority class."""
Apart = Literal["patient", "lesion", "image", "as few"]
"""What never trains if an image of it tests: all of the patient, of the lesion, or the image alone;
or any other image may, but only as many as with `patient`."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of the table, or one per feature set and setting."""

    name: str
    changes: Changes = field(default_factory=dict)
    """Of `PretrainConfig`, on top of the recipe's and the scale's."""
    trainer: str = ""
    """Module of `slimp.experiments.baselines`; empty: SLIMP's own pre-training; `untrained`: the
    model that it would begin with; `metadata` or `majority`: no model at all."""
    options: Changes = field(default_factory=dict)
    """Further arguments of the trainer."""
    at: Mapping[str, Changes] = field(default_factory=dict)
    """Scale -> further changes of `PretrainConfig` at that scale."""
    learns: tuple[str, ...] = ()
    """Names in `slimp.experiments.cohorts.CHANGED` of what is done to the training patients."""
    apart: Apart = "patient"
    """How far training, of all stages, keeps from the images that test."""
    elsewhere: bool = False
    """Pre-trained on the cohort that `slimp.experiments.cohorts.OTHER` names, not on this one."""
    adapt: Changes | None = None
    """Changes of `AdaptConfig` for a second stage on this cohort; None: there is none."""
    features: tuple[str, ...] | None = None
    """Feature sets of the probe, besides those of `slimp probe` image+table; None: the recipe's."""
    probe: Changes = field(default_factory=dict)
    """Of `ProbeConfig`."""
    measure: Changes = field(default_factory=dict)
    """Options of the recipe's measure, on top of the recipe's."""
    control: str | None = None
    """Name of the arm that this one is compared with; None: the recipe's."""


FLAT = {"hierarchy": "flat", "lesion_weight": 1.0, "patient_weight": 0.0}
LESIONS = {"image_weight": 0.0, "lesion_weight": 1.0, "patient_weight": 0.0}
VIEWS = {**LESIONS, "lesion_weight": 0.0, "view_weight": 1.0}
"""Changes that several recipes ask for: all metadata in one loss, lambda = 1, and SimCLR."""
UNTRAINED = Arm(name="untrained", trainer="untrained")
METADATA = Arm(name="metadata only", trainer="metadata")
VIEWS_ONLY = Arm(name="views only", changes=VIEWS)
"""Controls of many recipes."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A difference that the paper publishes, beside which ours is put."""

    words: str
    arm: str
    control: str
    least: float | None
    """Smallest difference published, of arm minus control; None, in one of both: any."""
    most: float | None
    features: str = "full"
    labels: Labels = "native"
    setting: str = ""

    @property
    def sign(self) -> int:
        """1 of an arm that is said to be ahead, -1 of one behind."""
        return -1 if self.least is None or self.least < 0 else 1


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large an experiment is."""

    name: str
    preset: str
    pretrain: Changes = field(default_factory=dict)
    adapt: Changes = field(default_factory=dict)
    probe: Changes = field(default_factory=dict)
    """Among them the split of the patients and its seeds, which hold for every stage."""
    cohorts: Mapping[str, Changes] = field(default_factory=dict)
    """Cohort -> further changes of `PretrainConfig` on it."""


# With ten lesions a patient, 32 patients are an eighth of the cohort: a hundred steps, in which
# nothing is learned. This many give batches of about 64 lesions, and 750 steps.
_MANY_LESIONS = {"patients": 8, "epochs": 30}
SCALES: dict[ScaleName, Scale] = {
    "laptop": Scale(
        name="laptop",
        preset="tiny",
        pretrain={"epochs": 15, "workers": 0},
        adapt={"epochs": 10, "patients": 32, "lesions": 8, "workers": 0},  # batches as of tiny
        probe={"split": "grouped-5", "seeds": 1},
        cohorts=dict.fromkeys(("ducklings", "no-ducklings", "drowned"), _MANY_LESIONS),
    ),
    "paper": Scale(name="paper", preset="vit-s", probe={"split": "grouped-5", "seeds": 3}),
}
"""`paper`: ViT-S/16 at 224 px, 64 patients, 100 lesions, 150 epochs and 100 of adaptation."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An experiment, at any scale and on any cohort."""

    name: str
    question: str
    arms: tuple[Arm, ...]
    control: str
    """Name of the arm that the others are compared with."""
    paper: str = ""
    """Its table or figure in SLIMP, arXiv 2505.23709; empty: a question of ours."""
    base: Changes = field(default_factory=dict)
    """Changes of `PretrainConfig` that all arms share."""
    probe: Changes = field(default_factory=dict)
    """Of `ProbeConfig`, that all arms share; a split takes the place of the scale's."""
    cohorts: tuple[str, ...] = ("pad-ufes-20", "ham10000", "synthetic")
    """Names that it is meant for; the first whose data are here is taken."""
    features: tuple[str, ...] = ("image", "full")
    labels: tuple[Labels, ...] = ("native", "malignant")
    metric: str = "balanced_accuracy"
    columns: Mapping[str, float | None] = field(default_factory=dict)
    """Further columns of the table, which the measure fills -> the paper's figure, if any."""
    measure: Literal["probe", "low-shot", "missing", "matching", "patients", "retrieval"] = "probe"
    """What is asked of the features of an arm, see `slimp.experiments.measures`."""
    options: Changes = field(default_factory=dict)
    """Of the measure."""
    claims: tuple[Claim, ...] = ()
    figures: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    """(arm, features, labels) -> figure of the paper."""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        asked = {self.control, *(arm.control for arm in self.arms if arm.control)}
        asked |= {name for claim in self.claims for name in (claim.arm, claim.control)}
        asked |= {name for name, _, _ in self.figures}
        if unknown := asked - set(names):
            raise UserError(f"recipe '{self.name}' names an arm '{min(unknown)}' that it lacks.")
        if len(set(names)) < len(names):
            raise UserError(f"recipe '{self.name}' has two arms of one name.")

    def control_of(self, arm: Arm) -> str | None:
        """The arm that this one is compared with; None: it is the control."""
        name = arm.control or self.control
        return None if name == arm.name else name

    def compared_in(self, arm: Arm, features: str) -> str | None:
        """The control's feature set beside these of an arm: the same, or the only one it has.

        Arms without a model stand beside the control's largest set. None: nothing compares.
        """
        name = self.control_of(arm)
        if name is None:
            return None
        theirs = self.features_of(next(other for other in self.arms if other.name == name))
        if features in theirs:
            return features
        return theirs[-1] if len(theirs) == 1 or arm.trainer in WITHOUT_MODEL else None

    @property
    def without_tables(self) -> tuple[str, ...]:
        """Arms whose `full` features have no embedded metadata, since no metadata encoder learned.

        SLIMP's own arms have one per level, the control `untrained` among them.
        """
        own = ("", "untrained", *WITHOUT_MODEL)
        return tuple(
            arm.name
            for arm in self.arms
            if arm.trainer not in own and not arm.options.get("table")
            if {"full", "image+lesion", "relative"} & {*self.features_of(arm)}
        )

    def features_of(self, arm: Arm) -> tuple[str, ...]:
        """The feature sets of an arm."""
        if arm.trainer in WITHOUT_MODEL:
            return ("full",)
        return self.features if arm.features is None else arm.features


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes by name: one of each module of `slimp.experiments.recipes`."""
    names = [found.name for found in pkgutil.iter_modules(package.__path__)]
    read = [importlib.import_module(f"{package.__name__}.{name}").RECIPE for name in names]
    return {recipe.name: recipe for recipe in read}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: there is none; lists those there are.
    """
    if name not in recipes():
        raise UserError(f"no experiment '{name}'. There are: {', '.join(recipes())}.")
    return recipes()[name]

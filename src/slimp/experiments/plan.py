"""The cells of a recipe at a scale on a cohort: one chain per arm and per part of the patients."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from slimp.data.files import make_folder, read_json, sha256_of, write_json
from slimp.errors import UserError
from slimp.evaluation.probe_config import GROUPED_FOLDS, ProbeConfig
from slimp.experiments.cells import Cell, Stage, in_order
from slimp.experiments.cohorts import MALIGNANT, OTHER, SAME, cohort_cell, is_folder, is_here
from slimp.experiments.recipe import WITHOUT_MODEL, Arm, Labels, Recipe, Scale
from slimp.experiments.trainers import code_of
from slimp.training.config import AdaptConfig, PretrainConfig
from slimp.training.run_folder import MAY_CHANGE

EXPERIMENT = "experiment.json"
"""File of an experiment's folder: what was planned, of which `show` makes the tables."""
NOBODY: dict[str, Any] = {"validation_fraction": 0.0, "held_out_fraction": 0.0}
"""Those who test are left out of the cohort beforehand."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One split of the patients: who trains, in every stage, and who tests."""

    seed: int
    fold: int
    """Number of the split among those of its seed, from 0."""

    def __str__(self) -> str:
        return f"seed {self.seed} fold {self.fold}"


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The cells of one arm on one part, by the last of them."""

    arm: str
    part: Part
    score: Cell


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an experiment consists of."""

    recipe: Recipe
    scale: Scale
    cohort: str
    malignant: tuple[str, ...]
    changes: Mapping[str, Any]
    """Settings of the user, of every pre-training."""
    chains: tuple[Chain, ...] = field(default=())

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, inputs before outputs."""
        return in_order(chain.score for chain in self.chains)

    def to_dict(self, cells: Path) -> dict[str, Any]:
        """The content of `experiment.json`."""
        return {
            "name": self.recipe.name,
            "scale": asdict(self.scale),
            "cohort": self.cohort,
            "malignant": list(self.malignant),
            "changes": dict(self.changes),
            "cells": str(cells),
            "chains": [
                {"arm": c.arm, "seed": c.part.seed, "fold": c.part.fold, "cell": c.score.id}
                for c in self.chains
            ],
        }


def make_plan(
    recipe: Recipe,
    scale: Scale,
    cohort: str,
    *,
    malignant: tuple[str, ...] = (),
    changes: Mapping[str, Any] | None = None,
    cohorts: Callable[[str], Cell] = cohort_cell,
) -> Plan:
    """The plan of a recipe.

    Args:
        recipe: arms and measure.
        scale: model, budget and split.
        cohort: a name, or a cohort folder.
        malignant: labels to join; empty: those known for the cohort, if any.
        changes: further settings of every pre-training.
        cohorts: gives the cell of a cohort, such as `cohort_cell` with a cache for several plans.

    Raises:
        UserError: the cohort is not here, or a setting is wrong.
    """
    cohorts = cache(cohorts)
    if is_folder(cohorts(cohort)):
        cohort = str(Path(cohort).resolve())
    known = Plan(
        recipe=recipe,
        scale=scale,
        cohort=cohort,
        malignant=malignant or MALIGNANT.get(cohort, ()),
        changes=changes or {},
    )
    arms = {name for arm in recipe.arms for name in (*arm.changes, *arm.at.get(scale.name, ()))}
    if taken := set(known.changes) & {*arms, *NOBODY, "seed"}:
        raise UserError(f"--set {min(taken)}=: not of an experiment whose arms or parts set it.")
    if not _labels(known):
        raise UserError(
            f"{recipe.name} asks for malignant against the rest, and of {cohort} no labels are "
            "known to be malignant. Name them, as in --malignant MEL,BCC."
        )
    split = ProbeConfig(**{**scale.probe, **recipe.probe})
    folds = GROUPED_FOLDS if split.split == "grouped-5" else 1
    first = range(split.seed, split.seed + len(split.split_seeds))
    parts = [Part(seed=seed, fold=fold) for seed in first for fold in range(folds)]
    chains = [
        Chain(arm=arm.name, part=part, score=_score(known, arm, part, cohorts))
        for part in parts
        for arm in recipe.arms
    ]
    return replace(known, chains=tuple(chains))


def first_here(recipe: Recipe) -> str | None:
    """The first cohort of a recipe whose data are here, with those that it learns from besides."""
    elsewhere = any(arm.elsewhere for arm in recipe.arms)
    for name in recipe.cohorts:
        if is_here(name) and (not elsewhere or (name in OTHER and is_here(OTHER[name]))):
            return name
    return None


def _labels(plan: Plan) -> list[Labels]:
    """The sets of classes that can be asked for."""
    return [name for name in plan.recipe.labels if name == "native" or plan.malignant]


def _score(plan: Plan, arm: Arm, part: Part, cohorts: Callable[[str], Cell]) -> Cell:
    recipe, words = plan.recipe, f"{arm.name}, {part}"
    target = cohorts(plan.cohort)
    probe = {**plan.scale.probe, **recipe.probe, "seed": part.seed, "seeds": 1}
    whole, _ = _resolved(ProbeConfig, probe)
    own = {name: whole[name] for name in ("split", "test_fraction", "seed")}
    divided = _cell("split", own, f"split, seed {part.seed}", target)
    where = (divided, target)
    options = {**recipe.options, **arm.measure}
    settings: dict[str, Any] = {
        "measure": recipe.measure,
        "options": options,
        "features": recipe.features_of(arm),
        "labels": _labels(plan),
        "malignant": plan.malignant,
        "probe": _resolved(ProbeConfig, {**probe, **arm.probe, "replicates": 1})[0],
        "fold": part.fold,
        "apart": arm.apart,
    }
    if arm.trainer in WITHOUT_MODEL:
        settings["without"] = arm.trainer
        return _cell("score", settings, f"score {words}", *where)
    run = _training(plan, arm, part, where, cohorts)
    inputs = [_cell("embed", {}, f"embed {words}", run, target), run]
    if options.get("route"):
        reference = cohorts(OTHER[plan.cohort])
        inputs.append(_cell("embed", {}, f"embed the reference, {words}", run, reference))
    return _cell("score", settings, f"score {words}", *inputs, *where)


def _training(
    plan: Plan, arm: Arm, part: Part, where: tuple[Cell, Cell], cohorts: Callable[[str], Cell]
) -> Cell:
    """The last training of an arm."""
    if not arm.elsewhere:
        run = _pretrain(plan, arm, part, *where)
    elif plan.cohort in OTHER:
        run = _pretrain(plan, arm, part, cohorts(OTHER[plan.cohort]))
    else:
        raise UserError(
            f"arm '{arm.name}' of {plan.recipe.name} is pre-trained on another cohort, and none is "
            f"known for {plan.cohort}. Pass --cohort {' or '.join(OTHER)}."
        )
    if arm.adapt is None:
        return run
    pair = (OTHER.get(plan.cohort, ""), plan.cohort)
    # The same network, in the same number format.
    changes = {"rename": SAME.get(pair, {}), "precision": run.settings["pretrain"]["precision"]}
    changes |= {**plan.scale.adapt, **arm.adapt, **NOBODY}
    of_machine = {*MAY_CHANGE, "precision"}
    changes |= {name: value for name, value in plan.changes.items() if name in of_machine}
    own, machine = _resolved(AdaptConfig, {**changes, "seed": part.seed})
    adapted = {"adapt": own, "fold": part.fold, "apart": arm.apart}
    return _cell("adapt", adapted, f"adapt {arm.name}, {part}", run, *where, machine=machine)


def _pretrain(plan: Plan, arm: Arm, part: Part, *where: Cell) -> Cell:
    """On the training patients of a split and a cohort; on all patients of another cohort alone."""
    recipe, scale = plan.recipe, plan.scale
    own = {**arm.changes, **arm.at.get(scale.name, {})}
    held = {**scale.pretrain, **scale.cohorts.get(plan.cohort, {})}
    changes = {**held, **recipe.base, **own, **plan.changes, **NOBODY}
    if unknown := set(changes) - {field.name for field in fields(PretrainConfig)}:
        raise UserError(f"pre-training has no setting '{min(unknown)}': see slimp pretrain --help.")
    preset = {"preset": scale.preset, "seed": part.seed}
    config, machine = _resolved(PretrainConfig, {**changes, **preset})
    weights = (arm.options.get("weights"), config["encoder_weights"])
    settings: dict[str, Any] = {
        "pretrain": config,
        "trainer": arm.trainer,
        "options": dict(arm.options),
        "learns": ", ".join(arm.learns),
        "weights": [_weights(name) for name in weights if name is not None],
        "code": code_of(arm.trainer),
    }
    if len(where) > 1:
        settings |= {"fold": part.fold, "apart": arm.apart}
    words = f"pretrain {arm.name}, {part}"
    return _cell("pretrain", settings, words, *where, machine=machine)


def _resolved(
    kind: Callable[..., Any], changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All settings of a kind: those that determine the outcome, and those of a machine."""
    return _resolved_once(kind, json.dumps(changes, sort_keys=True))


@cache
def _resolved_once(kind: Callable[..., Any], changes: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Most folds and many arms have the same."""
    given = json.loads(changes)
    if kind is PretrainConfig:
        given = PretrainConfig.preset_values(given.pop("preset"), given)
    config = kind(**given)
    values = asdict(config)
    if kind is PretrainConfig:  # a name holds this machine's, where it is to be chosen
        from slimp.training.devices import fast_precision  # it imports torch

        values["precision"] = fast_precision(config).precision
    machine = {name: values.pop(name) for name in MAY_CHANGE if name in values}
    return values, machine


def _cell(
    stage: Stage,
    settings: Mapping[str, Any],
    words: str,
    *upstream: Cell,
    machine: Mapping[str, Any] | None = None,
) -> Cell:
    return Cell(
        stage=stage, settings=settings, upstream=upstream, words=words, machine=machine or {}
    )


def _weights(name: str) -> str:
    """A name, or the SHA-256 of a file; `FILE@128` too."""
    for path in (Path(name), Path(name.rpartition("@")[0])):
        if path.is_file():
            return sha256_of(path)
    return name


def open_experiment(out: Path, plan: Plan, cells: Path) -> None:
    """Writes `experiment.json`; a folder may be taken up for the same cells, or these and more.

    Raises:
        UserError: `out` holds something else, or another experiment.
    """
    path, content = out / EXPERIMENT, plan.to_dict(cells)
    if path.is_file():
        held = read_json(path)
        gone = [chain for chain in held["chains"] if chain not in content["chains"]]
        if gone or held["name"] != content["name"] or held["cells"] != content["cells"]:
            raise UserError(
                f"{out}: holds the experiment {held['name']} on {held['cohort']} with other "
                "settings, data, cells or code (see its experiment.json). Choose another --out; "
                f"with --cells {out / held['cells']} what both ask for is not done again."
            )
    elif out.exists() and not out.is_dir():
        raise UserError(f"{out}: exists and is not a folder. Choose another --out.")
    elif out.is_dir() and any(not held.name.startswith(".") for held in out.iterdir()):
        raise UserError(f"{out}: holds files, but no experiment. Choose another --out.")
    make_folder(out)
    write_json(path, content)

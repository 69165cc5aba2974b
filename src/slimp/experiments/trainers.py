"""What trains an arm, by the name that it gives: SLIMP, a baseline, or nothing."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import cast

import torch

from slimp.data.cohort import Cohort
from slimp.data.files import sha256_of
from slimp.errors import UserError
from slimp.experiments.baselines import Train
from slimp.models.nested import Slimp
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.loop import pretrain

BASELINES = "slimp.experiments.baselines"


def trainer(name: str) -> Train:
    """The function that trains, by the name that an arm gives it.

    Raises:
        UserError: there is no module of that name.
    """
    if name in OWN:
        return OWN[name]
    code_of(name)
    return cast(Train, importlib.import_module(f"{BASELINES}.{name}").train)


def code_of(name: str) -> str:
    """The SHA-256 of a baseline's module; empty for SLIMP, for which the version stands.

    Raises:
        UserError: there is no module of that name.
    """
    if name in OWN:
        return ""
    found = importlib.util.find_spec(f"{BASELINES}.{name}")
    if found is None or found.origin is None:
        raise UserError(f"no baseline '{name}' in slimp/experiments/baselines.")
    return sha256_of(Path(found.origin))


def _slimp(cohort: Cohort, config: PretrainConfig, folder: Path) -> Slimp:
    return pretrain(cohort, config, folder, resume=folder.exists())


def _untrained(cohort: Cohort, config: PretrainConfig, folder: Path) -> Slimp:
    torch.manual_seed(config.seed)
    whole = cohort.flatten() if config.hierarchy == "flat" else cohort
    return build_model(whole, config).eval()


OWN: dict[str, Train] = {"": cast(Train, _slimp), "untrained": cast(Train, _untrained)}

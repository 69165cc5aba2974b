"""What trains an arm, by the name that it gives: SLIMP, a baseline, or nothing.

Planning reads the code of baselines, so nothing that trains is imported before it is called.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from slimp.data.files import sha256_of
from slimp.errors import UserError

if TYPE_CHECKING:
    from slimp.data.cohort import Cohort
    from slimp.experiments.baselines import Train
    from slimp.models.nested import Slimp
    from slimp.training.config import PretrainConfig


def trainer(name: str) -> Train:
    """The function that trains, by the name that an arm gives it.

    Raises:
        UserError: there is no module of that name.
    """
    if name in OWN:
        return OWN[name]
    code_of(name)
    module = importlib.import_module(f"slimp.experiments.baselines.{name}")
    return cast("Train", module.train)


def code_of(name: str) -> str:
    """The SHA-256 of a baseline's module; empty for SLIMP, for which the version stands.

    Raises:
        UserError: there is no module of that name.
    """
    if name in OWN:
        return ""
    file = Path(__file__).with_name("baselines") / f"{name}.py"
    if not file.is_file():
        raise UserError(f"no baseline '{name}' in slimp/experiments/baselines.")
    return sha256_of(file)


def _slimp(cohort: Cohort, config: PretrainConfig, folder: Path) -> Slimp:
    from slimp.training.loop import pretrain

    return pretrain(cohort, config, folder, resume=folder.exists())


def _untrained(cohort: Cohort, config: PretrainConfig, folder: Path) -> Slimp:
    import torch

    from slimp.training.build_model import build_model

    torch.manual_seed(config.seed)
    whole = cohort.flatten() if config.hierarchy == "flat" else cohort
    model = build_model(whole, config).eval()
    model.aligned = ()
    return model


OWN: dict[str, Train] = {"": cast("Train", _slimp), "untrained": cast("Train", _untrained)}

"""SLIMP: nested contrastive learning between skin-lesion images and clinical metadata.

The names below are imported from their modules when first used, so that `import slimp` takes
milliseconds and loads neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slimp.cohort import Cohort as Cohort
    from slimp.config import AdaptConfig as AdaptConfig
    from slimp.config import PretrainConfig as PretrainConfig
    from slimp.errors import UserError as UserError
    from slimp.evaluate.features import FeatureTable as FeatureTable
    from slimp.evaluate.features import embed as embed
    from slimp.evaluate.linear_probe import linear_probe as linear_probe
    from slimp.losses import info_nce as info_nce
    from slimp.models.nested import Slimp as Slimp
    from slimp.models.trace import Trace as Trace
    from slimp.models.trace_coding import official_rows as official_rows
    from slimp.predict.config import PredictConfig as PredictConfig
    from slimp.predict.predictor import Predictor as Predictor
    from slimp.retrieve.extrapolate import extrapolate as extrapolate
    from slimp.schema import Schema as Schema
    from slimp.train import pretrain as pretrain

__version__ = "0.1.0.dev0"

_HOMES = {
    "AdaptConfig": "slimp.config",
    "Cohort": "slimp.cohort",
    "FeatureTable": "slimp.evaluate.features",
    "PredictConfig": "slimp.predict.config",
    "Predictor": "slimp.predict.predictor",
    "PretrainConfig": "slimp.config",
    "Schema": "slimp.schema",
    "Slimp": "slimp.models.nested",
    "Trace": "slimp.models.trace",
    "UserError": "slimp.errors",
    "embed": "slimp.evaluate.features",
    "extrapolate": "slimp.retrieve.extrapolate",
    "info_nce": "slimp.losses",
    "linear_probe": "slimp.evaluate.linear_probe",
    "official_rows": "slimp.models.trace_coding",
    "pretrain": "slimp.train",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    """The public name, imported from its module now (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'slimp' has no attribute '{name}'")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

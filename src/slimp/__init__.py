"""SLIMP: nested contrastive learning between skin-lesion images and clinical metadata.

The names below are imported from their modules when first used, so that `import slimp` takes
milliseconds and loads neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slimp.checks.report import check_cohort as check_cohort
    from slimp.data.cohort import Cohort as Cohort
    from slimp.data.schema import Schema as Schema
    from slimp.errors import UserError as UserError
    from slimp.evaluation.linear_probe import linear_probe as linear_probe
    from slimp.features.embed import embed as embed
    from slimp.features.feature_table import FeatureTable as FeatureTable
    from slimp.models.config import ModelConfig as ModelConfig
    from slimp.models.losses import info_nce as info_nce
    from slimp.models.losses import nested_loss as nested_loss
    from slimp.models.nested import Slimp as Slimp
    from slimp.models.recursion import NestedHeads as NestedHeads
    from slimp.models.trace import Trace as Trace
    from slimp.models.trace_checkpoints import official_rows as official_rows
    from slimp.prediction.config import PredictConfig as PredictConfig
    from slimp.prediction.predictor import Predictor as Predictor
    from slimp.prediction.sklearn_transformer import SlimpTransformer as SlimpTransformer
    from slimp.retrieval.extrapolate import extrapolate as extrapolate
    from slimp.training.adapt import adapt as adapt
    from slimp.training.config import AdaptConfig as AdaptConfig
    from slimp.training.config import PretrainConfig as PretrainConfig
    from slimp.training.loop import pretrain as pretrain

__version__ = "0.1.0.dev0"

_HOMES = {
    "AdaptConfig": "slimp.training.config",
    "Cohort": "slimp.data.cohort",
    "FeatureTable": "slimp.features.feature_table",
    "ModelConfig": "slimp.models.config",
    "NestedHeads": "slimp.models.recursion",
    "PredictConfig": "slimp.prediction.config",
    "Predictor": "slimp.prediction.predictor",
    "PretrainConfig": "slimp.training.config",
    "Schema": "slimp.data.schema",
    "Slimp": "slimp.models.nested",
    "SlimpTransformer": "slimp.prediction.sklearn_transformer",
    "Trace": "slimp.models.trace",
    "UserError": "slimp.errors",
    "adapt": "slimp.training.adapt",
    "check_cohort": "slimp.checks.report",
    "embed": "slimp.features.embed",
    "extrapolate": "slimp.retrieval.extrapolate",
    "info_nce": "slimp.models.losses",
    "linear_probe": "slimp.evaluation.linear_probe",
    "nested_loss": "slimp.models.losses",
    "official_rows": "slimp.models.trace_checkpoints",
    "pretrain": "slimp.training.loop",
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
    return sorted(__all__)

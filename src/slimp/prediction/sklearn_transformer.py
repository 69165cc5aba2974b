"""The encoders as a step of a scikit-learn pipeline: rows of a table with image paths -> features.

The import makes a cohort of the table, pre-training a run of the cohort, and `embed` features of
the rows, all in temporary folders. Axis names: n = rows, d = width of the features.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32
from pandas.api import types
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from slimp.data.cohort import Cohort, CohortInfo
from slimp.data.schema import Schema
from slimp.errors import UserError
from slimp.evaluation.metrics import Array
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig
from slimp.features.feature_sets import FEATURE_SETS, METADATA_KEYS
from slimp.models.nested import Slimp
from slimp.sources.config import SHORTER_SIDE, ImportOptions
from slimp.sources.importer import RawTable, import_cohort
from slimp.sources.read_table import read_table
from slimp.training.config import PretrainConfig
from slimp.training.devices import device_of
from slimp.training.loop import pretrain
from slimp.training.weights_run import as_run

GROUPS = "groups of fit"
"""Column of the patients that `fit` is given apart from the table."""


class SlimpTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Pre-trains on the rows that `fit` sees, and turns rows into their features.

    X is a data frame with a column of paths of image files. Columns that no parameter names are
    metadata of the lesion, so X must hold neither labels nor what follows from them. Numbers are
    continuous, booleans checkboxes, texts and categories categorical; empty cells are missing.
    Labels are not used. `transform` takes each row for itself: those beside it change nothing.

    Args:
        image: column of the image files.
        lesion: column that says which rows are of one lesion; None: each row is one.
        patient: column of the patients; None: `groups` of `fit`, else each lesion has its own.
        patient_metadata: columns of metadata of the patient.
        features: image, image+lesion or full, the embeddings side by side.
        run: as `Slimp.from_pretrained` takes it, or `weights:NAME`: then `fit` learns nothing, and
            columns are read as the run reads them.
        settings: fields of `PretrainConfig`. Unless they say otherwise the preset is laptop, and
            all rows train.

    Example:
        >>> features = SlimpTransformer(patient="patient_id", settings={"preset": "tiny"})
        >>> features.set_output(transform="pandas").get_params()["features"]
        'full'
    """

    def __init__(
        self,
        *,
        image: str = "image",
        lesion: str | None = None,
        patient: str | None = None,
        patient_metadata: Sequence[str] = (),
        features: Literal["image", "image+lesion", "full"] = "full",
        run: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.image = image
        self.lesion = lesion
        self.patient = patient
        self.patient_metadata = patient_metadata
        self.features = features
        self.run = run
        self.settings = settings

    def fit(
        self,
        X: pd.DataFrame,  # noqa: N803
        y: object = None,
        groups: Sequence[Any] | None = None,
    ) -> SlimpTransformer:
        """Pre-trains on these rows, or reads `run`; `y` is not used.

        Raises:
            UserError: a column or an image is missing, a column is of no kind that is read, the
                rows are too few, or a parameter is wrong.
        """
        if self.features not in (allowed := [name for name in FEATURE_SETS if name != "relative"]):
            raise UserError(f"features '{self.features}' is not one of {', '.join(allowed)}.")
        table = _checked(X, self.image)
        given = {"preset": "laptop", "held_out_fraction": 0.0, "validation_fraction": 0.0}
        settings = {**given, **(self.settings or {})}
        config = PretrainConfig.from_preset(str(settings.pop("preset")), **settings)
        self.device_ = device_of(config.accelerator)
        if self.run is not None:
            self.model_ = Slimp.from_pretrained(as_run(self.run))
        else:
            ids = {"image": self.image, "lesion": self.lesion, "patient": self.patient}
            if groups is not None and self.patient is None:
                ids["patient"], table[GROUPS] = GROUPS, np.asarray(groups)
            schema = _schema({k: v for k, v in ids.items() if v}, table, self.patient_metadata)
            with tempfile.TemporaryDirectory(prefix="slimp-") as folder:
                cohort = _import(table, schema, Path(folder, "cohort"), config.image_size)
                self.model_ = pretrain(cohort, config, Path(folder, "run"))
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: pd.DataFrame) -> Float32[Array, "n d"]:  # noqa: N803
        """(n, d) features of the rows; metadata columns that X lacks count as missing.

        Raises:
            UserError: an image is missing, or a cell does not fit its column.
        """
        check_is_fitted(self)
        table = _checked(X, self.image)
        content: dict[str, Any] = {"image": self.image}
        for level, encoding in self.model_.encodings.items():
            # Categories are left open: one that the model does not know is missing to it.
            content[f"{level}_metadata"] = {
                f.name: {"kind": f.kind, "columns": [*f.columns_in(table)]}
                for f in encoding.features
            }
        schema = Schema.from_dict(content)
        wanted = [column for feature in schema.features for column in feature.columns]
        table = table.reindex(columns=[self.image, *wanted])
        with tempfile.TemporaryDirectory(prefix="slimp-") as folder:
            cohort = _import(table, schema, Path(folder, "cohort"), self.model_.image_spec.size)
            found = embed(self.model_, cohort, InferenceConfig(device=self.device_))
        return found.matrix(self.features)

    def get_feature_names_out(self, input_features: object = None) -> Array:
        """Names such as `image_0` and `lesion_12`; `input_features` is not used."""
        check_is_fitted(self)
        widths = {"image": self.model_.image_encoder.embed_dim}
        for level in self.model_.encodings:
            widths[METADATA_KEYS[level]] = self.model_.config.tabular_width
        kept = [name for name in FEATURE_SETS[self.features] if name in widths]
        return np.asarray([f"{name}_{i}" for name in kept for i in range(widths[name])], object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.categorical = tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []  # features are float32
        return tags


def _checked(table: object, image: str) -> pd.DataFrame:
    """A copy of a data frame with a column of image files.

    Raises:
        UserError: it is none.
    """
    if not isinstance(table, pd.DataFrame):
        kind = type(table).__name__
        raise UserError(f"X must be a pandas DataFrame with a column of image files, not {kind}.")
    if image not in table or not all(isinstance(name, str) for name in table):
        raise UserError(
            f"X must have a column '{image}' of image files, and names of columns that are texts; "
            f"it has: {', '.join(map(str, table))}. Name another with image=."
        )
    return table.reset_index(drop=True)


def _schema(ids: Mapping[str, str], table: pd.DataFrame, of_patient: Sequence[str]) -> Schema:
    """What the columns of a data frame are, by their types."""
    for name in (*ids.values(), *of_patient):
        if name not in table:
            raise UserError(f"X has no column '{name}'; it has: {', '.join(map(str, table))}.")
    levels: dict[str, dict[str, dict[str, str]]] = {"lesion": {}, "patient": {}}
    for name in table.columns.difference([*ids.values()], sort=False):
        cells = table[name].convert_dtypes()
        if types.is_bool_dtype(cells):
            kind = "checkbox"
        elif types.is_numeric_dtype(cells):
            kind = "continuous"
        elif types.is_string_dtype(cells) or isinstance(cells.dtype, pd.CategoricalDtype):
            kind = "categorical"
        else:
            raise UserError(
                f"X: column '{name}' is of type {cells.dtype}; convert it to numbers, booleans or "
                "texts, or leave it out."
            )
        levels["patient" if name in of_patient else "lesion"][name] = {"kind": kind}
    return Schema.from_dict({**ids, **{f"{k}_metadata": v for k, v in levels.items()}})


def _import(table: pd.DataFrame, schema: Schema, folder: Path, size: int) -> Cohort:
    """The cohort of the rows, in their order; images are called by the number of their row."""
    paths = [Path(str(path)) for path in table[schema.image]]

    def open_image(cell: str) -> bytes:
        path = paths[int(cell)]
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(
                f"X, row {int(cell)}: image '{path}' cannot be read ({error.strerror}). Correct "
                "the path, or leave the row out."
            ) from None

    content = io.BytesIO()
    numbers = [f"{row:08d}" for row in range(len(table))]
    table.assign(**{schema.image: numbers}).to_parquet(content, index=False)
    return import_cohort(
        RawTable(
            table=read_table(Path("X"), content=content.getvalue()),
            open_image=open_image,
            looked_in="the paths of X",
        ),
        schema,
        folder,
        info=CohortInfo(name="X"),
        options=ImportOptions(shorter_side=max(SHORTER_SIDE, size), max_corrupt=0, max_absent=0),
    )

"""What needs the encoders: explanations, predictions, imputed metadata, new images.

One thing at a time: explaining hooks into the model, and search sets the number of threads.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from PIL import Image

from slimp.app.predictions import Predicted
from slimp.data.cohort import Cohort
from slimp.data.images import Pictures, centre
from slimp.errors import UserError
from slimp.explain.config import METHODS, Method
from slimp.explain.maps import default_methods, grid_of, relevance, shaded, upsampled
from slimp.explain.targets import LogOdds, Match, match_of
from slimp.features.encode import InferenceConfig, embed_images, evaluating
from slimp.models.nested import Slimp
from slimp.prediction.inputs import read_pixels
from slimp.prediction.predictor import Predictor
from slimp.prediction.result import Prediction
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.index import EmbeddedCohort, Index
from slimp.retrieval.pseudo_table import retrieved_values
from slimp.retrieval.routes import retrieve

Array = np.ndarray[Any, np.dtype[Any]]
SIDE = 768
"""Longer side of a layer, px."""
NEIGHBOURS = 5
"""Lesions or patients whose metadata are imputed."""
UPLOAD = Path("upload")
"""Stands for a file that does not exist."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """The encoders, and a probe of them if there is one."""

    model: Slimp
    cohort: Cohort
    images: Float32[Array, "n d"]
    """Embeddings of its images."""
    how: InferenceConfig = field(default_factory=InferenceConfig)
    predictor: Predictor | None = None
    predicted: Predicted | None = None
    unrelated: str | None = None
    """Why the run relates no images and metadata, if it does not."""
    _lock: Lock = field(default_factory=Lock)

    @property
    def methods(self) -> tuple[Method, ...]:
        """Of explanation, that fit the encoder; the default first."""
        usual = default_methods(self.model.image_encoder)
        plain = grid_of(self.model.image_encoder) is not None
        fit = METHODS if plain else ("grad-cam", "occlusion")
        return tuple(dict.fromkeys((*usual, *fit)))

    def _target(self, row: int) -> tuple[Match | LogOdds, str]:
        """What is explained, and in words: the fit to the own metadata, else a probe's class."""
        one = np.arange(len(self.cohort)) == row
        try:
            if self.unrelated:
                raise UserError(f"The run {self.unrelated}, or start slimp app with --probe.")
            match = match_of(self.model, self.cohort.select(one), [0])
        except UserError:
            if self.predictor is None or self.predicted is None:
                raise
            label = self.predictor.probe.classes[self.predicted.decided[row]]
            return LogOdds.of(self.predictor.probe, label), f"log-odds of {label}"
        words = f"cosine with the metadata of its own {match.level}"
        if match.level not in self.model.aligned:
            words += ", without which the image encoder has since learned"
        return match[torch.tensor([0])], words

    def explanation(self, row: int, method: Method) -> tuple[bytes, str]:
        """A layer over the whole image (PNG), and what it explains.

        The model sees the central square; what is outside has no colour.

        Raises:
            UserError: the run was trained with no metadata of this cohort, and there is no probe.
        """
        with self._lock, evaluating(self.model, torch.device(self.how.device)):
            target, words = self._target(row)
            size = self.model.image_spec.size
            picture = Pictures(self.cohort).read(row, size)
            pixels = centre(picture, size)[None].to(self.how.device)
            found = relevance(self.model.image_encoder, pixels, target, method)
        scale = SIDE / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        side = min(width, height)
        layer = Image.new("RGBA", (width, height), (0, 0, 0, 0))
        square = shaded(upsampled(found.cpu(), side)[0].numpy())
        layer.paste(square, ((width - side) // 2, (height - side) // 2))
        buffer = io.BytesIO()
        layer.save(buffer, "PNG")
        return buffer.getvalue(), words

    @cached_property
    def _index(self) -> Index | None:
        """To impute from; None where the run relates images to no metadata."""
        try:
            images = np.asarray(self.images)
            whole = EmbeddedCohort(cohort=self.cohort, images=images)
            return Index.build(self.model, whole, device=self.how.device)
        except UserError:
            return None

    def imputed(self, row: int) -> Mapping[str, Any]:
        """Column -> value retrieved from the nearest lesions and patients of other patients."""
        one = np.arange(len(self.cohort)) == row
        with self._lock:
            if self.unrelated or self._index is None:
                return {}
            target = EmbeddedCohort(
                cohort=self.cohort.select(one), images=np.array(self.images[one])
            )
            config = RetrievalConfig(k=NEIGHBOURS, impute="all")
            found = retrieve(self.model, self._index, target, config, device=self.how.device)
            tables = retrieved_values(found, self._index).items()
            known = [table for level, table in tables if level in self.model.aligned]
        return {str(name): table[name].iloc[0] for table in known for name in table}

    def embed(self, encoded: bytes) -> Float32[Array, " d"] | Prediction:
        """The embedding of a new image, or why it has none."""
        square = read_pixels(UPLOAD, self.model.image_spec.size, lambda path: encoded)
        if isinstance(square, Prediction):
            return square
        with self._lock:
            found = embed_images(self.model, [square[None]], self.how)
        return np.asarray(found[0])

    def predict(
        self, encoded: bytes, metadata: Mapping[str, Any] | None
    ) -> tuple[Prediction, list[str]]:
        """Of a new image, as `slimp predict`, and what weakens it.

        `metadata`: in the units of the cohort, of which the probe may be another's: a column that
        holds something else there is not read.

        Raises:
            UserError: the probe reads metadata and there are none, or they do not fit.
        """
        predictor = self.predictor
        assert predictor is not None
        table, other = None, set[str]()
        if metadata is not None:
            there = {name: f for f in self.cohort.schema.features for name in f.columns}
            read = [(name, fitted) for f, fitted in predictor.features for name in f.columns]
            other = {name for name, x in read if name in there and not x.is_like(there[name])}
            # A table's numbers may be in other units than those that the page shows.
            factor = {c: f.factor for f in predictor.schema.features for c in f.columns}
            cells = {
                name: cell if isinstance(cell, str | bool) else cell / factor.get(name, 1.0)
                for name, cell in metadata.items()
                if name not in other
            }
            table = pd.DataFrame([{**cells, "image": UPLOAD.name}])
        with self._lock:
            found_in = predictor.metadata(table, [UPLOAD])
            (found,) = predictor.stream([UPLOAD], found_in, lambda path: encoded)
        warnings = list[str]()
        if given := [*other.intersection(metadata or ()), *(found_in.unread if found_in else ())]:
            warnings.append(f"Not read by the probe: {', '.join(given)}.")
        if found.unseen:
            unseen = ", ".join(f"{name} '{cell}'" for name, cell in found.unseen.items())
            warnings.append(
                f"Not like what the model learned from, so counted as missing: {unseen}."
            )
        return found, warnings

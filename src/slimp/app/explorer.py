"""What the page asks of a cohort and a run.

Axis names: n = images.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Int64
from PIL import Image

from slimp.app.columns import Column
from slimp.app.comparison import Comparison
from slimp.app.embeddings import Embedded
from slimp.app.predictions import Predicted
from slimp.app.search import Search
from slimp.data.cohort import Cohort
from slimp.data.decode import decode
from slimp.data.schema import LevelName

if TYPE_CHECKING:  # torch
    from slimp.app.seen import Seen

Array = np.ndarray[Any, np.dtype[Any]]
NOTICE = "Research software, not for diagnosis."
SIZES = (96, 256, 768)
"""Longer side of a thumbnail, px."""
MOST_OTHERS = 500
"""Other images of a patient that a case lists, the most unlike first."""
MOST_IMPUTED = 20_000
"""Images of a cohort up to which missing metadata are imputed: the index takes seconds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explorer:
    """A cohort in memory, with the embeddings of a run beside it; nothing is ever written to it."""

    cohort: Cohort
    run: str
    """As the user named it."""
    embedded: Embedded
    of_image: Mapping[LevelName, Int64[Array, " n"]]
    """Per level, the row of its table to which each image belongs."""
    columns: Mapping[str, Column]
    open_models: Callable[[], Seen]
    """Loads the encoders; called once, by the first that needs them."""
    predicted: Predicted | None = None
    """By a probe."""
    projections: tuple[str, ...] = ("pca",)
    comparison: Comparison | None = None
    findings: Sequence[Mapping[str, Any]] = ()
    """Of `audit`."""
    _loading: Lock = field(default_factory=Lock)

    @property
    def seen(self) -> Seen:
        """What needs the encoders; takes seconds at first."""
        with self._loading:
            return self._seen

    @cached_property
    def _seen(self) -> Seen:
        return self.open_models()

    def describe(self) -> dict[str, Any]:
        """What the page must know at the start."""
        cohort, other = self.cohort, self.comparison
        facts = self.predicted and self.predicted.facts
        label = "label" if "label" in self.columns else None
        return {
            "name": cohort.info.name,
            "images": len(cohort),
            "lesions": len(cohort.lesions),
            "patients": len(cohort.patients),
            "run": self.run,
            "spaces": list(self.embedded.spaces),
            "projections": list(self.projections),
            "label": label,
            "columns": [column.describe() for column in self.columns.values()],
            "probe": facts and {"classes": list(facts.classes), "label": label},
            "cautions": list(facts.cautions) if facts else [],
            "compare": other and {"run": other.run},
            "findings": len(self.findings),
            "notice": NOTICE,
        }

    def points(self, projection: str, other: bool = False) -> Float32[Array, "n 2"]:
        """The images in a plane, by the run or by the one that it is compared with."""
        if other and self.comparison is not None:
            return self.comparison.points(self.embedded, projection)
        return self.embedded.projection(projection)

    def ids(self, rows: Sequence[int]) -> list[list[str]]:
        """Image, lesion and patient of some images."""
        names = ["image_id", "lesion_id", "patient_id"]
        found = self.cohort.images[names].iloc[list(rows)].astype(str)
        return found.to_numpy(dtype=object).tolist()

    def find(self, start: str, most: int = 20) -> list[int]:
        """Rows of the first images of which an id begins with a text, in upper or lower case."""
        found = np.zeros(len(self.cohort), dtype=bool)
        for name in ("image_id", "lesion_id", "patient_id"):
            ids = pa.array(self.cohort.images[name].astype("str"), pa.large_string())
            found |= pc.starts_with(ids, start, ignore_case=True).to_numpy(zero_copy_only=False)
        rows: list[int] = np.flatnonzero(found)[:most].tolist()
        return rows

    def thumbnail(self, row: int, size: int) -> bytes:
        """The whole image as a JPEG without metadata, its longer side at most `size` px.

        Raises:
            CohortError: the image cannot be decoded.
        """
        return jpeg(decode(self.cohort.read_image(row), size), size)

    def case(self, row: int) -> dict[str, Any]:
        """All that is known of an image; see `server`."""
        image, lesion, patient = self.ids([row])[0]
        predicted = self.predicted
        return {
            "index": row,
            "ids": {"image": image, "lesion": lesion, "patient": patient},
            "label": self._label(row),
            "metadata": self._metadata(row),
            "outlier": _plain(self.embedded.outlier[row]),
            **self._others(row),
            "prediction": predicted and predicted.facts.to_dict(predicted.prediction(row)),
            "warnings": list(predicted.facts.cautions) if predicted else [],
            "notice": NOTICE,
        }

    def _label(self, row: int) -> str | None:
        label = self.columns.get("label")
        return None if label is None else _text(label.cell(row))

    def _metadata(self, row: int) -> list[dict[str, Any]]:
        found = list[dict[str, Any]]()
        for level in self.cohort.schema.levels:
            table, at = self.cohort.tables.of_level(level.name), self.of_image[level.name][row]
            for feature in level.features:
                for name in feature.columns:
                    cell = _plain(table[name].iloc[at])
                    of = {"level": level.name, "name": name, "value": cell, "unit": feature.unit}
                    found.append({**of, "missing": cell is None})
        return found

    def imputed(self, row: int) -> dict[str, str | float | None]:
        """Column -> value retrieved from the nearest lesions and patients of other patients."""
        if len(self.cohort) > MOST_IMPUTED:
            return {}
        return {name: _plain(cell) for name, cell in self.seen.imputed(row).items()}

    def _others(self, row: int) -> dict[str, Any]:
        patients, lesions = self.of_image["patient"], self.of_image["lesion"]
        rows = np.flatnonzero(patients == patients[row])
        rows = rows[rows != row]
        order = np.argsort(-np.nan_to_num(self.embedded.outlier[rows], nan=-np.inf), kind="stable")
        others = [
            {
                "index": int(other),
                "outlier": _plain(self.embedded.outlier[other]),
                "same_lesion": bool(lesions[other] == lesions[row]),
                "label": self._label(int(other)),
            }
            for other in rows[order[:MOST_OTHERS]]
        ]
        return {"others": others, "others_total": len(rows)}

    def prepare(self) -> None:
        """Reads all embeddings once, so that the first search is as quick as the others."""
        _ = self._searches

    @cached_property
    def _searches(self) -> dict[LevelName, Search]:
        return {name: Search(rows) for name, rows in self.embedded.spaces.items()}

    @cached_property
    def _first(self) -> dict[LevelName, Int64[Array, " _"]]:
        """Per level, the first image of each of its rows."""
        return {n: np.unique(rows, return_index=True)[1] for n, rows in self.of_image.items()}

    def neighbours(
        self, row: int, space: LevelName, k: int, *, other_patients: bool = True
    ) -> list[dict[str, Any]]:
        """The nearest images, or the first image of the nearest lesions or patients.

        Of the query's own patient there are none, or with `other_patients` off all but the query
        itself.
        """
        own, patients = self.of_image[space][row], self.of_image["patient"]
        allowed = np.ones(len(self.embedded.spaces[space]), dtype=bool)
        if other_patients:
            allowed = patients[self._first[space]] != patients[row]
        allowed[own] = False
        return self._found(space, self.embedded.spaces[space][own], k, allowed)

    def near(self, image: Float32[Array, " d"], k: int) -> list[dict[str, Any]]:
        """The nearest images to one that is not of the cohort."""
        return self._found("image", image, k)

    def _found(self, space: LevelName, query: Array, k: int, *allowed: Array) -> list[Any]:
        rows, cosines = self._searches[space].nearest(query, k, *allowed)
        found = zip(self._first[space][rows].tolist(), cosines.tolist(), strict=True)
        return [{"index": index, "similarity": cosine} for index, cosine in found]


def jpeg(picture: Image.Image, size: int) -> bytes:
    """At most `size` px wide and high; pixels alone."""
    picture.thumbnail((size, size))
    picture.info.clear()  # Pillow would write comments again
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _plain(cell: Any) -> str | float | None:
    """A cell for JSON; a box is yes or no."""
    if cell is None or pd.isna(cell):
        return None
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    return cell if isinstance(cell, str) else float(cell)


def _text(cell: str | float | None) -> str | None:
    return None if cell is None else str(cell)

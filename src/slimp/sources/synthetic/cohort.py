"""A generative cohort: patients, lesions, photographs and metadata that depict nobody.

Patient number p, its lesion l and that lesion's photograph i draw from generators seeded with
(seed, p, l, i), so any part can be made alone, a cohort of more patients starts with the same
ones, and a cohort of any size is written in the memory of its tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool

from slimp.data.cohort import Cohort, CohortInfo, CohortWriter, Tables
from slimp.data.files import ImagesInMemory
from slimp.data.schema import Level, LevelName, Schema
from slimp.errors import UserError
from slimp.sources.synthetic.config import NUISANCE, SyntheticConfig
from slimp.sources.synthetic.images import Photo, encode_jpeg, lesion_mask, render
from slimp.sources.synthetic.people import (
    CANCERS,
    CLINICS,
    DIAGNOSES,
    Lesion,
    Patient,
    draw_lesion,
    draw_patient,
    draw_photo,
)

SCHEMA_FILE = Path(__file__).parents[1] / "synthetic.toml"
Progress = Callable[[int, int], None]
"""Called after each patient with the number done and the number in all."""

# What a clinic knows of everyone; the questionnaire holds the rest, and may be missing as a whole.
_ALWAYS_ASKED = ("age", "sex", "clinic")
_FIXED_COLUMNS: dict[LevelName, tuple[str, ...]] = {
    "image": ("image_id", "lesion_id", "patient_id", "label", "biopsied"),
    "lesion": ("lesion_id", "patient_id"),
    "patient": ("patient_id",),
}
CHUNK = 10_000
"""Rows that are kept as Python objects, at most."""
_IMAGE_ID = re.compile(r"(?:S\d+)?P(\d{6,})-L(\d{2,})-(\d+)")


def synthesize(config: SyntheticConfig) -> Cohort:
    """The cohort in memory, about 2 kB per image at 64 px.

    >>> cohort = synthesize(SyntheticConfig(patients=3, lesions=2))
    >>> len(cohort.patients)
    3
    """
    encoded: list[bytes] = []
    tables = _generate(config, encoded.append, None)
    return Cohort.from_tables(
        tables.images,
        tables.lesions,
        tables.patients,
        schema=synthetic_schema(config),
        store=ImagesInMemory(encoded),
        info=_info(config),
    )


def write_synthetic(
    target: Path,
    config: SyntheticConfig,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes the cohort as a folder, image by image: memory holds the tables only.

    Raises:
        UserError: the folder is not empty and `overwrite` is off.
    """
    with CohortWriter.open(target, overwrite=overwrite) as writer:
        tables = _generate(config, writer.add_image, progress)
        writer.finish(tables, synthetic_schema(config), _info(config))


def synthetic_mask(config: SyntheticConfig, image_id: str) -> Bool[np.ndarray, "h w"]:
    """Where the lesion is in that photograph of the cohort.

    Raises:
        UserError: the cohort has no such image.
    """
    match = _IMAGE_ID.fullmatch(image_id)
    numbers = tuple(int(group) for group in match.groups()) if match else (0, 0, 0)
    known = min(numbers) > 0 and image_id == _image_id(config, *numbers)
    if known and numbers[0] <= config.patients:
        drawn = _draw_patient(config, numbers[0])
        if numbers[1] <= drawn.lesions:
            lesion = _draw_lesion(config, numbers[0], numbers[1], drawn.patient)
            if numbers[2] <= lesion.images:
                photo, _ = _draw_photo(config, numbers, drawn.patient, lesion.lesion)
                return lesion_mask(lesion.lesion.look, photo, config.image_size)
    raise UserError(f"the synthetic cohort of this configuration has no image '{image_id}'.")


def synthetic_schema(config: SyntheticConfig) -> Schema:
    """The schema of `synthetic.toml`, less the columns that `config` leaves out."""
    schema = Schema.from_toml(SCHEMA_FILE)
    dropped = set(NUISANCE[config.nuisance_columns :])
    if not config.image_metadata:
        dropped |= set(schema.level("image").columns)
    levels = tuple(
        Level(name=level.name, features=tuple(f for f in level.features if f.name not in dropped))
        for level in schema.levels
    )
    return replace(schema, levels=levels)


class _DrawnPatient(NamedTuple):
    patient: Patient
    noted: dict[str, Any]
    lesions: int


class _DrawnLesion(NamedTuple):
    lesion: Lesion
    noted: dict[str, Any]
    label: str
    biopsied: bool
    images: int


def _generator(config: SyntheticConfig, *numbers: int) -> np.random.Generator:
    # Always four words: SeedSequence pads with zeros, so (s, p) and (s, p, 0) would be one stream.
    # Numbers start at 1; a 0 stands for 'the parent itself'.
    words = (*numbers, 0, 0)[:3]
    return np.random.default_rng((config.seed, *words))


def _draw_patient(config: SyntheticConfig, number: int) -> _DrawnPatient:
    rng = _generator(config, number)
    patient = draw_patient(rng, config.signature_spread)
    missing = rng.random(len(patient.metadata)) < config.missing_cells
    unasked = rng.random() < config.missing_block
    noted = {
        name: None if lost or (unasked and name not in _ALWAYS_ASKED) else value
        for (name, value), lost in zip(patient.metadata.items(), missing, strict=True)
    }
    more = rng.poisson((config.lesions - 1) * rng.gamma(4.0, 0.25))
    return _DrawnPatient(patient, noted, 1 + int(more))


def _draw_lesion(
    config: SyntheticConfig, patient_number: int, number: int, patient: Patient
) -> _DrawnLesion:
    rng = _generator(config, patient_number, number)
    lesion = draw_lesion(
        rng,
        patient,
        context=config.context,
        ambiguity=config.ambiguity,
        spread=config.spread,
    )
    missing = rng.random(len(lesion.metadata)) < config.missing_cells
    noted = {
        name: None if lost else value
        for (name, value), lost in zip(lesion.metadata.items(), missing, strict=True)
    }
    wrong, any_diagnosis = rng.random() < config.label_noise, rng.integers(len(DIAGNOSES))
    label = DIAGNOSES[any_diagnosis if wrong else lesion.diagnosis]
    biopsied = bool(rng.random() < 0.3) or label in CANCERS
    images = int(rng.integers(config.images_per_lesion)) + 1
    return _DrawnLesion(lesion, noted, label, biopsied, images)


def _draw_photo(
    config: SyntheticConfig, numbers: tuple[int, ...], patient: Patient, lesion: Lesion
) -> tuple[Photo, np.random.Generator]:
    """The photograph's settings, and the generator that draws the rest of it."""
    rng = _generator(config, *numbers)
    photo = draw_photo(
        rng,
        patient,
        lesion.look,
        cast=_clinic_cast(config, patient.clinic),
        lighting=config.lighting,
        session_share=config.session_share,
    )
    return photo, rng


@lru_cache(maxsize=4 * len(CLINICS))
def _clinic_cast(config: SyntheticConfig, clinic: int) -> tuple[float, float, float]:
    red, green, blue = config.clinic_cast * _generator(config, 0, clinic + 1).standard_normal(3)
    return float(red), float(green), float(blue)


def _generate(
    config: SyntheticConfig, add_image: Callable[[bytes], None], progress: Progress | None
) -> Tables:
    """The tables; each image goes to `add_image` in the order of its row."""
    schema = synthetic_schema(config)
    tables = {level.name: _TableBuilder(level) for level in schema.levels}
    for number in range(1, config.patients + 1):
        for level, row, encoded in _patient_rows(config, number):
            tables[level].add(row)
            if encoded is not None:
                add_image(encoded)
        if progress is not None:
            progress(number, config.patients)
    return Tables(
        images=tables["image"].finish(),
        lesions=tables["lesion"].finish(),
        patients=tables["patient"].finish(),
    )


def _patient_rows(
    config: SyntheticConfig, number: int
) -> Iterator[tuple[LevelName, dict[str, Any], bytes | None]]:
    """The rows of a patient, its lesions and their images; the last with the encoded image."""
    drawn = _draw_patient(config, number)
    patient_id = _patient_id(config, number)
    yield "patient", {"patient_id": patient_id, **drawn.noted}, None
    for k in range(1, drawn.lesions + 1):
        lesion = _draw_lesion(config, number, k, drawn.patient)
        ids = {"lesion_id": f"{patient_id}-L{k:02d}", "patient_id": patient_id}
        yield "lesion", {**ids, **lesion.noted}, None
        for i in range(1, lesion.images + 1):
            photo, rng = _draw_photo(config, (number, k, i), drawn.patient, lesion.lesion)
            pixels, _ = render(
                drawn.patient.skin, lesion.lesion.look, photo, config.image_size, rng
            )
            row = {
                "image_id": _image_id(config, number, k, i),
                **ids,
                "label": lesion.label,
                "biopsied": str(lesion.biopsied),
                "field_mm": round(photo.field_mm, 1),
                "exposure": _exposure(photo),
            }
            yield "image", row, encode_jpeg(pixels, photo.quality)


def _patient_id(config: SyntheticConfig, number: int) -> str:
    """Cohorts of other seeds hold other people, so their ids differ."""
    return f"S{config.seed}P{number:06d}" if config.seed else f"P{number:06d}"


def _image_id(config: SyntheticConfig, patient: int, lesion: int, image: int) -> str:
    return f"{_patient_id(config, patient)}-L{lesion:02d}-{image}"


def _exposure(photo: Photo) -> str:
    middle = photo.gain[1]
    return "dim" if middle < 0.93 else "bright" if middle > 1.07 else "normal"


class _TableBuilder:
    """A typed table, built row by row; rows become columns every so often to save memory."""

    def __init__(self, level: Level) -> None:
        kinds = {"continuous": "float64", "categorical": "str", "checkbox": "boolean"}
        self._types = dict.fromkeys(_FIXED_COLUMNS[level.name], "str")
        self._types |= {c: kinds[f.kind] for f in level.features for c in f.columns}
        self._rows: list[dict[str, Any]] = []
        self._chunks: list[pd.DataFrame] = []

    def add(self, row: dict[str, Any]) -> None:
        """Appends the row; what the schema does not name is left out."""
        self._rows.append(row)
        if len(self._rows) == CHUNK:
            self._chunks = [self.finish()]

    def finish(self) -> pd.DataFrame:
        """All rows so far."""
        if self._rows:
            columns = {
                name: pd.Series([row[name] for row in self._rows], dtype=kind)
                for name, kind in self._types.items()
            }
            self._chunks.append(pd.DataFrame(columns))
            self._rows = []
        return pd.concat(self._chunks, ignore_index=True)


def _info(config: SyntheticConfig) -> CohortInfo:
    return CohortInfo(
        name=f"synthetic-{config.patients}-{config.seed}",
        source="synthetic",
        licence="CC0-1.0",
        citation="Synthetic cohort of slimp: generated by a program, depicts no real patient.",
        import_report={
            "statement": (
                "Every patient, lesion and photograph of this cohort was generated by a program; "
                "no real patient is depicted, and nothing learned here holds for one."
            ),
            "config": asdict(config),
        },
    )

"""A generative cohort: patients, lesions, photographs and metadata that depict nobody.

Patient number p, its lesion l and that lesion's photograph i draw from generators seeded with
(seed, p, l, i), so any part can be made alone, a cohort of more patients starts with the same
ones, and a cohort of any size is written in the memory of its tables.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from PIL import Image

from slimp.data.cohort import Cohort, CohortInfo, CohortWriter, Tables
from slimp.data.files import ImagesInMemory
from slimp.data.in_order import Progress
from slimp.data.schema import Level, LevelName, Schema
from slimp.errors import UserError
from slimp.sources.synthetic.config import NUISANCE, SyntheticConfig
from slimp.sources.synthetic.images import Photo, Rng, encode_jpeg, lesion_mask, render
from slimp.sources.synthetic.people import (
    CLINICS,
    Lesion,
    Patient,
    draw_lesion,
    draw_patient,
    draw_photo,
)

SCHEMA_FILE = Path(__file__).parents[1] / "synthetic.toml"

_FIXED_COLUMNS: dict[LevelName, tuple[str, ...]] = {
    "image": ("image_id", "lesion_id", "patient_id", "label", "biopsied"),
    "lesion": ("lesion_id", "patient_id"),
    "patient": ("patient_id",),
}
_DTYPES = {"continuous": "float64", "categorical": "str", "checkbox": "boolean"}
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
        **vars(tables),
        schema=synthetic_schema(config),
        store=ImagesInMemory(encoded),
        info=_info(config),
    )


def example(patients: int = 10) -> Cohort:
    """A cohort of small pictures, drawn in a moment: for examples."""
    return synthesize(SyntheticConfig(patients=patients, lesions=2, image_size=32))


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
    number, k, i = (int(group) for group in match.groups()) if match else (0, 0, 0)
    known = min(number, k, i) > 0 and image_id == f"{_patient_id(config, number)}-L{k:02d}-{i}"
    if known and number <= config.patients:
        patient = draw_patient(config, _generator(config, number))
        if k <= patient.lesions:
            lesion = draw_lesion(config, _generator(config, number, k), patient)
            if i <= lesion.images:
                photo, _ = _draw_photo(config, (number, k, i), patient, lesion)
                return lesion_mask(lesion.look, photo, config.image_size)
    raise UserError(f"the synthetic cohort of this configuration has no image '{image_id}'.")


def write_masks(folder: Path, config: SyntheticConfig, image_ids: Iterable[str]) -> None:
    """Writes `IMAGE_ID.png` of each image of the cohort, the lesion white."""
    for name in image_ids:
        Image.fromarray(synthetic_mask(config, name)).save(folder / f"{name}.png")


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


def _generator(config: SyntheticConfig, *numbers: int) -> Rng:
    # Always four words: SeedSequence pads with zeros, so (s, p) and (s, p, 0) would be one stream.
    # Numbers start at 1; a 0 stands for 'the parent itself'.
    return np.random.default_rng((config.seed, *(*numbers, 0, 0)[:3]))


@lru_cache(maxsize=4 * len(CLINICS))
def _clinic_cast(config: SyntheticConfig, clinic: int) -> tuple[float, float, float]:
    red, green, blue = config.clinic_cast * _generator(config, 0, clinic + 1).standard_normal(3)
    return float(red), float(green), float(blue)


def _draw_photo(
    config: SyntheticConfig, numbers: tuple[int, int, int], patient: Patient, lesion: Lesion
) -> tuple[Photo, Rng]:
    """The photograph's settings, and the generator that draws the rest of it."""
    rng = _generator(config, *numbers)
    return draw_photo(config, rng, patient, lesion.look, _clinic_cast(config, patient.clinic)), rng


def _generate(
    config: SyntheticConfig, add_image: Callable[[bytes], None], progress: Progress | None
) -> Tables:
    """The tables; each image goes to `add_image` in the order of its row."""
    cells: dict[LevelName, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for number in range(1, config.patients + 1):
        for level, row, encoded in _patient_rows(config, number):
            for name, value in row.items():
                cells[level][name].append(value)
            if encoded is not None:
                add_image(encoded)
        if progress is not None:
            progress(number, config.patients)
    tables = {
        level.name: _typed(level, cells[level.name]) for level in synthetic_schema(config).levels
    }
    return Tables(images=tables["image"], lesions=tables["lesion"], patients=tables["patient"])


def _typed(level: Level, cells: dict[str, list[Any]]) -> pd.DataFrame:
    """The columns that the schema names, with its types."""
    types = dict.fromkeys(_FIXED_COLUMNS[level.name], "str")
    types |= {c: _DTYPES[feature.kind] for feature in level.features for c in feature.columns}
    return pd.DataFrame({name: pd.Series(cells[name], dtype=kind) for name, kind in types.items()})


def _patient_rows(
    config: SyntheticConfig, number: int
) -> Iterator[tuple[LevelName, dict[str, Any], bytes | None]]:
    """The rows of a patient, its lesions and their images; the last with the encoded image."""
    patient = draw_patient(config, _generator(config, number))
    patient_id = _patient_id(config, number)
    yield "patient", {"patient_id": patient_id, **patient.metadata}, None
    for k in range(1, patient.lesions + 1):
        lesion = draw_lesion(config, _generator(config, number, k), patient)
        ids = {"lesion_id": f"{patient_id}-L{k:02d}", "patient_id": patient_id}
        yield "lesion", {**ids, **lesion.metadata}, None
        for i in range(1, lesion.images + 1):
            photo, rng = _draw_photo(config, (number, k, i), patient, lesion)
            pixels = render(patient.skin, lesion.look, photo, config.image_size, rng)
            middle = photo.gain[1]
            row = {
                "image_id": f"{ids['lesion_id']}-{i}",
                **ids,
                "label": lesion.label,
                "biopsied": str(lesion.biopsied),
                "field_mm": round(photo.field_mm, 1),
                "exposure": "dim" if middle < 0.93 else "bright" if middle > 1.07 else "normal",
            }
            yield "image", row, encode_jpeg(pixels, photo.quality)


def _patient_id(config: SyntheticConfig, number: int) -> str:
    """Cohorts of other seeds hold other people, so their ids differ."""
    return f"S{config.seed}P{number:06d}" if config.seed else f"P{number:06d}"


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
            # Without a setting that is off, a cohort keeps the bytes that it had before.
            "config": {k: v for k, v in asdict(config).items() if v or k != "ugly_duckling"},
        },
    )

"""A model's encoders over batches of pixels, and over the metadata of a whole cohort.

Axis names: i = images, n = images or rows, d = width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from slimp.data.batches import LevelBatch
from slimp.data.cohort import Cohort
from slimp.data.config import Settings
from slimp.data.encoding import Encoding, Rows
from slimp.data.images import image_batches
from slimp.data.in_order import Progress
from slimp.data.schema import LEVELS, LevelName, Schema
from slimp.errors import UserError
from slimp.features.backends import (
    AGREEMENT,
    CHECKED,
    Augmentation,
    BackendName,
    Encode,
    Pixels,
    agreement,
    batch_size_of,
    inference,
    openvino_backend,
    over_symmetries,
    require_agreement,
    torch_backend,
)
from slimp.models.nested import Slimp

Array = np.ndarray[Any, np.dtype[Any]]
ROWS_AT_ONCE = 4096
"""Metadata rows encoded at once."""


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(Settings):
    """How encoders are run."""

    device: torch.device | str = "cpu"
    precision: Literal["32", "bf16"] = "32"
    """Of the encoders; features are always float32."""
    backend: BackendName = "torch"
    """What runs the image encoder."""
    batch_size: int | None = None
    """Images at once, at most; None: as many as suit the backend."""
    workers: int = 0
    """Processes that decode images ahead; 0: this process decodes, between batches."""
    test_time_augmentation: Augmentation = "none"
    """dihedral: the mean embedding of each image's 8 turns and mirror images."""


def embed_images(
    model: Slimp,
    batches: Iterable[Pixels],
    how: InferenceConfig | None = None,
    *,
    encode: Encode | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float32[Array, "n d"]:
    """Image embeddings, in float32, of batches of square pixels as large as the encoder expects.

    `encode` runs the encoder in place of torch, for `dihedral` on all 8 positions of each image;
    `progress` is called with the images done. The model is left as it was found.
    """
    how, found = how or InferenceConfig(), list[Array]()
    device = torch.device(how.device)
    encode = encode or torch_backend(model.image_encoder, device, how.precision)
    encode = over_symmetries(encode) if how.test_time_augmentation == "dihedral" else encode
    with evaluating(model, device):
        for chunk in encode(batches):
            found.append(chunk)
            if progress is not None:
                progress(sum(map(len, found)))
    return np.concatenate(found)


def embed_rows(
    model: Slimp,
    level: LevelName,
    rows: Rows,
    *,
    device: torch.device | str = "cpu",
    precision: Literal["32", "bf16"] = "32",
) -> Float32[Array, "n d"]:
    """Embeddings of metadata rows, before any projection; the model is left as it was found."""
    device = torch.device(device)
    with evaluating(model, device), inference(device, precision):
        return np.concatenate(
            [
                model.encode_rows(level, rows[index].to(device)).float().cpu().numpy()
                for index in torch.arange(len(rows)).tensor_split(-(-len(rows) // ROWS_AT_ONCE))
            ]
        )


def embed_cohort_images(
    model: Slimp, cohort: Cohort, how: InferenceConfig, progress: Progress | None
) -> Float32[Array, "n d"]:
    """Embeddings of a cohort's images; a backend other than torch is compared with it first.

    Raises:
        UserError: it is not installed, cannot run this encoder or does not agree with torch.
    """
    size, device = model.image_spec.size, torch.device(how.device)
    batch_size = how.batch_size or batch_size_of(how.backend, device)
    encode = None
    if how.backend == "openvino":
        if device.type != "cpu":
            raise UserError(f"the backend '{how.backend}' runs on CPUs, not on '{device}'.")
        # The largest of batches of nearly equal size.
        largest = -(-len(cohort) // -(-len(cohort) // batch_size))
        tried = cohort.select(tried_first(len(cohort), min(CHECKED, largest)))
        pixels, _ = next(image_batches(tried, size, batch_size=CHECKED))
        with evaluating(model, device):
            encode = openvino_backend(model.image_encoder, largest, how.precision)
            require_agreement(encode, model.image_encoder, pixels)
    batches = image_batches(cohort, size, batch_size=batch_size, workers=how.workers)
    return embed_images(
        model,
        (pixels for pixels, _ in batches),
        how,
        encode=encode,
        progress=None if progress is None else lambda done: progress(done, len(cohort)),
    )


def tried_first(images: int, most: int = CHECKED) -> Bool[Array, " n"]:
    """A few images of a cohort, on which two computations are compared."""
    tried = np.zeros(images, dtype=bool)
    tried[np.linspace(0, images - 1, most).astype(int)] = True
    return tried


def bf16_agrees(model: Slimp, cohort: Cohort, how: InferenceConfig) -> bool:
    """Whether image features in bf16 are those in 32 bit, as of every accelerated backend.

    They are of ViTs; of small convolutional encoders a tenth of their length can be rounding.
    """
    tried = cohort.select(tried_first(len(cohort)))
    exact = InferenceConfig(device=how.device, precision="32")
    fast = replace(exact, precision="bf16")
    a, b = (embed_cohort_images(model, tried, x, None) for x in (exact, fast))
    return bool(agreement(a, b).min() >= AGREEMENT)


@contextmanager
def evaluating(model: Slimp, device: torch.device) -> Iterator[None]:
    """Evaluation mode on `device`; afterwards all is as before."""
    training, before = model.training, next(model.parameters()).device
    model.eval().to(device)
    try:
        yield
    finally:
        model.train(training).to(before)


def as_model_reads(model: Slimp, cohort: Cohort) -> Cohort:
    """The cohort, with all metadata joined at the lesion level where the model is a flat one."""
    return cohort.flatten() if model.config.hierarchy == "flat" else cohort


def columns_of(schema: Schema, model: Slimp, level: LevelName) -> tuple[str, ...]:
    """The columns that a model finds at a level in a cohort of this schema."""
    own = schema.flatten() if model.config.hierarchy == "flat" else schema
    return model.encodings[level].columns_of(own.level(level).features)


def table_read(model: Slimp, cohort: Cohort, level: LevelName) -> pd.DataFrame:
    """What a model reads of a level of a cohort."""
    return cohort.tables.of_level(level)[[*columns_of(cohort.schema, model, level)]]


def has_columns(model: Slimp, cohort: Cohort, level: LevelName, *, remedy: str | None) -> bool:
    """Whether a cohort has columns that the model reads at a level.

    Raises:
        UserError: it has only some of them, or one in another unit or of another kind. No `remedy`:
            then these count as missing.
    """
    table, encoding = table_read(model, cohort, level), model.encodings[level]
    needed = encoding.columns_in(table)
    missing = [column for column in needed if column not in table]
    other = set(missing) & set(cohort.schema.level(level).columns)
    if remedy and (other or 0 < len(missing) < len(needed)):
        first = min(other, default=missing[0])
        feature = next(f for f in encoding.features if first in f.columns_in(table))
        what = f" of kind {feature.kind}" + (f" and unit {feature.unit}" if feature.unit else "")
        what = f"'{first}'{what if other else ''}"
        raise UserError(
            f"cohort '{cohort.info.name}' has no {level}-level column {what} "
            f"({len(missing)} of the {len(needed)} that the model reads are missing). {remedy}"
        )
    return len(missing) < len(needed)


def encode_table(encoding: Encoding, table: pd.DataFrame) -> Rows:
    """The rows of a table; columns that it lacks are missing cells."""
    return encoding.encode(table.reindex(columns=[*dict.fromkeys(encoding.columns_in(table))]))


def cohort_levels(
    model: Slimp,
    cohort: Cohort,
    device: torch.device,
    *,
    hide: Collection[LevelName] = (),
) -> tuple[LevelBatch, ...]:
    """A cohort `as_model_reads` it as one batch: the levels that `Recursion.climb` takes.

    A level without an encoding only groups; one to `hide` is read as if no cell were known.
    """
    parents = (np.arange(len(cohort)), cohort.lesion_of_image, cohort.patient_of_lesion)
    levels = []
    for name, parent in zip(LEVELS, parents, strict=True):
        table, rows = cohort.tables.of_level(name), None
        if name in model.encodings:
            table = table[[]] if name in hide else table_read(model, cohort, name)
            rows = encode_table(model.encodings[name], table)
        level = LevelBatch(
            name=name,
            rows=rows,
            groups=None if rows is None else rows.equal_groups(),
            parent=torch.from_numpy(np.asarray(parent, dtype=np.int64)),
            count=len(table),
        )
        levels.append(level.to(device))
    return tuple(levels)


def known_rows(level: LevelBatch) -> Bool[Array, " n"]:
    """Of each row, whether any of its cells is known."""
    assert level.rows is not None
    return np.asarray(level.rows.present.any(dim=1).cpu())


def encode_level(model: Slimp, level: LevelBatch) -> Float[Tensor, "n d"]:
    """Metadata embeddings of the rows of a level with metadata; equal ones are encoded once."""
    assert level.rows is not None
    assert level.groups is not None
    device = level.groups.device
    distinct, group = torch.unique(level.groups, return_inverse=True)
    example = torch.empty_like(distinct)
    example[group] = torch.arange(len(group), device=device)  # any row of each: they are equal
    embeddings = embed_rows(model, level.name, level.rows[example], device=device)
    return torch.from_numpy(embeddings).to(device)[group]

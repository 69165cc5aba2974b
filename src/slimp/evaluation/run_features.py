"""A run's features of a cohort, computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

from jaxtyping import Float

from slimp.data.cohort import Cohort
from slimp.data.files import sha256_of
from slimp.data.in_order import Progress
from slimp.features.design import Array, MetadataEncoder, RawTable, metadata_encoder
from slimp.features.embed import embed, with_pseudo_metadata
from slimp.features.encode import InferenceConfig
from slimp.features.feature_table import FeatureTable
from slimp.features.pseudo_metadata import PseudoMetadata
from slimp.models.nested import Slimp
from slimp.models.persistence import read_description
from slimp.training.parts import is_adapted

CONTENT = "context units, aligned heads"
"""What embedding came to do: enters the hash, so that what was kept before is not read."""


def cached_features(
    run: Path,
    cohort_folder: Path,
    how: InferenceConfig | None = None,
    *,
    lacking: Literal["refuse", "missing"] = "refuse",
    pseudo: Path | None = None,
    progress: Progress | None = None,
) -> FeatureTable:
    """The run's features of a cohort, cached in the run folder under a hash of both.

    Pseudo-metadata (of a folder of `slimp retrieve`) are put in afterwards, and not cached. With
    them, and with an adapted run, columns that the cohort lacks count as missing: such a run may
    read more columns than the cohorts of its earlier stages have. Precision, backend and test-time
    augmentation enter the hash. Probes are in 32 bit unless asked otherwise, so that a run scores
    the same on every machine.

    Raises:
        UserError: the run or the cohort is damaged, or they do not fit each other.
    """
    retrieved = None if pseudo is None else PseudoMetadata.load(pseudo)
    if retrieved is not None or is_adapted(run):
        lacking = "missing"
    how = how or InferenceConfig()
    numbers = f"{how.precision} {how.backend}{'' if lacking == 'refuse' else ' missing'} {CONTENT}"
    numbers += "" if how.test_time_augmentation == "none" else f" {how.test_time_augmentation}"
    key = hashlib.sha256(numbers.encode())
    for path in (
        *(run / "model.safetensors", run / "model.json"),
        *(cohort_folder / f"{name}.parquet" for name in ("images", "lesions", "patients")),
        *(cohort_folder / "cohort.json", cohort_folder / "images.bin"),
    ):
        if path.is_file():
            key.update(sha256_of(path).encode())
    kept, cohort = run / "features" / f"{key.hexdigest()[:16]}.parquet", Cohort.load(cohort_folder)
    raw = RawTable.of(cohort)
    if kept.is_file():
        table = FeatureTable.load(kept)
        if raw is not None:  # as the embedding did
            raw.warn_of_unknown_categories(read_description(run)[1].values(), cohort.info.name)
    else:
        table = embed(Slimp.from_pretrained(run), cohort, how, lacking=lacking, progress=progress)
        with suppress(PermissionError):  # a run that may only be read is embedded each time
            replace(table, raw=None).save(kept)
    # The raw metadata stay out of the run's folder.
    table = replace(table, raw=raw, encoder=_encoder(run))
    if retrieved is None:
        return table
    return with_pseudo_metadata(table, Slimp.from_pretrained(run), retrieved)


def _encoder(run: Path) -> MetadataEncoder:
    """That of the run's model, which is read when it is first needed."""
    read = cache(Slimp.from_pretrained)

    def encode(raw: RawTable) -> Mapping[str, Float[Array, "n _"]]:
        return metadata_encoder(read(run))(raw)

    return encode

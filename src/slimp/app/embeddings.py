"""Embeddings of a cohort by a run, computed once, then read as memory maps.

They lie in the user's cache, in a folder that is named by run and cohort, so that neither of the
two is written to. Axis names: n = rows of a level, d = width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Shaped

from slimp.data.cohort import Cohort, level_of_images
from slimp.data.files import new_file, new_folder, sha256_of
from slimp.data.in_order import Progress
from slimp.data.schema import LevelName
from slimp.errors import CheckpointError, UserError
from slimp.models.config import DESCRIPTION, WEIGHTS
from slimp.models.known_weights import cache_folder
from slimp.training.parts import is_adapted

if TYPE_CHECKING:  # torch, which a start with kept embeddings does without
    from slimp.features.backends import Augmentation
    from slimp.features.feature_table import FeatureTable
    from slimp.training.devices import Accelerator

Array = np.ndarray[Any, np.dtype[Any]]
SPACES: tuple[LevelName, ...] = ("image", "lesion", "patient")
"""Image embeddings, and those of the metadata of lesions and of patients."""
MOST_ROWS = 20_000
"""Rows from which principal components are learned, about; taken evenly."""
VERSION = 2
"""Of the embeddings: what was kept before the last change of how they are made is not read."""
SAME_RUN = 0.95
"""Least median cosine of the same images in a file and by the run: bf16 keeps 0.98 of lite nets."""
BLOCKS, BLOCK = 64, 4096
"""Of the packed images, what enters the fingerprint beside their size: blocks, of so many bytes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """What a run makes of a cohort."""

    folder: Path
    """In the cache."""
    cohort_key: str
    spaces: Mapping[LevelName, Float32[Array, "_ _"]]
    """Of `SPACES` those that the run has: a row per image, lesion or patient of the cohort."""
    outlier: Float32[Array, " n"]
    """Of each image, `distance` of `features.relative`; NaN: the patient's only lesion."""

    def projection(self, kind: str) -> Float32[Array, "n 2"]:
        """The images in a plane, in [-1, 1]; computed once.

        Raises:
            UserError: the projection needs a package that is not installed.
        """
        path = self.folder / f"{kind}.npy"
        if not path.is_file():
            _write(path, _in_plane(kind, self.spaces["image"]))
        return np.asarray(np.load(path))


def kept_at(
    run: Path,
    cohort_folder: Path,
    *,
    augmentation: Augmentation = "none",
    features: Path | None = None,
) -> tuple[Path, str]:
    """Where the embeddings of a cohort by a run are kept, or will be, and the cohort's key.

    Raises:
        UserError: the run or the file of features is not there.
    """
    if features is not None and not features.is_file():
        raise UserError(f"{features}: there is no such file. Make it with: slimp embed RUN COHORT.")
    source = sha256_of(features) if features else f"embedded {augmentation}"
    own = cohort_key(cohort_folder)
    return private_folder() / _hash(run_key(run), own, source, str(VERSION))[:24], own


def embedded(
    run: Path,
    cohort_folder: Path,
    cohort: Cohort,
    *,
    accelerator: Accelerator = "cpu",
    augmentation: Augmentation = "none",
    features: Path | None = None,
    progress: Progress | None = None,
) -> Embedded:
    """The embeddings of a cohort, from the cache if they are there.

    Args:
        run: folder of the model.
        cohort_folder: where `cohort` was loaded from.
        cohort: the same, in memory.
        accelerator: where the encoders run.
        augmentation: at test time.
        features: a file of `slimp embed` to take them from, in place of computing them.
        progress: called with (images done, images in all).

    Raises:
        UserError: run and cohort do not fit each other, or `features` is of other images or runs.
    """
    folder, own = kept_at(run, cohort_folder, augmentation=augmentation, features=features)
    if not (folder / "outlier.npy").is_file():
        if features is None:
            table = _compute(run, cohort, accelerator, augmentation, progress)
        else:
            table = _read(features, run, cohort, augmentation)
        _save(folder, table, cohort)
    spaces = {name: _open(path) for name in SPACES if (path := folder / f"{name}.npy").is_file()}
    outlier = _open(folder / "outlier.npy")
    return Embedded(folder=folder, cohort_key=own, spaces=spaces, outlier=outlier)


def private_folder() -> Path:
    """Where embeddings and findings are kept: of patients, so for this user alone."""
    folder = cache_folder() / "app"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def run_key(run: Path) -> str:
    """A hash of a run's model.

    Raises:
        CheckpointError: it is not there.
    """
    for name in (DESCRIPTION, WEIGHTS):
        if not (run / name).is_file():
            raise CheckpointError(f"{run}: no {name} here. Make one with: slimp pretrain.")
    return _hash(sha256_of(run / WEIGHTS), sha256_of(run / DESCRIPTION))


def cohort_key(folder: Path) -> str:
    """A hash of a cohort's tables, of the size of its packed images and of some of their bytes."""
    tables = [sha256_of(folder / f"{name}.parquet") for name in ("images", "lesions", "patients")]
    with (folder / "images.bin").open("rb") as file:
        size = file.seek(0, 2)
        some = []
        for place in np.linspace(0, max(0, size - BLOCK), BLOCKS).astype(int).tolist():
            file.seek(place)
            some.append(hashlib.sha256(file.read(BLOCK)).hexdigest())
    return _hash(sha256_of(folder / "cohort.json"), *tables, str(size), *some)


def _hash(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _compute(
    run: Path,
    cohort: Cohort,
    accelerator: Accelerator,
    augmentation: Augmentation,
    progress: Progress | None,
) -> FeatureTable:
    from slimp.features.embed import embed
    from slimp.features.encode import InferenceConfig
    from slimp.models.nested import Slimp
    from slimp.training.devices import device_of

    return embed(
        Slimp.from_pretrained(run),
        cohort,
        InferenceConfig(device=device_of(accelerator), test_time_augmentation=augmentation),
        # An adapted run may read more columns than the cohorts of its earlier stages have.
        lacking="missing" if is_adapted(run) else "refuse",
        progress=progress,
    )


def _read(path: Path, run: Path, cohort: Cohort, augmentation: Augmentation) -> FeatureTable:
    """The file, if the run makes the same of some images: it does not say which run made it."""
    from slimp.features.backends import agreement
    from slimp.features.encode import InferenceConfig, embed_cohort_images, tried_first
    from slimp.features.feature_table import FeatureTable
    from slimp.models.nested import Slimp

    table = FeatureTable.load(path)
    if table.test_time_augmentation != augmentation:
        raise UserError(
            f"{path}: made with --test-time-augmentation {table.test_time_augmentation}, and the "
            f"probe with {augmentation}. Leave --embeddings out, or make the file as the probe was."
        )
    if table.imputed:
        raise UserError(
            f"{path}: of metadata imputed by retrieval ({', '.join(table.imputed)}), which would "
            "pass for the cases' own. Make the file without --pseudo, or leave --embeddings out."
        )
    if table.ids["image_id"].tolist() != cohort.images["image_id"].tolist():
        raise UserError(
            f"{path}: its images are not those of cohort '{cohort.info.name}' in their order. "
            "Make the file again with: slimp embed RUN COHORT."
        )
    some = tried_first(len(cohort))
    how = InferenceConfig(test_time_augmentation=augmentation)
    own = embed_cohort_images(Slimp.from_pretrained(run), cohort.select(some), how, None)
    theirs = table.features["image"][some]
    if own.shape != theirs.shape or not np.median(agreement(own, theirs)) >= SAME_RUN:
        raise UserError(
            f"{path}: its image embeddings are not those of this run. Leave --embeddings out, or "
            "make the file again with: slimp embed RUN COHORT."
        )
    return table if table.context is not None else table.with_context()


def _save(folder: Path, table: FeatureTable, cohort: Cohort) -> None:
    """Writes an array per space, with one row per lesion or patient, and the outlier scores."""
    from slimp.features.relative import OUTLIER

    distance = table.features["outlier"][:, OUTLIER.index("distance")]
    alone = table.features["outlier"][:, OUTLIER.index("alone")] > 0
    of_image = level_of_images(cohort)
    with new_folder(folder, cached=True) as partial:
        for name in SPACES:
            if name in table.features:
                first = np.unique(of_image[name], return_index=True)[1]
                np.save(partial / f"{name}.npy", table.features[name][first])
        np.save(partial / "outlier.npy", np.where(alone, np.nan, distance).astype(np.float32))
        np.save(partial / "pca.npy", _in_plane("pca", table.features["image"]))


def _open(path: Path) -> Array:
    return np.asarray(np.load(path, mmap_mode="r"))


def _write(path: Path, values: Array) -> None:
    with new_file(path) as partial, partial.open("wb") as file:
        np.save(file, values)


def _in_plane(kind: str, x: Float32[Array, "n d"]) -> Float32[Array, "n 2"]:
    return fitted_into_square(_umap(x) if kind == "umap" else _pca(x))


def fitted_into_square(plane: Shaped[Array, "n 2"]) -> Float32[Array, "n 2"]:
    """Centred, and scaled by the longer side, so that all points are in [-1, 1]."""
    low, high = plane.min(axis=0), plane.max(axis=0)
    span = float((high - low).max()) or 1.0
    return np.asarray((plane - (low + high) / 2) * (2 / span), dtype=np.float32).clip(-1, 1)


def _pca(x: Float32[Array, "n d"]) -> Array:
    some = x[:: 1 + len(x) // MOST_ROWS].astype(np.float64)
    mean = some.mean(axis=0)
    axes = np.linalg.eigh((some - mean).T @ (some - mean))[1][:, :-3:-1]  # (d, 2)
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # the same sign on every machine
    parts = np.array_split(x, 1 + len(x) // MOST_ROWS)
    return np.concatenate([(part - mean) @ axes for part in parts])


def _umap(x: Float32[Array, "n d"]) -> Array:
    try:
        import umap
    except ImportError:
        raise UserError(
            "the projection 'umap' needs a package. Install it: pip install 'slimp[umap]'."
        ) from None
    return np.asarray(umap.UMAP(random_state=0, n_jobs=1).fit_transform(x))

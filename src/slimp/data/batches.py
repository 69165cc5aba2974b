"""Cohort -> batches: patients with their lesions, images decoded and augmented off the main thread.

Three steps: `PatientSampler` draws which images, `CohortRows` looks up the metadata of their
lesions and patients, `PatientBatches` decodes the pixels and puts all together.

Axis names: v = views (1 or 2), n = images of the batch, s = images of this process's shard. All
randomness is drawn from (seed, epoch, batch or image), so a batch is the same whatever the number
of workers and wherever a run resumes. Several processes draw the same batch; each then decodes
its shard of the images.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from slimp.data.cohort import Cohort
from slimp.data.config import BatchConfig
from slimp.data.encoding import Encoding, Rows
from slimp.data.images import IntArray, Pictures, augment, centre, load_ahead
from slimp.data.processes import shard
from slimp.data.schema import LevelName
from slimp.errors import CohortError


@dataclass(frozen=True, kw_only=True)
class LevelBatch:
    """The rows of one level in a batch, and how the level below belongs to them."""

    name: LevelName
    rows: Rows | None
    """None for a level without metadata: it only groups."""
    groups: Int[Tensor, " _"] | None
    """Rows with the same number have equal metadata (before any dropout)."""
    parent: Int[Tensor, " n_below"]
    """Row of this level for each row of the level below (for the first level: each image)."""
    count: int
    """Rows of this level."""
    original: Rows | None = None
    """The rows before dropout and corruption of cells, where these acted."""

    @property
    def whole(self) -> Rows | None:
        """The rows without any dropout or corruption of cells."""
        return self.rows if self.original is None else self.original

    def to(self, device: torch.device) -> LevelBatch:
        """The same on another device."""
        moved: dict[str, Any] = {}
        for name in ("rows", "groups", "parent", "original"):
            found = getattr(self, name)
            moved[name] = None if found is None else found.to(device)
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images of some patients, and the levels above them from fine to coarse."""

    pixels: UInt8[Tensor, "v s 3 height width"]
    """Of this process's shard of the images."""
    levels: tuple[LevelBatch, ...]
    """Of the whole batch, in every process."""
    image_rows: Int[Tensor, " n"]
    """Row in `cohort.images` of each image of the whole batch."""

    @property
    def lesions(self) -> int:
        """Lesions in the whole batch."""
        return next(level.count for level in self.levels if level.name == "lesion")

    def owners(self, name: LevelName) -> Int[Tensor, " n"]:
        """Of each image of the whole batch, its row of a level."""
        row = torch.arange(len(self.image_rows), device=self.levels[0].parent.device)
        for level in self.levels:
            row = level.parent[row]
            if level.name == name:
                break
        return row

    def pin_memory(self) -> Batch:
        """For the DataLoader: pixels where a GPU can fetch them while it works."""
        return replace(self, pixels=self.pixels.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        levels = tuple(level.to(device) for level in self.levels)
        return replace(self, pixels=self.pixels.to(device, non_blocking=True), levels=levels)


class PatientSampler:
    """Which images make up each batch of each epoch.

    Patients are shuffled and split into batches of nearly equal size, at most `config.patients`
    each, so that no epoch ends in a batch of one. Of each patient up to `config.lesions`
    lesions are drawn, and of each lesion up to `config.images_per_lesion` images, anew every
    epoch.
    """

    def __init__(self, cohort: Cohort, config: BatchConfig) -> None:
        self.config = config
        self.patients = len(cohort.patients)
        self._lesions_of = _Children.of(cohort.patient_of_lesion, len(cohort.patients))
        self._images_of = _Children.of(cohort.lesion_of_image, len(cohort.lesions))
        self._always = _lesions_to_include(cohort, config.always_include)

    @property
    def batches_per_epoch(self) -> int:
        """Batches that visit each patient once."""
        return -(-self.patients // self.config.patients)

    def draw(self, epoch: int, k: int) -> IntArray:
        """(n,) rows of `cohort.images` in batch k, patient by patient, lesion by lesion."""
        order = np.random.default_rng((self.config.seed, epoch)).permutation(self.patients)
        patients = np.array_split(order, self.batches_per_epoch)[k]
        rng = np.random.default_rng((self.config.seed, epoch, k))
        drawn = []
        for patient in patients.tolist():
            for lesion in self._draw_lesions(patient, rng).tolist():
                images, most = self._images_of[lesion], self.config.images_per_lesion
                if len(images) > most:
                    images = np.sort(rng.choice(images, size=most, replace=False))
                drawn.append(images)
        return np.concatenate(drawn)

    def _draw_lesions(self, patient: int, rng: np.random.Generator) -> IntArray:
        lesions = self._lesions_of[patient]
        if len(lesions) <= self.config.lesions:
            return lesions
        # Shuffled lesions with the obligatory ones moved to the front, cut after N.
        shuffled = rng.permutation(lesions)
        front = np.argsort(~self._always[shuffled], kind="stable")
        return np.sort(shuffled[front][: self.config.lesions])


class CohortRows:
    """The encoded metadata of a cohort, and those of a batch of its images per level.

    `encodings` are fitted on training patients, and make up the levels of a batch; `disturb` drops
    and corrupts cells, for training.
    """

    def __init__(
        self,
        cohort: Cohort,
        encodings: Mapping[LevelName, Encoding],
        disturb: BatchConfig | None = None,
    ) -> None:
        self.encodings = dict(encodings)
        self.rows = {
            name: encoding.encode(cohort.tables.of_level(name))
            for name, encoding in encodings.items()
        }
        self.groups = {name: rows.equal_groups() for name, rows in self.rows.items()}
        self._disturb = disturb
        self._lesion_of_image = cohort.lesion_of_image
        self._patient_of_lesion = cohort.patient_of_lesion

    def levels(self, images: IntArray, rng: np.random.Generator) -> tuple[LevelBatch, ...]:
        """The levels with metadata, and those needed to group rows below them."""
        lesion_of, lesions = pd.factorize(self._lesion_of_image[images])
        patient_of, patients = pd.factorize(self._patient_of_lesion[lesions])
        walk: list[tuple[LevelName, IntArray, IntArray]] = [
            ("image", images, np.arange(len(images))),
            ("lesion", lesions, lesion_of),
            ("patient", patients, patient_of),
        ]
        levels = []
        for name, index, parent in walk if "image" in self.rows else walk[1:]:
            whole, groups, at = None, None, torch.from_numpy(index)
            if name in self.rows:
                whole, groups = self.rows[name][at], self.groups[name][at]
            rows = whole
            if whole is not None and self._disturb is not None:
                rows = self.encodings[name].disturb(whole, rng, self._disturb)
            levels.append(
                LevelBatch(
                    name=name,
                    rows=rows,
                    original=None if rows is whole else whole,
                    groups=groups,
                    parent=torch.from_numpy(parent),
                    count=len(index),
                )
            )
        return tuple(levels)


class PatientBatches(Dataset[Batch]):
    """Item (epoch, k) is batch k of that epoch; an epoch visits each patient once.

    Args:
        cohort: whose patients.
        encodings: per level, fitted on training patients; its levels make up the batch.
        config: what a batch holds, and how images and metadata are disturbed.
        image_size: side of the square images, px.
        augment: off for validation; then images are resized and centre-cropped, and metadata
            left whole.
        views: 2 gives two independently augmented views of each image.
    """

    def __init__(
        self,
        cohort: Cohort,
        encodings: Mapping[LevelName, Encoding],
        config: BatchConfig,
        *,
        image_size: int,
        augment: bool = True,
        views: int = 1,
    ) -> None:
        self.sampler = PatientSampler(cohort, config)
        self.metadata = CohortRows(cohort, encodings, config if augment else None)
        self.pictures = Pictures(cohort)  # not the cohort: its tables need not travel
        self.config = config
        self.image_size = image_size
        self.augment = augment
        self.views = views
        self.process, self.processes = 0, 1

    def of_process(self, process: int, processes: int) -> PatientBatches:
        """The same batches, of which only one process's shard of the images is decoded."""
        own = copy(self)
        own.process, own.processes = process, processes
        return own

    @property
    def batches_per_epoch(self) -> int:
        """Batches that visit each patient once."""
        return self.sampler.batches_per_epoch

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        epoch, k = index
        images = self.sampler.draw(epoch, k)
        rng = np.random.default_rng((self.config.seed, epoch, k, 1))
        return Batch(
            pixels=self._pixels(epoch, images[shard(len(images), self.process, self.processes)]),
            levels=self.metadata.levels(images, rng),
            image_rows=torch.from_numpy(images),
        )

    def _pixels(self, epoch: int, images: IntArray) -> UInt8[Tensor, "v s 3 height width"]:
        size = self.image_size
        # Side that a crop of the smallest allowed area needs, so that nothing is upsampled.
        side = round(size / (self.config.crop_scale**0.5 if self.augment else 1.0))
        pixels = torch.empty(self.views, len(images), 3, size, size, dtype=torch.uint8)
        for view in range(self.views):
            for i, row in enumerate(images.tolist()):
                image = self.pictures.read(row, side)
                if self.augment or view > 0:  # without, a second view would be the first
                    rng = np.random.default_rng((self.config.seed, epoch, row, view))
                    pixels[view, i] = augment(image, size, self.config, rng)
                else:
                    pixels[view, i] = centre(image, size)
        return pixels


def epoch_loader(
    dataset: PatientBatches, epochs: range, *, first_batch: int = 0, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """All batches of `epochs` in order, decoded ahead by `config.workers` processes.

    Those end when the generator is closed or used up. A run that resumes inside an epoch begins
    with its `first_batch`; `pin_memory` lets copies to a GPU overlap with its work.
    """
    order = [(epoch, k) for epoch in epochs for k in range(dataset.batches_per_epoch)]
    rest, workers = order[first_batch:], dataset.config.workers
    yield from load_ahead(dataset, rest, workers, pin_memory=pin_memory)


@dataclass(frozen=True)
class _Children:
    """Per parent, the rows of its children in order: two arrays, however many parents."""

    order: IntArray
    start: IntArray

    @classmethod
    def of(cls, parent: IntArray, count: int) -> _Children:
        start = np.append(0, np.cumsum(np.bincount(parent, minlength=count)))
        return cls(np.argsort(parent, kind="stable"), start)

    def __getitem__(self, parent: int) -> IntArray:
        return self.order[self.start[parent] : self.start[parent + 1]]


def _lesions_to_include(cohort: Cohort, label: str | None) -> NDArray[np.bool_]:
    """Of each lesion, whether it is always drawn: those with an image of that label."""
    always = np.zeros(len(cohort.lesions), dtype=bool)
    if label is None:
        return always
    if label not in cohort.classes:
        raise CohortError(
            f"always_include: no image of cohort '{cohort.info.name}' has the label "
            f"'{label}'; there are: {', '.join(cohort.classes) or 'none'}."
        )
    always[cohort.lesion_of_image[(cohort.images["label"] == label).to_numpy(dtype=bool)]] = True
    return always

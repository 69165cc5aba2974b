"""Cohort -> batches: patients with their lesions, images decoded and augmented off the main thread.

Axis names: v = views (1 or 2), n = images. All randomness is drawn from (seed, epoch, batch or
image), so a batch is the same whatever the number of workers and wherever a run resumes. Several
processes draw the same batch; each then keeps the rows of its own patients.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from slimp.data.cohort import Cohort
from slimp.data.config import BatchConfig
from slimp.data.encoding import Encoding, Rows
from slimp.data.images import Pictures, augment, centre, load_ahead
from slimp.data.processes import Shares, deal
from slimp.data.schema import LevelName
from slimp.errors import CohortError

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class LevelBatch:
    """The rows of one level in a batch, and how the level below belongs to them."""

    name: LevelName
    rows: Rows | None
    """None for a level without metadata: it only groups."""
    groups: Int[Tensor, " n_everywhere"] | None
    """Of all processes' rows, in order of process: rows with the same number have equal metadata
    (before any dropout)."""
    parent: Int[Tensor, " n_below"]
    """Row of this level for each row of the level below (for the first level: each image)."""
    shares: Shares
    """How many rows of this level each process has."""

    @property
    def count(self) -> int:
        """Rows of this level, here."""
        return self.shares.sizes[self.shares.process]

    def to(self, device: torch.device) -> LevelBatch:
        """The same on another device."""
        rows = None if self.rows is None else self.rows.to(device)
        groups = None if self.groups is None else self.groups.to(device)
        return replace(self, rows=rows, groups=groups, parent=self.parent.to(device))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images of some patients, and the levels above them from fine to coarse."""

    pixels: UInt8[Tensor, "v n 3 height width"]
    levels: tuple[LevelBatch, ...]
    image_rows: Int[Tensor, " n"]
    """Row of each image in `cohort.images`."""
    shares: Shares
    """How many images each process has."""

    @property
    def lesions(self) -> int:
        """Lesions in the batch, of all processes."""
        return next(level.shares.total for level in self.levels if level.name == "lesion")

    def pin_memory(self) -> Batch:
        """For the DataLoader: pixels where a GPU can fetch them while it works."""
        return replace(self, pixels=self.pixels.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        levels = tuple(level.to(device) for level in self.levels)
        return replace(self, pixels=self.pixels.to(device, non_blocking=True), levels=levels)


class PatientBatches(Dataset[Batch]):
    """Item (epoch, k) is batch k of that epoch, or the share of one process in it.

    An epoch visits each patient once.

    Patients are shuffled and dealt into batches of nearly equal size, at most `config.patients`
    each, so that no epoch ends in a batch of one. Of each patient up to `config.lesions`
    lesions are drawn, and of each lesion up to `config.images_per_lesion` images, anew every
    epoch.

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
        self.pictures = Pictures(cohort)  # not the cohort: its tables need not travel
        self.config = config
        self.image_size = image_size
        self.augment = augment
        self.views = views
        self.process, self.processes = 0, 1
        self.encodings = dict(encodings)
        self.rows = {
            name: encoding.encode(cohort.tables.of_level(name))
            for name, encoding in encodings.items()
        }
        self.groups = {name: rows.equal_groups() for name, rows in self.rows.items()}
        self._lesion_of_image = cohort.lesion_of_image
        self._patient_of_lesion = cohort.patient_of_lesion
        self._patients = len(cohort.patients)
        self._lesions_of = _Children.of(self._patient_of_lesion, len(cohort.patients))
        self._images_of = _Children.of(self._lesion_of_image, len(cohort.lesions))
        self._always = self._lesions_to_include(cohort)
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def of_process(self, process: int, processes: int) -> PatientBatches:
        """The same batches, of which only the share of one process is decoded.

        The patients of a batch are dealt to the processes so that each has about the same number
        of images; where there are few patients, a process may have none.
        """
        mine = copy(self)
        mine.process, mine.processes = process, processes
        return mine

    @property
    def batches_per_epoch(self) -> int:
        """Batches that visit each patient once."""
        return -(-self._patients // self.config.patients)

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        epoch, k = index
        images = self.draw(epoch, k)
        rng = np.random.default_rng((self.config.seed, epoch, k, 1))
        levels, share, shares = self._levels(images, rng)
        images = images[share]
        pixels = self._pixels(epoch, images)
        return Batch(
            pixels=pixels, levels=levels, image_rows=torch.from_numpy(images), shares=shares
        )

    def draw(self, epoch: int, k: int) -> IntArray:
        """(images,) rows of `cohort.images` in batch k, patient by patient, lesion by lesion."""
        patients = np.array_split(self._order(epoch), self.batches_per_epoch)[k]
        rng = np.random.default_rng((self.config.seed, epoch, k))
        drawn = []
        for patient in patients.tolist():
            for lesion in self._draw_lesions(patient, rng).tolist():
                images, most = self._images_of[lesion], self.config.images_per_lesion
                if len(images) > most:
                    images = np.sort(rng.choice(images, size=most, replace=False))
                drawn.append(images)
        return np.concatenate(drawn)

    def _shuffle(self, epoch: int) -> IntArray:
        rng = np.random.default_rng((self.config.seed, epoch))
        return rng.permutation(self._patients)

    def _draw_lesions(self, patient: int, rng: np.random.Generator) -> IntArray:
        lesions = self._lesions_of[patient]
        if len(lesions) <= self.config.lesions:
            return lesions
        # Shuffled lesions with the obligatory ones moved to the front, cut after N.
        shuffled = rng.permutation(lesions)
        front = np.argsort(~self._always[shuffled], kind="stable")
        return np.sort(shuffled[front][: self.config.lesions])

    def _lesions_to_include(self, cohort: Cohort) -> NDArray[np.bool_]:
        label, always = self.config.always_include, np.zeros(len(cohort.lesions), dtype=bool)
        if label is not None:
            if label not in cohort.classes:
                raise CohortError(
                    f"always_include: no image of cohort '{cohort.info.name}' has the label "
                    f"'{label}'; there are: {', '.join(cohort.classes) or 'none'}."
                )
            hit = (cohort.images["label"] == label).to_numpy(dtype=bool)
            always[self._lesion_of_image[hit]] = True
        return always

    def _levels(
        self, images: IntArray, rng: np.random.Generator
    ) -> tuple[tuple[LevelBatch, ...], IntArray, Shares]:
        """The batch's levels: those with metadata, and those needed to group rows below them.

        Also which of `images` are this process's, and how many each process has.
        """
        lesions, lesion_of = _unique(self._lesion_of_image[images])
        patients, patient_of = _unique(self._patient_of_lesion[lesions])
        weights = np.bincount(patient_of[lesion_of]).tolist()
        owner = np.array(deal(weights, self.processes), dtype=np.int64)
        owners = {"patient": owner, "lesion": owner[patient_of]}
        owners["image"] = owners["lesion"][lesion_of]
        everywhere: list[tuple[LevelName, IntArray, IntArray]] = [
            ("image", images, np.arange(len(images))),
            ("lesion", lesions, lesion_of),
            ("patient", patients, patient_of),
        ]
        below = owners["image"]
        levels = []
        for name, index, parent in everywhere if "image" in self.rows else everywhere[1:]:
            levels.append(
                self._level(name, index, parent[below == self.process], owners[name], rng)
            )
            below = owners[name]
        share = np.flatnonzero(owners["image"] == self.process)
        return tuple(levels), share, self._shares(owners["image"])

    def _level(
        self,
        name: LevelName,
        index: IntArray,
        parent: IntArray,
        owner: IntArray,
        rng: np.random.Generator,
    ) -> LevelBatch:
        """Rows are disturbed before they are dealt, so that chance knows nothing of processes."""
        rows, groups = None, None
        mine = np.flatnonzero(owner == self.process)
        if name in self.rows:
            groups = self.groups[name][torch.from_numpy(index[np.argsort(owner, kind="stable")])]
            rows = self.rows[name][torch.from_numpy(index)]
            if self.augment:
                rows = self.encodings[name].disturb(
                    rows,
                    rng,
                    dropout=self.config.feature_dropout,
                    corruption=self.config.feature_corruption,
                )
            rows = rows[torch.from_numpy(mine)]
        return LevelBatch(
            name=name,
            rows=rows,
            groups=groups,
            parent=torch.from_numpy(np.searchsorted(mine, parent)),
            shares=self._shares(owner),
        )

    def _shares(self, owner: IntArray) -> Shares:
        sizes = np.bincount(owner, minlength=self.processes)
        return Shares(tuple(sizes.tolist()), self.process)

    def _pixels(self, epoch: int, images: IntArray) -> UInt8[Tensor, "v n 3 height width"]:
        size = self.image_size
        pixels = torch.empty(self.views, len(images), 3, size, size, dtype=torch.uint8)
        for view in range(self.views):
            for i, row in enumerate(images.tolist()):
                image = self.pictures.read(row, self._decode_side())
                if self.augment or view > 0:  # without, a second view would be the first
                    rng = np.random.default_rng((self.config.seed, epoch, row, view))
                    pixels[view, i] = augment(image, size, self.config, rng)
                else:
                    pixels[view, i] = centre(image, size)
        return pixels

    def _decode_side(self) -> int:
        """Side that a crop of the smallest allowed area needs, so that nothing is upsampled."""
        return round(self.image_size / (self.config.crop_scale**0.5 if self.augment else 1.0))


def epoch_loader(
    dataset: PatientBatches, epochs: range, *, first_batch: int = 0, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """All batches of `epochs` in order, decoded ahead by `config.workers` processes.

    Those end when the generator is closed or used up.

    Args:
        dataset: the batches.
        epochs: which epochs.
        first_batch: batches of the first epoch to leave out, when a run resumes inside it.
        pin_memory: for copies to a GPU that overlap with its work.
    """
    order = [(epoch, k) for epoch in epochs for k in range(dataset.batches_per_epoch)]
    yield from load_ahead(
        dataset,
        order[first_batch:],
        dataset.config.workers,
        pin_memory=pin_memory,
    )


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


def _unique(values: IntArray) -> tuple[IntArray, IntArray]:
    """Distinct values in order of first occurrence, and each value's position among them."""
    distinct, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return distinct[order], rank[inverse]

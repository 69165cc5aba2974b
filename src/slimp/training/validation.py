"""Validation during training, on patients that training never sees."""

from __future__ import annotations

from collections import Counter
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slimp.data.batches import PatientBatches, epoch_loader
from slimp.data.cohort import Cohort
from slimp.data.images import image_batches
from slimp.data.processes import agree, gather_rows, process_and_count, shard
from slimp.errors import CohortError
from slimp.features.knn import knn_balanced_accuracy, recall_at_k, recall_by_chance
from slimp.models.losses import nested_loss
from slimp.models.nested import Autocast, Slimp
from slimp.training.config import PretrainConfig

CHANCE = "chance_"
"""Before the name of a metric: what it is where the order of the metadata is random."""
KNN_IMAGES = 2000
"""Training images, at most, among which the kNN probe looks for neighbours."""


class Validator:
    """Contrastive loss, image -> metadata recall and a kNN probe on validation patients.

    Args:
        train: whose labelled images are the kNN probe's neighbours (at most 2,000 of them).
        validation: patients to validate on; None makes every call return nothing.
        model: its encodings.
        config: batches are as in training, but all alike, without augmentation or dropout of cells.

    Raises:
        CohortError: the validation patients are too few, or do not allow `config.monitor`.
    """

    def __init__(
        self, train: Cohort, validation: Cohort | None, model: Slimp, config: PretrainConfig
    ) -> None:
        self.config = config
        self.validation = validation
        if validation is None:
            return
        self.batches = PatientBatches(
            validation,
            model.encodings_of(validation),
            config,
            image_size=config.image_size,
            augment=False,
            views=config.views,
        )
        self.neighbours = _labelled_sample(train, config.seed)
        self.queries = _labelled_sample(validation, config.seed)
        self.recalls = "lesion" in self.batches.metadata.encodings and config.lesion_weight > 0
        _require_pairs(validation, model, config)
        if config.monitor == "recall_at_5" and not self.recalls:
            raise CohortError("monitor=recall_at_5 needs lesion metadata and a lesion weight.")
        unlabelled = self.neighbours is None or self.queries is None
        if config.monitor == "knn_balanced_accuracy" and unlabelled:
            raise CohortError(
                "monitor=knn_balanced_accuracy needs labels of two classes at least, among the "
                "training and among the validation patients."
            )

    @torch.no_grad()
    def __call__(self, model: Slimp, device: torch.device, autocast: Autocast) -> dict[str, float]:
        """`validation_loss[_LEVEL]`, `[chance_]recall_at_1/5/10` and `knn_balanced_accuracy`.

        Recall is of each lesion's own metadata among those of all lesions drawn, from image to
        metadata; equal metadata count as its own, since nothing tells them apart.
        Several processes encode a shard of the images each, and all come to the same values.
        """
        if self.validation is None:
            return {}
        model.eval()
        metrics = self._contrast(model, device, autocast)
        if self.neighbours is not None and self.queries is not None:
            sides = [
                (self._image_features(model, part, device, autocast), part.images["label"])
                for part in (self.neighbours, self.queries)
            ]
            (near, labels), (asked, truth) = ((x, y.to_numpy(dtype=object)) for x, y in sides)
            metrics["knn_balanced_accuracy"] = knn_balanced_accuracy(near, labels, asked, truth)
        return {name: agree(value, device, on="first") for name, value in metrics.items()}

    def _contrast(self, model: Slimp, device: torch.device, autocast: Autocast) -> dict[str, float]:
        sums: dict[str, float] = {}
        rows: Counter[str] = Counter()  # a level has no loss in a batch of one patient
        found = []
        for batch in epoch_loader(self.batches.of_process(*process_and_count()), range(1)):
            with autocast():
                pairs = model(batch.to(device))
            loss = nested_loss(pairs, self.config.weights)
            for name, value in {"": loss.total, **loss.parts}.items():
                sums[name] = sums.get(name, 0.0) + value.item() * batch.lesions
                rows[name] += batch.lesions
            equal = next((x.groups for x in batch.levels if x.name == "lesion"), None)
            found += [
                (pair.anchor.float(), pair.target.float(), cast("Tensor", equal).to(device))
                for pair in pairs
                if pair.name == "lesion" and self.recalls
            ]
        metrics = {
            "validation_loss" + (f"_{name}" if name else ""): value / rows[name]
            for name, value in sums.items()
        }
        if found:
            anchors, targets, equal = (torch.cat(side) for side in zip(*found, strict=True))
            recall = recall_at_k(anchors, targets, (1, 5, 10), equal)
            metrics |= {f"recall_at_{k}": value for k, value in recall.items()}
            chance = recall_by_chance(equal)
            metrics |= {f"{CHANCE}recall_at_{k}": value for k, value in chance.items()}
        return metrics

    def _image_features(
        self, model: Slimp, cohort: Cohort, device: torch.device, autocast: Autocast
    ) -> Float[Tensor, "n d"]:
        own = shard(len(cohort), *process_and_count())
        chunks = [torch.empty(0, model.image_encoder.embed_dim, device=device)]
        if own.start < own.stop:
            rows = np.arange(len(cohort))
            mine = cohort.select((rows >= own.start) & (rows < own.stop))
            size, workers = self.config.image_size, self.config.workers
            for pixels, _ in image_batches(mine, size, workers=workers):
                with autocast():
                    chunks.append(model.encode_images(pixels.to(device)).float())
        return gather_rows(torch.cat(chunks), len(cohort))


def _require_pairs(validation: Cohort, model: Slimp, config: PretrainConfig) -> None:
    """Raises unless some level with a weight has two rows, of which one is the other's negative."""
    counts: dict[str, int] = {
        name: len(validation.tables.of_level(name)) for name in model.encodings_of(validation)
    }
    counts["view"] = len(validation)
    if not any(count > 1 and config.weights[name] > 0 for name, count in counts.items()):
        raise CohortError(
            f"the validation part has {len(validation.patients)} patient(s) with "
            f"{len(validation)} image(s): too few to contrast. Raise --validation-fraction, or "
            "set it to 0."
        )


def _labelled_sample(cohort: Cohort, seed: int) -> Cohort | None:
    """Up to `KNN_IMAGES` labelled images; None without two classes."""
    if cohort.images["label"].nunique() < 2:
        return None
    rows = np.flatnonzero(cohort.images["label"].notna())
    if len(rows) > KNN_IMAGES:
        rows = np.random.default_rng(seed).choice(rows, size=KNN_IMAGES, replace=False)
    return cohort.select(np.isin(np.arange(len(cohort)), rows))

"""Supervised training from scratch: the same encoders and budget, with labels instead.

Axis names: n = images, k = classes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimp.data.batches import Batch, PatientBatches, epoch_loader
from slimp.data.cohort import Cohort
from slimp.errors import CohortError
from slimp.models.nested import Slimp
from slimp.models.precision import autocast_on, suit_to_device
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.devices import fast_precision, make_fabric
from slimp.training.optimizer import learning_rate, make_optimizer


def train_supervised(train: Cohort, config: PretrainConfig) -> Slimp:
    """A model whose encoders learned the labels of `train`, to be probed like any other.

    Two linear heads are trained together: one on image features, one on image and metadata
    features; the loss is the sum of their class-balanced cross-entropies. Batches, steps,
    augmentation, optimizer and schedule are those of pre-training. Images without a label are
    left out.

    Raises:
        CohortError: fewer than two classes.
    """
    classes = train.classes
    if len(classes) < 2:
        raise CohortError(
            f"cohort '{train.info.name}' has {len(classes)} class(es); supervised training "
            "needs at least 2."
        )
    train = train.select(train.images["label"].notna())
    config = fast_precision(config)
    device = make_fabric(config).device
    torch.manual_seed(config.seed)
    model = build_model(train, config)
    model.requires_grad_(True)
    suit_to_device(model, device, config.precision)
    autocast = autocast_on(device, config.precision)
    classifier = Classifier(model, _codes(train, classes), len(classes)).to(device)
    optimizer = make_optimizer(classifier, config)
    data = PatientBatches(train, model.encodings, config, image_size=config.image_size)
    total = config.epochs * data.batches_per_epoch
    for step, batch in enumerate(epoch_loader(data, range(config.epochs))):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, config)
        with autocast():
            loss = classifier(batch.to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().cpu()


class Classifier(nn.Module):
    """Image head and fusion head on a model's encoders.

    Args:
        model: whose encoders are trained.
        labels: (images,) class of each row of the training cohort.
        classes: number of classes.
    """

    labels: Tensor
    weight: Tensor

    def __init__(self, model: Slimp, labels: Tensor, classes: int) -> None:
        super().__init__()
        self.model = model
        width = model.image_encoder.embed_dim
        self.image_head = nn.Linear(width, classes)
        self.full_head = nn.Linear(width + len(model.levels) * model.config.tabular_width, classes)
        counts = torch.bincount(labels, minlength=classes).clamp(min=1)
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("weight", counts.sum() / (classes * counts), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Sum of both heads' cross-entropies."""
        image = self.model.encode_images(batch.pixels[0])  # (n, d)
        features, row = [image], torch.arange(len(image), device=image.device)
        for level in batch.levels:
            row = level.parent[row]  # (n,) this level's row of each image
            if level.rows is not None and level.name in self.model.levels:
                features.append(self.model.encode_rows(level.name, level.rows)[row])
        labels = self.labels[batch.image_rows.to(image.device)]
        scores = (self.image_head(image), self.full_head(torch.cat(features, dim=-1)))
        return torch.stack([F.cross_entropy(s.float(), labels, self.weight) for s in scores]).sum()


def _codes(cohort: Cohort, classes: tuple[str, ...]) -> Tensor:
    return torch.from_numpy(np.searchsorted(classes, cohort.images["label"].to_numpy(dtype=str)))

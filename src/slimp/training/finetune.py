"""End-to-end fine-tuning: encoders and a linear head learn the labels of training patients.

The loss is the cross-entropy of logits + log class frequency, unweighted (logit adjustment, Menon
et al., arXiv 2007.07314). So the logits alone are those of classes that are equally frequent, and
with the frequencies put back they are those of the cohort.

Axis names: n = images, d = width of the features, k = classes.
"""

from __future__ import annotations

import math
import shutil
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from torch.optim import AdamW

from slimp.data.batches import Batch, PatientBatches, epoch_loader
from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.data.images import Workers, decoding_processes
from slimp.data.schema import LevelName
from slimp.data.signals import deferred_signals
from slimp.features.design import one_hot
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig, encode_table
from slimp.features.feature_sets import FEATURE_SETS, METADATA_KEYS, FeatureSet
from slimp.models.adapt_model import transfer
from slimp.models.nested import Slimp
from slimp.models.persistence import load_tensors, read_tensors, save_tensors
from slimp.models.precision import autocast_on, suit_to_device
from slimp.training.checkpoint import Checkpoints, Progress
from slimp.training.config import FinetuneConfig
from slimp.training.gradient_cache import seed_dropout
from slimp.training.loop import require_finite
from slimp.training.optimizer import learning_rate, make_optimizer
from slimp.training.parts import PATIENTS, Parts
from slimp.training.run_folder import Log, step_bar

Array = np.ndarray[Any, np.dtype[Any]]
CHECKPOINTS, BEST = "checkpoints", "best.safetensors"
"""In a run folder that is being written: to resume from, and the best epoch's weights so far."""
TEMPERATURES = np.geomspace(0.1, 20, 40).tolist()
"""Among which `validate` looks for the best one."""


class Classifier(nn.Module):
    """A model's encoders, and a linear head on their features and the raw table side by side.

    Args:
        model: whose encoders learn.
        features: the feature set.
        levels: those whose metadata the set reads, from fine to coarse.
        classes: the labels, in the order of the logits.
    """

    mean: Tensor
    scale: Tensor
    log_priors: Tensor

    def __init__(
        self,
        model: Slimp,
        features: FeatureSet,
        levels: tuple[LevelName, ...],
        classes: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.model, self.feature_set = model, features
        self.levels, self.classes = levels, classes
        self.table = tuple(model.encodings[level] for level in levels)
        nothing = pd.DataFrame(index=[0])
        self.table_width = sum(one_hot(x, encode_table(x, nothing)).shape[1] for x in self.table)
        width = model.image_encoder.embed_dim + len(levels) * model.config.tabular_width
        width += self.table_width
        self.head = nn.Linear(width, len(classes))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("log_priors", torch.full((len(classes),), -math.log(len(classes))))

    @classmethod
    def of(
        cls, start: Slimp, train: Cohort, features: FeatureSet, classes: tuple[str, ...]
    ) -> Classifier:
        """The encoders of `start` for the metadata of these training images, and a new head.

        Statistics and vocabularies of columns that `start` never read are fitted on `train`, and
        their weights are new; other columns keep theirs.
        """
        found = {x.name: x for x in train.schema.levels if x.features}
        names = [x for x in found if METADATA_KEYS[x] in FEATURE_SETS[features]]
        encodings = {x: Encoding.fit(found[x], train.tables.of_level(x)) for x in names}
        config = replace(start.config, batch_norm="frozen", reconstruction_weight=0.0)
        model = transfer(start, encodings, config, train="full").model.requires_grad_(True)
        model.aligned = ()  # it learns labels
        return cls(model, features, tuple(names), classes)

    @torch.no_grad()
    def begin(self, train: Cohort, workers: Workers) -> None:
        """Takes mean, deviation and class frequencies of the training images, and a head of 0.

        So no block outweighs the others by its scale, and no noise enters the encoders at first.
        The table is only centred, as in the logistic probe.
        """
        features = self.features(train, workers)
        std, mean = features.std(dim=0, correction=0), features.nanmean(dim=0).nan_to_num()
        std[len(std) - self.table_width :] = 1.0
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(std > 1e-6 * mean.abs().clamp(min=1), std, 1.0))
        counts = torch.bincount(self.codes(train), minlength=len(self.classes))
        self.log_priors.copy_((counts / counts.sum()).log())
        self.head.weight.zero_()
        self.head.bias.zero_()

    def forward(self, batch: Batch, hidden: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """Logits of the images of a batch.

        Args:
            batch: on the model's device.
            hidden: what to do without, per image: 0 nothing, 1 all metadata, 2 the image itself.
        """
        images = self.model.encode_images(batch.pixels[0])  # (n, w)
        # The mean and the table are not rounded to bf16: embeddings alone are.
        features = [torch.where((hidden == 2)[:, None], self.mean[: images.shape[1]], images)]
        table = []
        for level in batch.levels:
            if level.rows is None or level.name not in self.levels:
                continue
            # Below the rows of the level one without any cell, which the images of 1 take.
            rows = level.rows.with_empty()
            own = torch.where(hidden == 1, len(rows) - 1, batch.owners(level.name))
            features.append(self.model.encode_rows(level.name, rows)[own])  # (n, h)
            table.append(one_hot(self.model.encodings[level.name], rows)[own])
        return self.logits(torch.cat([*features, *table], dim=-1).float())

    def logits(self, features: Float32[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Of classes that are equally frequent; a missing cell of the table counts as the mean."""
        z = (features - self.mean) / self.scale
        embedded, table = z.tensor_split([z.shape[1] - self.table_width], dim=1)
        return cast("Tensor", self.head(torch.cat([embedded, table.nan_to_num()], dim=1)))

    def features(self, cohort: Cohort, workers: Workers) -> Float32[Tensor, "n d"]:
        """The features of every image of a cohort, as they are now."""
        device = self.mean.device
        how = InferenceConfig(device=device, workers=decoding_processes(workers))
        design = embed(self.model, cohort, how, lacking="missing").design(self.feature_set)
        hot = [
            one_hot(x, rows) for x, rows in zip(self.table, design.encode(self.table), strict=True)
        ]
        columns = np.hstack([*design.blocks.values(), *hot]).astype(np.float32)
        return torch.from_numpy(columns).to(device)

    def codes(self, cohort: Cohort) -> Int[Tensor, " n"]:
        """Position of each image's label among the classes."""
        codes = pd.Index(self.classes).get_indexer(pd.Index(cohort.images["label"]))
        return torch.from_numpy(codes.astype(np.int64)).to(self.mean.device)


def finetune(
    classifier: Classifier, parts: Parts, config: FinetuneConfig, out: Path, *, device: torch.device
) -> None:
    """Trains a classifier, which then has the weights of its best epoch.

    Best is the least log-loss on the validation patients, see `validate`. Continues from the last
    checkpoint in `out`, where there is one; `clear` removes what that takes.

    Args:
        classifier: learns in place; its head begins anew.
        parts: patients to learn from, and to choose the epoch by; held-out ones are only noted.
        config: settings, with a number format chosen.
        out: run folder; gets `patients.parquet` and the log.
        device: to train on; the classifier stays there.

    Raises:
        UserError: `out` holds a run of other patients, or the loss became infinite.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    parts.save(out / PATIENTS)
    model, train, validation = classifier.model, parts.train, parts.validation
    assert validation is not None
    encodings = {level: model.encodings[level] for level in classifier.levels}
    data = PatientBatches(train, encodings, config, image_size=model.image_spec.size)
    suit_to_device(classifier.to(device), device, config.precision)
    optimizer = make_optimizer(classifier, config)
    checkpoints = Checkpoints(out / CHECKPOINTS, keep=1)
    progress = checkpoints.load_last(classifier, optimizer)
    if progress is None:
        progress = Progress()
        classifier.begin(train, config.workers)
    labels, per_epoch = classifier.codes(train), data.batches_per_epoch
    total = config.epochs * per_epoch
    first, begun = divmod(progress.step, per_epoch)
    epochs = range(0 if progress.stopped else config.epochs)[first:]
    loader = epoch_loader(data, epochs, first_batch=begun, pin_memory=device.type == "cuda")
    began, lesions = time.perf_counter(), 0
    with (
        checkpoints,
        Log(out, config, progress) as log,
        step_bar(total) as bar,
        deferred_signals() as stop,
        closing(loader),
    ):
        for batch in loader:
            rate = learning_rate(progress.step, total, config)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            truth = labels[batch.image_rows.to(device)]
            loss = learn(classifier, batch.to(device), truth, optimizer, config, progress.step)

            progress.step += 1
            lesions += batch.lesions
            pace = lesions / (time.perf_counter() - began)
            log.write("step", progress, loss=loss, learning_rate=rate, lesions_per_second=pace)
            bar(progress.step, loss, pace)
            epoch_ends = progress.step % per_epoch == 0
            if epoch_ends:
                progress.epoch += 1
                metrics = validate(classifier, validation, config.workers)
                log.write("epoch", progress, **metrics)
                value = metrics["validation_loss"]
                if progress.improves(value, lower=True, patience=config.patience):
                    save_tensors(out / BEST, classifier.state_dict())
            if epoch_ends or stop.wanted:
                progress.log_bytes = log.length
                checkpoints.save(classifier, optimizer, progress)
            if stop.wanted and progress.step < total:
                raise KeyboardInterrupt
            if progress.stopped:
                break
    load_tensors(classifier, read_tensors(out / BEST), out / BEST)
    classifier.eval()


def learn(
    classifier: Classifier,
    batch: Batch,
    truth: Int[Tensor, " n"],
    optimizer: AdamW,
    config: FinetuneConfig,
    step: int,
) -> float:
    """One step of the optimizer; its loss.

    Raises:
        UserError: the loss or the gradient is not a number; the weights are as they were.
    """
    classifier.train()
    seed_dropout((config.seed, step))
    with autocast_on(truth.device, config.precision)():
        logits = classifier(batch, draw_hidden(classifier, len(truth), config, step).to(truth))
    loss = F.cross_entropy(logits.float() + classifier.log_priors, truth)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(classifier.parameters(), config.clip_norm or math.inf)
    require_finite(loss.item(), norm.item(), step)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def draw_hidden(
    classifier: Classifier, images: int, config: FinetuneConfig, step: int
) -> Int[Tensor, " n"]:
    """What each image of a step does without, as `Classifier.forward` takes it."""
    chance = np.random.default_rng((config.seed, step, 2)).random(images)
    half = config.modality_dropout / 2 if classifier.levels else 0.0
    return torch.from_numpy((chance < 2 * half).astype(np.int64) + (chance < half))


@torch.no_grad()
def validate(classifier: Classifier, cohort: Cohort, workers: Workers) -> dict[str, float]:
    """Log-loss and balanced accuracy, every class that occurs weighing the same.

    The log-loss is that at the best temperature: as training goes on, logits grow and the plain one
    with them, long before decisions become worse.
    """
    truth = classifier.codes(cohort)
    logits = classifier.logits(classifier.features(cohort, workers))
    weight = 1 / torch.bincount(truth, minlength=len(classifier.classes)).clamp(min=1)
    losses = [F.cross_entropy(logits / t, truth, weight).item() for t in TEMPERATURES]
    right = (logits.argmax(dim=1) == truth) * weight[truth]
    return {
        "validation_loss": min(losses),
        "validation_balanced_accuracy": (right.sum() / weight[truth].sum()).item(),
    }


def clear(out: Path) -> None:
    """Removes what only an unfinished training needs."""
    (out / BEST).unlink(missing_ok=True)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)

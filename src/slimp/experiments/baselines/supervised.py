"""Supervised: the labels in the place of the metadata's contrast.

Axis names: n = images, d = width of the image embeddings, h = of the metadata's, k = classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from slimp.data.batches import Batch
from slimp.data.cohort import Cohort
from slimp.data.encoding import Rows
from slimp.data.processes import gather_rows
from slimp.data.schema import LevelName
from slimp.errors import CohortError
from slimp.experiments.baselines import learn
from slimp.models.config import ModelConfig
from slimp.models.losses import NestedLoss
from slimp.models.match_features import Encodings
from slimp.models.nested import Slimp
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig


def train(cohort: Cohort, config: PretrainConfig, folder: Path, *, table: bool = False) -> Slimp:
    """A model whose encoders learned the labels; images without one are left out.

    With a `table` from images and metadata together, by a linear head on their embeddings side by
    side. Such late fusion is what TFormer (Comput. Biol. Med. 157, 2023) and its like end in;
    before that, they also attend between the two.

    Raises:
        CohortError: fewer than two classes.
    """
    classes = cohort.classes
    if len(classes) < 2:
        raise CohortError(
            f"cohort '{cohort.info.name}' has {len(classes)} class(es); supervised training "
            "needs at least 2."
        )

    def build(train: Cohort, config: PretrainConfig) -> Slimp:
        codes = pd.Index(classes).get_indexer(pd.Index(train.images["label"]))
        return build_model(
            train, config, partial(Classifier, labels=torch.from_numpy(codes).long(), table=table)
        )

    labelled = cohort.select(cohort.images["label"].notna())
    return learn(labelled, config, folder, build, trainer="supervised", labels=True, table=table)


class Classifier(Slimp):
    """A model's encoders under a linear head, which reads the metadata too if there is a `table`.

    `labels`: the class of each row of the training cohort's images.
    """

    labels: Tensor
    balance: Tensor

    def __init__(
        self,
        config: ModelConfig,
        encodings: Encodings,
        *,
        labels: Int[Tensor, " _"],
        table: bool,
        pretrained: bool = False,
    ) -> None:
        super().__init__(config, encodings, pretrained=pretrained)
        self.table = table
        self.levels.requires_grad_(table)
        width = self.image_encoder.embed_dim
        width += len(self.levels) * config.tabular_width if table else 0
        counts = torch.bincount(labels)
        self.training_only = nn.Linear(width, len(counts))
        self.register_buffer("labels", labels, persistent=False)
        balance = len(labels) / (len(counts) * counts.clamp(min=1))  # (k,)
        self.register_buffer("balance", balance, persistent=False)

    def inputs(self, batch: Batch) -> dict[LevelName, Rows]:
        """All metadata, or none."""
        rows = {x.name: x.rows for x in batch.levels if x.rows is not None and self.table}
        return {name: found for name, found in rows.items() if name in self.levels}

    def objective(
        self,
        images: Float[Tensor, "_ d"],
        metadata: Mapping[LevelName, Float[Tensor, "_ h"]],
        batch: Batch,
    ) -> NestedLoss:
        """Cross-entropy of each image's label, every class weighing the same in the cohort."""
        first = images.tensor_split(len(batch.pixels))[0]
        features = [gather_rows(first, len(batch.image_rows)).float()]  # (n, d)
        for name, embeddings in metadata.items():
            features.append(embeddings[batch.owners(name)].float())  # (n, h)
        logits = self.training_only(torch.cat(features, dim=-1)).float()  # (n, k)
        labels = self.labels[batch.image_rows.to(images.device)]
        loss = F.cross_entropy(logits, labels, self.balance)
        return NestedLoss(total=loss, parts={"label": loss})

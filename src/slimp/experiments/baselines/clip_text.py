"""CLIP: each lesion's metadata, its patient's among them, written out as a sentence.

Radford et al., arXiv 2103.00020, with a small text Transformer and its own vocabulary, both trained
here: the same loss, images and metadata as the flat arm, only read as words. `contrast=sigmoid` in
the configuration makes it SigLIP. Differs: the text Transformer is bidirectional, and the sentence
is what its CLS token becomes (CLIP's is causal, with byte pairs as words).

Axis names: n = rows, w = words of the longest sentence, h = width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding, FittedFeature, Rows
from slimp.data.schema import LevelName
from slimp.experiments.baselines import learn
from slimp.models.config import ModelConfig
from slimp.models.ft_transformer import PreNormEncoder
from slimp.models.match_features import Encodings
from slimp.models.nested import Slimp
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig

WORD = re.compile(r"[^\W\d_]+|\d|[^\w\s]")
"""Letters are read together, digits one by one, signs one by one."""
NUMBERS = "0 1 2 3 4 5 6 7 8 9 . - + e , yes no"
PADDING, UNKNOWN = 0, 1


def train(cohort: Cohort, config: PretrainConfig, folder: Path, *, depth: int = 2) -> Slimp:
    """A model whose image encoder learned to tell which sentence belongs to an image.

    It is flat, whatever `config` says. The text Transformer has `depth` layers, as wide as the
    tabular encoders would be.
    """
    flat = replace(config, hierarchy="flat", lesion_weight=1.0, patient_weight=0.0)
    build = partial(build_model, kind=partial(TextContrast, depth=depth))
    return learn(cohort, flat, folder, build, trainer="clip_text", labels=False, depth=depth)


class TextContrast(Slimp):
    """A flat model that reads metadata as text; its tabular encoder is never used."""

    def __init__(
        self, config: ModelConfig, encodings: Encodings, *, depth: int, pretrained: bool = False
    ) -> None:
        super().__init__(config, encodings, pretrained=pretrained)
        self.training_only = nn.ModuleDict(
            {
                name: TextEncoder(
                    encoding, width=config.tabular_width, depth=depth, heads=config.tabular_heads
                )
                for name, encoding in self.encodings.items()
            }
        )

    def encode_rows(self, level: LevelName, rows: Rows) -> Float[Tensor, "n h"]:
        """Embeddings of the rows' sentences."""
        texts = cast("Mapping[str, nn.Module]", self.training_only)
        return cast("Tensor", texts[level](rows))


class TextEncoder(nn.Module):
    """Rows -> sentences -> words -> one vector each.

    Names, units and categories of the encoding, fitted on training patients, are the vocabulary.
    """

    def __init__(self, encoding: Encoding, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.encoding = encoding
        features = encoding.features
        words = [NUMBERS, *(" ".join((f.name, f.unit or "", *f.columns)) for f in features)]
        words += [category for f in features for category in f.categories]
        known = sorted({word for text in words for word in words_of(text)})
        self.vocabulary = {word: number for number, word in enumerate(known, UNKNOWN + 1)}
        self.words = nn.Embedding(len(known) + 2, width, padding_idx=PADDING)
        self.positions = nn.Embedding(sum(map(_longest, features)), width)
        nn.init.normal_(self.positions.weight, std=0.1)
        self.encoder = PreNormEncoder(width=width, depth=depth, heads=heads, dropout=0.0)

    def forward(self, rows: Rows) -> Float[Tensor, "n h"]:
        """The CLS tokens."""
        coded = [
            [self.vocabulary.get(word, UNKNOWN) for word in words_of(text)]
            for text in sentences(self.encoding, rows)
        ]
        longest = max(map(len, coded), default=0)
        padded = [[*words, *[PADDING] * (longest - len(words))] for words in coded]
        words = torch.tensor(padded, dtype=torch.long).reshape(len(rows), longest)  # (n, w)
        words = words.to(self.words.weight.device)
        x = self.words(words) + self.positions.weight[: words.shape[1]]  # (n, w, h)
        return cast("Tensor", self.encoder(x, words == PADDING))


def sentences(encoding: Encoding, rows: Rows) -> list[str]:
    """The known cells of each row in words, such as "age 55 years, sex male, itch yes"."""
    columns = list(zip(*(_phrases(*cell, rows) for cell in encoding.cells()), strict=True))
    known = rows.present.tolist()
    return [
        ", ".join(phrase for phrase, here in zip(cells, present, strict=True) if here)
        for cells, present in zip(columns, known, strict=True)
    ]


def _phrases(feature: FittedFeature, columns: slice, rows: Rows) -> Iterator[str]:
    """A cell per row; of missing cells, any."""
    unit = f" {feature.unit}" if feature.unit else ""
    for cell in getattr(rows, feature.kind)[:, columns].tolist():
        if feature.kind == "continuous":
            yield f"{feature.name} {feature.mean + feature.std * cell[0]:.3g}{unit}"
        elif feature.kind == "categorical":
            yield f"{feature.name} {feature.categories[cell[0] - 1] if cell[0] else ''}"
        else:
            ticks = zip(feature.columns, cell, strict=True)
            yield ", ".join(f"{name} {'yes' if tick else 'no'}" for name, tick in ticks)


def _longest(feature: FittedFeature) -> int:
    """Words of the feature's longest phrase, and the comma after it."""
    if feature.kind == "checkbox":
        return sum(len(words_of(column)) + 2 for column in feature.columns)
    value = max((len(words_of(x)) for x in feature.categories), default=len("-1.23e+05"))
    return len(words_of(f"{feature.name} {feature.unit or ''}")) + value + 1


def words_of(text: str) -> tuple[str, ...]:
    """The text's words, without capitals."""
    return tuple(WORD.findall(text.lower()))

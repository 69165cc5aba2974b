"""Frozen: a published image encoder as it is, of ImageNet or of skin images."""

from __future__ import annotations

from pathlib import Path

from slimp.data.cohort import Cohort
from slimp.models.known_weights import PREFIX
from slimp.models.nested import Slimp
from slimp.training.config import PretrainConfig
from slimp.training.weights_run import as_run


def train(cohort: Cohort, config: PretrainConfig, folder: Path, *, weights: str) -> Slimp:
    """The encoder of `weights`; nothing is trained, and the other arguments are not read.

    `weights` is a name in `slimp weights list`, or a file of `slimp weights convert`; `NAME@128`
    takes images of 128 px instead of the size that the weights were trained on. Encoders of skin
    images may have learned from a public cohort, its test patients among them.

    Raises:
        UserError: the weights are not on this machine.
    """
    return Slimp.from_pretrained(as_run(PREFIX + weights))

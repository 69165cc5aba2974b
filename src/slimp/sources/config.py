"""What an import and an export may be told; imports nothing heavy, since flags are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slimp.data.config import Settings, require_positive
from slimp.errors import UserError

SHORTER_SIDE = 320
"""To which larger images are downsized unless another size is asked for, px."""
Format = Literal["webdataset", "hf"]
"""Of an export."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Settings):
    """What an import does with images, and how many absent or corrupt ones it accepts."""

    shorter_side: int = SHORTER_SIDE
    """Larger images are downsized until their shorter side has this length, px; 0 keeps them."""
    max_corrupt: float = 0.01
    """Share of the images found that may be corrupt (they are dropped); more fails the import."""
    max_absent: float = 1.0
    """Share of the rows that may lack their image (they are dropped); more fails the import."""
    missing_patient_id: Literal["refuse", "one-each"] = "refuse"
    """Rows without a patient id (blank, nan, unknown, ...): refused, because two of them may be of
    one patient and fall into two parts; one-each: each such lesion is a patient of its own."""

    def _check(self) -> None:
        if self.shorter_side < 0:
            raise UserError(f"shorter_side must be 0 or more, got {self.shorter_side}.")
        for name in ("max_corrupt", "max_absent"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be from 0 to 1, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Settings):
    """How an export is cut, and what goes with the images."""

    shard_mib: int = 256
    """A shard is closed before its images exceed this, MiB; a patient is never cut in two."""
    published: Literal["licence", "all"] = "licence"
    """Of the published columns that are no metadata, those that go along: licence: just those
    on licence, copyright and attribution; all: every one, be it a diagnosis or a name."""
    ignore_splits: bool = False
    """Mix the official splits in the shards; each sample still says which it is of."""

    def _check(self) -> None:
        require_positive(self, "shard_mib")

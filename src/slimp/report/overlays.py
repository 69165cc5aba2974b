"""A picture per predicted image: what the log-odds of its predicted class rest on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from slimp.explain.maps import default_methods, relevance, upsampled
from slimp.explain.targets import LogOdds
from slimp.features.encode import evaluating
from slimp.prediction.inputs import read_pixels
from slimp.prediction.predictor import Predictor
from slimp.prediction.result import Prediction
from slimp.report.explanation import overlay

SIDE = 256
"""Of a picture, px, at least."""
BATCH = 32
TABLE = "overlays.csv"


def require_map(predictor: Predictor) -> None:
    """Refuses probes of which no map of one image can be drawn; see `LogOdds.of`."""
    LogOdds.of(predictor.probe, predictor.probe.classes[0])


def write_overlays(
    folder: Path, predictor: Predictor, predictions: Sequence[Prediction]
) -> pd.DataFrame:
    """Writes a PNG per predicted image, and `overlays.csv`: `image decision method file`.

    The first default method of the encoder, over the square of the image that the encoder sees, as
    it stands: of a probe made with test-time augmentation, not the mean over turns.
    """
    encoder, device = predictor.model.image_encoder, predictor.device
    method, size = default_methods(encoder)[0], predictor.model.image_spec.size
    shown = [one for one in predictions if one.decision is not None]
    files, rows = _names(shown), list[list[str]]()
    with evaluating(predictor.model, device):
        for first in range(0, len(shown), BATCH):
            some = shown[first : first + BATCH]
            target = LogOdds.of(predictor.probe, [str(one.decision) for one in some])
            pixels = torch.stack([_square(one, size) for one in some]).to(device)
            side = max(size, SIDE)
            maps = upsampled(relevance(encoder, pixels, target, method), side).cpu().numpy()
            for one, drawn in zip(some, maps, strict=True):
                picture = Image.fromarray(_square(one, side).permute(1, 2, 0).numpy())
                overlay(picture, drawn).save(folder / files[len(rows)])
                rows.append([one.image, str(one.decision), method, files[len(rows)]])
    table = pd.DataFrame(rows, columns=["image", "decision", "method", "file"])
    table.to_csv(folder / TABLE, index=False)
    return table


def _square(one: Prediction, size: int) -> Tensor:
    found = read_pixels(Path(one.image), size)
    assert isinstance(found, Tensor)  # it was predicted
    return found


def _names(shown: Sequence[Prediction]) -> list[str]:
    """A file name per image; all are numbered where two would share theirs on some system."""
    stems = [Path(one.image).stem for one in shown]
    if len({stem.casefold() for stem in stems}) == len(stems):
        return [f"{stem}.png" for stem in stems]
    return [f"{k + 1}-{stem}.png" for k, stem in enumerate(stems)]

"""The shortest script that contrasts images with their table: what the product must at least reach.

No recursion, no batching by patient, no loop of `slimp`: one ImageNet network, one perceptron for
the one-hot table, symmetric InfoNCE with equal rows as shared positives. An arm of `recipe.py`.
"""

from __future__ import annotations

import io
import math

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from slimp.data.cohort import Cohort
from slimp.models.published_weights import file_of

EPOCHS, BATCH, TEMPERATURE, SIDE = 10, 64, 0.1, 128
ENCODER_RATE, RATE, DECAY, WARMUP = 3e-4, 1e-3, 0.05, 0.1


def plain_contrast(
    cohort: Cohort, table: NDArray[np.float64], train: NDArray[np.int64], seed: int
) -> NDArray[np.float32]:
    """Image features of every image (n, d), learned from the rows `train` of the one-hot table."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    encoder.load_state_dict(load_file(file_of("efficientnet-lite0")), strict=False)
    encoder = encoder.to(memory_format=torch.channels_last).eval()  # keeps batch-norm statistics
    project = nn.Sequential(nn.Linear(1280, 256), nn.ReLU(), nn.Linear(256, 128))
    rows = nn.Sequential(
        nn.Dropout(0.2), nn.Linear(table.shape[1], 256), nn.ReLU(), nn.Linear(256, 128)
    )
    groups = np.unique(table, axis=0, return_inverse=True)[1].ravel()
    settings = [
        {"params": encoder.parameters(), "lr": ENCODER_RATE},
        {"params": [*project.parameters(), *rows.parameters()], "lr": RATE},
    ]
    optimizer = torch.optim.AdamW(settings, weight_decay=DECAY)
    steps = EPOCHS * (len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda t: min((t + 1) / (WARMUP * steps), 0.5 + 0.5 * math.cos(math.pi * t / steps)),
    )
    pictures = [Image.open(io.BytesIO(cohort.read_image(i))) for i in range(len(cohort))]
    pictures = [picture.convert("RGB") for picture in pictures]
    for _ in range(EPOCHS):
        order = rng.permutation(train)
        for batch in order[: len(train) // BATCH * BATCH].reshape(-1, BATCH):
            images = torch.stack([augment(pictures[i], rng) for i in batch])
            a = F.normalize(project(encoder(scaled(images))), dim=1)
            b = F.normalize(rows(torch.from_numpy(table[batch]).float()), dim=1)
            same = torch.from_numpy(groups[batch][:, None] == groups[batch]).float()
            same, logits = same / same.sum(dim=1, keepdim=True), a @ b.T / TEMPERATURE
            loss = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        whole = [pixels(square(picture)) for picture in pictures]
        found = [encoder(scaled(torch.stack(whole[i : i + 64]))) for i in range(0, len(whole), 64)]
    return torch.cat(found).numpy()


def augment(picture: Image.Image, rng: np.random.Generator) -> Tensor:
    """A crop of 0.5 to 1 of the area, turned by any angle, mirrored, recoloured by up to 30 %."""
    side = int(min(picture.size) * rng.uniform(0.5, 1) ** 0.5)
    left, top = (int(rng.integers(0, full - side + 1)) for full in picture.size)
    turned = picture.rotate(rng.uniform(0, 360), center=(left + side / 2, top + side / 2))
    out = square(turned.crop((left, top, left + side, top + side)))
    if rng.random() < 0.5:
        out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gain = rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
    return (pixels(out) * torch.from_numpy(gain).float()[:, None, None]).clamp(0, 255)


def square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.resize((SIDE, SIDE), box=(left, top, left + side, top + side))


def pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32).transpose(2, 0, 1).copy())


def scaled(images: Tensor) -> Tensor:
    return (images / 127.5 - 1).contiguous(memory_format=torch.channels_last)

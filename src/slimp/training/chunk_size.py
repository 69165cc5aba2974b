"""How many images fit on the device at once: activations per row and free memory, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from slimp.data.encoding import Rows
from slimp.data.schema import LevelName
from slimp.models.nested import Autocast, Slimp
from slimp.training.memory import CPU_FRACTION, free_main_memory

GPU_FRACTION = 0.5
"""Fraction of a GPU's free memory for activations; the rest is for gradients, optimizer state and
temporary tensors."""
ROUND = 8
PROBE = (16, 32)
"""Rows whose activations are counted; the difference leaves out what does not grow with rows."""


def rows_that_fit(
    model: Slimp,
    rows: Mapping[LevelName, Rows],
    device: torch.device,
    autocast: Autocast,
    *,
    sharing: int = 1,
) -> int:
    """Rows of every encoder that can be embedded with graph at once on `device`.

    Args:
        model: on the device, in training mode.
        rows: some metadata of each level.
        device: whose free memory counts.
        autocast: number format of the encoders.
        sharing: processes among which the memory of a CPU is shared.
    """
    size = model.image_spec.size
    pixels = torch.zeros(PROBE[-1], 3, size, size, dtype=torch.uint8, device=device)
    images = deepcopy(model.image_encoder).requires_grad_(True)  # frozen, it would keep nothing
    encoders: list[Callable[[int], Tensor]] = [lambda n: images(pixels[:n])]
    for name, found in rows.items():
        first = found[torch.zeros(1, dtype=torch.long)].to(device)
        encoders.append(partial(_embed_repeated, model, name, first))
    bytes_per_row = 0.0
    for embed in encoders:
        with autocast(), torch.enable_grad():
            few, more = (saved_bytes(partial(embed, n), model) for n in PROBE)
        bytes_per_row += (more - few) / (PROBE[1] - PROBE[0])
    fraction = CPU_FRACTION / sharing if device.type == "cpu" else GPU_FRACTION
    fit = int(fraction * free_bytes(device) / max(bytes_per_row, 1))
    return max(1, fit // ROUND * ROUND)


def _embed_repeated(model: Slimp, level: LevelName, row: Rows, n: int) -> Tensor:
    return model.encode_rows(level, row[torch.zeros(n, dtype=torch.long)])


def saved_bytes(forward: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes that `forward` keeps for its backward pass, without the weights."""
    # By the storage's own address: its data have none on the device `meta`.
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is reused

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def free_bytes(device: torch.device) -> int:
    """Memory that this process can still allocate on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return free_main_memory()

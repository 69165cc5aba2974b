"""Several processes as one: each encodes a shard of the images, all compute the rest.

Every process draws the same batch and encodes a shard of its images. The embeddings are gathered
with gradient, and the recursion and the loss follow on the whole batch in every process, as
open_clip does by default: both are light beside the image encoder. So only the image encoder's
gradients have to be summed. Without a process group everything here is the identity.

Axis names: n = rows of this process, m = rows of all processes, d = width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


def process_and_count() -> tuple[int, int]:
    """(number of this process, number of processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def shard(rows: int, process: int, processes: int) -> slice:
    """The rows of one process: contiguous, of nearly equal number.

    Example:
        >>> [shard(5, process, 2) for process in range(2)]
        [slice(0, 2, None), slice(2, 5, None)]
    """
    return slice(rows * process // processes, rows * (process + 1) // processes)


def gather_rows(x: Float[Tensor, "n d"], rows: int) -> Float[Tensor, "m d"]:
    """The `rows` of all processes' shards in order, with gradient to those of this process.

    Every process must go on to compute the same loss from them: then the gradient of its own rows
    is complete, and no gradient has to be exchanged here.
    """
    if process_and_count()[1] == 1:
        return x
    gathered: Tensor = _GatherRows.apply(x, rows)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int) -> Tensor:
        process, processes = process_and_count()
        shards = [shard(rows, other, processes) for other in range(processes)]
        ctx.own = shards[process]
        # Collectives want equal sizes: pad to the largest shard.
        padded = x.new_zeros(-(-rows // processes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in shards]
        dist.all_gather(parts, padded)
        sizes = [part.stop - part.start for part in shards]
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.own], None


@torch.no_grad()
def exchange_gradients(sharded: Iterable[nn.Parameter], replicated: Iterable[nn.Parameter]) -> None:
    """Sums over processes the gradients of parameters that saw a shard each.

    Those of parameters that saw the whole batch in every process are equal already, up to the
    order in which a GPU adds; their mean keeps the processes' weights identical bit by bit. A
    parameter that took part nowhere keeps no gradient, so that the optimizer leaves it alone.
    """
    _, processes = process_and_count()
    if processes == 1:
        return
    sharded = [parameter for parameter in sharded if parameter.requires_grad]
    replicated = [parameter for parameter in replicated if parameter.requires_grad]
    for parameter in replicated:
        if parameter.grad is not None:
            parameter.grad /= processes
    parameters = [*sharded, *replicated]
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
    used = used.to(parameters[0].device)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    gradients = []
    for parameter, took_part in zip(parameters, used.tolist(), strict=True):
        if took_part:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])  # one message
    dist.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def agree(
    value: float, device: torch.device, *, on: Literal["least", "most", "first"] = "least"
) -> float:
    """One value for all processes: the `least`, the `most`, or that of the `first` process."""
    if process_and_count()[1] == 1:
        return value
    exchanged = torch.tensor([value], dtype=torch.float64, device=device)
    if on == "first":
        dist.broadcast(exchanged, src=0)
    else:
        dist.all_reduce(exchanged, dist.ReduceOp.MIN if on == "least" else dist.ReduceOp.MAX)
    return float(exchanged.item())

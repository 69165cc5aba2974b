"""Several processes as one: whose rows are whose, rows gathered with gradient, gradients summed.

Axis names: n = rows of this process, m = rows of all processes, d = width.

Every process knows the sizes of all the others' parts, because each deals the whole batch for
itself; so nothing has to be asked before rows are gathered. Without a process group everything
here is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Shares:
    """How many rows of a level each process has, and which process this is.

    Example:
        >>> Shares((3, 2), process=1).first
        3
    """

    sizes: tuple[int, ...]
    process: int = 0

    @property
    def total(self) -> int:
        """Rows of all processes."""
        return sum(self.sizes)

    @property
    def first(self) -> int:
        """Position of this process's first row among the gathered ones."""
        return sum(self.sizes[: self.process])

    @property
    def mine(self) -> slice:
        """This process's rows among the gathered ones."""
        return slice(self.first, self.first + self.sizes[self.process])


def process_and_count() -> tuple[int, int]:
    """(number of this process, number of processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(x: Float[Tensor, "n d"], shares: Shares) -> Float[Tensor, "m d"]:
    """The rows of all processes in order of process, with gradient to where each came from.

    The gradient of a row is the sum of what all processes' losses say about it. Plain gathering
    loses the others' share, and the training goes on, quietly, to a worse model.
    """
    if len(shares.sizes) == 1:
        return x
    rows: Tensor = _GatherRows.apply(x, shares)
    return rows


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Shares) -> Tensor:
        ctx.shares = shares
        # Collectives want equal sizes: pad to the largest part.
        padded = x.new_zeros(max(shares.sizes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in shares.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, shares.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.shares.mine], None


def summed(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The sum over all processes."""
    if process_and_count()[1] == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Each gradient becomes its sum over all processes, in one exchange.

    A parameter that took part nowhere keeps no gradient, so that the optimizer leaves it alone.
    """
    if process_and_count()[1] == 1:
        return
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    device = learned[0].device
    took_part = torch.tensor([p.grad is not None for p in learned], dtype=torch.int32).to(device)
    dist.all_reduce(took_part, dist.ReduceOp.MAX)
    learned = [p for p, used in zip(learned, took_part.tolist(), strict=True) if used]
    for parameter in learned:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for gradients in _by_type([p.grad for p in learned if p.grad is not None]):
        flat = torch.cat([gradient.flatten() for gradient in gradients])
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


def deal(weights: Sequence[int], count: int) -> list[int]:
    """The process of each item, so that the processes' sums of weights are nearly equal.

    Heaviest first, each to the process with least so far; ties go to the lowest number, so
    every process deals alike.

    Example:
        >>> deal([5, 1, 3, 3], 2)
        [0, 0, 1, 1]
    """
    loads = [0] * count
    owner = [0] * len(weights)
    for item in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        owner[item] = loads.index(min(loads))
        loads[owner[item]] += weights[item]
    return owner


def _by_type(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        kinds.setdefault(gradient.dtype, []).append(gradient)
    return list(kinds.values())

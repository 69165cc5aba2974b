"""Contrastive losses. Axis names: n = rows, d = width of the space of similarities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from slimp.errors import UserError
from slimp.models.embeddings import Embeddings


def info_nce(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    *,
    temperature: float | Float[Tensor, ""] = 0.07,
    groups: Int[Tensor, " n"] | None = None,
    symmetric: bool = True,
) -> Float[Tensor, ""]:
    """Cross-entropy of picking each row's own partner among all rows of the other side.

    Row i of `a` and row i of `b` are a positive pair; all other rows are negatives. Both sides
    are L2-normalised here, in 32 bits at least, so callers pass raw projections. As in CLIP
    (arXiv 2103.00020, fig. 3); with `groups` as in supervised contrastive learning (arXiv
    2004.11362, eq. 2): mean over the positives outside the logarithm.

    Args:
        a: one side, such as projected image features.
        b: the other side, such as projected metadata.
        temperature: divisor of the cosine similarities; dimensionless, in (0, inf).
        groups: rows of equal number are positives of one another.
        symmetric: mean of both directions; else only from `a` to `b`.

    Raises:
        UserError: the temperature is not positive, or there is only one row.

    Example:
        >>> rows = torch.eye(4)
        >>> print(f"{info_nce(rows, rows, temperature=1.0):.3f}")
        0.744
    """
    if isinstance(temperature, float | int) and temperature <= 0:
        raise UserError(f"temperature must be positive, got {temperature}.")
    if len(a) < 2:
        raise UserError("info_nce needs at least 2 rows: with 1 there is no negative.")
    with torch.autocast(device_type=a.device.type, enabled=False):
        wide = torch.promote_types(a.dtype, torch.float32)
        a, b = F.normalize(a.to(wide), dim=-1), F.normalize(b.to(wide), dim=-1)
        logits = a @ b.T / temperature  # (n, n)
        loss = _pick_positives(logits, groups)
        return (loss + _pick_positives(logits.T, groups)) / 2 if symmetric else loss


def _pick_positives(
    logits: Float[Tensor, "n n"], groups: Int[Tensor, " n"] | None
) -> Float[Tensor, ""]:
    if groups is None:
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
    positive = groups[:, None] == groups[None, :]  # (n, n)
    log_share = F.log_softmax(logits, dim=-1)
    mean_of_positives = log_share.masked_fill(~positive, 0.0).sum(-1) / positive.sum(-1)  # (n,)
    return -mean_of_positives.mean()


@dataclass(frozen=True, kw_only=True)
class NestedLoss:
    """The weighted sum, and the unweighted loss of each level that took part."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


def nested_loss(embeddings: Embeddings, weights: Mapping[str, float]) -> NestedLoss:
    """The sum over levels of weight times InfoNCE (SLIMP, arXiv 2505.23709: 0.9 and 0.1).

    A level with a single row has no negative and contributes 0; levels without a weight are
    not computed.

    Raises:
        UserError: no level has both a weight and two rows.
    """
    parts = {
        pair.name: info_nce(
            pair.anchor, pair.target, temperature=pair.temperature, groups=pair.groups
        )
        for pair in embeddings.pairs
        if weights.get(pair.name, 0.0) > 0 and len(pair.anchor) > 1
    }
    if not parts:
        raise UserError(
            "a batch has no level with a weight and at least 2 rows, so there is nothing to "
            "contrast. Use more patients or lesions per batch."
        )
    total = torch.stack([weights[name] * loss for name, loss in parts.items()]).sum()
    return NestedLoss(total=total, parts=parts)

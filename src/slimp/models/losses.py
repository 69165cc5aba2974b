"""Contrastive losses.

Axis names: n = rows, r = rows of a block, d = width of the projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from slimp.errors import UserError

LARGEST_BLOCK = 2**21
"""Logits that are held at once: 8 MiB in 32 bit, more only where `FEWEST_ROWS` make more."""
FEWEST_ROWS = 256

Weigh = Callable[[Int[Tensor, " r"]], Tensor]
"""Some rows -> the weights (r, n) of all rows as their positives, up to a factor per row."""
BlockLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Some anchors (r, d), all targets (n, d), the anchors' numbers (r,) -> their loss, summed."""


@dataclass(frozen=True, kw_only=True)
class SoftPositives:
    """All rows as positives of one another, the more the closer their points are.

    A kernel of the metadata as target of the contrast: Tables Guide Vision (arXiv 2503.14998)
    takes the rows of nearly the largest similarity as positives, y-aware InfoNCE (arXiv
    2106.08808) weighs all of them. Equal rows alone are the limit of temperature 0.
    """

    points: Float[Tensor, "n e"]
    """See `Encoding.coordinates`."""
    temperature: float
    """L1 distance over which the weight falls to 1 / e."""

    def __call__(self, rows: Int[Tensor, " r"]) -> Float[Tensor, "r n"]:
        """Weights of all rows as positives of some rows; 1 of equal ones."""
        distance = torch.cdist(self.points[rows], self.points, p=1)
        return torch.exp(-distance / self.temperature)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sets of projections whose equal rows belong together; not normalised."""

    name: str
    """The level: view, image, lesion or patient."""
    anchor: Float[Tensor, "n d"]
    """What lies below: images, with finer metadata from the second level on."""
    target: Float[Tensor, "n d"]
    """The level's metadata (for the view level: the second view)."""
    temperature: Float[Tensor, ""]
    below: Float[Tensor, "n e"] | None = None
    """What the anchor is a projection of; None: of the view level."""
    bias: Float[Tensor, ""] | None = None
    """Of the sigmoid loss; None: InfoNCE."""
    groups: Int[Tensor, " n"] | None = None
    """Rows of equal number are positives of one another; None: only equal rows are."""
    soft: SoftPositives | None = None
    """In place of the groups."""
    reconstruction: Float[Tensor, ""] | None = None
    """Loss of predicting the level's hidden cells; None: nothing was hidden, or not asked for."""

    def loss(self) -> Float[Tensor, ""]:
        """InfoNCE or, with a bias, the sigmoid loss."""
        sides, temperature = (self.anchor, self.target), self.temperature
        if self.bias is not None:
            return sigmoid_loss(*sides, temperature=temperature, bias=self.bias, groups=self.groups)
        return info_nce(*sides, temperature=temperature, groups=self.groups, soft=self.soft)


def info_nce(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    *,
    temperature: float | Float[Tensor, ""] = 0.07,
    groups: Int[Tensor, " n"] | None = None,
    soft: SoftPositives | None = None,
    symmetric: bool = True,
) -> Float[Tensor, ""]:
    """Cross-entropy of picking each row's own partner among all rows of the other side.

    Row i of `a` and row i of `b` are a positive pair; all other rows are negatives. Both sides
    are L2-normalised here, in 32 bits at least, so callers pass raw projections. As in CLIP
    (arXiv 2103.00020, fig. 3); with `groups` as in supervised contrastive learning (arXiv
    2004.11362, eq. 2): mean over the positives outside the logarithm; with `soft`, the mean over
    all rows by their weights.

    Args:
        a: one side, such as projected image features.
        b: the other side, such as projected metadata.
        temperature: divisor of the cosine similarities; dimensionless, in (0, inf).
        groups: rows of equal number are positives of one another.
        soft: in place of the groups: how much each row is a positive of each.
        symmetric: mean of both directions; else only from `a` to `b`.

    Raises:
        UserError: the sides differ in shape, there is only one row, or the temperature is not
            positive.

    Example:
        >>> rows = torch.eye(4)
        >>> print(f"{info_nce(rows, rows, temperature=1.0):.3f}")
        0.744
    """
    a, b = _unit_vectors(a, b, temperature)
    weigh: Weigh | None = soft
    if weigh is None and groups is not None:
        weigh = partial(_equal, groups)
    with torch.autocast(device_type=a.device.type, enabled=False):
        loss = _sum_over_rows(partial(_pick_in_block, weigh), a / temperature, b)
        if symmetric:
            loss = (loss + _sum_over_rows(partial(_pick_in_block, weigh), b / temperature, a)) / 2
        return loss / len(a)


def sigmoid_loss(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    *,
    temperature: float | Float[Tensor, ""] = 0.1,
    bias: float | Float[Tensor, ""] = -10.0,
    groups: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Whether two rows belong together, asked of each pair on its own (SigLIP, arXiv 2303.15343).

    The sum over all pairs of log(1 + exp(-z (cosine / temperature + bias))), by the number of rows;
    z is 1 for partners, else -1. Both sides are L2-normalised here.

    Args:
        a: one side.
        b: the other side; row i of both are partners.
        temperature: divisor of the cosine similarities.
        bias: added to them, since few pairs are partners.
        groups: rows of equal number are partners too.

    Raises:
        UserError: as `info_nce`.
    """
    a, b = _unit_vectors(a, b, temperature)
    own = torch.arange(len(a), device=a.device) if groups is None else groups
    with torch.autocast(device_type=a.device.type, enabled=False):
        return _sum_over_rows(partial(_ask_in_block, own, bias), a / temperature, b) / len(a)


def _unit_vectors(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], temperature: float | Float[Tensor, ""]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Both sides in 32 bits at least, normalised; raises a UserError where there is no loss."""
    if a.shape != b.shape:
        raise UserError(f"the two sides must have one shape, got {[*a.shape]} and {[*b.shape]}.")
    if len(a) < 2:
        raise UserError(f"a contrast needs at least 2 rows, got {len(a)}: 1 has no negative.")
    if not temperature > 0:
        value = torch.as_tensor(temperature).item()
        raise UserError(f"temperature must be positive, got {value:g}.")
    with torch.autocast(device_type=a.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        return F.normalize(a.to(wide), dim=-1), F.normalize(b.to(wide), dim=-1)


def _sum_over_rows(
    of_block: BlockLoss, anchor: Float[Tensor, "n d"], targets: Float[Tensor, "n d"]
) -> Float[Tensor, ""]:
    """One direction, summed over the rows.

    The temperature is in `anchor` already: dividing the logits would keep a second (n, n).
    Where even one (n, n) is much, rows are taken in blocks whose logits are made again in the
    backward pass, so that memory grows with the rows, not with their square.
    """
    own = torch.arange(len(anchor), device=anchor.device)
    rows = max(FEWEST_ROWS, LARGEST_BLOCK // len(anchor))
    if len(anchor) <= rows:
        return of_block(anchor, targets, own)
    blocks = [
        checkpoint(
            *(of_block, block, targets, positions),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for block, positions in zip(torch.split(anchor, rows), torch.split(own, rows), strict=True)
    ]
    return torch.stack(blocks).sum()


def _pick_in_block(
    weigh: Weigh | None,
    anchor: Float[Tensor, "r d"],
    targets: Float[Tensor, "n d"],
    own: Int[Tensor, " r"],
) -> Float[Tensor, ""]:
    logits = anchor @ targets.T  # (r, n)
    if weigh is None:
        return F.cross_entropy(logits, own, reduction="sum")
    weight = weigh(own).to(logits.dtype)  # (r, n)
    probability = weight / weight.sum(dim=1, keepdim=True)  # (r, n)
    return F.cross_entropy(logits, probability, reduction="sum")


def _ask_in_block(
    groups: Int[Tensor, " n"],
    bias: float | Float[Tensor, ""],
    anchor: Float[Tensor, "r d"],
    targets: Float[Tensor, "n d"],
    own: Int[Tensor, " r"],
) -> Float[Tensor, ""]:
    logits = anchor @ targets.T + bias  # (r, n)
    return F.softplus(torch.where(_equal(groups, own), -logits, logits)).sum()


def _equal(groups: Int[Tensor, " n"], rows: Int[Tensor, " r"]) -> Bool[Tensor, "r n"]:
    return groups[rows][:, None] == groups[None, :]


@dataclass(frozen=True, kw_only=True)
class NestedLoss:
    """The weighted sum, and the unweighted losses: of each level that took part, and of its cells.

    The latter are named `reconstruction_LEVEL`.
    """

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


def nested_loss(pairs: Iterable[Pair], weights: Mapping[str, float]) -> NestedLoss:
    """The sum over levels of weight times contrast (SLIMP, arXiv 2505.23709: 0.9 and 0.1).

    The weight `reconstruction` is of the prediction of hidden cells at all these levels.
    Levels without a weight are not computed; a level with fewer than 2 rows adds 0.

    Raises:
        UserError: no level has both a weight and 2 rows.

    Example:
        >>> rows, log = torch.eye(3), torch.tensor(0.5).log()
        >>> pair = Pair(name="lesion", anchor=rows, target=rows, temperature=torch.tensor(0.5))
        >>> round(nested_loss([pair], {"lesion": 0.9}).total.item(), 3)
        0.216
    """
    weighted = [pair for pair in pairs if weights.get(pair.name, 0.0) > 0]
    parts = {pair.name: pair.loss() for pair in weighted if len(pair.anchor) > 1}
    if not parts:
        rows = ", ".join(f"{pair.name}: {len(pair.anchor)} row(s)" for pair in weighted) or "none"
        raise UserError(
            "a batch has no level with a weight and at least 2 rows, so there is nothing to "
            f"contrast (levels with a weight: {rows}). Use more patients or lesions per batch."
        )
    terms = [weights[name] * loss for name, loss in parts.items()]
    for pair in weighted:
        if pair.reconstruction is not None:
            parts[f"reconstruction_{pair.name}"] = pair.reconstruction
            terms.append(weights["reconstruction"] * pair.reconstruction)
    return NestedLoss(total=torch.stack(terms).sum(), parts=parts)

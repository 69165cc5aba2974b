"""Prediction of hidden metadata cells, as an auxiliary loss (TIP, arXiv 2407.07582).

Axis names: n = rows, t = tokens (one per feature), d = width of the embedding, o = outputs: a value
per continuous feature, a logit per category, a logit per box.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimp.data.encoding import Encoding, Rows


class CellDecoder(nn.Module):
    """Predicts the cells of one level's rows.

    TIP predicts each cell from its own token, by a Transformer that also sees the image. Here all
    are predicted from the pooled embedding of images and table, because that is what probes use.
    """

    def __init__(self, width: int, encoding: Encoding) -> None:
        super().__init__()
        self.encoding = encoding
        # A feature without a known category is never hidden, but still has a place.
        self.sizes = [max(1, len(f.categories or f.columns)) for f in encoding.features]
        self.predict = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, sum(self.sizes))
        )

    def forward(
        self, h: Float[Tensor, "n d"], rows: Rows, hidden: Bool[Tensor, "n t"]
    ) -> Float[Tensor, ""]:
        """Mean loss of the hidden cells, 0 where there are none.

        Squared error in standard deviations (continuous), cross-entropy (categorical), mean binary
        cross-entropy of the boxes (checkbox).

        Args:
            h: embeddings of the rows, made without the hidden cells.
            rows: the rows with all known cells.
            hidden: known cells that `h` was made without.
        """
        predicted: Tensor = self.predict(h)  # (n, o)
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        losses = []
        for (feature, columns), outputs in zip(
            self.encoding.cells(), torch.split(predicted, self.sizes, dim=1), strict=True
        ):
            cells = getattr(rows, feature.kind)[:, columns]
            if feature.kind == "categorical":
                codes = (cells[:, 0] - 1).clamp(min=0)  # of missing cells: any, they do not count
                losses.append(F.cross_entropy(outputs, codes, reduction="none"))
                continue
            cells = cells.to(outputs.dtype)
            if feature.kind == "continuous":
                each = F.mse_loss(outputs, cells, reduction="none")
            else:
                each = F.binary_cross_entropy_with_logits(outputs, cells, reduction="none")
            losses.append(each.mean(dim=1))
        of_cells = torch.stack(losses, dim=1)  # (n, t)
        return torch.where(hidden, of_cells, 0.0).sum() / hidden.sum().clamp(min=1)

"""Do images and their own metadata meet? From embeddings that are there already.

Axis names: i = images, e = width of the image encoder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from slimp.data.cohort import Cohort
from slimp.data.schema import LevelName
from slimp.evaluation.similarity import Similarity, similarity
from slimp.features.backends import inference
from slimp.features.embed import evaluating
from slimp.models.nested import Slimp, mean_pool
from slimp.retrieval.hierarchy import as_the_model_reads, read_metadata, storeys

Array = np.ndarray[Any, np.dtype[Any]]


def matching_similarity(
    model: Slimp,
    cohort: Cohort,
    images: Float32[Array, "i e"],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[LevelName, Similarity]:
    """Per trained level, how matching pairs of image and metadata stand to non-matching ones.

    As `slimp.evaluation.similarity.similarity_by_level`, but without encoding images anew, and so
    with all images of each lesion. Rows without known metadata are left out, and so is a level
    whose rows are all equal.

    Args:
        model: left as it was found.
        cohort: patients whom training never saw, if the figures are to mean anything.
        images: embeddings of its images by the model, in its order.
        seed: of the non-matching pairs drawn.
        device: where to compute.
    """
    cohort, device = as_the_model_reads(model, cohort), torch.device(device)
    found: dict[LevelName, Similarity] = {}
    with evaluating(model, device), inference(device, "32"):
        h = torch.from_numpy(images).to(device)
        for storey in storeys(cohort):
            parent = torch.from_numpy(storey.parent).to(device)
            if storey.name not in model.encodings:
                h = mean_pool(h, parent, storey.count)  # (c, d) -> (n, d)
                continue
            level = model.level(storey.name)
            h = level.pool(h, parent, storey.count)  # (c, d) -> (n, d)
            own = read_metadata(model, cohort, storey.name, device=device)
            m = torch.from_numpy(own.embeddings).to(device)
            known = torch.from_numpy(np.flatnonzero(own.known))
            groups = own.rows.equal_groups()[known]
            trained = model.config.weights[storey.name] > 0
            if trained and len(groups) and (groups != groups[0]).any():
                below, metadata = level.project_below(h).cpu(), level.project_metadata(m).cpu()
                found[storey.name] = similarity(
                    below[known].clone(), metadata[known].clone(), groups, seed=seed
                )
            h = torch.cat([h, m], dim=-1)
    return found

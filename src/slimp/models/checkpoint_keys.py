"""Published checkpoints of image encoders -> the names of tensors in timm's model.

timm knows many layouts itself (`checkpoint_filter_fn`: open_clip, DINOv2 and v3, EVA, BEiT); here
is what it does not: where in a file the encoder is, the CLIP of transformers, and what only
pre-training needed.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from typing import Any

import torch
from torch import Tensor

from slimp.errors import CheckpointError
from slimp.models.persistence import below_prefixes, misfit, some

OF_PRETRAINING = ("mask_token", "lm_head.", "decoder_", "decoder.", "head.", "visual_projection.")
"""Starts of names that a pre-training adds to an encoder; left out where the model has none."""
PREFERRED = "encoder."
"""Of several copies that fit: the one that learned. CAE, and so PanDerm, keeps a moving average
of it as `alignment_encoder`."""
TRANSFORMERS_CLIP = {
    **{r"embeddings\.class_embedding": "cls_token", r"pre_layrnorm": "norm_pre"},
    **{r"embeddings\.patch_embedding": "patch_embed.proj", r"post_layernorm": "norm"},
    **{r"embeddings\.position_embedding\.weight": "pos_embed", r"encoder\.layers": "blocks"},
    **{r"layer_norm([12])": r"norm\1", r"self_attn\.out_proj": "attn.proj", "self_attn": "attn"},
}
"""Names in the image encoder of transformers' CLIPModel -> timm's."""


def fitting_weights(
    states: Mapping[str, dict[str, Tensor]], model: Any, where: object
) -> dict[str, Tensor]:
    """The one reading of a checkpoint that fits a timm model, under the model's own names.

    The weights may lie in an entry (`model`, `state_dict`, DINO's `teacher`) and have a prefix such
    as `module.backbone.`. A classifier and what only pre-training needed are left out. Position
    embeddings of another image size are resampled by timm.

    Args:
        states: as `read_state_dicts` gives them.
        model: a timm model without classifier.
        where: the file or the name, for the error.

    Raises:
        CheckpointError: none fits, or several.
    """
    want = model.state_dict()
    first = next(iter(want))
    readings = {
        ": ".join(filter(None, [entry, prefix])) or "the file": as_timm_names(below, model)
        for entry, state in states.items()  # or under other names that timm knows, as CLIP's
        for prefix, below in (below_prefixes(state, first) or {"": state}).items()
    }
    problems = {name: misfit(tensors, want) for name, tensors in readings.items()}
    fitting = [name for name, problem in problems.items() if problem is None]
    if len(fitting) > 1:
        fitting = [name for name in fitting if name.split(": ")[-1] == PREFERRED] or fitting
    if len(fitting) > 1:
        raise CheckpointError(
            f"{where}: several sets of weights fit the encoder: {', '.join(fitting)}. Save the "
            "one to use in a file of its own."
        )
    if not fitting:
        problem = problems[max(readings, key=lambda name: len(readings[name]))]
        found = [f"{entry}: {n}" if entry else n for entry in states for n in states[entry]]
        encoder = model.pretrained_cfg.get("architecture", type(model).__name__)
        raise CheckpointError(
            f"{where}: does not fit encoder '{encoder}': {problem}. Names found: {some(found)}; "
            f"expected: {some(want)}."
        )
    return readings[fitting[0]]


def as_timm_names(state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The entries of the encoder alone, under timm's present names as far as they are known."""
    state = _from_transformers_clip(state)
    if timms := getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None):
        # It may fail on weights of another architecture, which their shapes will show; and print.
        errors = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, ValueError)
        with suppress(*errors), redirect_stdout(io.StringIO()):
            state = timms(dict(state), model)
    heads = model.pretrained_cfg.get("classifier") or ()
    classifier = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    want = model.state_dict()
    return {
        name: value
        for name, value in state.items()
        if name in want or not name.startswith((*classifier, *OF_PRETRAINING))
    }


def _from_transformers_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder of a CLIPModel under timm's names; anything else as it is."""
    anchor = "vision_model.embeddings.class_embedding"
    starts = [name.removesuffix("embeddings.class_embedding") for name in state if anchor in name]
    if len(starts) != 1:
        return dict(state)
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if not name.startswith(starts[0]) or name.endswith("position_ids"):
            continue
        name = name.removeprefix(starts[0])
        for theirs, ours in TRANSFORMERS_CLIP.items():
            name = re.sub(theirs, ours, name)
        found[name] = {"cls_token": value.view(1, 1, -1), "pos_embed": value[None]}.get(name, value)
    for name in [name for name in found if ".q_proj." in name]:
        parts = [found.pop(name.replace(".q_proj.", f".{x}_proj."), None) for x in "qkv"]
        present = [part for part in parts if part is not None]
        found[name.replace(".q_proj.", ".qkv.")] = torch.cat(present)
    return found

"""Maps: equal to independent computations, blind to nothing that they should see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import MODEL, SIZE
from torch import Tensor

from slimp.errors import UserError
from slimp.explain.config import METHODS, Method
from slimp.explain.maps import (
    attention_weights,
    blur,
    default_methods,
    grid_of,
    relevance,
    upsampled,
)
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder

CNN: dict[str, Any] = {"encoder": "resnet10t", "encoder_options": {"stem_width": 8}}


def encoder_of(**changes: Any) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(ModelConfig(**{**MODEL, **changes})).eval()


def pixels_of(n: int = 3, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def first(h: Tensor) -> Tensor:
    return h[:, 0] - h[:, 1]


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_attention_rows_sum_to_one_and_fused_attention_returns(pool: str) -> None:
    options = {**MODEL["encoder_options"], "global_pool": pool}
    encoder = encoder_of(encoder_options=options)
    before = encoder(pixels_of())
    with attention_weights(encoder) as attention:
        inside = encoder(pixels_of())
    assert len(attention) == 2
    for layer in attention:
        assert layer.shape == (3, 2, 5, 5)
        torch.testing.assert_close(layer.sum(dim=-1), torch.ones(3, 2, 5))
    torch.testing.assert_close(before, inside)
    blocks: Any = encoder.model.blocks
    assert all(block.attn.fused_attn for block in blocks)
    assert not any(block.attn.attn_drop._forward_hooks for block in blocks)


def test_gradient_attention_is_chefers_formula_image_by_image() -> None:
    encoder, images = encoder_of(), pixels_of()
    ours = relevance(encoder, images, first, "gradient-attention")
    for k in range(len(images)):
        with attention_weights(encoder) as attention:
            first(encoder(images[k : k + 1])).backward(inputs=attention)
        total = torch.eye(5)
        for layer in attention:
            assert layer.grad is not None
            total = total + (layer * layer.grad)[0].clamp(min=0).mean(0).detach() @ total
        torch.testing.assert_close(ours[k].flatten(), total[0, 1:], rtol=1e-4, atol=1e-7)


def test_rollout_does_not_know_the_score() -> None:
    encoder, images = encoder_of(), pixels_of()
    one = relevance(encoder, images, first, "rollout")
    other = relevance(encoder, images, lambda h: h.square().sum(dim=1), "rollout")
    assert torch.equal(one, other)


@pytest.mark.parametrize("changes", [{}, CNN])
@pytest.mark.parametrize("method", METHODS)
def test_maps_are_of_each_image_alone(method: Method, changes: dict[str, Any]) -> None:
    encoder = encoder_of(**changes, image_size=32) if changes else encoder_of()
    images = pixels_of(n=2, size=32 if changes else SIZE)
    if changes and method in ("gradient-attention", "rollout"):
        with pytest.raises(UserError, match="resnet10t"):
            relevance(encoder, images, first, method)
        return
    together = relevance(encoder, images, first, method)
    alone = torch.cat([relevance(encoder, image[None], first, method) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-6)
    assert together.min() >= 0
    assert together.max() > 0 or method == "grad-cam"  # whose sum may be negative everywhere


def test_grad_cam_of_a_network_that_pools_is_its_linear_part() -> None:
    encoder = encoder_of(**CNN, image_size=32)
    images, model = pixels_of(size=32), encoder.model
    features: Tensor = model.forward_features((images - encoder.mean) / encoder.std)  # type: ignore[operator]
    expected = (features[:, 0] - features[:, 1]).clamp(min=0) / features[0, 0].numel()
    torch.testing.assert_close(relevance(encoder, images, first, "grad-cam"), expected.detach())


def test_grad_cam_of_a_cosine_weighs_up_before_it_is_cut() -> None:
    encoder, images = encoder_of(**CNN, image_size=32), pixels_of(size=32)
    aim = torch.from_numpy(np.random.default_rng(0).normal(size=(1, encoder.embed_dim))).float()

    def cosine(sign: float, h: Tensor) -> Tensor:
        return sign * torch.cosine_similarity(h, aim)

    above, below = (
        relevance(encoder, images, lambda h, sign=sign: cosine(sign, h), "grad-cam").sum((1, 2))
        for sign in (1.0, -1.0)
    )
    torch.testing.assert_close(above, below, rtol=1e-3, atol=1e-6)


def test_occlusion_finds_the_only_part_that_counts() -> None:
    encoder, images = encoder_of(), pixels_of(n=1)
    corner = images.clone()
    corner[..., 8:, 8:] = blur(images)[..., 8:, 8:]
    whole, covered = encoder(images)[0], encoder(corner)[0]
    direction = (whole - covered).detach()
    found = relevance(encoder, images, lambda h: h @ direction, "occlusion")
    assert found.shape == (1, 2, 2)
    assert found[0].argmax() == 3
    torch.testing.assert_close(found[0, 1, 1], direction.square().sum())


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training"):
        relevance(encoder_of().train(), pixels_of(), first, "occlusion")


def test_the_default_suits_the_encoder() -> None:
    vit, cnn = encoder_of(), encoder_of(**CNN, image_size=32)
    assert default_methods(vit) == ("gradient-attention",)
    assert default_methods(cnn) == ("grad-cam", "occlusion")
    assert (grid_of(vit), grid_of(cnn)) == ((2, 2), None)


def test_a_map_keeps_its_mean_when_it_grows() -> None:
    small = torch.from_numpy(np.random.default_rng(0).random((2, 4, 4))).float()
    large = upsampled(small, 16)
    assert large.shape == (2, 16, 16)
    torch.testing.assert_close(large.mean(dim=(1, 2)), small.mean(dim=(1, 2)), rtol=0.1, atol=0.0)

"""Checkpoints in the layouts of their authors, narrow and shallow, beside a plain forward pass.

Names and shapes are those of the published files (PanDerm and DermLIP, MONET and CLIP, DINOv2,
DINOv3, MAE, BEiT); the forward passes are written from the papers, without timm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimp.errors import CheckpointError
from slimp.models.config import ModelConfig
from slimp.models.convert_weights import convert_weights
from slimp.models.image_encoder import ImageEncoder
from slimp.models.known_weights import Weights, named, read_header

D, DEPTH, HEADS, PATCH, SIDE = 16, 2, 2, 8, 16
TOKENS = (SIDE // PATCH) ** 2
State = dict[str, Tensor]


def random_state(**shapes: tuple[int, ...]) -> State:
    generator = torch.Generator().manual_seed(5)
    return {
        name: 0.3 * torch.randn(shape, generator=generator)
        for name, shape in {k.replace("__", "."): v for k, v in shapes.items()}.items()
    }


def layers(
    names: dict[str, tuple[int, ...]], prefix: str = "blocks."
) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{i}.{name}": shape for i in range(DEPTH) for name, shape in names.items()}


def affine(name: str, out: int = D, inside: int | None = D) -> dict[str, tuple[int, ...]]:
    weight = (out,) if inside is None else (out, inside)
    return {f"{name}.weight": weight, f"{name}.bias": (out,)}


STEM = {
    **{"cls_token": (1, 1, D), "patch_embed.proj.weight": (D, 3, PATCH, PATCH)},
    **{"patch_embed.proj.bias": (D,), **affine("norm", inside=None)},
}
BLOCK = {
    **affine("norm1", inside=None),
    **affine("attn.proj"),
    **affine("norm2", inside=None),
    **affine("mlp.fc1", 4 * D),
    **affine("mlp.fc2", D, 4 * D),
}
POSITIONS = {"pos_embed": (1, TOKENS + 1, D)}


def panderm() -> State:
    gammas = {"gamma_1": (D,), "gamma_2": (D,)}
    attention = {"attn.qkv.weight": (3 * D, D), "attn.q_bias": (D,), "attn.v_bias": (D,)}
    return random_state(**STEM, **POSITIONS, **layers({**BLOCK, **gammas, **attention}))


def dinov2(registers: int = 0) -> State:
    more = {"mask_token": (1, D), **({"register_tokens": (1, registers, D)} if registers else {})}
    scales = {"ls1.gamma": (D,), "ls2.gamma": (D,)}
    block = {**BLOCK, **affine("attn.qkv", 3 * D), **scales}
    return random_state(**STEM, **POSITIONS, **more, **layers(block))


def dinov3() -> State:
    more = {"mask_token": (1, D), "storage_tokens": (1, 4, D)}
    scales = {"ls1.gamma": (D,), "ls2.gamma": (D,)}
    block = {**BLOCK, **affine("attn.qkv", 3 * D), **scales, "attn.qkv.bias_mask": (3 * D,)}
    state = random_state(**STEM, **more, **layers(block))
    for name in [name for name in state if name.endswith("qkv.bias")]:
        state[name] = torch.zeros(3 * D)  # as published: timm's model of this name has none
    return {**state, "rope_embed.periods": periods()}


def clip() -> State:
    vision = {
        **{"class_embedding": (D,), "positional_embedding": (TOKENS + 1, D)},
        **{"conv1.weight": (D, 3, PATCH, PATCH), "proj": (D, 6)},
        **affine("ln_pre", inside=None),
        **affine("ln_post", inside=None),
    }
    block = {
        **{"attn.in_proj_weight": (3 * D, D), "attn.in_proj_bias": (3 * D,)},
        **affine("attn.out_proj"),
        **affine("ln_1", inside=None),
        **affine("ln_2", inside=None),
        **affine("mlp.c_fc", 4 * D),
        **affine("mlp.c_proj", D, 4 * D),
    }
    text = {"token_embedding.weight": (9, D), **affine("transformer.resblocks.0.ln_1", inside=None)}
    vision |= layers(block, "transformer.resblocks.")
    return random_state(**{f"visual.{n}": x for n, x in vision.items()}, **text, logit_scale=())


def as_transformers(state: State) -> State:
    """The same CLIP under the names of transformers' CLIPModel."""
    found: State = {"text_model.final_layer_norm.weight": torch.ones(D)}
    start = "vision_model."
    found[f"{start}embeddings.position_ids"] = torch.arange(TOKENS + 1)[None]
    names = {
        **{"visual.class_embedding": f"{start}embeddings.class_embedding"},
        **{"visual.positional_embedding": f"{start}embeddings.position_embedding.weight"},
        **{"visual.conv1": f"{start}embeddings.patch_embedding", "visual.proj": "projection"},
        **{"visual.ln_pre": f"{start}pre_layrnorm", "visual.ln_post": f"{start}post_layernorm"},
        **{"visual.transformer.resblocks": f"{start}encoder.layers", "ln_1": "layer_norm1"},
        **{"ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"},
        **{"c_fc": "fc1", "c_proj": "fc2"},
    }
    for name, value in state.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        if name == "projection":
            found["visual_projection.weight"] = value.T
        elif "in_proj_" in name:
            kind = name.rpartition("_")[2]
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                layer = name.partition("attn.")[0]
                found[f"{layer}self_attn.{letter}_proj.{kind}"] = part
        elif name.startswith(start):
            found[name] = value
    return found


# ------------------------------------------------------------------ forward passes without timm


def norm(p: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, (D,), p[f"{name}.weight"], p[f"{name}.bias"], eps)


def linear(p: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def attention(qkv: Tensor, turn: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in qkv.chunk(3, -1))
    weights = (turn(q) @ turn(k).transpose(-1, -2) / math.sqrt(D // HEADS)).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def patches(p: State, x: Tensor, name: str = "patch_embed.proj") -> Tensor:
    bias = p.get(f"{name}.bias")
    return F.conv2d(x, p[f"{name}.weight"], bias, stride=PATCH).flatten(2).transpose(1, 2)


def blocks(
    p: State, x: Tensor, turn: Callable[[Tensor], Tensor] = lambda x: x, eps: float = 1e-6
) -> Tensor:
    """Pre-norm blocks with a scale on each branch, then the last norm."""
    for i in range(DEPTH):
        at = {n.removeprefix(f"blocks.{i}."): x for n, x in p.items() if f"blocks.{i}." in n}
        bias = at.get("attn.qkv.bias")
        if "attn.q_bias" in at:
            bias = torch.cat([at["attn.q_bias"], torch.zeros(D), at["attn.v_bias"]])
        scale = [at.get(f"gamma_{j}", at.get(f"ls{j}.gamma")) for j in (1, 2)]
        qkv = F.linear(norm(at, "norm1", x, eps), at["attn.qkv.weight"], bias)
        x = x + scale[0] * linear(at, "attn.proj", attention(qkv, turn))
        hidden = F.gelu(linear(at, "mlp.fc1", norm(at, "norm2", x, eps)))
        x = x + scale[1] * linear(at, "mlp.fc2", hidden)
    return norm(p, "norm", x, eps)


def with_positions(p: State, x: Tensor) -> Tensor:
    tokens = torch.cat([p["cls_token"].expand(len(x), -1, -1), patches(p, x)], 1) + p["pos_embed"]
    if "register_tokens" in p:
        more = p["register_tokens"].expand(len(x), -1, -1)
        tokens = torch.cat([tokens[:, :1], more, tokens[:, 1:]], 1)
    return blocks(p, tokens)[:, 0]


def periods() -> Tensor:
    return 100.0 ** (2 * torch.arange(D // HEADS // 4) / (D // HEADS // 2))


def with_rotation(p: State, x: Tensor) -> Tensor:
    """DINOv3: queries and keys of the patches are turned by their place, scaled to [-1, 1]."""
    side = SIDE // PATCH
    at = 2 * (torch.arange(side) + 0.5) / side - 1
    place = torch.stack(torch.meshgrid(at, at, indexing="ij"), -1).flatten(0, 1)  # (patches, 2)
    angle = (2 * math.pi * place[:, :, None] / periods()).flatten(1).tile(2)

    def turn(t: Tensor) -> Tensor:
        first, rest = t[:, :, :-TOKENS], t[:, :, -TOKENS:]
        a, b = rest.chunk(2, -1)
        rest = rest * angle.cos() + torch.cat([-b, a], -1) * angle.sin()
        return torch.cat([first, rest], 2)

    single = [p[name].expand(len(x), -1, -1) for name in ("cls_token", "storage_tokens")]
    return blocks(p, torch.cat([*single, patches(p, x)], 1), turn, 1e-5)[:, 0]


def clip_forward(state: State, x: Tensor) -> Tensor:
    p = {n.removeprefix("visual."): v for n, v in state.items() if n.startswith("visual.")}
    first = p["class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, patches(p, x, "conv1")], 1) + p["positional_embedding"]
    x = norm(p, "ln_pre", x, 1e-5)
    for i in range(DEPTH):
        start = f"transformer.resblocks.{i}."
        at = {n.removeprefix(start): v for n, v in p.items() if n.startswith(start)}
        qkv = F.linear(
            norm(at, "ln_1", x, 1e-5), at["attn.in_proj_weight"], at["attn.in_proj_bias"]
        )
        x = x + linear(at, "attn.out_proj", attention(qkv))
        hidden = linear(at, "mlp.c_fc", norm(at, "ln_2", x, 1e-5))
        x = x + linear(at, "mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
    return norm(p, "ln_post", x[:, 0], 1e-5)


def mean_of_patches(p: State, x: Tensor) -> Tensor:
    tokens = torch.cat([p["cls_token"].expand(len(x), -1, -1), patches(p, x)], 1) + p["pos_embed"]
    return blocks(p, tokens)[:, 1:].mean(1)


# ------------------------------------------------------------------ the layouts


def below(prefix: str, state: State, **more: Tensor) -> State:
    return {**{prefix + name: value for name, value in state.items()}, **more}


def panderm_large() -> State:
    """CAE also keeps a moving average of the encoder, and a decoder."""
    average = {f"alignment_encoder.{n}": x + 1 for n, x in panderm().items()}
    return {**below("encoder.", panderm()), **average, "decoder.head.weight": torch.ones(2)}


HEAD = {"head.weight": torch.ones(6, D), "head.bias": torch.ones(6)}
Forward = Callable[[State, Tensor], Tensor]
LAYOUTS: dict[str, tuple[str, Callable[[], object], Forward, Callable[[], State]]] = {
    "PanDerm-B": ("panderm-base", panderm, with_positions, panderm),
    "PanDerm-L": ("panderm-large", panderm_large, with_positions, panderm),
    "DermLIP with PanDerm": (
        "dermlip-panderm",
        lambda: {"state_dict": below("module.visual.", {**panderm(), **HEAD})},
        mean_of_patches,
        panderm,
    ),
    "DermLIP": ("dermlip-base", clip, clip_forward, clip),
    "DermLIP, training": (
        "dermlip-base",
        lambda: {"epoch": 3, "state_dict": below("module.", clip())},
        clip_forward,
        clip,
    ),
    "MONET": ("monet", clip, clip_forward, clip),
    "MONET of transformers": ("monet", lambda: as_transformers(clip()), clip_forward, clip),
    "DINOv2": ("dinov2-small", dinov2, with_positions, dinov2),
    "DINOv2, training": (
        "dinov2-base",
        lambda: {"teacher": below("backbone.", dinov2(), **{"dino_head.x": torch.ones(2)})},
        with_positions,
        dinov2,
    ),
    "DINOv3": ("dinov3-small", dinov3, with_rotation, dinov3),
}


def narrow(name: str, **options: object) -> Weights:
    """The weights of a name, narrow and shallow."""
    known = named(name)
    small = {"patch_size": PATCH, "embed_dim": D, "depth": DEPTH, "num_heads": HEADS}
    return replace(known, options={**known.options, **small, **options}, size=SIDE)


def encoder_of(weights: Weights, path: Path) -> ImageEncoder:
    config = ModelConfig(
        encoder=weights.encoder, encoder_options=weights.options, image_size=weights.size
    )
    torch.manual_seed(11)
    encoder = ImageEncoder(config).eval()
    encoder.load_weights(path)
    return encoder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_give_the_features_of_their_papers(tmp_path: Path, layout: str) -> None:
    name, content, forward, plain = LAYOUTS[layout]
    torch.save(content(), tmp_path / "published.pth")
    known = narrow(name)
    found = convert_weights(tmp_path / "published.pth", known, tmp_path / "x.safetensors")
    assert read_header(tmp_path / "x.safetensors") == found
    assert (found.encoder, found.licence) == (known.encoder, known.licence)
    assert len(found.sha256) == 64

    encoder = encoder_of(known, tmp_path / "x.safetensors")
    pixels = torch.randint(256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (known.mean, known.std))
    with torch.no_grad():
        features = encoder(pixels)
        expected = forward(plain(), (pixels / 255 - mean) / std)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_registers_are_tokens_without_a_position(tmp_path: Path) -> None:
    torch.save(dinov2(registers=4), tmp_path / "published.pth")
    known = replace(narrow("dinov2-small"), encoder="vit_small_patch14_reg4_dinov2.lvd142m")
    convert_weights(tmp_path / "published.pth", known, tmp_path / "x.safetensors")
    encoder, pixels = encoder_of(known, tmp_path / "x.safetensors"), torch.zeros(1, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = with_positions(dinov2(registers=4), pixels)
        torch.testing.assert_close(encoder.model(pixels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "more"),
    [
        (
            "mae-base",
            {},
            {"mask_token": (1, 1, 8), "decoder_pos_embed": (1, 5, 8), "decoder_norm.bias": (8,)},
        ),
        (
            "beit-base",
            {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
            {"mask_token": (1, 1, D), "lm_head.weight": (9, D), "lm_head.bias": (9,)},
        ),
        ("beit-base", {}, {"head.weight": (9, D), "blocks.0.attn.relative_position_index": (25,)}),
    ],
)
def test_what_only_pretraining_needed_is_left_out(
    tmp_path: Path, name: str, options: dict[str, object], more: dict[str, tuple[int, ...]]
) -> None:
    known = narrow(name, **options)
    config = ModelConfig(encoder=known.encoder, encoder_options=known.options, image_size=SIDE)
    state = ImageEncoder(config).model.state_dict()
    torch.save({"model": {**state, **random_state(**more)}}, tmp_path / "published.pth")
    convert_weights(tmp_path / "published.pth", known, tmp_path / "x.safetensors")
    loaded = encoder_of(known, tmp_path / "x.safetensors").model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in loaded.items())


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    torch.save(panderm(), tmp_path / "published.pth")
    with pytest.raises(CheckpointError, match=r"published\.pth.*missing"):
        convert_weights(tmp_path / "published.pth", narrow("monet"), tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()

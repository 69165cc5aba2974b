"""Flags that several verbs share, and how a verb notes what it was called with."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slimp.cli.flags import REQUIRED_FLAG
from slimp.errors import UserError

if TYPE_CHECKING:
    from slimp.features.encode import InferenceConfig


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """Inputs and outputs."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the encoders run."""

    @property
    def device(self) -> str:
        """The device that `accelerator` stands for."""
        from slimp.training.devices import device_of

        return device_of(self.accelerator)


@dataclass(frozen=True, kw_only=True)
class Embedding(OnDevice):
    """Embedding of images."""

    workers: int = 1
    """Processes that decode images."""
    test_time_augmentation: Literal["none", "dihedral"] = "none"
    """dihedral: embed each image as the mean of its 8 turns by 90 degrees and mirror images, which
    takes 8 times as long; slimp predict does as its probe did."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"workers must not be negative, got {self.workers}.")

    @property
    def inference(self) -> InferenceConfig:
        """How images are embedded."""
        from slimp.features.encode import InferenceConfig

        return InferenceConfig(
            device=self.device,
            workers=self.workers,
            test_time_augmentation=self.test_time_augmentation,
        )


@dataclass(frozen=True, kw_only=True)
class Output:
    """Inputs and outputs."""

    out: Path = field(metadata=REQUIRED_FLAG)
    """Folder to write."""
    overwrite: bool = False
    """Replace what is in --out."""


@dataclass(frozen=True, kw_only=True)
class ReportedOutput(Output):
    """Inputs and outputs."""

    report: bool = True
    """Also write report.html, which shows some of the images."""


def noted(arguments: Any) -> dict[str, Any]:
    """A verb's arguments and the versions of what ran, for its `config.json`."""
    from slimp.training.run_folder import versions

    values = {field.name: getattr(arguments, field.name) for field in fields(arguments)}
    kept = {name: values[name] for name in values if name not in ("out", "overwrite", "config")}
    texts = {name: str(x) if isinstance(x, Path) else x for name, x in kept.items()}
    return {**texts, "versions": versions()}


def require_inputs_kept(arguments: Any) -> None:
    """Refuses to overwrite what is read.

    Raises:
        UserError: the folder or file to write is one that is read, or holds it.
    """
    out = getattr(arguments, "out", None)
    if out is None or not getattr(arguments, "overwrite", False):
        return
    place, named = Path(out).resolve(), {**vars(arguments), "out": None}
    for config in filter(is_dataclass, vars(arguments).values()):
        named |= vars(config)
    for value in named.values():
        given = value if isinstance(value, list | tuple) else [value]
        for path in [Path(x) for x in given if x and isinstance(x, str | Path)]:
            # Not path.exists(): a text may be longer than a file's name can be.
            if os.path.exists(path) and place in (path.resolve(), *path.resolve().parents):  # noqa: PTH110
                raise UserError(
                    f"--overwrite would delete {path}, which is read: --out {out} is that or holds "
                    "it. Choose another --out."
                )


def check_file(out: Path, *, overwrite: bool) -> None:
    """Refuses to write a file where something is.

    Raises:
        UserError: a folder is there, or a file and `overwrite` is off.
    """
    if out.exists() and not (overwrite and out.is_file()):
        raise UserError(f"{out}: exists already. Choose another name or pass --overwrite.")

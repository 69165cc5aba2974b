"""Features of every image of a cohort, and of the metadata of its lesion and its patient.

Writes one Parquet file with a row per image: `image_id lesion_id patient_id label`, and the columns
`image`, `lesion` and `patient`, each a list of numbers of fixed length. With --pseudo, unknown
metadata are imputed by retrieval, and the file says which features those are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from slimp.cli.console import progress_bar, say
from slimp.cli.flags import REQUIRED_FLAG
from slimp.errors import UserError

EXAMPLE = "slimp embed runs/mine cohorts/mine --out features.parquet"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    run: Path
    """Run folder of pre-training."""
    cohort: Path
    """Cohort folder."""
    out: Path = field(metadata=REQUIRED_FLAG)
    """Parquet file to write; FILE.config.json is written beside it."""
    overwrite: bool = False
    """Replace --out."""
    pseudo: Path | None = None
    """Folder of slimp retrieve: its metadata stand in where the cohort's own are not known."""
    batch_size: int | None = None
    """Images at once; changes speed and memory only. Default: what suits the backend."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Of the encoders; features are written in 32 bit. auto: bf16 where it is fast."""
    backend: Literal["torch", "openvino"] = "torch"
    """What runs the image encoder; openvino: faster on CPUs (pip install 'slimp[openvino]')."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    workers: int = 1
    """Processes that decode images."""

    def __post_init__(self) -> None:
        if (self.batch_size is not None and self.batch_size < 1) or self.workers < 0:
            raise UserError("batch_size must be positive, and workers must not be negative.")
        if self.backend == "openvino" and self.accelerator not in ("auto", "cpu"):
            raise UserError(
                f"backend 'openvino' runs on CPUs; leave --accelerator {self.accelerator} out."
            )


def run(arguments: Arguments) -> None:
    """Embeds and writes the file."""
    from slimp.data.cohort import Cohort
    from slimp.data.files import write_json
    from slimp.evaluation.run_features import device_of, precision_of
    from slimp.features.embed import InferenceConfig, embed
    from slimp.models.nested import Slimp
    from slimp.training.run_folder import versions

    out = arguments.out
    if out.exists() and not (arguments.overwrite and out.is_file()):
        raise UserError(f"{out}: exists already. Choose another name or pass --overwrite.")
    model = Slimp.from_pretrained(arguments.run)
    cohort = Cohort.load(arguments.cohort)
    accelerator = "cpu" if arguments.backend == "openvino" else arguments.accelerator
    precision = precision_of(arguments.precision, accelerator)
    with progress_bar("embedding images") as progress:
        table = embed(
            model,
            cohort,
            InferenceConfig(
                batch_size=arguments.batch_size,
                workers=arguments.workers,
                device=device_of(accelerator),
                precision=precision,
                backend=arguments.backend,
            ),
            pseudo=arguments.pseudo,
            progress=progress,
        )
    table.save(out)
    extra = {"openvino": version("openvino")} if arguments.backend == "openvino" else {}
    record = {
        "run": str(arguments.run),
        "cohort": str(arguments.cohort),
        "precision": precision,
        "backend": arguments.backend,
        "pseudo": None if arguments.pseudo is None else str(arguments.pseudo),
        "imputed": list(table.imputed),
        "versions": versions() | extra,
    }
    write_json(out.with_name(f"{out.stem}.config.json"), record)
    say(f"{len(table)} images; features: {table.widths}; {arguments.backend}, {precision}")
    if table.imputed:
        abstained = int(table.ids["abstained"].sum())
        say(
            f"imputed by retrieval, not observed: {', '.join(table.imputed)} (from "
            f"{arguments.pseudo}); {abstained} image(s) have no near neighbour and got none"
        )
    say(f"written: {out}")

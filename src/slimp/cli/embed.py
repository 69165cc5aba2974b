"""Features of every image of a cohort, and of the metadata of its lesion and its patient.

Writes one Parquet file with a row per image: `image_id lesion_id patient_id label`, and the columns
`image`, `lesion` and `patient`, each a list of numbers of fixed length. With --pseudo, unknown
metadata are imputed by retrieval, and the file says which features those are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import slimp
from slimp.cli.console import note, progress_bar, say
from slimp.cli.flags import REQUIRED_FLAG
from slimp.cli.inputs import Embedding, check_file, noted
from slimp.data.config import require_positive
from slimp.errors import UserError

EXAMPLE = "slimp embed runs/mine cohorts/mine --out features.parquet"


@dataclass(frozen=True, kw_only=True)
class Arguments(Embedding):
    """Inputs and outputs."""

    run: Path
    """Run folder of pre-training, or weights:NAME, a published encoder as it is."""
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
    """Of the encoders; features are written in 32 bit. auto: bf16 where it is fast and leaves the
    features as they are."""
    backend: Literal["torch", "openvino"] = "torch"
    """What runs the image encoder; openvino: faster on CPUs (pip install 'slimp[openvino]')."""

    def __post_init__(self) -> None:
        Embedding.__post_init__(self)
        require_positive(self, *(["batch_size"] if self.batch_size is not None else []))
        if self.backend == "openvino" and self.accelerator not in ("auto", "cpu"):
            raise UserError(
                f"backend 'openvino' runs on CPUs; leave --accelerator {self.accelerator} out."
            )


def run(arguments: Arguments) -> None:
    """Embeds and writes the file."""
    from slimp.data.files import write_json
    from slimp.features.encode import bf16_agrees
    from slimp.training.devices import precision_of
    from slimp.training.weights_run import as_run

    out, backend, pseudo = arguments.out, arguments.backend, arguments.pseudo
    check_file(out, overwrite=arguments.overwrite)
    model = slimp.Slimp.from_pretrained(as_run(arguments.run))
    cohort = slimp.Cohort.load(arguments.cohort)
    if backend == "openvino":
        arguments = replace(arguments, accelerator="cpu")
    network = model.image_encoder
    precision = precision_of(arguments.precision, arguments.accelerator, network)
    how = arguments.inference
    how = replace(how, batch_size=arguments.batch_size, precision=precision, backend=backend)
    if (arguments.precision, precision) == ("auto", "bf16") and not bf16_agrees(model, cohort, how):
        precision = "32"
        how = replace(how, precision=precision)
        note("bf16 would change the features of this encoder: embedding in 32 bit")
    with progress_bar("embedding images") as progress:
        table = slimp.embed(model, cohort, how, pseudo=pseudo, progress=progress)
    table.save(out)
    record = noted(replace(arguments, precision=precision)) | {"imputed": list(table.imputed)}
    if backend == "openvino":
        record["versions"]["openvino"] = version("openvino")
    write_json(out.with_name(f"{out.stem}.config.json"), record)
    say(f"{len(table)} images; features: {table.widths}; {backend}, {precision}")
    if table.imputed:
        abstained = int(table.ids["abstained"].sum())
        say(
            f"imputed by retrieval, not observed: {', '.join(table.imputed)} (from {pseudo}); "
            f"{abstained} image(s) have no near neighbour and got none"
        )
    say(f"written: {out}")

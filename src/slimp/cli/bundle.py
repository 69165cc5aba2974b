"""Packs a run, and a probe of it, into one file that slimp predict and from_pretrained read.

It holds the weights, their description (columns, categories, means and deviations of the metadata),
the settings without places of this machine, and a model card. With --probe also the probe, and of
each image that it learned from or was tested on features, label and a number in place of the ids:
these are data of patients, so give such a file only to who may have them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slimp.cli.console import say
from slimp.cli.flags import REQUIRED_FLAG
from slimp.cli.inputs import check_file

EXAMPLE = "slimp bundle runs/mine --probe probes/mine --out mine.slimp"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    run: Path
    """Run folder."""
    out: Path = field(metadata=REQUIRED_FLAG)
    """File to write: a plain zip, whatever its ending."""
    probe: Path | None = None
    """Folder of slimp probe or finetune, of this run: predictions need it; its scores are in the
    card."""
    licence: str = "not stated"
    """Of the weights, for you to state; known names are such as cc-by-nc-4.0."""
    overwrite: bool = False
    """Replace --out."""


def run(arguments: Arguments) -> None:
    """Writes the file."""
    from slimp.prediction.bundle import write_bundle
    from slimp.prediction.probe_record import reads_metadata
    from slimp.training.weights_run import as_run

    out = arguments.out
    check_file(out, overwrite=arguments.overwrite)
    names = write_bundle(
        as_run(arguments.run), out, probe=arguments.probe, licence=arguments.licence
    )
    say(f"written: {out} ({out.stat().st_size / 2**20:.1f} MiB): {', '.join(names)}")
    if arguments.probe is not None:
        table = " --metadata TABLE" * reads_metadata(arguments.probe)
        say(f"next: slimp predict {out} IMAGES{table}")

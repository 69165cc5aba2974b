"""Nested contrastive pre-training of a cohort's images against its metadata.

Patients are set aside for validation and for honest probes before anything is fitted. The run
folder holds the weights, all settings, the losses of every step, and checkpoints.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path

from slimp.config import PretrainConfig
from slimp.console import note, say, show_table
from slimp.flags import REQUIRED_FLAG


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where things are."""

    cohort: Path
    """Cohort folder."""
    out: Path = field(metadata=REQUIRED_FLAG)
    """Run folder to write."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint."""
    overwrite: bool = False
    """Replace what is in --out."""
    config: PretrainConfig


def run(arguments: Arguments) -> None:
    """Pre-trains, then says how the last step and the last validation went."""
    from slimp.cohort import Cohort
    from slimp.runs import read_log
    from slimp.train import pretrain

    cohort = Cohort.load(arguments.cohort)
    settings = ", ".join(f"{name}={value}" for name, value in asdict(arguments.config).items())
    note(f"{cohort!r}\n{textwrap.fill(settings, 100)}")
    pretrain(
        cohort,
        arguments.config,
        arguments.out,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )
    last = {row["kind"]: row for row in read_log(arguments.out)}
    shown = {name: value for row in last.values() for name, value in row.items()}
    show_table(
        f"run {arguments.out}",
        ["measure", "last value"],
        [
            (name, f"{value:.4g}" if isinstance(value, float) else value)
            for name, value in shown.items()
            if name != "kind" and value is not None
        ],
    )
    say(f"next: slimp probe {arguments.out} {arguments.cohort} --out {arguments.out}/probe")

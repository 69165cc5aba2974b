"""Nested contrastive pre-training on the images and metadata of a cohort.

Patients for validation, and to test probes on, are set aside before anything is fitted. The run
folder holds the weights, all settings, the losses of every step, and checkpoints.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

import slimp
from slimp.cli.console import note, say, show_cautions, show_table
from slimp.errors import UserError
from slimp.training.config import PretrainConfig

EXAMPLE = "slimp pretrain cohorts/mine --out runs/mine --preset small"
MAIN_FLAGS = (
    *("out", "preset", "encoder", "encoder_weights", "image_size", "patients", "lesions"),
    *("epochs", "learning_rate", "precision", "seed", "resume"),
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    cohort: Path
    """Cohort folder."""
    out: Path | None = None
    """Run folder to write; required without --profile."""
    profile: int = 0
    """Time this many steps, part by part, instead of training; nothing is written."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint."""
    overwrite: bool = False
    """Replace what is in --out."""
    config: PretrainConfig

    def __post_init__(self) -> None:
        if self.profile < 0:
            raise UserError(f"--profile must be a number of steps, got {self.profile}.")
        if self.out is None and not self.profile:
            raise UserError("--out is missing: name the run folder to write.")


def run(arguments: Arguments) -> None:
    """Pre-trains, then shows the last step and the last validation; or profiles."""
    from slimp.training.profile import profile
    from slimp.training.run_folder import read_log

    cohort, config, steps = slimp.Cohort.load(arguments.cohort), arguments.config, arguments.profile
    settings = ", ".join(f"{name}={value}" for name, value in asdict(config).items())
    note(f"{cohort!r}\n{textwrap.fill(settings, 100)}")
    show_cautions(cohort)
    if steps or (out := arguments.out) is None:
        rows, summary = profile(cohort, config, steps)
        show_table(f"{steps} steps", ["part", "ms per step", "share of the step"], rows)
        say(summary)
        return
    slimp.pretrain(cohort, config, out, resume=arguments.resume, overwrite=arguments.overwrite)
    last = {row["kind"]: row for row in read_log(out)}
    shown = {name: value for row in last.values() for name, value in row.items()}
    show_table(
        f"run {out}",
        ["measure", "last value"],
        [
            (name, f"{value:.4g}" if isinstance(value, float) else value)
            for name, value in shown.items()
            if name != "kind" and value is not None
        ],
    )
    say(f"next: slimp probe {out} {arguments.cohort} --out {out}/probe")

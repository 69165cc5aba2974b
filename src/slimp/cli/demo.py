"""The method in three acts, on synthetic cohorts, in 2 to 3 minutes on 2 cores.

1: nested pre-training against flat pre-training and against baselines without any. 2: adaptation to
a clinic with other cameras and columns, against training on the clinic alone. 3: metadata imputed
by retrieval for a clinic of images only, like the reference or not. Nothing is downloaded; every
comparison is paired over patients, and the table says which claims are shown at this size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimp.cli.console import say, show_table

EXAMPLE = "slimp demo --out runs/demo"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    out: Path = Path("slimp-demo")
    """Folder to write."""
    seed: int = 0
    """Random seed, of the cohorts too."""
    overwrite: bool = False
    """Replace what is in --out."""


def run(arguments: Arguments) -> None:
    """Runs the demo, then prints the acts and where the report lies."""
    from slimp.cli.demo_acts import run_demo

    out = arguments.out
    for act in run_demo(out, seed=arguments.seed, overwrite=arguments.overwrite):
        show_table(act.title, ["features", "balanced accuracy"], act.scores().items())
        for finding in act.findings:
            say(f"- {finding}")
        say("")
    say(f"report: {out / 'report.html'}")

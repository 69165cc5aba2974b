"""The method in three acts, on synthetic cohorts, in about 2 minutes on 2 cores.

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
    from slimp.cli.demo_acts import HEADS, run_demo

    result = run_demo(arguments.out, seed=arguments.seed, overwrite=arguments.overwrite)
    for act in result.acts:
        show_table(act.title, HEADS, act.rows())
        for finding in act.findings:
            say(f"- {finding}")
        say("")
    say(f"report: {result.report}")

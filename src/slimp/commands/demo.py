"""The main job from one end to the other, on a synthetic cohort, in under 2 minutes on 2 cores.

Draws a cohort, checks it, pre-trains, probes on patients that pre-training never saw, and writes
a report. Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimp.console import say, show_table


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where things go."""

    out: Path = Path("slimp-demo")
    """Folder to write."""
    seed: int = 0
    """Of everything random, the cohort included."""
    overwrite: bool = False
    """Replace what is in --out."""


def run(arguments: Arguments) -> None:
    """Runs the demo, then prints the scores and where the report lies."""
    from slimp.demo import run_demo

    result = run_demo(arguments.out, seed=arguments.seed, overwrite=arguments.overwrite)
    show_table(
        "balanced accuracy on patients that training never saw",
        list(result.table.columns),
        result.table.itertuples(index=False),
    )
    say(f"report: {result.report}")

"""The main job from one end to the other, on synthetic cohorts, in under 2 minutes on 2 cores.

Draws a reference, pre-trains, and probes on patients that pre-training never saw; adapts to a
clinic with other people, cameras and columns, and probes again; then hides the clinic's metadata
and imputes them from the reference. Nothing is downloaded.
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
    """Of everything random, the cohorts included."""
    overwrite: bool = False
    """Replace what is in --out."""


def run(arguments: Arguments) -> None:
    """Runs the demo, then prints the scores and where the report lies."""
    from slimp.cli.demonstration import run_demo

    result = run_demo(arguments.out, seed=arguments.seed, overwrite=arguments.overwrite)
    show_table(
        "balanced accuracy on patients that training never saw",
        list(result.table.columns),
        result.table.itertuples(index=False),
    )
    say(f"imputed metadata: {result.retrieval.verdict}")
    say(f"report: {result.report}; of the retrieval: {arguments.out / 'retrieved' / 'report.html'}")

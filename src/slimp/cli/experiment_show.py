"""The table of an experiment from the cells that are done, with holes where they are not.

Nothing is trained or embedded, and no GPU is needed. table.md, table.json, predictions.parquet and
report.html are written anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slimp.cli.console import say

if TYPE_CHECKING:
    from slimp.experiments.table import Table

EXAMPLE = "slimp experiment show experiments/nested"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs."""

    out: Path
    """Folder of an experiment."""


def run(arguments: Arguments) -> None:
    """Writes the table of what is there, and prints it."""
    from slimp.experiments.run import write_table

    show(arguments.out, write_table(arguments.out))


def show(out: Path, table: Table) -> None:
    """Writes the page of a table, and prints it as Markdown."""
    from slimp.experiments.text import markdown
    from slimp.report.experiment import write_experiment_report

    write_experiment_report(out / "report.html", table, command=f"slimp experiment show {out}")
    say(markdown(table))
    say(f"written: {out / 'table.json'}, {out / 'report.html'}")

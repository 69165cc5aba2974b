"""What the command line writes: results on standard output, everything else on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

PIPED_WIDTH = 160
"""Characters per line where standard output is a file or a pipe."""


def is_main_process() -> bool:
    """Whether this process speaks for the run: the first of those that a launcher started."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def say(text: str) -> None:
    """Writes a line of results, once where several processes work on them."""
    if is_main_process():
        sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Writes a line of progress or advice to standard error, once as `say` does."""
    if is_main_process():
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table: ruled on a terminal, plain aligned text where the output is piped.

    Columns whose every cell is a number or an interval are aligned to the right.
    """
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(
        force_terminal=terminal,
        width=None if terminal else PIPED_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as text:
        console.print(_table(title, columns, [list(map(str, row)) for row in rows], ruled=terminal))
    say("\n".join(line.rstrip() for line in text.get().splitlines()))


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, ruled: bool
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if ruled else None,
        pad_edge=False,
    )
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(row[i][:1].isdigit() or row[i] in ("", "-") for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, all) that draws progress with time left on standard error.

    Nothing is drawn where standard error is not a terminal.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task("")

        def advance(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield advance

"""What the command line writes: results on standard output, everything else on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import slimp

PIPED_WIDTH = 160
"""Characters per line where standard output is a file or a pipe."""
REDRAW_SECONDS = 0.1
"""Between two drawings of a progress bar, at least."""


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


def show_cautions(cohort: slimp.Cohort) -> None:
    """Repeats what the audit warns of, where a result depends on it."""
    from slimp.checks.report import cautions

    for caution in cautions(cohort):
        note(f"CAUTION: {caution}")


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table: ruled on a terminal, plain aligned text where the output is piped.

    Numbers have 3 decimals. Columns whose every cell is a number or an interval are aligned to the
    right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = bool(cells) and all(
            r[i].lstrip("+-")[:1].isdigit() or r[i] in ("", "-") for r in cells
        )
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    width = None if terminal else PIPED_WIDTH
    console = Console(force_terminal=terminal, width=width, highlight=False, emoji=False)
    with console.capture() as text:
        console.print(Text(title, style="bold"), soft_wrap=True)
        console.print(table)
    say("\n".join(line.rstrip() for line in text.get().splitlines()))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, all) that draws progress, pace and time left on standard error.

    Nothing is drawn before its first call, nor where standard error is not a terminal. It may be
    called for every small thing: most calls draw nothing.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    pace = TextColumn("{task.fields[pace]}")
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), pace, TimeLeft())
    bars = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
    task = bars.add_task("", pace="")
    began, first, drawn = 0.0, 0, 0.0

    def advance(done: int, total: int) -> None:
        nonlocal began, first, drawn
        now = time.monotonic()
        if not began:  # what a resumed job found done is not of its pace
            began, first = now, done
            bars.start()
        if done < total and now < drawn + REDRAW_SECONDS:
            return
        drawn = now
        pace = (done - first) / max(now - began, 1e-9)
        bars.update(task, completed=done, total=total, pace=f"{pace:,.0f}/s")

    try:
        yield advance
    finally:
        bars.stop()

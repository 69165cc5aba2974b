"""The page of an experiment: its tables with a forest plot each, and the paper's claims."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from slimp.experiments.rows import Row
from slimp.experiments.table import Table
from slimp.experiments.text import WORDS, facts, grid
from slimp.report.html import write_page
from slimp.report.svg import INK, MARKERS, MUTED, SERIES, drawing, legend, svg


def write_experiment_report(
    target: Path, table: Table, *, command: str = "", date: datetime | None = None
) -> Path:
    """Writes the page of a table that may have holes."""
    done, planned = table.holes
    first, *rest = [line for line in facts(table) if line and not line.startswith("**")]
    left = dict.fromkeys(row.arm for row in table.rows if row.estimate is None)
    holes = [
        f"{planned - done} of {planned} arms and parts are not done yet"
        f"{', among them all of: ' if left else ''}{', '.join(left)}."
    ]
    sections = []
    for labels in table.recipe.labels:
        rows = [row for row in table.rows if row.labels == labels]
        heads, shown = grid(table, labels)
        shown = [line for line, row in zip(shown, rows, strict=True) if row.estimate is not None]
        kinds = dict.fromkeys(row.features for row in rows)
        plots = [plot([r for r in rows if r.features == name], name) for name in kinds]
        sections.append(
            {
                "id": labels,
                "heading": WORDS[labels],
                "heads": heads,
                "rows": shown,
                "figures": [drawn for drawn in plots if drawn],
            }
        )
    return write_page(
        target,
        "experiment.html.j2",
        title=f"{table.recipe.name}: {table.recipe.question}",
        lead=table.reading or first,
        cautions=[*([first] if table.reading else []), *rest, *(holes if done < planned else [])],
        command=command,
        date=date,
        tables=sections,
        verdicts=[judged.sentence for judged in table.verdicts],
        paper=table.recipe.paper,
        table=table,
    )


def plot(rows: Sequence[Row], features: str) -> Markup | None:
    """A forest plot; where the arms have many settings, the scores over these."""
    return curves(rows, features) if len({r.setting for r in rows}) > 2 else forest(rows, features)


def forest(rows: Sequence[Row], features: str) -> Markup | None:
    """Each arm minus its control, with its interval; arms that are told apart are coloured."""
    compared = [row for row in rows if row.against is not None]
    if not compared:
        return None
    with drawing(f"{rows[0].labels} {features}", size=(4.9, 1.0 + 0.24 * len(compared))) as (
        figure,
        axes,
    ):
        axes.axvline(0, color=INK, linewidth=0.8)
        for y, row in enumerate(compared):
            assert row.against is not None
            colour = MUTED if row.reading == "cannot be told" else SERIES[0]
            axes.plot(row.against.ci95, [y, y], color=colour, linewidth=1.6)
            axes.plot(row.against.difference, y, "o", color=colour, markersize=4.5)
        axes.set_yticks(range(len(compared)), [_name(row) for row in compared])
        controls = ", ".join(dict.fromkeys(str(row.control) for row in compared))
        title, words = f"{features} features, minus {controls}", "95 % interval over patients"
        axes.set(title=title, xlabel=f"difference, with its {words}")
        axes.set_ylim(len(compared) - 0.5, -0.5)
        said = "; ".join(f"{_name(row)} {row.against}" for row in compared)
        return svg(figure, f"Forest plot of {features} features minus {controls}. {said}.")


def curves(rows: Sequence[Row], features: str) -> Markup:
    """The score of each arm over the settings, in their order."""
    settings = list(dict.fromkeys(row.setting for row in rows))
    arms = list(dict.fromkeys(row.arm for row in rows))
    with drawing(f"{rows[0].labels} {features}", size=(7.2, 4.2)) as (figure, axes):
        for k, arm in enumerate(arms):
            own = [row for row in rows if row.arm == arm and row.estimate is not None]
            x = [settings.index(row.setting) for row in own]
            y = [row.estimate.mean for row in own if row.estimate is not None]
            look: dict[str, Any] = {"color": SERIES[k % len(SERIES)]}
            look["marker"] = MARKERS[k % len(MARKERS)]
            axes.plot(x, y, label=arm, markersize=4.5, linewidth=1.0, **look)
        axes.set_xticks(range(len(settings)), settings, rotation=60, ha="right")
        axes.set_title(f"{features} features")
        legend(figure)
        return svg(figure, f"{features} features: {', '.join(arms)} over {', '.join(settings)}.")


def _name(row: Row) -> str:
    return f"{row.arm}, {row.setting}" if row.setting else row.arm

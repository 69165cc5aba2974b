"""The table of an experiment as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from slimp.experiments.recipe import Labels
from slimp.experiments.rows import Row
from slimp.experiments.table import Table

WORDS = {"native": "The cohort's own classes", "malignant": "Malignant against the rest"}


def markdown(table: Table) -> str:
    """`table.md`: question, what was run, a table per set of classes, and the verdicts."""
    recipe, plan = table.recipe, table.plan
    lines = [f"# {recipe.name}", "", recipe.question, "", table.reading, "", *facts(table)]
    for labels in recipe.labels:
        title = WORDS[labels]
        if labels == "malignant":
            named = ", ".join(plan["malignant"])
            title += f" ({named or 'not known for this cohort: --malignant'})"
        lines += ["", f"## {title}", ""]
        heads, rows = grid(table, labels)
        if rows:
            lines += [_line(heads), _line("---" for _ in heads), *map(_line, rows)]
    if table.verdicts:
        lines += ["", f"## Beside the paper ({recipe.paper or 'text'}, at its own scale)", ""]
        lines += [f"- {judged.sentence}" for judged in table.verdicts]
    return "\n".join(lines) + "\n"


def facts(table: Table) -> Iterator[str]:
    """Scale, cohort, splits and holes, in sentences."""
    recipe, plan = table.recipe, table.plan
    done, planned = table.holes
    split = {**plan["scale"]["probe"], **recipe.probe}.get("split", "patient")
    tested = "patients that no stage learned from"
    if any(arm.apart != "patient" for arm in recipe.arms):
        tested = "images that no stage learned from, though some arms learned from their patients"
    yield (
        f"Cohort {plan['cohort']}, scale {table.scale} (preset {plan['scale']['preset']}); split "
        f"{split}, seeds {table.seeds}. Scores are {recipe.metric} on "
        f"{tested}, with 95 % intervals over patients; differences are "
        "paired over the same patients, p-values corrected for the number of arms (Holm). "
        "Each arm is trained once per seed and fold: intervals and p-values hold for these "
        "trainings (--seeds repeats them), not for the method at large."
    )
    if table.scale != "paper" and (recipe.claims or recipe.figures or any(recipe.columns.values())):
        yield ""
        yield "The paper's figures are at the paper's scale (ViT-S/16, 224 px), these are not."
    if recipe.without_tables:
        yield ""
        yield (
            f"No metadata encoder learned in: {', '.join(recipe.without_tables)}. Their features "
            "beyond the image are the raw metadata alone."
        )
    if table.gone:
        yield ""
        yield f"Not shown, since the recipe no longer has them: {', '.join(table.gone)}."
    if done < planned:
        yield ""
        yield f"**Holes: {done} of {planned} arms and parts are done.**"


def grid(table: Table, labels: Labels) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of one set of classes; no column is empty throughout."""
    rows = [_entries(row, table) for row in table.rows if row.labels == labels]
    optional = ("setting", "paper")
    heads = [h for h in (rows[0] if rows else ()) if h not in optional or any(r[h] for r in rows)]
    return heads, [[row[head] for head in heads] for row in rows]


def _entries(row: Row, table: Table) -> dict[str, str]:
    """What the table shows of a row, under its heads."""
    part = "" if row.done in (0, row.planned) else f" ({row.done} of {row.planned} parts)"
    against = "" if row.control is None else "hole"
    if row.against is not None:
        against = f"{row.against} ({row.control})"
    return {
        "arm": row.arm,
        "features": row.features,
        "setting": row.setting,
        "score": "hole" if row.estimate is None else f"{row.estimate}{part}",
        "minus its control": against,
        "p (Holm)": "" if row.holm is None else f"{row.holm:.4f}",
        "reading": row.reading,
        "paper": "" if row.paper is None else f"{row.paper:.3f} at the paper's scale",
        **{
            f"{name} (paper: {figure})" if figure is not None else name: _number(row, name)
            for name, figure in table.recipe.columns.items()
        },
    }


def _number(row: Row, name: str) -> str:
    value = row.columns.get(name)
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def _line(entries: Iterable[str]) -> str:
    return "| " + " | ".join(entries) + " |"

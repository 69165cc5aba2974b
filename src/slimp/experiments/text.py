"""The table of an experiment as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from slimp.experiments.table import Row, Table

HEADS = ("arm", "features", "setting", "score", "minus its control", "p (Holm)", "reading", "paper")
WORDS = {"native": "The cohort's own classes", "malignant": "Malignant against the rest"}


def markdown(table: Table) -> str:
    """`table.md`: question, what was run, a table per set of classes, and the verdicts."""
    recipe, plan = table.recipe, table.plan
    lines = [f"# {recipe.name}", "", recipe.question, "", *facts(table)]
    for labels in recipe.labels:
        rows = [row for row in table.rows if row.labels == labels]
        if labels == "malignant":
            named = ", ".join(plan["malignant"])
            title = f"{WORDS[labels]} ({named or 'not known for this cohort: --malignant'})"
        else:
            title = WORDS[labels]
        lines += ["", f"## {title}", ""]
        shown = [name for name in HEADS if name != "setting" or any(r.setting for r in rows)]
        if rows:
            lines += [_line(shown), _line("---" for _ in shown)]
            lines += [
                _line(dict(zip(HEADS, cells(row), strict=True))[h] for h in shown) for row in rows
            ]
    if table.verdicts:
        lines += ["", f"## Beside the paper ({recipe.paper or 'text'}, at its own scale)", ""]
        lines += [f"- {judged.sentence}" for judged in table.verdicts]
    return "\n".join(lines) + "\n"


def facts(table: Table) -> Iterator[str]:
    """Scale, cohort, splits and holes, in sentences."""
    recipe, plan = table.recipe, table.plan
    done, planned = table.holes
    probe = plan["scale"]["probe"]
    yield (
        f"Cohort {plan['cohort']}, scale {table.scale} (preset {plan['scale']['preset']}); split "
        f"{probe.get('split', 'patient')}, seeds {table.seeds}. Scores are {recipe.metric} on "
        "patients that no stage learned from, with 95 % intervals over patients; differences are "
        "paired over the same patients, p-values corrected for the number of arms (Holm). "
        "Each arm is trained once per seed and fold: intervals and p-values hold for these "
        "trainings (--seeds repeats them), not for the method at large."
    )
    if table.scale != "paper" and (recipe.claims or recipe.figures):
        yield ""
        yield "The paper's figures are at the paper's scale (ViT-S/16, 224 px), these are not."
    if table.gone:
        yield ""
        yield f"Not shown, since the recipe no longer has them: {', '.join(table.gone)}."
    if done < planned:
        yield ""
        yield f"**Holes: {done} of {planned} arms and parts are done.**"


def cells(row: Row) -> tuple[str, ...]:
    """What the table shows of a row, in the order of `HEADS`."""
    part = "" if row.done in (0, row.planned) else f" ({row.done} of {row.planned} parts)"
    score = "hole" if row.estimate is None else f"{row.estimate}{part}"
    against = "" if row.control is None else "hole"
    if row.against is not None:
        against = f"{row.against} ({row.control})"
    p = "" if row.holm is None else f"{row.holm:.4f}"
    paper = "" if row.paper is None else f"{row.paper:.3f} at the paper's scale"
    return row.arm, row.features, row.setting, score, against, p, row.reading, paper


def _line(entries: Iterable[str]) -> str:
    return "| " + " | ".join(entries) + " |"

"""Lists the experiments: question, table of the paper, cells, data, time and memory here.

Times and memory are rough estimates, of training alone: counted operations of the image encoder, at
the pace of a small step that is timed here, one cell after the other. Decoding and probes come on
top. The pace is kept in a file of the cache folder, so that later calls are quick.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from slimp.cli.console import say, show_table

EXAMPLE = "slimp experiment list --cohort synthetic"
PRECISION = {"precision": "32"}
"""Whichever: it changes no figure here, and finding out the machine's own takes torch."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Experiments."""

    cohort: str | None = None
    """Name of a cohort, or a cohort folder; default: the first of each recipe's that is here."""


def run(arguments: Arguments) -> None:
    """Prints a table of the recipes, and what is asked."""
    from functools import cache
    from pathlib import Path

    from slimp.cli.experiment import estimate
    from slimp.errors import UserError
    from slimp.experiments.cohorts import cohort_cell, is_here
    from slimp.experiments.cost import cost_of, machine_file
    from slimp.experiments.plan import first_here, make_plan
    from slimp.experiments.recipe import SCALES, recipes

    rows, known = [], cache(cohort_cell)
    for recipe in recipes().values():
        name = arguments.cohort or first_here(recipe)
        data = [f"{c}{'' if is_here(c) else ' (not here)'}" for c in recipe.cohorts]
        costs = []
        for scale in SCALES.values():
            plan = None
            with suppress(UserError):  # the recipe is none for this cohort
                if name is not None:
                    plan = make_plan(recipe, scale, name, changes=PRECISION, cohorts=known)
            cost = None if plan is None else cost_of(plan.cells, plan.cohort, Path())
            costs += [str(len(plan.cells)) if plan else "-", *estimate(cost)]
        rows.append((recipe.name, recipe.paper or "ours", ", ".join(data), name or "-", *costs))
    heads = [f"{what}, {scale}" for scale in SCALES for what in ("cells", "training", "memory")]
    show_table("experiments", ["name", "paper", "data", "taken", *heads], rows)
    say(
        "training and memory are rough estimates for this machine, by the pace in "
        f"{machine_file()}; delete it to have that timed again"
    )
    for recipe in recipes().values():
        say(f"{recipe.name}: {recipe.question}")
    say("next: slimp experiment NAME --out DIR --dry-run")

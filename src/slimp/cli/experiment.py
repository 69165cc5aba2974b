"""Runs an experiment end to end: a question of the paper, or of ours, on a cohort that is here.

Every arm is trained, embedded and probed on the same patients; the table has intervals, paired
differences from the control, and the paper's figure beside with its scale. What was interrupted
goes on where it stopped, and several processes or machines may work on one --out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slimp.cli.console import note, say, show_table
from slimp.cli.flags import REQUIRED_FLAG
from slimp.data.config import require_positive
from slimp.errors import UserError

if TYPE_CHECKING:
    from slimp.experiments.cost import Cost
    from slimp.experiments.plan import Plan

EXAMPLE = "slimp experiment nested-vs-flat --out experiments/nested --cohort synthetic"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Experiment."""

    name: str
    """Name of an experiment; slimp experiment list shows them."""
    out: Path = field(metadata=REQUIRED_FLAG)
    """Folder to write, or to go on with."""
    scale: Literal["laptop", "paper"] = "laptop"
    """laptop: a small encoder, for two cores; paper: ViT-S/16 at 224 px, for GPUs."""
    cohort: str | None = None
    """Name of a cohort, or a cohort folder; default: the first of the recipe's that is here."""
    seeds: int | None = None
    """Shuffles of the folds, each with trainings of its own; default: 1 at laptop, 3 at paper."""
    malignant: tuple[str, ...] = ()
    """Labels that are malignant, as in MEL,BCC; known for the named cohorts."""
    set_: Mapping[str, Any] = field(default_factory=dict)
    """Setting of every pre-training, as in epochs=5 (repeat the flag for more)."""
    only: tuple[str, ...] = ()
    """Which cells to make, as in arm=nested,seed=0,fold=2; 'arm=nested|flat' names two."""
    shard: str = "1/1"
    """Which part of the cells to make, as in 2/8: for arrays of jobs on one --out."""
    jobs: int = 1
    """Processes on this machine."""
    cells: Path | None = None
    """Folder of cells that several experiments share; default: cells in --out."""
    dry_run: bool = False
    """Show what would be done, and do nothing."""

    def __post_init__(self) -> None:
        require_positive(self, "jobs", *(["seeds"] if self.seeds is not None else []))
        number, _, shards = self.shard.partition("/")
        if not (number.isdigit() and shards.isdigit()):
            raise UserError(f"--shard takes a number of a number, as in 2/8, got '{self.shard}'.")
        if wrong := [word for word in self.only if "=" not in str(word)]:
            raise UserError(f"--only takes pairs such as arm=nested, got '{wrong[0]}'.")


def run(arguments: Arguments) -> None:
    """Makes the cells, then prints the table and writes it with its page."""
    from slimp.experiments.plan import first_here, make_plan
    from slimp.experiments.recipe import SCALES, get_recipe
    from slimp.experiments.run import Share, run_experiment

    recipe, name = get_recipe(arguments.name), arguments.cohort
    if name is None:
        name = first_here(recipe) or recipe.cohorts[-1]
        note(f"cohort: {name}, the first of {', '.join(recipe.cohorts)} that is here")
    scale = SCALES[arguments.scale]
    if arguments.seeds is not None:
        scale = replace(scale, probe={**scale.probe, "seeds": arguments.seeds})
    plan = make_plan(recipe, scale, name, malignant=arguments.malignant, changes=arguments.set_)
    number, _, shards = arguments.shard.partition("/")
    share = Share(
        only=dict(word.split("=", 1) for word in arguments.only),
        shard=(int(number), int(shards)),
        jobs=arguments.jobs,
    )
    if arguments.dry_run:
        _show_plan(plan, share.of(plan), arguments.cells or arguments.out / "cells")
        return
    table = run_experiment(plan, arguments.out, cells=arguments.cells, share=share, announce=note)
    from slimp.cli.experiment_show import show

    show(arguments.out, table)
    if table.failed:
        raise UserError("\n".join(("some cells could not be made:", *table.failed)))


def _show_plan(plan: Plan, chains: Any, cells: Path) -> None:
    from slimp.experiments.cells import in_order
    from slimp.experiments.cost import cost_of

    wanted = in_order(chain.score for chain in chains)
    rows = []
    for stage in ("cohort", "split", "pretrain", "adapt", "embed", "score"):
        own = [cell for cell in wanted if cell.stage == stage]
        if own:
            done = sum(cell.is_done(cells) for cell in own)
            rows.append((stage, len(own), done, len(own) - done))
    show_table(f"{plan.recipe.name} on {plan.cohort}", ["stage", "cells", "done", "left"], rows)
    for cell in wanted:
        if not cell.is_done(cells):
            say(f"  {cell.id}  {cell.words}")
    time, memory = estimate(cost_of(wanted, plan.cohort, cells))
    say(f"training that is left, by a rough estimate: {time}, in {memory} of memory")


def estimate(cost: Cost | None) -> tuple[str, str]:
    """Time and memory in words."""
    if cost is None:
        return "not known", "not known"
    seconds = cost.seconds
    time = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
    return f"{seconds:.0f} s" if seconds < 90 else time, f"{cost.bytes / 1e9:.1f} GB"

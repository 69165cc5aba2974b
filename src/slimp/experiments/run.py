"""Runs an experiment: its cells, in this process or several, then its table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from slimp.data.files import new_file, write_json
from slimp.errors import UserError
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import make_task, relabelled
from slimp.experiments.cells import Announce, Cell, in_order, work
from slimp.experiments.cohorts import cohort_of, is_folder
from slimp.experiments.plan import Chain, Plan, open_experiment
from slimp.experiments.table import Table, read_table
from slimp.experiments.text import markdown


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which of the chains, and by how many processes."""

    only: Mapping[str, str]
    """`arm`, `seed` or `fold` -> the only value that is wanted, or several joined by '|'."""
    shard: tuple[int, int] = (1, 1)
    """Number of the shard, from 1, and of all shards."""
    jobs: int = 1
    """Processes."""

    def of(self, plan: Plan) -> tuple[Chain, ...]:
        """The chains of this share; those that share a training are in one shard.

        Raises:
            UserError: nothing is left, or the flags name what there is not.
        """
        number, shards = self.shard
        if not 1 <= number <= shards:
            raise UserError(f"--shard {number}/{shards}: pass 1/{shards} to {shards}/{shards}.")
        if unknown := set(self.only) - {"arm", "seed", "fold"}:
            raise UserError(f"--only {min(unknown)}=: pass arm=, seed= or fold=.")
        found = []
        for chain in plan.chains:
            has = {"arm": chain.arm, "seed": chain.part.seed, "fold": chain.part.fold}
            if all(str(has[name]) in value.split("|") for name, value in self.only.items()):
                found.append(chain)
        if not found:
            arms = ", ".join(arm.name for arm in plan.recipe.arms)
            raise UserError(f"--only leaves nothing: arms are {arms}; seeds and folds count from 0")
        order = sorted({_training(chain.score).id for chain in plan.chains})
        return tuple(c for c in found if order.index(_training(c.score).id) % shards == number - 1)


def silent(line: str) -> None:
    """Announces nothing; a function with a name, since it travels to other processes."""


def run_experiment(
    plan: Plan,
    out: Path,
    *,
    cells: Path | None = None,
    share: Share | None = None,
    announce: Announce = silent,
) -> Table:
    """Makes the cells of a share that are not done, then the table of all that are.

    Args:
        plan: what the experiment consists of.
        out: its folder.
        cells: folder of the cells, which experiments may share; None: `cells` in `out`.
        share: None: all of it, in this process.
        announce: called with a line per cell.

    Raises:
        UserError: the cohort does not allow the experiment, or `out` is another one's.
    """
    from slimp.experiments.stages import execute

    share = share or Share(only={})
    chains = share.of(plan)
    place = out / "cells" if cells is None else cells
    wanted = in_order(chain.score for chain in chains)
    if chains and is_folder(chains[0].score.upstream[-1]):
        require_possible(plan, wanted, place)
    open_experiment(out, plan, Path("cells") if cells is None else cells.resolve())
    if old := sum(cell.is_of_other_code(place) for cell in wanted):
        announce(
            f"{old} of {len(wanted)} cells were made by other code of this version, and are taken "
            "as they are. To make them anew, choose another --out, or --cells."
        )
    first = [cell for cell in wanted if cell.stage in ("cohort", "split")]
    for reason in work(first, place, execute, announce).values():
        raise UserError(reason)
    if share.jobs == 1:
        failed = work(wanted, place, execute, announce)
    else:
        with ProcessPoolExecutor(share.jobs, mp_context=get_context("spawn")) as pool:
            threads = max(1, (os.cpu_count() or 1) // share.jobs)
            jobs = [pool.submit(_job, wanted, place, announce, threads) for _ in range(share.jobs)]
            failed = {cell: reason for job in jobs for cell, reason in job.result().items()}
    return replace(write_table(out), failed=tuple(failed.values()))


def require_possible(plan: Plan, wanted: Sequence[Cell], cells: Path) -> None:
    """Refuses what a cohort folder does not allow before anything is written or trained."""
    for cell in wanted:
        if cell.stage == "split":
            images = cohort_of(cell, cells).images
            make_task(images, ProbeConfig(**cell.settings, seeds=1))
            if "malignant" in plan.recipe.labels:
                relabelled(images, plan.malignant)


def write_table(out: Path) -> Table:
    """Writes `table.md`, `table.json` and `predictions.parquet` of the cells that are done."""
    table = read_table(out)
    write_json(out / "table.json", table.to_dict())
    with new_file(out / "table.md") as partial:
        partial.write_text(markdown(table), encoding="utf-8")
    with new_file(out / "predictions.parquet") as partial:
        table.predictions.to_parquet(partial, index=False)
    return table


def _job(cells: Sequence[Cell], folder: Path, announce: Announce, threads: int) -> dict[str, str]:
    import torch

    from slimp.experiments.stages import execute

    torch.set_num_threads(threads)
    return work(cells, folder, execute, announce)


def _training(cell: Cell) -> Cell:
    """The training that a chain rests on, or its score where nothing is trained."""
    return cell.of("pretrain") or cell

"""The table of an experiment, a pure function of its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.files import read_json
from slimp.errors import UserError
from slimp.experiments.cells import DONE, PREDICTIONS
from slimp.experiments.claims import Judged, judge
from slimp.experiments.plan import EXPERIMENT
from slimp.experiments.recipe import Recipe, get_recipe
from slimp.experiments.rows import DRAWS, Row, reading, rows_of


@dataclass(frozen=True, kw_only=True)
class Table:
    """All that an experiment found so far."""

    recipe: Recipe
    plan: Mapping[str, Any]
    """The content of `experiment.json`."""
    rows: tuple[Row, ...]
    verdicts: tuple[Judged, ...]
    predictions: pd.DataFrame
    done: int
    """Chains whose cells are all there."""
    failed: tuple[str, ...] = ()
    """Cells that could not be made just now, with the reasons."""

    @property
    def scale(self) -> str:
        """Its name, with the user's own settings if there are any."""
        changes = ", ".join(f"{k}={v}" for k, v in self.plan["changes"].items())
        return str(self.plan["scale"]["name"]) + (f" with {changes}" if changes else "")

    @property
    def seeds(self) -> int:
        """Number of seeds planned."""
        return len({chain["seed"] for chain in self.plan["chains"]})

    @property
    def gone(self) -> list[str]:
        """Arms that were planned and that the recipe no longer has."""
        planned = dict.fromkeys(chain["arm"] for chain in self.plan["chains"])
        return [name for name in planned if name not in {arm.name for arm in self.recipe.arms}]

    @property
    def holes(self) -> tuple[int, int]:
        """Chains that are done, and all."""
        return self.done, len(self.plan["chains"])

    @property
    def reading(self) -> str:
        """What is told apart from its control, in a sentence per feature set."""
        return reading(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The content of `table.json`."""
        return {
            "name": self.recipe.name,
            "question": self.recipe.question,
            "paper": self.recipe.paper,
            "scale": self.scale,
            "cohort": self.plan["cohort"],
            "malignant": self.plan["malignant"],
            "metric": self.recipe.metric,
            "seeds": self.seeds,
            "reading": self.reading,
            "rows": [row.to_dict() for row in self.rows],
            "verdict": [judged.to_dict() for judged in self.verdicts],
        }


def read_table(out: Path) -> Table:
    """The table of the cells that are done; no model is read.

    Raises:
        UserError: `out` holds no experiment.
    """
    if not (out / EXPERIMENT).is_file():
        raise UserError(f"{out}: holds no {EXPERIMENT}. Make one with: slimp experiment NAME.")
    plan = read_json(out / EXPERIMENT)
    recipe, cells = get_recipe(plan["name"]), Path(plan["cells"])
    if not cells.is_absolute():
        cells = out / cells
    planned = pd.DataFrame(plan["chains"])
    frames = []
    for chain in plan["chains"]:
        folder = cells / chain["cell"]
        if (folder / DONE).is_file():
            frames.append(pd.read_parquet(folder / PREDICTIONS).assign(arm=chain["arm"]))
    said = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if len(said):
        draw = said["draw"].fillna(0).astype(int) if "draw" in said else 0
        said["seed"] = said["seed"] * DRAWS + draw
    rows = rows_of(recipe, planned, said)
    verdicts = tuple(judge(recipe, rows, said))
    return Table(
        recipe=recipe, plan=plan, rows=rows, verdicts=verdicts, predictions=said, done=len(frames)
    )

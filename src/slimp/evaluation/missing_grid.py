"""The probe where metadata are missing at test, beside image features alone.

The rates are those of github.com/life-ufes/metablock-se (utils/simulatemissingdata.py): every cell
of every image's row is blanked with the same probability, independently of all others. Differs:
there the training rows are blanked as well; here only the test rows are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from slimp.errors import UserError
from slimp.evaluation.bootstrap import Record
from slimp.evaluation.linear_probe import answer, fit, probe_design
from slimp.evaluation.paired_bootstrap import Difference, compare
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Task, prediction_table
from slimp.features.feature_table import FeatureTable

RATES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


@dataclass(frozen=True, kw_only=True)
class MissingPoint(Record):
    """The score at one rate."""

    rate: float
    """Probability with which each cell is blanked, besides those that are missing anyway."""
    difference: Difference
    """Balanced accuracy of the probe (a) and of image features alone (b), mean over draws."""


@dataclass(frozen=True, kw_only=True)
class MissingGrid(Record):
    """The scores at all rates."""

    points: tuple[MissingPoint, ...]
    draws: int

    @property
    def rows(self) -> list[tuple[str, float, float, str]]:
        """For a table: rate, probe, image features alone, difference."""
        pairs = [(f"{point.rate:.0%}", point.difference) for point in self.points]
        return [(rate, pair.a, pair.b, str(pair)) for rate, pair in pairs]

    @property
    def sentence(self) -> str:
        """Whether the probe falls below image features alone, as far as intervals show it."""
        below = [f"{p.rate:.0%}" for p in self.points if p.difference.ci95[1] < 0]
        if not below:
            return "with no share of cells missing is the probe clearly below image features alone."
        return (
            f"with {', '.join(below)} of cells missing the probe is below image features alone; "
            "training with copies that lack cells (--blanked-copies 1) may mend that."
        )


def missing_grid(table: FeatureTable, task: Task, config: ProbeConfig, draws: int) -> MissingGrid:
    """The probe of `config.features` at each rate, paired with that of image features.

    Raises:
        UserError: the features have no metadata, or they cannot be embedded anew.
    """
    design = table.design(config.features)
    if not design.can_blank:
        raise UserError(
            f"features '{config.features}' have no metadata that can be blanked (missing_grid): "
            "there are none, or they are imputed, or compared between lesions (use features "
            "'full'), or the table was read without its model."
        )
    alone = probe_design(table.design("image"), task, config, name="image").predictions
    fitted = [fit(design, task, split.train, config, seed=split.seed) for split in task.splits]
    points = []
    for number, rate in enumerate(RATES):
        ours, images = [], []
        for draw in range(draws if rate else 1):
            found = []
            for k, (split, one) in enumerate(zip(task.splits, fitted, strict=True)):
                rng = np.random.default_rng([config.seed, number, draw, k])
                test = design[split.test].blank(np.full(len(split.test), rate), rng)
                found.append(answer(task, split, one, test, config))
            said = prediction_table(task, found, config.decision)
            seed = said["seed"] * draws + draw  # each draw is a seed of its own to `compare`
            ours.append(said.assign(seed=seed))
            images.append(alone.assign(seed=seed))
        paired = compare(
            pd.concat(ours, ignore_index=True),
            pd.concat(images, ignore_index=True),
            replicates=config.replicates,
            headline_only=True,
        )
        difference = paired.differences["balanced_accuracy"]
        points.append(MissingPoint(rate=rate, difference=difference))
    return MissingGrid(points=tuple(points), draws=draws)

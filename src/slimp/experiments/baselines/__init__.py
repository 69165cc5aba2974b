"""Other ways to train an image encoder, on the same data and budget: one module each.

An arm of a recipe names the module (`Arm(trainer="mae")` calls `mae.train`); there is no registry.
What settings of `PretrainConfig` make of SLIMP itself has no module: SimCLR (`view_weight` alone),
same-patient positives (`view_positives`), contrast with a table whose hidden cells are predicted
(`reconstruction_weight`, as in TIP), SigLIP's loss (`contrast`), FT-Transformer (`tabular`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.experiments.cohorts import without_split
from slimp.models.nested import Slimp
from slimp.training.config import PretrainConfig
from slimp.training.loop import pretrain


class Train(Protocol):
    """What a module of this package calls `train`."""

    def __call__(
        self, cohort: Cohort, config: PretrainConfig, folder: Path, **options: Any
    ) -> Slimp:
        """The trained model, in evaluation mode, as `slimp.embed` takes it.

        Args:
            cohort: all patients to learn from. Nobody in it is tested later, so there is nobody to
                set aside: the fractions of `config` are 0. Labels are those of the cohort.
            config: encoder, image size, batches, epochs, rates, augmentation and `config.seed`, as
                for `slimp.training.loop.pretrain`: every arm has the same budget.
            folder: of the run. It may hold a training that was interrupted: go on with it to the
                same bits, as `pretrain(resume=True)` does, or begin anew with the same outcome.
                A run of other settings, options or another baseline is refused. The caller saves
                the model there.
            options: further settings of the baseline, from `Arm.options`.

        The model has no metadata encoder that nothing trained: its `full` features are those of
        the image beside the raw metadata, as `image+table` are of every model.
        """
        ...


def learn(
    cohort: Cohort,
    config: PretrainConfig,
    folder: Path,
    build: Callable[[Cohort, PretrainConfig], Slimp],
    *,
    table: bool = False,
    **what: Any,
) -> Slimp:
    """`pretrain` of another objective; the rest goes into the run's `config.json`.

    All patients learn, also those that a split of the cohort's own would set aside. Without a
    `table` that learns too, the model is left without its metadata encoders.

    Raises:
        UserError: patients would be set aside: `pretrain` would measure SLIMP's loss on them.
    """
    if config.validation_fraction or config.held_out_fraction or config.monitor != "last":
        raise UserError(
            f"baseline '{what['trainer']}' has no validation: give it the training patients alone, "
            "validation_fraction=0, held_out_fraction=0 and monitor=last."
        )
    cohort, what = without_split(cohort), {**what, "table": table}
    model = pretrain(cohort, config, folder, resume=True, build=build, baseline=what)
    model.aligned = ()
    if not table:
        model.levels, model.encodings = nn.ModuleDict(), {}
    return model

"""Continual pre-training of a run on a cohort whose metadata may differ.

Features of the same name, kind and unit keep their weights, vocabularies are extended, new features
get new weights. The table of what is kept, new and trained is printed and saved in transfer.json.
With --reference, probes on that cohort measure what was forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import slimp
from slimp.cli.console import is_main_process, note, progress_bar, say, show_cautions, show_table
from slimp.cli.inputs import Output
from slimp.training.config import AdaptConfig

if TYPE_CHECKING:
    from slimp.training.adapt import Adaptation

EXAMPLE = (
    "slimp adapt runs/mine cohorts/clinic --out runs/clinic "
    "--rename gender=sex --reference cohorts/mine"
)
MAIN_FLAGS = (
    *("out", "reference", "train", "rename", "patients", "lesions"),
    *("epochs", "learning_rate", "precision", "seed", "resume"),
)


@dataclass(frozen=True, kw_only=True)
class Arguments(Output):
    """Inputs and outputs."""

    run: Path
    """Run folder to start from (read only)."""
    cohort: Path
    """Cohort folder to adapt to."""
    reference: Path | None = None
    """Cohort folder to measure forgetting on, usually that of the pre-training."""
    resume: bool = False
    """Continue the adaptation in --out from its last checkpoint."""
    config: AdaptConfig


def run(arguments: Arguments) -> None:
    """Adapts, shows what was trained and, given a reference, what was forgotten."""
    run, out, cohort = arguments.run, arguments.out, slimp.Cohort.load(arguments.cohort)
    reference = None if arguments.reference is None else slimp.Cohort.load(arguments.reference)
    note(f"{cohort!r}")
    show_cautions(cohort)
    slimp.adapt(
        run,
        cohort,
        arguments.config,
        out,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        announce=_announce,
    )
    if reference is None:
        say(
            "forgetting was not measured; to measure it, repeat the command with "
            "--resume --reference COHORT (the cohort of the pre-training)"
        )
    elif is_main_process():
        _measure_forgetting(arguments, reference)
    say(f"next: slimp probe {out} {arguments.cohort} --out {out}/probe")


def _announce(found: Adaptation) -> None:
    show_table(
        "what is kept of the run, and what will learn",
        ["part", "status", "trained", "parameters", ""],
        [
            (p.part, p.status, "yes" if p.trained else "no", f"{p.parameters:,}", p.detail)
            for p in found.transfer.parts
        ],
    )
    show_table(
        "stages",
        ["stage", "cohort", "patients", "epochs", "loss", "learned", "of", "parameters"],
        [
            (
                f"{number} {stage.verb}",
                *(stage.cohort, stage.patients or "?", stage.epochs or "?"),
                " + ".join(f"{weight:g} {name}" for name, weight in stage.weights.items()),
                *(stage.trained, f"{stage.trainable:,}", f"{stage.parameters:,}"),
            )
            for number, stage in enumerate(found.stages, start=1)
        ],
    )
    if count := sum(found.known.values()):
        say(
            f"{count} patient(s) of this cohort were in an earlier stage; the "
            f"{found.known['learned_from']} that it learned from are not held out. If they are "
            "different people, give them different ids."
        )


def _measure_forgetting(arguments: Arguments, reference: slimp.Cohort) -> None:
    from slimp.data.files import write_json
    from slimp.evaluation.forgetting import forgetting
    from slimp.models.hub import find_model
    from slimp.training.devices import device_of

    device = device_of(arguments.config.accelerator)
    with progress_bar("embedding the reference") as progress:
        run = find_model(arguments.run)
        found = forgetting(run, arguments.out, reference, device=device, progress=progress)
    write_json(arguments.out / "forgetting.json", found.to_dict())
    rows = [(name, found.main(name)) for name in found.after_minus_before]
    show_table(
        f"balanced accuracy on cohort '{found.cohort}', tested on {found.tested_on}",
        ["features", "before", "after", "after - before, 95 % interval over patients", "p"],
        [(name, d.b, d.a, d, d.p_value) for name, d in rows],
    )
    if found.unread:
        say(f"no longer read: {', '.join(found.unread)}")
    say(found.sentence())

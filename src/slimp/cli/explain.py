"""Maps of what the model looks at, with figures, and what each metadata feature contributes.

Explains how well an image fits the metadata of its own lesion, which is what pre-training makes
large, or with --probe a class. With --masks the maps are scored against lesion masks, beside a spot
in the middle of the image: lesions are centred in most photographs, so that is the figure to beat.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import slimp
from slimp.cli.console import note, progress_bar, say, show_cautions, show_table
from slimp.cli.flags import command_line
from slimp.cli.inputs import OnDevice, ReportedOutput, noted
from slimp.errors import UserError
from slimp.explain.config import ExplainConfig, name_and_run

if TYPE_CHECKING:
    from slimp.evaluation.logistic import LinearProbe
    from slimp.explain.explain import Explanation

EXAMPLE = "slimp explain runs/mine cohorts/mine --masks masks --out explained"
MAIN_FLAGS = (
    *("out", "masks", "methods", "level", "images", "probe", "label", "beside", "counterfactual"),
    "report",
)


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice, ReportedOutput):
    """Inputs and outputs."""

    run: Path
    """Run folder of pre-training or adaptation; with --probe or --beside, of fine-tuning too."""
    cohort: Path
    """Cohort folder."""
    masks: Path | None = None
    """Folder of lesion masks: images named as the cohort's, the lesion white."""
    probe: Path | None = None
    """Folder of slimp probe, made with this run: explain a class in place of the match with
    metadata, and what the probe's features are worth."""
    label: str | None = None
    """Class of the probe. Default: of each image its own."""
    beside: tuple[str, ...] = ()
    """Other runs, or weights:NAME, on the same images, as in runs/mae,net=weights:NAME: of each a
    probe of its image features is fitted and explained, of this run too. Needs --masks."""
    held_out: bool = True
    """With --beside: explain patients that RUN set aside, if there are any, else random ones."""
    config: ExplainConfig

    def __post_init__(self) -> None:
        if self.label is not None and self.probe is None and not self.beside:
            raise UserError("--label names a class of a probe: pass --probe or --beside too.")
        for flag in ("counterfactual", "level"):
            if getattr(self.config, flag) and (self.probe is not None or self.beside):
                raise UserError(
                    f"--{flag} is of metadata to match, and a probe matches none: leave it out, or "
                    "--probe and --beside."
                )
        if self.beside and (self.probe is not None or self.masks is None):
            wrong = "fits a probe of its own to each run, without --probe" if self.probe else ""
            raise UserError(f"--beside {wrong or 'compares maps by their masks: pass --masks'}.")
        names, runs = zip(*map(name_and_run, (str(self.run), *self.beside)), strict=True)
        if len({*runs}) < len(runs) or len({*names}) < len(names):
            raise UserError("--beside names a run twice, or the run that it is compared with.")


def run(arguments: Arguments) -> None:
    """Explains, writes the folder and prints the tables."""
    from slimp.data.files import new_folder
    from slimp.report.explanation import write_explanation_report

    out = arguments.out
    with new_folder(out, overwrite=arguments.overwrite) as folder:
        cohort = slimp.Cohort.load(arguments.cohort)
        found = (_beside if arguments.beside else _alone)(arguments, cohort)
        warnings = _warnings(arguments, cohort, found)
        found.save(folder, {**noted(arguments), "explain": asdict(arguments.config)})
        if arguments.report:
            target, command = folder / "report.html", command_line(arguments)
            write_explanation_report(target, found, cohort, warnings=warnings, command=command)
    show_cautions(cohort)
    for warning in warnings:
        note(f"CAUTION: {warning}")
    _show(found)
    say(f"written: {out}")


def _alone(arguments: Arguments, cohort: slimp.Cohort) -> Explanation:
    from slimp.evaluation.logistic import LinearProbe
    from slimp.evaluation.result import relabelled
    from slimp.explain.explain import explain
    from slimp.prediction.probe_folder import read_model
    from slimp.prediction.probe_record import read_record
    from slimp.training.adapt import unrelated
    from slimp.training.weights_run import as_run

    run, folder = as_run(arguments.run), arguments.probe
    probe: tuple[LinearProbe, str | None] | None = None
    if folder is None:
        if why := unrelated(run):
            raise UserError(f"{run}: {why}, or explain a class, with --probe.")
        model = slimp.Slimp.from_pretrained(run)
    else:
        record = read_record(folder)
        model = read_model(record, run, folder)
        probe = LinearProbe.load(folder), arguments.label
        if arguments.label is None:  # of each image its class, as the probe joined them
            images = relabelled(cohort.images, record["probe"].get("malignant", ()))
            cohort = replace(cohort, tables=replace(cohort.tables, images=images))
    with progress_bar("explaining images") as progress:
        found = explain(
            model,
            cohort,
            arguments.config,
            probe=probe,
            masks=arguments.masks,
            device=arguments.device,
            progress=progress,
        )
    return found if probe is None else _with_probe_features(arguments, found, probe[0])


def _beside(arguments: Arguments, cohort: slimp.Cohort) -> Explanation:
    from slimp.explain.beside import explain_beside, image_probes

    device, config = arguments.device, arguments.config
    runs = [str(arguments.run), *arguments.beside]
    note(f"embedding images of {len(runs)} runs, and probing ...")
    probes = image_probes(
        runs, arguments.cohort, held_out=arguments.held_out, seed=config.seed, device=device
    )
    assert arguments.masks is not None
    with progress_bar("explaining images") as progress:
        return explain_beside(
            probes,
            cohort,
            config,
            arguments.masks,
            label=arguments.label,
            device=device,
            progress=progress,
        )


def _with_probe_features(
    arguments: Arguments, found: Explanation, probe: LinearProbe
) -> Explanation:
    from slimp.evaluation.paired_bootstrap import read_predictions
    from slimp.evaluation.run_features import cached_features
    from slimp.explain.probe_features import with_probe_features
    from slimp.features.encode import InferenceConfig
    from slimp.prediction.probe_record import read_record
    from slimp.training.weights_run import as_run

    assert arguments.probe is not None
    record = read_record(arguments.probe)
    how = InferenceConfig(
        device=arguments.device,
        test_time_augmentation=record["test_time_augmentation"],
    )
    pseudo = record.get("pseudo")
    with progress_bar("embedding images") as progress:
        table = cached_features(
            as_run(arguments.run),
            arguments.cohort,
            how,
            pseudo=None if pseudo is None else Path(pseudo),
            progress=progress,
        )
    said = read_predictions(arguments.probe)
    return with_probe_features(found, probe, arguments.label, table, said)


def _warnings(arguments: Arguments, cohort: slimp.Cohort, found: Explanation) -> list[str]:
    from slimp.models.persistence import read_description
    from slimp.training.parts import LEARNED_FROM, parts_of_run
    from slimp.training.weights_run import as_run

    words = []
    if found.level and found.level not in read_description(as_run(arguments.run)).aligned:
        words.append(
            f"The image encoder has since learned on a cohort without {found.level} metadata, so "
            "its match with these is of before: explain the run before the adaptation."
        )
    if found.left_out:
        words.append(f"{found.left_out} images are left out: the probe does not know their class.")
    named = [("The run", str(arguments.run)), *map(name_and_run, arguments.beside)]
    for name, run in named:
        parts = parts_of_run(as_run(run), cohort) or {}
        learned = int(found.by_image["patient_id"].map(parts).isin(LEARNED_FROM).sum())
        if learned:
            words.append(
                f"{name} learned from the patients of {learned} of these {len(found.rows)} images."
            )
    return words


def _show(found: Explanation) -> None:
    from slimp.report.explanation import (
        MEASURES,
        SHORT_HEADS,
        feature_heads,
        feature_rows,
        movement,
        short_rows,
        verdict,
    )

    measures = [m for m in MEASURES if any(m in of for of in found.figures.values())]
    rows = [[name, *(of.get(m) for m in measures)] for name, of in found.figures.items()]
    show_table(f"Maps of {len(found.rows)} images: {found.words}", ["map", *measures], rows)
    for title, heads, rows in (
        ("Metadata features", feature_heads(found), feature_rows(found)),
        ("Beside other models", SHORT_HEADS, short_rows(found.beside)),
    ):
        if rows:
            show_table(title, [head.lstrip("#") for head in heads], rows)
    for sentence in filter(None, (verdict(found), movement(found))):
        say(sentence)

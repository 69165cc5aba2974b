"""Probe of a run's frozen features, with baselines that need no pre-training.

Tests on the patients that pre-training set aside, where the run has some of this cohort; otherwise
on the cohort's official test part or folds, else on random patient-disjoint splits. With folds
(--split grouped-5) every image is tested once; a figure is the mean over folds, its interval a
bootstrap over the patients of all folds. Prints every feature set up to the one asked for, the
majority class, and a classifier of the raw metadata; then calibration and the score per subgroup,
and on request the score with few labels and what leaks through splits that are not by patient.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import slimp
from slimp.cli.console import note, progress_bar, say, show_cautions, show_table
from slimp.cli.flags import command_line
from slimp.cli.inputs import Embedding, ReportedOutput
from slimp.evaluation.probe_config import RULES, FullProbeConfig

if TYPE_CHECKING:
    from slimp.evaluation.protocol import Assessment

EXAMPLE = "slimp probe runs/mine cohorts/mine --out probes/mine"
MAIN_FLAGS = (
    *("out", "features", "method", "decision", "split", "split_file", "seeds"),
    "malignant",
    *("pseudo", "fractions", "shots", "missing_grid", "subgroups", "leakage"),
)


@dataclass(frozen=True, kw_only=True)
class Arguments(Embedding, ReportedOutput):
    """Inputs and outputs."""

    run: Path
    """Run folder of pre-training, or weights:NAME, a published encoder as it is."""
    cohort: Path
    """Cohort folder with labels."""
    held_out: bool = True
    """Test on the patients that pre-training or an official split set aside, if there are any."""
    pseudo: Path | None = None
    """Folder of slimp retrieve: its metadata stand in where the cohort's own are not known."""
    config: FullProbeConfig


def run(arguments: Arguments) -> None:
    """Makes the probe and prints the table."""
    result = make(arguments)
    show_cautions(slimp.Cohort.load(arguments.cohort))
    show(result)
    if arguments.report:
        say(f"report: {arguments.out / 'report.html'}")
    say(f"written: {arguments.out}")


def make(arguments: Arguments) -> Assessment:
    """Embeds, probes, and writes the folder, with its page if that is asked for."""
    from slimp.data.files import check_output, new_folder
    from slimp.evaluation.protocol import assess, require_possible
    from slimp.evaluation.run_features import cached_features
    from slimp.evaluation.similarity import similarity_of_unseen
    from slimp.prediction.probe_folder import write_probe
    from slimp.report.page import PageOptions, write_report
    from slimp.training.parts import labels_known, parts_of_run
    from slimp.training.weights_run import as_run

    run, out, config = as_run(arguments.run), arguments.out, arguments.config
    pseudo, held_out = arguments.pseudo, arguments.held_out
    check_output(out, overwrite=arguments.overwrite)
    cohort = slimp.Cohort.load(arguments.cohort)
    require_possible(cohort, config, config)
    with progress_bar("embedding images") as progress:
        table = cached_features(
            run, arguments.cohort, arguments.inference, pseudo=pseudo, progress=progress
        )
    note("probing ...")
    parts = parts_of_run(run, cohort)
    result = assess(
        table,
        cohort,
        config,
        run_parts=parts,
        labels_known=labels_known(run),
        held_out=held_out,
        protocols=config,
    )
    record = {"probe": asdict(config), "held_out": held_out, "cohort": str(arguments.cohort)}
    record["pseudo"] = None if pseudo is None else str(pseudo)
    with new_folder(out, overwrite=arguments.overwrite) as partial:
        write_probe(partial, result, table, cohort, run=arguments.run, record=record)
    if arguments.report:
        write_report(
            out / "report.html",
            run,
            cohort,
            result,
            table=table,
            similarity=similarity_of_unseen(run, cohort, table, parts, device=arguments.device),
            options=PageOptions(command=command_line(arguments)),
        )
    return result


def show(result: Assessment) -> None:
    """Prints the tables and sentences of an assessment."""
    main, name = result.main, list(result.probes)[-1]
    each, altogether = "", ""
    if (splits := len(main.splits)) > 1:
        each, altogether = f" in each of {splits} splits", " in all"
    say(
        f"probe: {main.n_train} images train, {main.n_test} images test{each} "
        f"({main.n_test_patients} {result.unit}{altogether}: {result.tested_on})"
    )
    for caution in result.cautions:
        say(f"CAUTION: {caution}")
    if (worth := result.imputed_worth) is not None and worth.enough:
        say(f"imputed metadata are worth having: {worth}")
    metrics = ("balanced_accuracy", "auroc_macro_ovr", "f1_macro")
    named = {f"no pre-training: {found.name}": found for found in result.baselines.values()}
    show_table(
        f"mean over {'folds' if main.by_fold else 'seeds'}, with 95 % interval over {result.unit}",
        ["features", "balanced accuracy", "AUROC, one against rest", "F1, macro"],
        [
            (row, *(found.metrics[metric] for metric in metrics))
            for row, found in {**result.probes, **named}.items()
        ],
    )
    for found in filter(None, (result.verdict, result.gain)):
        say(found.sentence)
    if main.by_fold:
        say(f"'{name}': {main.by_fold}")
    say(
        f"decision '{main.decision}': {RULES[main.decision]}; calibration of "
        f"'{name}': ECE {main.metrics['ece']}, Brier {main.metrics['brier']}"
    )
    if "pauc_above_80tpr" in main.metrics:
        say(
            f"finding '{main.classes[1]}': sensitivity at 90 % specificity "
            f"{main.metrics['sensitivity_at_90_specificity']}, at 95 % "
            f"{main.metrics['sensitivity_at_95_specificity']}, partial AUC above 80 % TPR "
            f"{main.metrics['pauc_above_80tpr']}"
        )
    _print_protocols(result)


def _print_protocols(result: Assessment) -> None:
    """Few labels, leaking splits, subgroups: as far as they were measured."""
    if (few := result.low_shot) is not None:
        show_table(
            f"few labels, mean over splits and {few.draws} draws of {result.unit}",
            ["learned from", "images", result.unit, "balanced accuracy", "AUROC", "spread"],
            [point.row for point in few.points],
        )
        for remark in filter(None, (point.remark for point in few.points)):
            say(f"CAUTION: {remark}")
    if (grid := result.missing_grid) is not None:
        name = result.main.config.features
        show_table(
            f"metadata cells missing at test, balanced accuracy, mean over {grid.draws} draws",
            ["missing", name, "image", f"{name} - image, 95 % interval over {result.unit}"],
            grid.rows,
        )
        say(grid.sentence)
    if (leaks := result.leakage) is not None:
        show_table(
            "the same probe, split three ways",
            ["split by", "balanced accuracy", "above the split by patient"],
            leaks.rows,
        )
        say("CAUTION: only the split by patient is an honest estimate for new patients.")
    if (groups := result.subgroups) is not None:
        names = ("balanced_accuracy", "auroc_macro_ovr", "sensitivity", "ece")
        shown = [name for name in names if any(name in g.metrics for g in groups.groups)]
        show_table(
            "subgroups; averages run over the classes that a group has; without interval: fewer "
            f"than 10 {result.unit}",
            ["column", "group", result.unit, "classes", *shown],
            [
                (g.column, g.group, g.n_patients, len(g.classes), *map(g.metrics.get, shown))
                for g in groups.groups
            ],
        )
        for gap in groups.gaps:
            say(gap.sentence)

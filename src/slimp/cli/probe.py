"""Probe of a run's frozen features, with baselines that need no pre-training.

Tests on the patients that pre-training set aside, where the run has some of this cohort; otherwise
on random patient-disjoint splits. Prints every feature set up to the one asked for, the majority
class, and a classifier of the raw metadata; then calibration and the score per subgroup, and on
request the score with few labels and what leaks through splits that are not by patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slimp.cli.console import note, progress_bar, say, show_cautions, show_table
from slimp.cli.flags import REQUIRED_FLAG
from slimp.errors import UserError
from slimp.evaluation.probe_config import LEAKING, FullProbeConfig

if TYPE_CHECKING:
    from slimp.data.cohort import Cohort
    from slimp.evaluation.low_shot import LowShot
    from slimp.evaluation.protocol import Assessment
    from slimp.evaluation.subgroups import Subgroups
    from slimp.features.embed import FeatureTable

EXAMPLE = "slimp probe runs/mine cohorts/mine --out probes/mine"
MAIN_FLAGS = (
    *("out", "features", "method", "split", "seeds", "malignant"),
    *("pseudo", "fractions", "shots", "subgroups", "leakage"),
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    run: Path
    """Run folder of pre-training."""
    cohort: Path
    """Cohort folder with labels."""
    out: Path = field(metadata=REQUIRED_FLAG)
    """Folder to write."""
    held_out: bool = True
    """Test on the patients that pre-training or an official split set aside, if there are any."""
    pseudo: Path | None = None
    """Folder of slimp retrieve: its metadata stand in where the cohort's own are not known."""
    overwrite: bool = False
    """Replace what is in --out."""
    report: bool = True
    """Also write report.html, which shows some of the images."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to embed."""
    workers: int = 1
    """Processes that decode images."""
    config: FullProbeConfig

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"workers must not be negative, got {self.workers}.")


def run(arguments: Arguments) -> None:
    """Embeds, probes, writes the folder and prints the table."""
    from slimp.data.cohort import Cohort
    from slimp.data.files import check_output
    from slimp.evaluation.protocol import assess, require_possible
    from slimp.evaluation.run_features import cached_features, device_of, parts_of_run
    from slimp.features.embed import InferenceConfig
    from slimp.prediction.probe_folder import Provenance, save_probe

    check_output(arguments.out, overwrite=arguments.overwrite)
    cohort = Cohort.load(arguments.cohort)
    require_possible(cohort, arguments.config, arguments.config)
    with progress_bar("embedding images") as progress:
        table = cached_features(
            arguments.run,
            arguments.cohort,
            InferenceConfig(device=device_of(arguments.accelerator), workers=arguments.workers),
            pseudo=arguments.pseudo,
            progress=progress,
        )
    note("probing ...")
    parts = parts_of_run(arguments.run, cohort)
    result = assess(
        table,
        cohort,
        arguments.config,
        run_parts=parts,
        held_out=arguments.held_out,
        protocols=arguments.config,
    )
    save_probe(
        arguments.out,
        result,
        table,
        cohort,
        Provenance(
            run=arguments.run,
            cohort=arguments.cohort,
            pseudo=arguments.pseudo,
            held_out=arguments.held_out,
        ),
        config=arguments.config,
        overwrite=arguments.overwrite,
    )
    show_cautions(cohort)
    _print(result)
    _print_protocols(arguments, result)
    if arguments.report:
        _report(arguments, cohort, table, result, parts or {})
    say(f"written: {arguments.out}")


def _report(
    arguments: Arguments,
    cohort: Cohort,
    table: FeatureTable,
    result: Assessment,
    parts: Mapping[str, str],
) -> None:
    from slimp.evaluation.run_features import device_of
    from slimp.evaluation.similarity import similarity_by_level
    from slimp.models.nested import Slimp
    from slimp.report import PageOptions, write_report

    here = set(cohort.patients["patient_id"])
    unseen = [patient for patient, part in parts.items() if part == "held_out" and patient in here]
    similarity = None
    if unseen and not table.imputed:
        similarity = similarity_by_level(
            Slimp.from_pretrained(arguments.run),
            cohort.select_patients(unseen),
            table.select(table.ids["patient_id"].isin(unseen)).features["image"],
            device=device_of(arguments.accelerator),
        )
    page = write_report(
        arguments.out / "report.html",
        arguments.run,
        cohort,
        result,
        table=table,
        similarity=similarity,
        options=PageOptions(
            command=f"slimp probe {arguments.run} {arguments.cohort} --out {arguments.out}"
        ),
    )
    say(f"report: {page}")


def _print(result: Assessment) -> None:
    main = result.main
    say(
        f"probe: {main.n_train} images train, {main.n_test} images test "
        f"({main.n_test_patients} {result.unit}: {result.tested_on})"
    )
    if result.unit != "patients":
        say("CAUTION: no patient ids, so images of one patient may be in both training and test.")
    if result.imputed:
        say(f"imputed by retrieval, not observed: {', '.join(result.imputed)} features.")
    if result.saw_test_patients:
        say("CAUTION: pre-training saw patients that test here, so these figures are optimistic.")
    if main.config.split in LEAKING:
        say(
            f"CAUTION: split by {main.config.split}, so patients may both train and test: "
            "only a split by patient is an honest estimate."
        )
    if not main.converged:
        say("CAUTION: the probe did not converge.")
    show_table(
        f"mean over seeds, with 95 % interval over {result.unit}",
        ["features", "balanced accuracy", "AUROC, one against rest", "F1, macro"],
        _rows(result),
    )
    say(result.verdict.sentence)
    if "ece_scaled" in main.metrics:
        before, after = (
            f"ECE {main.metrics[f'ece{end}']}, Brier {main.metrics[f'brier{end}']}"
            for end in ("", "_scaled")
        )
        say(f"calibration of '{main.config.features}': {before}; scaled: {after}")
    if "pauc_above_80tpr" in main.metrics:
        named = {
            "sensitivity at 90 % specificity": "sensitivity_at_90_specificity",
            "at 95 %": "sensitivity_at_95_specificity",
            "partial AUC above 80 % TPR": "pauc_above_80tpr",
        }
        found = (f"{words} {main.metrics[name]}" for words, name in named.items())
        say(f"finding '{main.classes[1]}': {', '.join(found)}")


def _rows(result: Assessment) -> Iterator[tuple[str, ...]]:
    metrics = ("balanced_accuracy", "auroc_macro_ovr", "f1_macro")
    for name, probe in result.probes.items():
        yield (name, *(str(probe.metrics[metric]) for metric in metrics))
    for baseline in result.baselines.values():
        yield (f"no pre-training: {baseline.name}", *(str(baseline.metrics[m]) for m in metrics))


def _print_protocols(arguments: Arguments, result: Assessment) -> None:
    if result.low_shot is not None:
        _print_low_shot(result.low_shot, result.unit)
    if result.leakage is not None:
        show_table(
            "the same probe, split three ways",
            ["split by", "balanced accuracy", "above the split by patient"],
            [
                (mode, found.balanced_accuracy, result.leakage.excess.get(mode, "-"))
                for mode, found in result.leakage.results.items()
            ],
        )
        say("CAUTION: only the split by patient is an honest estimate for new patients.")
    if result.subgroups is not None:
        named = "auto" not in arguments.config.subgroups
        _print_subgroups(result.subgroups, result.unit, named=named)


def _print_low_shot(found: LowShot, unit: str) -> None:
    show_table(
        f"few labels, mean over splits and {found.draws} draws of {unit}",
        ["learned from", "images", unit, "balanced accuracy", "AUROC", "spread of draws"],
        [
            (
                point.setting,
                f"{point.n_images:.1f}",
                f"{point.n_patients:.1f}",
                point.balanced_accuracy,
                f"{point.auroc_macro_ovr:.3f}",
                f"{point.spread:.3f}",
            )
            for point in found.points
        ],
    )
    for point in found.points:
        if remark := point.remark:
            say(f"CAUTION: {remark}")


def _print_subgroups(found: Subgroups, unit: str, *, named: bool) -> None:
    """The table; groups of few patients only where their column was asked for."""
    from slimp.evaluation.subgroups import FEWEST_PATIENTS

    names = ("balanced_accuracy", "auroc_macro_ovr", "sensitivity", "ece")
    shown = [name for name in names if any(name in group.metrics for group in found.groups)]
    show_table(
        "subgroups; averages run over the classes that a group has",
        ["column", "group", unit, "classes", *shown],
        [
            (
                *(group.column, group.group, group.n_patients, len(group.classes)),
                *(group.text(name) for name in shown),
            )
            for group in found.groups
            if named or not group.caution
        ],
    )
    few = sum(group.caution for group in found.groups)
    if few:
        say(
            f"CAUTION: {few} group(s) have fewer than {FEWEST_PATIENTS} {unit}: "
            f"{'no interval' if named else 'they are in metrics.json and the report'}."
        )
    for gap in found.gaps:
        say(gap.sentence)

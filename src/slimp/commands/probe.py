"""Linear probe on a run's frozen features, beside what needs no pre-training.

Tests on the patients that pre-training set aside, where the run has some of this cohort; otherwise
on random patient-disjoint splits. Prints every feature set up to the one asked for, the majority
class, and a classifier of the raw metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slimp.console import note, progress_bar, say, show_table
from slimp.evaluate.probe_config import ProbeConfig
from slimp.flags import REQUIRED_FLAG

if TYPE_CHECKING:
    from slimp.assess import Assessment
    from slimp.cohort import Cohort
    from slimp.evaluate.features import FeatureTable


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where things are, and how to embed."""

    run: Path
    """Run folder of pre-training."""
    cohort: Path
    """Cohort folder with labels."""
    out: Path = field(metadata=REQUIRED_FLAG)
    """Folder to write."""
    held_out: bool = True
    """Test on the patients that were set aside already, if there are any."""
    overwrite: bool = False
    """Replace what is in --out."""
    report: bool = True
    """Also write report.html, which shows some of the images."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to embed."""
    workers: int = 1
    """Processes that decode images."""
    config: ProbeConfig


def run(arguments: Arguments) -> None:
    """Embeds, probes, writes the folder and prints the table."""
    from slimp.assess import assess, cached_features, device_of, parts_of_run
    from slimp.cohort import Cohort
    from slimp.runs import versions
    from slimp.storage import check_output, write_json

    check_output(arguments.out, overwrite=arguments.overwrite)
    cohort = Cohort.load(arguments.cohort)
    with progress_bar("embedding images") as progress:
        table = cached_features(
            arguments.run,
            arguments.cohort,
            device=device_of(arguments.accelerator),
            workers=arguments.workers,
            progress=progress,
        )
    note("probing ...")
    parts = parts_of_run(arguments.run, cohort)
    result = assess(table, cohort, arguments.config, run_parts=parts, held_out=arguments.held_out)
    result.save(arguments.out, overwrite=arguments.overwrite)
    record = {
        "probe": asdict(arguments.config),
        "held_out": arguments.held_out,
        "run": str(arguments.run),
        "cohort": str(arguments.cohort),
        "versions": versions(),
    }
    write_json(arguments.out / "config.json", record)
    _print(result)
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
    from slimp.assess import device_of
    from slimp.evaluate.similarity import similarity_by_level
    from slimp.models.nested import Slimp
    from slimp.report import write_report

    here = set(cohort.patients["patient_id"])
    unseen = [patient for patient, part in parts.items() if part == "held_out" and patient in here]
    similarity = None
    if unseen:
        similarity = similarity_by_level(
            Slimp.from_pretrained(arguments.run),
            cohort.select_patients(unseen),
            device=device_of(arguments.accelerator),
        )
    page = write_report(
        arguments.out / "report.html",
        run=arguments.run,
        cohort=cohort,
        table=table,
        probes=result.probes,
        floors=result.floors,
        similarity=similarity,
        command=f"slimp probe {arguments.run} {arguments.cohort} --out {arguments.out}",
    )
    say(f"report: {page}")


def _print(result: Assessment) -> None:
    main = result.main
    say(
        f"probe: {main.n_train} images train, {main.n_test} images test "
        f"({main.n_test_patients} patients: {result.tested_on})"
    )
    if result.saw_test_patients:
        say("CAUTION: pre-training saw patients that test here, so these figures are optimistic.")
    if not main.converged:
        say("CAUTION: the probe did not converge.")
    show_table(
        "mean over seeds, with 95 % interval over patients",
        ["features", "balanced accuracy", "AUROC, one against rest", "F1, macro"],
        _rows(result),
    )
    say(result.verdict)


def _rows(result: Assessment) -> Iterator[tuple[str, ...]]:
    metrics = ("balanced_accuracy", "auroc_macro_ovr", "f1_macro")
    for name, probe in result.probes.items():
        yield (name, *(str(probe.metrics[metric]) for metric in metrics))
    for floor in result.floors.values():
        yield (f"no pre-training: {floor.name}", *(str(floor.metrics[m]) for m in metrics))

"""Imputes metadata that a target lacks from the most similar cases of a reference.

Writes pseudo.parquet (retrieved metadata per image, for slimp embed --pseudo), and says how far to
trust them: whether the target looks like the reference, which images are out of distribution, and,
where the target has metadata of its own, how far the retrieved ones agree with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import slimp
from slimp.cli.console import note, progress_bar, say, show_cautions, show_table
from slimp.cli.flags import REQUIRED_FLAG, command_line
from slimp.cli.inputs import Embedding, ReportedOutput
from slimp.errors import UserError
from slimp.retrieval.config import RetrievalConfig

if TYPE_CHECKING:
    from slimp.retrieval.result import Retrieval

EXAMPLE = (
    "slimp retrieve runs/mine --reference cohorts/mine --target cohorts/images_only --out imputed"
)
MAIN_FLAGS = (
    *("reference", "target", "out", "route", "k", "impute"),
    *("coverage", "rename", "groups", "report", "seed"),
)


@dataclass(frozen=True, kw_only=True)
class Arguments(Embedding, ReportedOutput):
    """Inputs and outputs."""

    run: Path
    """Run folder of slimp pretrain, or of slimp adapt."""
    reference: Path = field(metadata=REQUIRED_FLAG)
    """Reference cohort: a folder with the metadata that the run was trained on."""
    target: Path = field(metadata=REQUIRED_FLAG)
    """Target cohort: a folder with images that lack metadata."""
    config: RetrievalConfig


def run(arguments: Arguments) -> None:
    """Retrieves, measures, writes the folder and prints the tables."""
    from slimp.data.files import new_folder
    from slimp.report.retrieval import write_retrieval_report

    run, out = arguments.run, arguments.out
    tta = arguments.test_time_augmentation
    flag = "" if tta == "none" else f" --test-time-augmentation {tta}"
    folders = {"reference": arguments.reference, "target": arguments.target}
    with new_folder(out, overwrite=arguments.overwrite) as folder:
        result = _retrieve(arguments)
        result.save(folder, run=run, **folders, test_time_augmentation=tta)
        if arguments.report:
            write_retrieval_report(folder / "report.html", result, command=command_line(arguments))
    _print(result)
    say(f"written: {out}")
    say(f"next: slimp embed {run} {arguments.target} --pseudo {out}{flag} --out FILE")


def _retrieve(arguments: Arguments) -> Retrieval:
    from slimp.evaluation.run_features import cached_features
    from slimp.models.hub import find_model
    from slimp.retrieval.index import EmbeddedCohort
    from slimp.training.adapt import unrelated
    from slimp.training.parts import parts_of_run

    run, how = find_model(arguments.run), arguments.inference
    if why := unrelated(run):
        raise UserError(f"{run}: {why}.")
    model = slimp.Slimp.from_pretrained(run)
    reference, target = map(slimp.Cohort.load, (arguments.reference, arguments.target))
    show_cautions(reference)
    with progress_bar("embedding the reference") as progress:
        theirs = cached_features(run, arguments.reference, how, progress=progress)
    with progress_bar("embedding the target") as progress:
        ours = cached_features(run, arguments.target, how, lacking="missing", progress=progress)
    note("searching, and measuring the agreement of retrieved metadata ...")
    return slimp.extrapolate(
        model,
        EmbeddedCohort(cohort=reference, images=theirs.features["image"]),
        EmbeddedCohort(cohort=target, images=ours.features["image"]),
        arguments.config,
        parts=parts_of_run(run, reference),
        device=arguments.device,
    )


def _print(result: Retrieval) -> None:
    abstention, reference = result.abstention, result.reference.unit
    say(result.verdict)
    say(
        f"{result.lacking_images}; imputed by retrieval, not observed: "
        f"{', '.join(result.imputed)} metadata, route {result.config.route}; "
        f"nothing near enough for {result.abstention_rate:.1%} of them"
    )
    found = f"too few {reference} to verify it"
    if abstention.achieved is not None:
        found = (
            f"{abstention.achieved} found on {abstention.n_patients} {reference} of the reference"
        )
    say(f"coverage: {abstention.coverage:.0%} stated; {found}")
    for caution in result.cautions:
        say(f"CAUTION: {caution}")
    show_table(
        "similarity: of images and their own metadata, and of nearest neighbours (calibration "
        f"{reference}, target)",
        ["level", "matching", "others", "overlap", "AUROC", "calibration", "target"],
        _similarities(result),
    )
    on_reference = "the same on the reference, its own metadata hidden"
    for title, agreement, unit in (
        ("retrieved against true metadata of the target", result.agreement, result.target.unit),
        (on_reference, result.reference_agreement, reference),
    ):
        if agreement:
            show_table(
                f"{title} (95 % interval over {unit})",
                ["column", "n", "agreement or error", "by chance", "kappa or skill"],
                [
                    (a.name, a.n, a.headline, a.figures["chance"].mean, a.beyond_chance)
                    for a in agreement
                ],
            )
    if result.rank_correlation:
        figures = ", ".join(f"{level} {rho}" for level, rho in result.rank_correlation.items())
        say(f"does agreement rise with similarity? rank correlation: {figures}")


def _similarities(result: Retrieval) -> Iterator[tuple[object, ...]]:
    own = {str(level): found for level, found in result.calibration.matching.items()}
    neighbours = result.neighbour_similarity
    for level in dict.fromkeys([*own, *neighbours]):
        names = ("median_matching", "median_nonmatching", "overlap", "auroc")
        medians = neighbours.get(level, {})
        ends = (medians.get("calibration_median"), medians.get("target_median"))
        yield (level, *(getattr(own.get(level), name, None) for name in names), *ends)

"""Imputes metadata that a target lacks from the most similar cases of a reference.

Writes pseudo.parquet (retrieved metadata per image, for slimp embed --pseudo), and says how far to
trust them: whether the target looks like the reference, which images are out of distribution, and,
where the target has metadata of its own, how far the retrieved ones agree with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slimp.cli.console import note, progress_bar, say, show_table
from slimp.cli.flags import REQUIRED_FLAG
from slimp.errors import UserError
from slimp.retrieval.config import RetrievalConfig

if TYPE_CHECKING:
    from slimp.evaluation.similarity import Similarity
    from slimp.retrieval.agreement import Agreement
    from slimp.retrieval.result import Retrieval

EXAMPLE = (
    "slimp retrieve runs/mine --reference cohorts/mine --target cohorts/images_only --out imputed"
)
MAIN_FLAGS = (
    *("reference", "target", "out", "route", "k", "impute"),
    *("coverage", "rename", "groups", "report", "seed"),
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    run: Path
    """Run folder of slimp pretrain, or of slimp adapt."""
    reference: Path = field(metadata=REQUIRED_FLAG)
    """Reference cohort: a folder with the metadata that the run was trained on."""
    target: Path = field(metadata=REQUIRED_FLAG)
    """Target cohort: a folder with images that lack metadata."""
    out: Path = field(metadata=REQUIRED_FLAG)
    """Folder to write."""
    overwrite: bool = False
    """Replace what is in --out."""
    report: bool = True
    """Also write report.html, which shows some of the images."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device that embeds and searches."""
    workers: int = 1
    """Processes that decode images."""
    config: RetrievalConfig

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"workers must not be negative, got {self.workers}.")


def run(arguments: Arguments) -> None:
    """Retrieves, measures, writes the folder and prints the tables."""
    from slimp.data.files import check_output, new_folder
    from slimp.report.retrieval import write_retrieval_report

    check_output(arguments.out, overwrite=arguments.overwrite)
    result = _retrieve(arguments)
    with new_folder(arguments.out, overwrite=arguments.overwrite) as folder:
        result.save(
            folder, run=arguments.run, reference=arguments.reference, target=arguments.target
        )
        if arguments.report:
            write_retrieval_report(folder / "report.html", result, command=_command(arguments))
    _print(result)
    say(f"written: {arguments.out}")
    say(f"next: slimp embed {arguments.run} {arguments.target} --pseudo {arguments.out} --out FILE")


def _retrieve(arguments: Arguments) -> Retrieval:
    from slimp.data.cohort import Cohort
    from slimp.evaluation.run_features import cached_features, device_of, parts_of_run
    from slimp.features.embed import InferenceConfig
    from slimp.models.nested import Slimp
    from slimp.retrieval.extrapolate import extrapolate
    from slimp.retrieval.index import EmbeddedCohort
    from slimp.training.adapt import left_behind

    device = device_of(arguments.accelerator)
    how = InferenceConfig(device=device, workers=arguments.workers)
    model, run = Slimp.from_pretrained(arguments.run), arguments.run
    reference, target = Cohort.load(arguments.reference), Cohort.load(arguments.target)
    with progress_bar("embedding the reference") as progress:
        theirs = cached_features(run, arguments.reference, how, progress=progress)
    with progress_bar("embedding the target") as progress:
        ours = cached_features(run, arguments.target, how, lacking="missing", progress=progress)
    note("searching, and measuring the agreement of retrieved metadata ...")
    return extrapolate(
        model,
        EmbeddedCohort(cohort=reference, images=theirs.features["image"]),
        EmbeddedCohort(cohort=target, images=ours.features["image"]),
        arguments.config,
        parts=parts_of_run(run, reference),
        stale=left_behind(run),
        device=device,
    )


def _command(arguments: Arguments) -> str:
    paths = f"--reference {arguments.reference} --target {arguments.target} --out {arguments.out}"
    return f"slimp retrieve {arguments.run} {paths}"


def _print(result: Retrieval) -> None:
    rate, abstention = result.abstention_rate, result.abstention
    say(result.verdict)
    say(
        f"{len(result.target)} images; imputed by retrieval, not observed: "
        f"{', '.join(result.imputed)} metadata, route {result.config.route}; "
        f"nothing near enough for {rate:.1%} of them"
    )
    if abstention.achieved is None:
        say(f"coverage: {abstention.coverage:.0%} stated; too few patients to verify it")
    else:
        say(
            f"coverage: {abstention.coverage:.0%} stated, {abstention.achieved} found on "
            f"{abstention.n_patients} patients of the reference, half against half"
        )
    for caution in result.cautions:
        say(f"CAUTION: {caution.removeprefix('CAUTION: ')}")
    heads = ["level", "matching", "others", "overlap", "AUROC", "calibration", "target"]
    show_table(
        "similarity: of images and their own metadata, and of nearest neighbours (calibration "
        "patients, target)",
        heads,
        _similarities(result),
    )
    for title, found in (
        ("retrieved against true metadata of the target", result.agreement),
        (
            "the same on patients of the reference, their own metadata hidden",
            result.reference_agreement,
        ),
    ):
        if found:
            heads = ["column", "n", "agreement or error", "by chance", "kappa or skill"]
            show_table(f"{title} (95 % interval over patients)", heads, _agreements(found))
    if result.rank_correlation:
        figures = ", ".join(f"{level} {rho}" for level, rho in result.rank_correlation.items())
        say(f"does agreement rise with similarity? rank correlation: {figures}")


def _similarities(result: Retrieval) -> Iterator[tuple[str, ...]]:
    matching: dict[str, Similarity] = {}
    matching.update(result.calibration.matching.items())
    neighbours = result.neighbour_similarity
    for level in dict.fromkeys([*matching, *neighbours]):
        found, medians = matching.get(level), neighbours.get(level, {})
        names = ("median_matching", "median_nonmatching", "overlap", "auroc")
        figures = [getattr(found, name, None) for name in names]
        figures += [medians.get("calibration_median"), medians.get("target_median")]
        yield (level, *map(_figure, figures))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _agreements(found: tuple[Agreement, ...]) -> Iterator[tuple[str, ...]]:
    for one in found:
        chance = _figure(one.figures["chance"].mean)
        yield (one.name, str(one.n), str(one.headline), chance, str(one.beyond_chance))

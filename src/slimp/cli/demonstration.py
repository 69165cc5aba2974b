"""The main job in one function, on two synthetic cohorts.

A reference is pre-trained and probed. A clinic with other people, other cameras and fewer columns
is adapted to, and probed. Then the clinic's metadata are hidden, and imputed from the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.files import check_output, new_folder, write_json
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.protocol import Assessment, assess
from slimp.evaluation.result import ProbeResult
from slimp.evaluation.run_features import cached_features, parts_of_run
from slimp.evaluation.similarity import similarity_by_level
from slimp.features.embed import embed
from slimp.models.nested import Slimp
from slimp.prediction.image_folder import save_probe
from slimp.report import PageOptions, write_report
from slimp.report.retrieval import write_retrieval_report
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.extrapolate import extrapolate
from slimp.retrieval.result import Retrieval
from slimp.sources.synthetic.cohort import write_synthetic
from slimp.sources.synthetic.config import SyntheticConfig
from slimp.training.adapt import adapt
from slimp.training.config import AdaptConfig, PretrainConfig, RunConfig, part_of
from slimp.training.loop import pretrain
from slimp.training.parts import set_aside
from slimp.training.run_folder import versions

REFERENCE, ADAPTED, HIDDEN = "reference", "clinic, adapted", "clinic, images only"


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoResult:
    """What the demo found and where it lies."""

    table: pd.DataFrame
    """Cohort, features, balanced accuracy and AUROC; a row per feature set and baseline."""
    assessment: Assessment
    """Of the reference."""
    adapted: Assessment
    """Of the clinic, after adaptation."""
    retrieval: Retrieval
    """Metadata imputed for the clinic's images."""
    report: Path


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    cohort: SyntheticConfig | None = None,
    config: PretrainConfig | None = None,
) -> DemoResult:
    """Runs the main job and leaves it in `out`.

    There lie `config.json`, `report.html`, `cohort/ run/ probe/` of the reference, `clinic/` with
    the same three of the clinic, and `retrieved/`, metadata imputed for it.

    Args:
        out: folder to write.
        seed: of the cohorts and of training.
        overwrite: replace what is in `out`.
        cohort: size of the reference; None: the demo's.
        config: of pre-training; None: the preset `tiny`, 20 epochs.

    Raises:
        UserError: `out` is not empty and `overwrite` is off.
    """
    out = Path(out)
    check_output(out, overwrite=overwrite)
    cohort = cohort or SyntheticConfig(patients=300, lesions=5, seed=seed)
    config = config or PretrainConfig.from_preset("tiny", seed=seed, epochs=20, validate_every=10)
    clinic = clinic_of(cohort)
    adaptation = adaptation_of(config)

    with new_folder(out, overwrite=overwrite) as empty:  # the parts below fill it
        record = {
            "cohort": asdict(cohort),
            "pretrain": asdict(config),
            "clinic": asdict(clinic),
            "adapt": asdict(adaptation),
            "versions": versions(),
        }
        write_json(empty / "config.json", record)
    write_synthetic(out / "cohort", cohort)
    reference = Cohort.load(out / "cohort")
    model = pretrain(reference, config, out / "run")
    report, found = _probe_reference(out, model, reference, config, seed)

    write_synthetic(out / "clinic" / "cohort", clinic)
    target = Cohort.load(out / "clinic" / "cohort")
    adapt(out / "run", target, adaptation, out / "clinic" / "run")
    parts = parts_of_run(out / "clinic" / "run", target)
    table = cached_features(out / "clinic" / "run", out / "clinic" / "cohort")
    adapted = assess(table, target, ProbeConfig(), run_parts=parts)
    save_probe(
        out / "clinic" / "probe",
        adapted,
        table,
        target,
        config=ProbeConfig(),
        run=out / "clinic" / "run",
        cohort_folder=out / "clinic" / "cohort",
    )

    retrieval, imputed = _extrapolate(out, model, reference, target, adapted.main)
    return DemoResult(
        table=pd.DataFrame([*_rows(found, REFERENCE), *_rows(adapted, ADAPTED), *imputed]),
        assessment=found,
        adapted=adapted,
        retrieval=retrieval,
        report=report,
    )


def clinic_of(cohort: SyntheticConfig) -> SyntheticConfig:
    """A clinic beside a reference: other people and cameras, less of everything."""
    return replace(
        cohort,
        seed=cohort.seed + 1,
        patients=max(1, cohort.patients * 2 // 3),
        lesions=max(1, cohort.lesions // 2),
        nuisance_columns=min(2, cohort.nuisance_columns),
        clinic_cast=2 * cohort.clinic_cast,
    )


def adaptation_of(config: PretrainConfig) -> AdaptConfig:
    """The paper's policy, with the batches of pre-training and half of its epochs."""
    shared = asdict(part_of(config, RunConfig)) | {"epochs": max(1, config.epochs // 2)}
    return AdaptConfig(**shared)


def _probe_reference(
    out: Path, model: Slimp, reference: Cohort, config: PretrainConfig, seed: int
) -> tuple[Path, Assessment]:
    features = cached_features(out / "run", out / "cohort")
    parts = parts_of_run(out / "run", reference)
    found = assess(features, reference, ProbeConfig(), run_parts=parts)
    save_probe(
        out / "probe",
        found,
        features,
        reference,
        config=ProbeConfig(),
        run=out / "run",
        cohort_folder=out / "cohort",
    )
    held_out = set_aside(reference, config).held_out
    assert held_out is not None
    unseen = features.ids["patient_id"].isin(held_out.patients["patient_id"])
    report = write_report(
        out / "report.html",
        out / "run",
        reference,
        found,
        table=features,
        similarity=similarity_by_level(model, held_out, features.select(unseen).features["image"]),
        options=PageOptions(
            title="slimp demo: a synthetic cohort", command=f"slimp demo --seed {seed}"
        ),
    )
    return report, found


def _extrapolate(
    out: Path, model: Slimp, reference: Cohort, target: Cohort, same_patients: ProbeResult
) -> tuple[Retrieval, list[dict[str, str]]]:
    """Imputation for the clinic with all its metadata hidden; and probes with and without it."""
    theirs = cached_features(out / "run", out / "cohort").features["image"]
    ours = embed(model, target, lacking="missing").features["image"]
    retrieval = extrapolate(
        model,
        reference,
        target,
        theirs,
        ours,
        RetrievalConfig(lend="all"),
        parts=parts_of_run(out / "run", reference),
    )
    with new_folder(out / "retrieved") as folder:
        retrieval.save(
            folder,
            run=out / "run",
            reference=out / "cohort",
            target=out / "clinic" / "cohort",
        )
        write_retrieval_report(folder / "report.html", retrieval)
    table = embed(model, target, pseudo=retrieval.features)
    tests = target.images["patient_id"].isin(same_patients.predictions["patient_id"])
    parts = tests.map({True: "held_out", False: "train"}).tolist()
    image = probe(table, ProbeConfig(features="image"), parts=parts)
    full = probe(table, ProbeConfig(features="full"), parts=parts)
    return retrieval, [_row(HIDDEN, "image", image), _row(HIDDEN, "image + imputed metadata", full)]


def _rows(found: Assessment, cohort: str) -> Iterator[dict[str, str]]:
    for name, result in {**found.probes, **found.baselines}.items():
        yield _row(cohort, name, result)


def _row(cohort: str, features: str, result: ProbeResult) -> dict[str, str]:
    return {
        "cohort": cohort,
        "features": features,
        "balanced accuracy": str(result.metrics["balanced_accuracy"]),
        "AUROC, one against rest": str(result.metrics["auroc_macro_ovr"]),
    }

"""The main job in one function, on a synthetic cohort: cohort, pre-training, probes, report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from slimp.assess import Assessment, assess, cached_features, parts_of_run
from slimp.cohort import Cohort
from slimp.config import PretrainConfig
from slimp.evaluate.probe_config import ProbeConfig
from slimp.evaluate.similarity import similarity_by_level
from slimp.held_out import set_aside
from slimp.report import write_report
from slimp.runs import versions
from slimp.sources.synthetic import SyntheticConfig, write_synthetic
from slimp.storage import check_output, new_folder, write_json
from slimp.train import pretrain


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoResult:
    """What the demo found and where it lies."""

    table: pd.DataFrame
    """Features, balanced accuracy and AUROC, with intervals; a row per feature set and floor."""
    assessment: Assessment
    report: Path


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    cohort: SyntheticConfig | None = None,
    config: PretrainConfig | None = None,
) -> DemoResult:
    """Runs the main job and leaves `config.json`, `cohort/`, `run/`, `probe/`, `report.html`.

    Args:
        out: folder to write.
        seed: of the cohort and of training.
        overwrite: replace what is in `out`.
        cohort: size of the synthetic cohort; None: the demo's.
        config: of pre-training; None: the preset `tiny`, 30 epochs.

    Raises:
        UserError: `out` is not empty and `overwrite` is off.
    """
    out = Path(out)
    check_output(out, overwrite=overwrite)
    cohort = cohort or SyntheticConfig(patients=300, lesions=5, seed=seed)
    config = config or PretrainConfig.from_preset("tiny", seed=seed, epochs=30, validate_every=10)

    with new_folder(out, overwrite=overwrite) as empty:  # the parts below fill it
        record = {"cohort": asdict(cohort), "pretrain": asdict(config), "versions": versions()}
        write_json(empty / "config.json", record)
    write_synthetic(out / "cohort", cohort)
    data = Cohort.load(out / "cohort")
    model = pretrain(data, config, out / "run")
    features = cached_features(out / "run", out / "cohort")
    found = assess(features, data, ProbeConfig(), run_parts=parts_of_run(out / "run", data))
    found.save(out / "probe")
    held_out = set_aside(data, config).held_out
    report = write_report(
        out / "report.html",
        run=out / "run",
        cohort=data,
        table=features,
        probes=found.probes,
        floors=found.floors,
        similarity=similarity_by_level(model, held_out) if held_out is not None else None,
        title="slimp demo: a synthetic cohort",
        command=f"slimp demo --seed {seed}",
    )
    return DemoResult(table=_table(found), assessment=found, report=report)


def _table(found: Assessment) -> pd.DataFrame:
    rows = [
        {
            "features": name,
            "balanced accuracy": str(result.metrics["balanced_accuracy"]),
            "AUROC, one against rest": str(result.metrics["auroc_macro_ovr"]),
        }
        for name, result in {**found.probes, **found.floors}.items()
    ]
    return pd.DataFrame(rows)

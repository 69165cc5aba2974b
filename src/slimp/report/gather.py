"""A run folder, a cohort and probe results -> ReportInputs: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.files import new_file, read_json
from slimp.errors import UserError
from slimp.evaluation.leakage import Leakage
from slimp.evaluation.low_shot import LowShot
from slimp.evaluation.result import ProbeResult
from slimp.evaluation.similarity import Similarity
from slimp.evaluation.subgroups import Subgroups
from slimp.features.embed import FeatureTable
from slimp.report.inputs import CohortFacts, ProbeFacts, ReportInputs, Score
from slimp.report.page import METRICS, render
from slimp.training.run_folder import read_log, versions

Probe = ProbeResult | Path
"""In memory, or the folder that `slimp probe` wrote."""


def write_report(
    target: str | Path,
    *,
    run: str | Path,
    cohort: Cohort,
    table: FeatureTable | None = None,
    probes: Mapping[str, Probe] | None = None,
    floors: Mapping[str, Probe] | None = None,
    similarity: Mapping[str, Similarity] | None = None,
    low_shot: LowShot | None = None,
    leakage: Leakage | None = None,
    subgroups: Subgroups | None = None,
    title: str | None = None,
    command: str = "",
    date: datetime | None = None,
    images: bool = True,
    seed: int = 0,
) -> Path:
    """Where the report lies: one HTML file that needs nothing else.

    Whatever is not given leaves its section out, with a sentence saying so.

    Args:
        target: file to write, replaced if it exists.
        run: folder of the run; its settings, log and parts are read.
        cohort: the data that the run and the probes are about.
        table: features of the cohort, for the map; held-out patients are shown if there are any.
        probes: name -> result, from the smallest set of features to the largest; the last one
            is the headline's.
        floors: name -> result of what a probe must beat, on the same splits.
        similarity: level -> similarity, as `similarity_by_level` gives it on held-out patients.
        low_shot: of the last probe, as `assess` gives it; so are the next two.
        leakage: the probe under three kinds of split.
        subgroups: its score per group.
        title: heading of the page.
        command: the line that made the report, for its footer.
        date: shown in the footer; now, unless given.
        images: show example lesions. Switch it off for a report that may leave the house.
        seed: of the map and the examples.

    Raises:
        UserError: `run` or a probe folder is missing or damaged.
    """
    inputs = gather(
        Path(run),
        cohort,
        table=table,
        probes=probes or {},
        floors=floors or {},
        similarity=similarity or {},
        title=title or f"{cohort.info.name}: nested contrastive pre-training",
        command=command,
        date=date or datetime.now(UTC),
        images=images,
        seed=seed,
    )
    target = Path(target)
    page = render(replace(inputs, low_shot=low_shot, leakage=leakage, subgroups=subgroups))
    with new_file(target) as partial:
        partial.write_text(page, encoding="utf-8")
    return target


def gather(
    run: Path,
    cohort: Cohort,
    *,
    table: FeatureTable | None,
    probes: Mapping[str, Probe],
    floors: Mapping[str, Probe],
    similarity: Mapping[str, Similarity],
    title: str,
    command: str,
    date: datetime,
    images: bool,
    seed: int,
) -> ReportInputs:
    """Plain facts for the page; arguments as in `write_report`."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder. Make one with: slimp pretrain.")
    settings = read_json(run / "config.json") if (run / "config.json").is_file() else {}
    parts = _parts(run, cohort)
    map_rows, map_of = _rows_of_map(table, parts)
    return ReportInputs(
        title=title,
        date=date,
        cohort=cohort_facts(cohort, parts),
        config=settings.get("pretrain", {}),
        versions=settings.get("versions") or versions(),
        command=command,
        log=pd.DataFrame(read_log(run)),
        probes=tuple(probe_facts(name, source) for name, source in probes.items()),
        floors=tuple(probe_facts(name, source) for name, source in floors.items()),
        imputed=() if table is None else table.imputed,
        seen_patients=_seen(parts),
        similarity=similarity,
        embedding=None if map_rows is None else map_rows.matrix("image"),
        embedding_labels=() if map_rows is None else _labels(map_rows.ids["label"]),
        embedding_of=map_of,
        read_image=_Reader(cohort) if images else None,
        seed=seed,
    )


def probe_facts(name: str, source: Probe) -> ProbeFacts:
    """What a probe measured, from memory or from its folder.

    Raises:
        UserError: the folder lacks a file, or holds a damaged one.
    """
    if isinstance(source, ProbeResult):
        content, predictions = source.to_dict(), source.predictions
    else:
        content = read_json(source / "metrics.json")
        try:
            predictions = pd.read_parquet(source / "predictions.parquet")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{source / 'predictions.parquet'}: missing or damaged ({error}). "
                "Make it anew with: slimp probe."
            ) from None
    return ProbeFacts(
        name=name,
        metrics={key: Score.from_dict(content[key]) for key in METRICS if key in content},
        class_recall={key: Score.from_dict(v) for key, v in content.get("recall", {}).items()},
        classes=tuple(content.get("classes", ())),
        predictions=predictions,
        split=content.get("split"),
        n_train=content.get("n_train"),
        n_test=content.get("n_test"),
    )


def cohort_facts(cohort: Cohort, parts: pd.DataFrame | None = None) -> CohortFacts:
    """Counts, missing shares, licence and import report.

    Args:
        cohort: the data.
        parts: `patient_id part`, as pre-training set them aside.
    """
    info = cohort.info
    return CohortFacts(
        name=info.name,
        source=info.source,
        licence=info.licence,
        citation=info.citation,
        import_report=info.import_report,
        patients=len(cohort.patients),
        lesions=len(cohort.lesions),
        images=len(cohort),
        classes=_classes(cohort),
        unlabelled=int(cohort.images["label"].isna().sum()),
        features=_features(cohort),
        parts=_count_parts(cohort, parts),
    )


def _classes(cohort: Cohort) -> pd.DataFrame | None:
    if not cohort.classes:
        return None
    counted = cohort.images.groupby("label").agg(
        images=("image_id", "size"),
        lesions=("lesion_id", "nunique"),
        patients=("patient_id", "nunique"),
    )
    return counted.reset_index()


def _features(cohort: Cohort) -> pd.DataFrame:
    rows = [
        {
            "level": level.name,
            "feature": feature.name,
            "kind": feature.kind,
            "unit": feature.unit or "",
            # A checkbox group is missing where all its columns are.
            "missing": float(
                cohort.tables.of_level(level.name)[list(feature.columns)].isna().all(axis=1).mean()
            ),
        }
        for level in cohort.schema.levels
        for feature in level.features
    ]
    return pd.DataFrame(rows, columns=["level", "feature", "kind", "unit", "missing"])


def _parts(run: Path, cohort: Cohort) -> pd.DataFrame | None:
    """`patient_id part` of the run, if it was trained on this cohort's patients."""
    path = run / "patients.parquet"
    if not path.is_file():
        return None
    parts = pd.read_parquet(path)
    return parts if parts["patient_id"].isin(cohort.patients["patient_id"]).any() else None


def _count_parts(cohort: Cohort, parts: pd.DataFrame | None) -> pd.DataFrame | None:
    if parts is None:
        return None
    images = cohort.images.merge(parts, on="patient_id")
    counted = images.groupby("part", sort=False).agg(
        patients=("patient_id", "nunique"), images=("image_id", "size")
    )
    order = [name for name in ("train", "validation", "held_out") if name in counted.index]
    return counted.loc[order].reset_index()


def _seen(parts: pd.DataFrame | None) -> frozenset[str]:
    if parts is None:
        return frozenset()
    return frozenset(parts.loc[parts["part"] != "held_out", "patient_id"])


def _rows_of_map(
    table: FeatureTable | None, parts: pd.DataFrame | None
) -> tuple[FeatureTable | None, str]:
    """Held-out rows if there are any, else all, and what to call them."""
    if table is None or parts is None:
        return table, "all patients"
    held_out = parts.loc[parts["part"] == "held_out", "patient_id"]
    mask = table.ids["patient_id"].isin(held_out)
    return (table.select(mask), "held-out patients") if mask.any() else (table, "all patients")


def _labels(column: pd.Series) -> tuple[str | None, ...]:
    return tuple(None if pd.isna(label) else str(label) for label in column)


class _Reader:
    """image_id -> encoded image of a cohort."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._row: dict[Any, int] = {name: k for k, name in enumerate(cohort.images["image_id"])}

    def __call__(self, image_id: str) -> bytes:
        if image_id not in self._row:
            raise UserError(
                f"the predictions hold image '{image_id}', which cohort "
                f"'{self._cohort.info.name}' does not have. Give the cohort that was probed."
            )
        return self._cohort.read_image(self._row[image_id])

"""What a run's features are worth on a cohort: a probe per feature set, compared with baselines."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.files import new_file, write_json
from slimp.errors import UserError
from slimp.evaluation.added_worth import AddedWorth, added_worth
from slimp.evaluation.bootstrap import plain
from slimp.evaluation.folds import (
    Parts,
    classes_of,
    given_splits,
    parts_of_config,
)
from slimp.evaluation.linear_probe import majority, metadata_baseline, probe, probe_design
from slimp.evaluation.low_shot import LowShot, low_shot
from slimp.evaluation.missing_grid import MissingGrid, missing_grid
from slimp.evaluation.paired_bootstrap import Leakage, Verdict, leakage, verdict
from slimp.evaluation.probe_config import LEAKING, ProbeConfig, ProtocolConfig
from slimp.evaluation.result import ProbeResult, Task, make_task, relabelled
from slimp.evaluation.subgroups import Subgroups, group_values, subgroups
from slimp.features.design import RawTable
from slimp.features.feature_sets import FEATURE_SETS, FeatureSet
from slimp.features.feature_table import FeatureTable
from slimp.sources.split_file import FOLD
from slimp.training.parts import LEARNED_FROM

WHOSE = {"official": "the official test part", "file": "the split file"}
"""Split that is given -> whose part tests, in words."""
PROTOCOLS = ("low_shot", "missing_grid", "leakage", "subgroups")
"""What may be measured besides the score."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Assessment:
    """Probes and baselines on the same splits."""

    probes: Mapping[str, ProbeResult]
    """Feature set -> result, from the smallest set to the one asked for."""
    baselines: Mapping[str, ProbeResult]
    """Without pre-training: the majority class, and the raw metadata if any are known."""
    verdict: Verdict
    """Of the largest feature set against the best baseline."""
    gain: Verdict | None = None
    """Of the fine-tuned classifier against the same features frozen."""
    tested_on: str
    """Which images test, in words."""
    saw_test_patients: bool | None
    """Whether pre-training learned from patients that test here; None if the run does not say."""
    seen_patients: int = 0
    """Number of patients that test here and that the run learned from."""
    seen_labels: int = 0
    """Number of those whose labels it learned."""
    unit: str = "patients"
    """What the intervals resample: lesions where the cohort has no patient ids."""
    imputed: tuple[str, ...] = ()
    """Features with rows that `slimp retrieve` imputed from other patients."""
    imputed_worth: AddedWorth | None = None
    """Of these features beside the others, where cross-validation can tell."""
    low_shot: LowShot | None = None
    missing_grid: MissingGrid | None = None
    leakage: Leakage | None = None
    subgroups: Subgroups | None = None

    @property
    def main(self) -> ProbeResult:
        """The result for the feature set asked for."""
        return list(self.probes.values())[-1]

    @property
    def leak(self) -> str:
        """What the run knew of those that test here, in a sentence; empty if nothing."""
        tested = f"of {self.main.n_test_patients:,} test {self.unit} took part in"
        if self.seen_labels:
            return (
                f"{self.seen_labels:,} {tested} training that used their labels (fine-tuning, or "
                f"the choice of epoch or batches), so these figures say nothing of new {self.unit}."
            )
        if self.seen_patients:
            return (
                f"{self.seen_patients:,} {tested} pre-training (their images and metadata, not "
                "their labels), so these figures are optimistic."
            )
        return ""

    @property
    def cautions(self) -> list[str]:
        """What a reader must know before trusting the scores, in sentences."""
        found, split = [], self.main.config.split
        if split in LEAKING:
            found.append(
                f"The probes were split by {split}, so patients may both train and test: only a "
                "split by patient is an honest estimate."
            )
        if self.imputed:
            found.append(
                f"The features {', '.join(self.imputed)} are imputed by retrieval, not observed: "
                "they are those of other patients with similar images."
            )
        if self.imputed_worth is not None and not self.imputed_worth.enough:
            found.append(f"What is imputed is better left out: {self.imputed_worth}.")
        if self.leak:
            found.append(self.leak)
        if not self.main.converged:
            found.append("The probe did not converge.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`: the main result, then what to compare it with."""
        unsaid = self.saw_test_patients is None
        names = ("imputed_worth", *PROTOCOLS)
        found = {"over_frozen": self.gain, **{name: getattr(self, name) for name in names}}
        content = {
            **self.main.to_dict(),
            "resampling": {"unit": self.unit, "n_test": self.main.n_test_patients},
            "pretraining_saw_test_patients": self.saw_test_patients,
            "run_knows_test_labels": None if unsaid else self.seen_labels > 0,
            "tested_on": self.tested_on,
            "imputed": self.imputed,
            "verdict": self.verdict,
            "feature_sets": self.probes,
            "baselines": self.baselines,
            **{name: measured for name, measured in found.items() if measured is not None},
        }
        return {name: plain(value) for name, value in content.items()}

    def write(self, folder: Path) -> None:
        """Writes what the main result does, with all else in `metrics.json`, and low-shot draws."""
        self.main.write(folder)
        if self.low_shot is not None:
            with new_file(folder / "low_shot.parquet") as partial:
                self.low_shot.rows.to_parquet(partial, index=False)
        write_json(folder / "metrics.json", self.to_dict())


def require_possible(cohort: Cohort, config: ProbeConfig, protocols: ProtocolConfig) -> None:
    """Refuses what the cohort's tables do not allow, before any image is embedded.

    Raises:
        UserError: a class, a column or a split that was asked for does not exist or is unsound.
    """
    ids = relabelled(cohort.images, config.malignant)
    classes_of(ids, config)
    group_values(cohort, protocols.subgroups)
    if (parts := parts_of_config(ids, config)) is not None:
        given_splits(ids, parts)


def task_of(
    ids: pd.DataFrame,
    config: ProbeConfig,
    *,
    run_parts: Mapping[str, str] | None,
    held_out: bool,
    unit: str = "patients",
) -> tuple[Task, str]:
    """The splits on which `assess` probes the features of these images, and who tests, in words."""
    classes_of(relabelled(ids, config.malignant), config)  # refuses what no split can mend
    of_run, asked = ids["patient_id"].map(run_parts or {}).astype("object"), config
    parts: Parts | None = None
    if config.split == "patient" and config.split_file is None and held_out:
        if (of_run == "held_out").any():
            parts = of_run.where(of_run.notna(), None)
        elif "split" in ids and ids["split"].dropna().str.fullmatch(f"test|{FOLD.pattern}").any():
            config = replace(config, split="official")
    try:
        task = make_task(ids, config, parts)
    except UserError as error:
        if parts is None and config is asked:
            raise
        raise UserError(f"{error} Or pass --no-held-out to split at random.") from None
    seeds, splits = len({split.seed for split in task.splits}), len(task.splits)
    times = "" if seeds == 1 else f", in {seeds} splits"
    if task.splits[0].fold is not None:
        return task, f"each in one of {splits // seeds} folds{times}"
    if task.split == "held_out":
        new = int((of_run.isna() & ids["label"].notna()).sum())
        left = f"; {new} labelled image(s) of patients that the run never had are left out"
        return task, f"those that pre-training set aside{left * (new > 0)}"
    if task.split in WHOSE:
        return task, f"those of {WHOSE[task.split]}{times}"
    apart = unit.removesuffix("s") if task.split == "patient" else task.split
    return task, f"in {splits} random {apart}-disjoint splits"


def assess(
    table: FeatureTable,
    cohort: Cohort,
    config: ProbeConfig,
    *,
    run_parts: Mapping[str, str] | None = None,
    labels_known: Collection[str] = (),
    held_out: bool = True,
    protocols: ProtocolConfig | None = None,
) -> Assessment:
    """Probes of the feature set asked for and of the smaller ones, and the baselines.

    Args:
        table: features of `cohort`, in its order.
        cohort: for the baseline of the raw metadata.
        config: of the probes.
        run_parts: patient -> part that pre-training gave it, see `parts_of_run`.
        labels_known: patients whose labels the run learned from.
        held_out: test on the patients that pre-training, or else an official split, set aside,
            if there are any and the split is by patient; otherwise split at random.
        protocols: what to measure of the largest feature set besides; None: nothing.

    Raises:
        UserError: the labels, patients or features do not allow it.
    """
    sets, unit = _feature_sets(table, config), cohort.unit
    task, tested_on = task_of(table.ids, config, run_parts=run_parts, held_out=held_out, unit=unit)
    probes: dict[str, ProbeResult] = {}
    for name in sets:
        own = replace(config, features=name)
        probes[name] = probe_design(table.design(name), task, own, name=config.method)
    baselines = {"majority": majority(task, config)}
    raw = table.raw or RawTable.of(cohort)
    if raw is not None and raw.frame.notna().any(axis=None):  # else all are imputed
        baselines["metadata"] = metadata_baseline(raw, task, replace(config, features="full"))
    main = probes[sets[-1]]
    tested = set(main.predictions["patient_id"])
    seen = {patient for patient in tested if (run_parts or {}).get(patient) in LEARNED_FROM}
    tables = {name: result.predictions for name, result in baselines.items()}
    measured = _protocols(table, cohort, task, main, protocols) if protocols else {}
    return Assessment(
        probes=probes,
        baselines=baselines,
        verdict=verdict(sets[-1], main.predictions, tables, unit=unit),
        tested_on=tested_on,
        saw_test_patients=None if run_parts is None else bool(seen),
        seen_patients=len(seen),
        seen_labels=len(tested.intersection(labels_known)),
        unit=unit,
        imputed=table.imputed,
        imputed_worth=_imputed_worth(table, task, config),
        **measured,
    )


def _imputed_worth(table: FeatureTable, task: Task, config: ProbeConfig) -> AddedWorth | None:
    """Of the imputed features, on the first split's training patients."""
    more = table.design(config.features)
    rest = {name: x for name, x in more.blocks.items() if name not in table.imputed}
    if len(rest) == len(more.blocks):
        return None
    try:
        less = replace(more, blocks=rest)
        return added_worth(more, less, task, task.splits[0].train, config)
    except UserError:  # too few patients have labels
        return None


def _protocols(
    table: FeatureTable,
    cohort: Cohort,
    task: Task,
    main: ProbeResult,
    protocols: ProtocolConfig,
) -> dict[str, Any]:
    """Low-shot, leakage and subgroups of `main`, as far as asked for."""
    found: dict[str, Any] = {}
    config = main.config
    if protocols.fractions or protocols.shots:
        found["low_shot"] = low_shot(table.design(config.features), task, protocols, main)
    if protocols.missing_grid:
        found["missing_grid"] = missing_grid(table, task, config, protocols.draws)
    if protocols.leakage:
        results: dict[str, ProbeResult] = {}
        for mode in ("patient", *LEAKING):
            known = mode == task.split
            random = replace(config, split=mode, split_file=None)
            results[mode] = main if known else probe(table, random)
        found["leakage"] = leakage(results)
    by_group = subgroups(main, cohort, protocols.subgroups)
    if by_group.groups:
        found["subgroups"] = by_group
    return found


def _feature_sets(table: FeatureTable, config: ProbeConfig) -> list[FeatureSet]:
    """The set asked for, after the smaller ones that differ from it."""
    names = list(FEATURE_SETS)
    asked = names[: names.index(config.features) + 1]
    found = {table.parts(name): name for name in reversed(asked)}
    found[table.parts(config.features)] = config.features
    return sorted(found.values(), key=asked.index)

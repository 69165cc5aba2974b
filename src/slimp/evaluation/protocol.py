"""What a run's features are worth on a cohort: a probe per feature set, beside the floors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from slimp.data.cohort import Cohort
from slimp.data.files import new_file, sha256_of, write_json
from slimp.errors import UserError
from slimp.evaluation.baselines import majority, metadata_floor
from slimp.evaluation.folds import held_out_split, labelled_rows, official_parts
from slimp.evaluation.groups import group_values
from slimp.evaluation.leakage import MODES, Leakage, leakage
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.low_shot import LowShot, low_shot
from slimp.evaluation.probe_config import ProbeConfig, ProtocolConfig
from slimp.evaluation.result import ProbeResult, make_task, relabelled
from slimp.evaluation.subgroups import Subgroups, subgroups
from slimp.features.backends import BackendName
from slimp.features.embed import FEATURE_SETS, FeatureTable, embed, with_pseudo_metadata
from slimp.features.feature_sets import FeatureSet
from slimp.features.pseudo_metadata import PseudoMetadata
from slimp.models.nested import Slimp
from slimp.training.config import PretrainConfig
from slimp.training.devices import fast_precision
from slimp.training.parts import EARLIER_PATIENTS, LEARNED_FROM, earlier_parts, stages

PROTOCOLS = ("low_shot", "leakage", "subgroups")
"""What may be measured besides the score."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Assessment:
    """Probes and floors on the same splits."""

    probes: Mapping[str, ProbeResult]
    """Feature set -> result, from the smallest set to the one asked for."""
    floors: Mapping[str, ProbeResult]
    """What needs no pre-training: the majority class, and the raw metadata if there are any."""
    tested_on: str
    """Whose images test, in words."""
    saw_test_patients: bool | None
    """Whether pre-training learned from patients that test here; None if the run does not say."""
    imputed: tuple[str, ...] = ()
    """Features with rows that `slimp retrieve` imputed from other patients."""
    low_shot: LowShot | None = None
    leakage: Leakage | None = None
    subgroups: Subgroups | None = None

    @property
    def main(self) -> ProbeResult:
        """The result for the feature set asked for."""
        return list(self.probes.values())[-1]

    @property
    def verdict(self) -> str:
        """Whether pre-training bought anything, in a sentence."""
        floor = max(self.floors.values(), key=lambda result: result.balanced_accuracy.mean)
        ours, theirs = self.main.balanced_accuracy, floor.balanced_accuracy
        gain = ours.mean - theirs.mean
        side = "above" if gain > 0 else "below"
        text = f"'{list(self.probes)[-1]}' is {abs(gain):.3f} {side} the best floor, {floor.name}"
        if ours.ci95[0] <= theirs.ci95[1] and theirs.ci95[0] <= ours.ci95[1]:
            text += "; the intervals overlap, so it takes more patients to be sure"
        return f"{text}."

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`: the main result, then what to compare it with."""
        return {
            **self.main.to_dict(),
            "pretraining_saw_test_patients": self.saw_test_patients,
            "tested_on": self.tested_on,
            "imputed": list(self.imputed),
            "feature_sets": {name: result.to_dict() for name, result in self.probes.items()},
            "floors": {name: result.to_dict() for name, result in self.floors.items()},
            **{
                name: found.to_dict()
                for name in PROTOCOLS
                if (found := getattr(self, name)) is not None
            },
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes `metrics.json`, `predictions.parquet`, the probe, and who was drawn for low-shot.

        Raises:
            UserError: the folder is not empty and `overwrite` is off.
        """
        self.main.save(folder, overwrite=overwrite)
        if self.low_shot is not None:
            with new_file(Path(folder) / "low_shot.parquet") as partial:
                self.low_shot.rows.to_parquet(partial, index=False)
        write_json(Path(folder) / "metrics.json", self.to_dict())


def require_possible(cohort: Cohort, config: ProbeConfig, protocols: ProtocolConfig) -> None:
    """Refuses what the cohort's tables cannot give, before anything slow is begun.

    Raises:
        UserError: a class, a column or an official split that was asked for is not there.
    """
    labelled_rows(relabelled(cohort.images, config.malignant))
    group_values(cohort, protocols.subgroups)
    if config.split == "official":
        official_parts(cohort.images)


def assess(
    table: FeatureTable,
    cohort: Cohort,
    config: ProbeConfig,
    *,
    run_parts: Mapping[str, str] | None = None,
    held_out: bool = True,
    protocols: ProtocolConfig | None = None,
) -> Assessment:
    """Probes of the feature set asked for and of the smaller ones, and the floors.

    Args:
        table: features of `cohort`, in its order.
        cohort: for the floor of the raw metadata.
        config: of the probes.
        run_parts: patient -> part that pre-training gave it, see `parts_of_run`.
        held_out: test on the patients that pre-training, or else an official split, set aside,
            if there are any and patients are what must not leak; otherwise deal them anew.
        protocols: what to measure of the largest feature set besides; None: nothing.

    Raises:
        UserError: the labels, patients or features do not allow it.
    """
    ids = relabelled(table.ids, config.malignant)
    labelled_rows(ids)  # refuses what no split can mend
    official = config.split == "official"
    parts, tested_on = (
        _given_split(table, config, run_parts) if held_out or official else (None, "")
    )
    if parts is not None:
        try:
            held_out_split(ids, parts)
        except UserError as error:
            way_out = "--split patient" if official else "--no-held-out"
            raise UserError(f"{error} Or pass {way_out} to deal the patients anew.") from None
    probes: dict[str, ProbeResult] = {
        name: probe(table, replace(config, features=name), parts=parts)
        for name in _feature_sets(table, config)
    }
    floors = {"majority": majority(table.ids, config, parts=parts)}
    if any(level.features for level in cohort.schema.levels):
        everything = replace(config, features="full")
        floors["metadata"] = metadata_floor(cohort, everything, parts=parts).best
    main = list(probes.values())[-1]
    tested = set(main.predictions["patient_id"])
    extra = _protocols(table, cohort, config, parts, main, protocols) if protocols else {}
    return Assessment(
        probes=probes,
        floors=floors,
        tested_on=tested_on or f"in {config.seeds} random {config.split}-disjoint splits",
        saw_test_patients=None
        if run_parts is None
        else any(run_parts.get(patient) in LEARNED_FROM for patient in tested),
        imputed=table.imputed,
        **extra,
    )


def _protocols(
    table: FeatureTable,
    cohort: Cohort,
    config: ProbeConfig,
    parts: Sequence[object] | None,
    main: ProbeResult,
    protocols: ProtocolConfig,
) -> dict[str, Any]:
    """What was asked for besides the score of `main`."""
    found: dict[str, Any] = {}
    if protocols.fractions or protocols.shots:
        task = make_task(table.ids, config, parts)
        x = table.matrix(config.features)
        found["low_shot"] = low_shot(x, task, config, protocols, whole=main)
    if protocols.leakage:
        dealt = parts is None and config.split in MODES
        found["leakage"] = leakage(
            {
                mode: main
                if dealt and mode == config.split
                else probe(table, replace(config, split=mode))
                for mode in MODES
            }
        )
    by_group = subgroups(main, cohort, protocols.subgroups)
    if by_group.groups:
        found["subgroups"] = by_group
    return found


def parts_of_run(run: Path, cohort: Cohort) -> dict[str, str] | None:
    """Patient -> part of the run's training; empty if no stage of it was on this cohort.

    The cohort counts as that of a stage if at least half of the patients of either are the
    other's. Where they share fewer, random splits are left to do, and only the patients whom the
    run learned from are named, so that this does not go unnoticed. Somebody whom any stage
    learned from is held out of none. None: the run does not say whom it learned from.
    """
    found = stages(run)
    if found is None:
        return None
    here = set(cohort.patients["patient_id"])
    known: set[str] = set()
    met: set[str] = set()
    for stage in found:
        shared = here & set(stage)
        met |= shared
        if shared and 2 * len(shared) >= min(len(here), len(stage)):
            known |= set(stage)
    return {
        patient: part
        for patient, part in earlier_parts(run).items()
        if patient in known or (patient in met and part in LEARNED_FROM)
    }


def device_of(accelerator: Literal["auto", "cpu", "cuda", "mps"]) -> str:
    """The device that an `--accelerator` stands for; auto is the fastest one at hand."""
    if accelerator != "auto":
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def precision_of(
    precision: Literal["auto", "32", "bf16"], accelerator: Literal["auto", "cpu", "cuda", "mps"]
) -> Literal["32", "bf16"]:
    """The number format that a `--precision` stands for; auto is bf16 where it is fast."""
    config = PretrainConfig(precision=precision, accelerator=accelerator)
    return "bf16" if fast_precision(config).precision == "bf16" else "32"


def cached_features(
    run: Path,
    cohort_folder: Path,
    *,
    device: str = "cpu",
    precision: Literal["32", "bf16"] = "32",
    backend: BackendName = "torch",
    batch_size: int | None = None,
    workers: int = 0,
    lacking: Literal["refuse", "missing"] = "refuse",
    pseudo: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureTable:
    """The run's features of a cohort, kept in the run folder under a hash of both.

    Pseudo-metadata (`pseudo`, a folder of `slimp retrieve`) are put in afterwards, and not kept;
    columns that lack then count as missing, as they do for an adapted run, which may read more
    columns than the cohorts of its earlier stages have.

    Precision and backend enter the hash too. Probes are in 32 bit unless told otherwise, so that
    the same run scores the same on every machine.

    Raises:
        UserError: the run or the cohort is damaged, or they do not fit each other.
    """
    if pseudo is not None:
        retrieved, lacking = PseudoMetadata.load(pseudo), "missing"
    if (run / EARLIER_PATIENTS).is_file():
        lacking = "missing"
    how = f"{precision} {backend}" if lacking == "refuse" else f"{precision} {backend} {lacking}"
    key = hashlib.sha256(how.encode())
    for path in (
        *(run / "model.safetensors", run / "model.json"),
        *(cohort_folder / f"{name}.parquet" for name in ("images", "lesions", "patients")),
        *(cohort_folder / "cohort.json", cohort_folder / "images.bin"),
    ):
        if path.is_file():
            key.update(sha256_of(path).encode())
    kept = run / "features" / f"{key.hexdigest()[:16]}.parquet"
    if kept.is_file():
        table = FeatureTable.load(kept)
    else:
        table = embed(
            Slimp.from_pretrained(run),
            Cohort.load(cohort_folder),
            batch_size=batch_size,
            workers=workers,
            device=device,
            precision=precision,
            backend=backend,
            lacking=lacking,
            progress=progress,
        )
        with suppress(PermissionError):  # a run that may only be read is embedded each time
            table.save(kept)
    return (
        table
        if pseudo is None
        else with_pseudo_metadata(table, Slimp.from_pretrained(run), retrieved)
    )


def _feature_sets(table: FeatureTable, config: ProbeConfig) -> list[FeatureSet]:
    """The set asked for, after the smaller ones that differ from it."""
    names = list(FEATURE_SETS)
    asked = names[: names.index(config.features) + 1]
    parts = {
        name: [part for part in FEATURE_SETS[name] if part in table.features] for name in asked
    }
    following = [*asked[1:], None]
    return [
        n
        for n, after in zip(asked, following, strict=True)
        if not after or parts[n] != parts[after]
    ]


def _given_split(
    table: FeatureTable, config: ProbeConfig, run_parts: Mapping[str, str] | None
) -> tuple[list[object] | None, str]:
    """The part of each image in a split that exists already, and what it is in words."""
    if config.split == "official":
        return official_parts(table.ids), "those of the official test part"
    if config.split != "patient":
        return None, ""
    patients = table.ids["patient_id"]
    parts = patients.map(run_parts or {}).astype("object")
    if (parts == "held_out").any():
        return parts.where(parts.notna(), None).tolist(), "those that pre-training set aside"
    if "split" in table.ids and (table.ids["split"] == "test").any():
        return official_parts(table.ids), "those of the official test part"
    return None, ""

"""Patients for training, validation and held-out tests, split before anything is fitted.

An adapted model must not be tested on patients that earlier stages learned from, so a run keeps the
parts of those stages too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.files import new_file, read_json
from slimp.data.splits import require_disjoint
from slimp.errors import CheckpointError, CohortError
from slimp.sources.split_file import FOLD, read_split_file
from slimp.training.config import PretrainConfig

PARTS = ("train", "validation", "held_out")
OFFICIAL_PARTS = {"train": "train", "validation": "validation", "held_out": "test"}
"""Our name of a part -> its name in a cohort's `split` column."""
LEARNED_FROM = ("train", "validation")
"""Parts of a run whose patients determined its weights."""
PATIENTS, EARLIER_PATIENTS = "patients.parquet", "earlier_patients.parquet"
"""Files of a run: the parts of its patients, and those of the stages before it."""
BASELINE = "baseline"
"""Section of `config.json` of a run that another method than SLIMP trained."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Patient-disjoint parts of a cohort; validation and held-out may be empty."""

    train: Cohort
    validation: Cohort | None
    held_out: Cohort | None
    fingerprint: str = ""
    """Of the whole cohort: `Cohort.fingerprint`."""

    def __post_init__(self) -> None:
        require_disjoint(
            **{name: part.patients["patient_id"] for name, part in self.named().items()}
        )

    def named(self) -> dict[str, Cohort]:
        """The parts that are not empty."""
        parts = {"train": self.train, "validation": self.validation, "held_out": self.held_out}
        return {name: part for name, part in parts.items() if part is not None}

    def save(self, path: Path) -> None:
        """Writes `patient_id` and `part` of every patient, for the probes.

        Raises:
            CheckpointError: the file is there already, of other patients or parts.
        """
        rows = [
            part.patients[["patient_id"]].assign(part=name) for name, part in self.named().items()
        ]
        table = pd.concat(rows, ignore_index=True)
        if path.is_file() and pd.read_parquet(path).to_dict("list") != table.to_dict("list"):
            raise CheckpointError(
                f"{path}: the run was started with other patients, or with another split of them. "
                "Resume with the same cohort, or choose another --out."
            )
        with new_file(path) as partial:
            table.to_parquet(partial, index=False)


def set_aside(
    cohort: Cohort, config: PretrainConfig, known: Mapping[str, str] | None = None
) -> Parts:
    """Training, validation and held-out patients: a split in a file, the cohort's own, or random.

    Patients of an earlier stage keep the part that they had there, so nobody that the model
    learned from is ever held out, and who was held out stays so. An official split takes precedence
    over the latter. Where the split is random and no validation or held-out patients are asked for,
    those train.

    Args:
        cohort: all patients.
        config: the file or fold, or the fractions of the parts, and the random seed.
        known: patient -> part in an earlier stage, as `earlier_parts` gives it.

    Raises:
        CohortError: too few patients, a split that shares a patient, or a file or fold that holds
            out patients of an earlier stage's training.
        TableError: the file of a split is unsound.
    """
    fingerprint = cohort.fingerprint()
    cohort = cohort.flatten() if config.hierarchy == "flat" else cohort
    if not any(level.features for level in cohort.schema.levels) and not config.view_weight:
        raise CohortError(
            f"cohort '{cohort.info.name}' has no metadata features, so there is nothing to "
            "contrast images with. Add features to its schema, or pass --view-weight 1."
        )
    if config.split_file is not None or config.fold is not None:
        cohort = _asked_for(cohort, config, known or {})
    split = _official if _names_parts(cohort) else _random
    parts = split(cohort, config, known or {})
    if config.monitor != "last" and "validation" not in parts:
        raise CohortError(
            f"cohort '{cohort.info.name}': no patients are left for validation, because earlier "
            f"stages learned from them, so --monitor {config.monitor} cannot choose. Leave it out."
        )
    return Parts(fingerprint=fingerprint, **{name: parts.get(name) for name in PARTS})  # type: ignore[arg-type]


def _asked_for(cohort: Cohort, config: PretrainConfig, known: Mapping[str, str]) -> Cohort:
    """The cohort with the split of the file, or in which the fold that was named is the test part.

    Images without a row in the file follow their patient, and train where it has none; those whose
    cell is empty are left out.
    """
    images, where = cohort.images, config.split_file or f"cohort '{cohort.info.name}'"
    if config.split_file is not None:
        table = read_split_file(config.split_file, images, follow=True)
        if len(table.columns) > 1:
            seeds = ", ".join(map(str, table.columns))
            raise CohortError(f"{where}: has splits of the seeds {seeds}. Keep the rows of one.")
        parts = table.iloc[:, 0]
    elif "split" in images:
        parts = images["split"]
    else:
        raise CohortError(f"{where}: has no split of its own, so --fold needs a --split-file.")
    found = sorted(parts.dropna().unique())
    if config.fold is not None and f"fold{config.fold}" not in found:
        raise CohortError(f"{where}: has no fold {config.fold}; its parts are {', '.join(found)}.")
    apart = [name for name in found if name in ("test", "validation")]
    if config.fold is not None and apart:
        raise CohortError(
            f"{where}: beside folds it names the part {apart[0]}, which --fold would train on. "
            "Leave --fold out, or give these rows a fold."
        )
    if config.fold is None and any(map(FOLD.fullmatch, found)):
        raise CohortError(f"{where}: names {', '.join(found)}. Pass the --fold to hold out.")
    patients = images["patient_id"]
    if config.fold is not None:
        held_out = parts == f"fold{config.fold}"
        parts = held_out.map({True: "test", False: "train"}).where(parts.notna(), None)
    learned = (parts == "test") & patients.map(known).isin(LEARNED_FROM)
    if learned.any():
        raise CohortError(
            f"{where}: holds out {patients[learned].nunique()} patient(s), such as "
            f"'{patients[learned].iloc[0]}', that an earlier stage learned from. Start from a run "
            "that held them out, with the same --split-file and --fold."
        )
    return replace(cohort, tables=replace(cohort.tables, images=images.assign(split=parts)))


def _names_parts(cohort: Cohort) -> bool:
    """Whether the cohort has a split of its own; numbered folds alone say not what is for what."""
    if "split" not in cohort.images:
        return False
    return not cohort.images["split"].dropna().str.fullmatch(r"fold\d+").all()


def _random(cohort: Cohort, config: PretrainConfig, known: Mapping[str, str]) -> dict[str, Cohort]:
    asked = {"validation": config.validation_fraction, "held_out": config.held_out_fraction}
    asked = {name: fraction for name, fraction in asked.items() if fraction > 0}
    fractions = {"train": 1.0 - sum(asked.values()), **asked}
    earlier = cohort.images["patient_id"].map(known).astype("object")
    if earlier.isna().all():
        return cohort.split(fractions, seed=config.seed)
    part = earlier.where(earlier.isin(list(fractions)) | earlier.isna(), "train")
    new = part.isna().to_numpy()
    if new.any():
        others = cohort.select(new)
        if len(others.patients) >= len(fractions):
            for name, found in others.split(fractions, seed=config.seed).items():
                part[cohort.images["patient_id"].isin(found.patients["patient_id"])] = name
        part = part.fillna("train")
    if not (part == "train").any():
        raise CohortError(
            f"cohort '{cohort.info.name}': earlier stages held out all its patients, so none are "
            "left for training. Pass --held-out-fraction 0 and --validation-fraction 0."
        )
    return {name: cohort.select(part == name) for name in fractions if (part == name).any()}


def _official(
    cohort: Cohort, config: PretrainConfig, known: Mapping[str, str]
) -> dict[str, Cohort]:
    official = cohort.images["split"]
    if unknown := set(official.dropna()) - set(OFFICIAL_PARTS.values()):
        raise CohortError(
            f"cohort '{cohort.info.name}': its split column contains '{min(unknown)}'; allowed are "
            f"{', '.join(OFFICIAL_PARTS.values())}, and empty cells for images to leave out."
        )
    learned = cohort.images["patient_id"].map(known).isin(LEARNED_FROM)
    tests = official == OFFICIAL_PARTS["held_out"]
    official = official.mask(tests & learned, OFFICIAL_PARTS["train"])
    parts = {
        name: cohort.select(official == spelling)
        for name, spelling in OFFICIAL_PARTS.items()
        if (official == spelling).any()
    }
    if "train" not in parts:
        raise CohortError(
            f"cohort '{cohort.info.name}': its split column has no '{OFFICIAL_PARTS['train']}'."
        )
    if "validation" not in parts and (fraction := config.validation_fraction) > 0:
        fractions = {"train": 1 - fraction, "validation": fraction}
        parts |= parts["train"].split(fractions, seed=config.seed)
    return parts


def earlier_table(run: Path) -> pd.DataFrame:
    """The parts of all stages of `run`, the oldest stage being 1, and whose labels any learned.

    Columns `patient_id part stage label_known`. A label is known where any stage learned from it,
    or chose an epoch or batches by it; missing: an older version did not say. No rows: the run does
    not say which patients it learned from.

    Raises:
        CheckpointError: a file of the run is damaged.
    """
    earlier, newest = (_read_parts(run / name) for name in (EARLIER_PATIENTS, PATIENTS))
    learned = newest["part"].isin(LEARNED_FROM) & _learns_labels(run)
    newest = newest.assign(stage=1 + earlier["stage"].nunique(), label_known=learned)
    table = pd.concat([x for x in (earlier, newest) if len(x)] or [newest], ignore_index=True)
    said = table["label_known"].map({True: 2, False: 0}).fillna(1)
    known = said.groupby(table["patient_id"]).transform("max").map({2: True, 1: None, 0: False})
    return table.assign(label_known=known)


def is_adapted(run: Path) -> bool:
    """Whether stages came before the last: such a run may read more columns than a cohort has.

    The settings travel with a bundle, the patients do not.
    """
    return (run / EARLIER_PATIENTS).is_file() or "from" in _settings_of(run)


def earlier_parts(run: Path) -> dict[str, str]:
    """Patient -> part over all stages of a run: train before validation before held_out."""
    return _foremost(earlier_table(run))


def labels_known(run: Path) -> set[str]:
    """Patients whose labels a stage of the run learned from, or chose an epoch or batches by.

    Warns if a stage before the last does not say.

    Raises:
        CheckpointError: a file of the run is damaged.
    """
    table = earlier_table(run)
    if table["label_known"].isna().any():
        warnings.warn(
            f"{run / EARLIER_PATIENTS}: does not say whose labels earlier stages learned from, "
            "because an older version wrote it. Were any fine-tuned, then test patients may be "
            "among them.",
            stacklevel=2,
        )
    return set(table["patient_id"][table["label_known"].eq(True)])


def parts_of_run(run: Path, cohort: Cohort) -> dict[str, str] | None:
    """Patient -> part of the run's training; empty if no stage of it was on this cohort.

    The cohort counts as that of a stage if they share at least half of the patients of either.
    Where they share fewer, only the patients that the run learned from are named, so that testing
    on them does not go unnoticed. A patient that any stage learned from is not held out. None: the
    run does not say which patients it learned from.
    """
    if not (run / PATIENTS).is_file():
        return None
    table = earlier_table(run)
    met = table["patient_id"].isin(cohort.patients["patient_id"])
    of_stage = met.groupby(table["stage"])
    smaller = of_stage.transform("size").clip(upper=len(cohort.patients))
    shared = of_stage.transform("sum")
    here = (shared > 0) & (2 * shared >= smaller)
    parts = _foremost(table)
    learned = {patient for patient, part in parts.items() if part in LEARNED_FROM}
    named = {*table["patient_id"][here], *learned.intersection(table["patient_id"][met])}
    return {patient: part for patient, part in parts.items() if patient in named}


def _foremost(table: pd.DataFrame) -> dict[str, str]:
    """Patient -> the first of its parts, in the order of `PARTS`."""
    ranks = table["part"].map(PARTS.index).groupby(table["patient_id"]).min()
    return {str(patient): PARTS[rank] for patient, rank in ranks.items()}


def _learns_labels(run: Path) -> bool:
    """Whether the newest stage of a run learned from labels, or chose epoch or batches by them."""
    content = _settings_of(run)
    settings = content.get("pretrain", {})
    return (
        "finetune" in content
        or bool(content.get(BASELINE, {}).get("labels"))
        or settings.get("monitor") == "knn_balanced_accuracy"
        or settings.get("always_include") is not None
    )


def _settings_of(run: Path) -> dict[str, Any]:
    return read_json(run / "config.json") if (run / "config.json").is_file() else {}


def _read_parts(path: Path) -> pd.DataFrame:
    """A file of parts; without rows where it is not there."""
    earlier = path.name == EARLIER_PATIENTS
    wanted = ["patient_id", "part", *(["stage", "label_known"] if earlier else [])]
    if not path.is_file():
        return pd.DataFrame(columns=wanted)
    try:
        table = pd.read_parquet(path)
        if earlier and "label_known" not in table:  # versions before it could fine-tune too
            table = table.assign(label_known=None)
        table = table[wanted]
        if not set(table["part"]) <= set(PARTS):
            raise ValueError("unknown parts; known are " + ", ".join(PARTS))
        return table
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged ({error}). Pre-train again.") from None

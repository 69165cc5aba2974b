"""The folder of a probe: what `slimp probe` leaves, and what a prediction reads of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.files import sha256_of, write_json
from slimp.data.schema import LevelName
from slimp.errors import CheckpointError
from slimp.evaluation.conformal import Conformal, Coverage, calibrate, verified_coverage
from slimp.evaluation.folds import parts_of_splits
from slimp.evaluation.logistic import LinearProbe
from slimp.evaluation.probe_config import LEAKING
from slimp.evaluation.protocol import Assessment
from slimp.evaluation.result import Predictions
from slimp.features.feature_sets import METADATA_KEYS, RELATIVE_TABLE, TABLE
from slimp.features.feature_table import FeatureTable
from slimp.models.config import DESCRIPTION, WEIGHTS
from slimp.models.known_weights import PREFIX
from slimp.models.nested import Slimp
from slimp.prediction.novelty import save_reference
from slimp.sources.split_file import split_rows
from slimp.training.run_folder import versions
from slimp.training.weights_run import as_run

REPLICATES = 200
"""Of the interval of the verified coverage."""


def write_probe(
    folder: Path,
    found: Assessment,
    table: FeatureTable,
    cohort: Cohort,
    *,
    run: Path,
    record: Mapping[str, Any],
) -> None:
    """Writes scores, predictions, weights, reference cases and settings into a folder.

    `table` holds the features of `cohort` that the probe was made on, `run` names the folder of the
    encoders or `weights:NAME`; `record` goes into `config.json`.
    """
    where = {
        "run": str(run),
        "run_relative": _relative(run, folder),
        "weights_sha256": sha256_of(as_run(run) / "model.safetensors"),
        "schema": cohort.schema.to_dict(),
        "test_time_augmentation": table.test_time_augmentation,
        "versions": versions(),
    }
    found.write(folder)
    if found.main.probe is not None:
        # Embeddings alone: what the table said stays in the cohort.
        save_reference(folder, replace(table, raw=None), found.main.splits[0].train)
    if found.main.config.split not in LEAKING:
        parts = parts_of_splits(found.main.splits, len(table.ids))
        split_rows(table.ids, parts).to_csv(folder / "split.csv", index=False)
    write_json(folder / "config.json", {**record, **where})


def levels_of(probe: LinearProbe, reference: FeatureTable, model: Slimp) -> tuple[LevelName, ...]:
    """Levels whose metadata the probe reads as embeddings.

    Raises:
        CheckpointError: probe, reference and model do not belong together.
    """
    widths = {name: values.shape[1] for name, values in reference.features.items()}
    raw = (TABLE, RELATIVE_TABLE)
    embedded = {name: width for name, width in probe.blocks.items() if name not in raw}
    levels = tuple(level for level, key in METADATA_KEYS.items() if key in embedded)
    images = reference.features.get("image")
    fits = embedded.items() <= widths.items() and set(levels) <= set(model.encodings)
    fits &= sum(probe.blocks.values()) == len(probe.mean)
    if images is None or not fits or images.shape[1] != model.image_encoder.embed_dim:
        raise CheckpointError(
            f"the probe (features '{probe.features}', {len(probe.mean)} columns), its reference "
            f"({reference.widths}) and the run ({model.image_encoder.embed_dim} wide, metadata of: "
            f"{', '.join(model.encodings) or 'no level'}) do not belong together. Pass the run "
            "that the probe was made with (--run), or make the probe again."
        )
    return levels


def read_model(record: Mapping[str, Any], run: str | Path | None, folder: Path) -> Slimp:
    """The encoders, from `run` or from where the probe says that they are.

    Raises:
        CheckpointError: they are not there, or are not those that the probe was made with.
    """
    wanted = record.get("weights_sha256")
    where = _run_of(record, folder) if run is None else as_run(run)
    model = Slimp.from_pretrained(where)
    if wanted != sha256_of(where / WEIGHTS):
        raise CheckpointError(
            f"{where}: holds other weights than those that the probe {folder} was made with. "
            "Pass the right run with --run, or make the probe again."
        )
    return model


def _run_of(record: Mapping[str, Any], folder: Path) -> Path:
    """The run of a probe: by its place relative to the probe's folder, or as it was typed."""
    if (said := str(record.get("run", ""))).startswith(PREFIX):
        return as_run(said)
    # In probes of earlier versions, a run that a fine-tuning left inside is found by its name.
    places = [folder / Path(said).name, Path(said)]
    if relative := record.get("run_relative"):
        places.insert(0, folder / relative)
    there = [place for place in places if (place / DESCRIPTION).is_file()]
    if not there:
        raise CheckpointError(
            f"{folder}: the probe was made with the run '{said}', which is not there. "
            "If it moved, pass --run."
        )
    wanted, files = record.get("weights_sha256"), ((x, x / WEIGHTS) for x in there)
    return next((x for x, file in files if file.is_file() and sha256_of(file) == wanted), there[0])


def _relative(run: Path, folder: Path) -> str | None:
    """The way from a folder to a run; None: the run is no place, or on another drive."""
    if not run.exists():
        return None
    try:
        return Path(os.path.relpath(run.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return None


def read_calibration(
    folder: Path, probe: LinearProbe, coverage: float, per_class: bool
) -> tuple[Conformal, Coverage]:
    """Thresholds from the test images of the probe's own split, and their verified coverage.

    Raises:
        CheckpointError: the predictions are missing or of other classes.
    """
    path = folder / "predictions.parquet"
    try:
        table = pd.read_parquet(path)
        said = Predictions.per_split(table, probe.classes)[0]
        if (said.y < 0).any() or (said.predicted < 0).any():
            raise ValueError(f"a class that is none of {', '.join(probe.classes)}")
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(
            f"{path}: missing, damaged or not of this probe ({error}). Make the probe again."
        ) from None
    found = verified_coverage(said, coverage, per_class=per_class, replicates=REPLICATES)
    return calibrate(said, coverage, per_class=per_class), found

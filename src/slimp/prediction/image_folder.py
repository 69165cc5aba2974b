"""The folder of a probe, as `slimp probe` leaves it and `Predictor.load` reads it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from slimp.data.cohort import Cohort
from slimp.data.files import new_folder, sha256_of, write_json
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.protocol import Assessment
from slimp.features.embed import FeatureTable
from slimp.prediction.novelty import save_reference
from slimp.training.run_folder import versions


def save_probe(
    folder: str | Path,
    found: Assessment,
    table: FeatureTable,
    cohort: Cohort,
    *,
    config: ProbeConfig,
    run: Path,
    cohort_folder: Path,
    held_out: bool = True,
    pseudo: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes all that is known of a probe: scores, predictions, weights, cases and settings.

    Args:
        folder: to write; it appears complete or not at all.
        found: the probe and its baselines.
        table: the features that it was made on.
        cohort: whose features they are.
        config: that the probe was asked for with.
        run: folder of their encoders.
        cohort_folder: where the cohort lies.
        held_out: whether a split that existed already was to be used.
        pseudo: folder of `slimp retrieve`, if it imputed metadata.
        overwrite: replace what is in the folder.

    Raises:
        UserError: the folder is not empty and `overwrite` is off.
    """
    record = {
        "probe": asdict(config),
        "held_out": held_out,
        "run": str(run),
        "weights_sha256": sha256_of(run / "model.safetensors"),
        "cohort": str(cohort_folder),
        "schema": cohort.schema.to_dict(),
        "pseudo": None if pseudo is None else str(pseudo),
        "versions": versions(),
    }
    with new_folder(Path(folder), overwrite=overwrite) as partial:
        found.save(partial)
        if found.main.probe is not None:
            save_reference(partial, table, found.main.trained_on)
        write_json(partial / "config.json", record)

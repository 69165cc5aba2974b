"""What the folder of a probe says of itself; light, for those who need no more of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimp.data.files import read_json
from slimp.errors import CheckpointError
from slimp.features.feature_sets import IMAGE
from slimp.models.hub import PROBE, unpacked

SAW = {
    "saw_test_patients": "pretraining_saw_test_patients",
    "knows_test_labels": "run_knows_test_labels",
}
"""What a prediction warns of -> its name in `metrics.json`."""
UNIT = "resampling"
"""Entry of `metrics.json` that says whether lesions stand for patients."""


def read_record(folder: Path) -> dict[str, Any]:
    """`config.json` of a probe, and of its metrics what `SAW` names, and the `unit` resampled."""
    path, remedy = folder / "config.json", "Make one with: slimp probe RUN COHORT --out DIR."
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict) or not {"probe", "schema"} <= content.keys():
        raise CheckpointError(
            f"{folder}: not the folder of a probe (no config.json that slimp probe wrote). {remedy}"
        )
    if (method := content["probe"].get("method")) in ("knn", "boosting", "logistic+boosting"):
        raise CheckpointError(
            f"{folder}: a probe of --method {method} is not kept, so it cannot predict. Make a "
            "logistic one with: slimp probe RUN COHORT --out DIR."
        )
    metrics = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    saw = {name: metrics.get(key) for name, key in SAW.items()}
    return {**content, **saw, "unit": (metrics.get(UNIT) or {}).get("unit", "patients")}


def reads_metadata(folder: Path) -> bool:
    """Whether a probe reads more than the image."""
    return set(read_json(folder / "probe.json")["blocks"]) != {IMAGE}


def open_probe(
    folder: Path, run: str | Path | None
) -> tuple[Path, str | Path | None, dict[str, Any]]:
    """Folders of a probe and of its run, which may be in a bundle file, and `config.json`.

    Raises:
        UserError: the file is no bundle, or one without a probe; the folder is not a probe's.
    """
    if folder.is_file():
        bundle, inside = folder, unpacked(folder)
        folder, run = inside / PROBE, inside if run is None else run
        if not folder.is_dir():
            raise CheckpointError(
                f"{bundle}: a bundle without a probe. Make one that can predict with: slimp bundle "
                "RUN --probe DIR --out FILE."
            )
    return folder, run, read_record(folder)

"""A model as it is given away: its files without places and ids, and all of them in one file."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from slimp.data.files import new_file, read_json, write_json
from slimp.errors import CheckpointError
from slimp.models.config import DESCRIPTION, WEIGHTS
from slimp.models.hub import CARD, PROBE, SETTINGS
from slimp.models.persistence import read_description
from slimp.prediction.model_card import model_card, published_settings, without_places
from slimp.prediction.probe_record import SAW, UNIT, read_record

IDS = {"image_id": "image", "lesion_id": "lesion", "patient_id": "patient"}
"""Column of ids -> what stands before the numbers that take their place."""
TABLES = ("reference.parquet", "predictions.parquet")


@contextmanager
def release(
    run: Path, *, name: str | None = None, probe: Path | None = None, licence: str = "not stated"
) -> Iterator[Path]:
    """A temporary folder with all that is published of a run; arguments as of `model_card`.

    Raises:
        CheckpointError: there is no model, or the probe is of another one.
    """
    config = asdict(read_description(run)[0])
    if without_places(config) != config or config["encoder"].startswith("local-dir:"):
        raise CheckpointError(
            f"{run / DESCRIPTION}: its encoder names a place on this machine, so nobody else could "
            "build it. Pre-train with an encoder that timm has by name."
        )
    if not (run / WEIGHTS).is_file():
        raise CheckpointError(f"{run}: no {WEIGHTS} here. Finish the run: slimp pretrain --resume.")
    settings = published_settings(run)
    with tempfile.TemporaryDirectory(prefix="slimp-") as place:
        folder = Path(place)
        for file in (DESCRIPTION, WEIGHTS):
            shutil.copyfile(run / file, folder / file)
        write_json(folder / SETTINGS, settings)
        card = model_card(run, settings, name=name, probe=probe, licence=licence)
        (folder / CARD).write_text(card, encoding="utf-8")
        yield folder


def write_bundle(
    run: Path, out: Path, *, probe: Path | None = None, licence: str = "not stated"
) -> list[str]:
    """Writes a run, and a probe of it, as one file, and returns the names of what it holds.

    A plain zip; the same run and probe give the same bytes. Ids of images, lesions and patients
    are replaced by numbers in their order, so that predictions are the same.

    Raises:
        CheckpointError: as `release`, or the probe is not kept.
    """
    with release(run, probe=probe, licence=licence) as folder:
        if probe is not None:
            _copy_probe(probe, folder / PROBE)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        with new_file(out) as partial, zipfile.ZipFile(partial, "w") as archive:
            for path, inside in zip(files, names, strict=True):
                entry = zipfile.ZipInfo(inside)  # of 1980, stored
                entry.external_attr, entry.create_system = 0o644 << 16, 3
                entry.file_size = path.stat().st_size
                with path.open("rb") as source, archive.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    return names


def _copy_probe(probe: Path, folder: Path) -> None:
    """What a prediction reads of a probe, without ids, places, and its other figures."""
    read_record(probe)  # refuses one that cannot predict
    if lacking := [name for name in TABLES if not (probe / name).is_file()]:
        raise CheckpointError(f"{probe}: has no {lacking[0]}. Make the probe again: slimp probe.")
    folder.mkdir()
    for path in (probe / "probe.json", probe / "probe.safetensors"):
        shutil.copyfile(path, folder / path.name)
    content, metrics = read_json(probe / SETTINGS), read_json(probe / "metrics.json")
    for place in ("run", "run_relative", "cohort", "pseudo", "from"):
        content.pop(place, None)
    write_json(folder / SETTINGS, {**without_places(content), "run": ""})
    write_json(folder / "metrics.json", {key: metrics.get(key) for key in (*SAW.values(), UNIT)})
    tables = {name: pq.read_table(probe / name) for name in TABLES}
    for column, word in IDS.items():
        having = [name for name in TABLES if column in tables[name].column_names]
        values = {name: tables[name][column].to_pandas().astype(str) for name in having}
        known = np.unique(np.concatenate([x.to_numpy(dtype=str) for x in values.values()]))
        for name, ids in values.items():
            numbers = pd.Index(known).get_indexer(pd.Index(ids))
            texts = pa.array([f"{word}-{number:07d}" for number in numbers], pa.large_string())
            at = tables[name].column_names.index(column)
            tables[name] = tables[name].set_column(at, column, texts)
    for name, table in tables.items():
        pq.write_table(table, folder / name)

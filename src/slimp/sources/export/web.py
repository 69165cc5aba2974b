"""WebDataset: tar shards with an image and a JSON file per sample, and tables beside them.

What `slimp.sources.webdataset` reads back to the same tables and the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from slimp.data.cohort import Cohort
from slimp.data.files import sha256_of, write_json
from slimp.data.schema import LEVELS
from slimp.sources.export.plan import Shard
from slimp.sources.export.release import samples
from slimp.sources.webdataset import FORMAT, SIDECAR, TABLES, key_of


def write_webdataset(
    cohort: Cohort, shards: Sequence[Shard], folder: Path, progress: Callable[[int, int], None]
) -> None:
    """Writes `SPLIT-000000.tar` and so on, `export.json` and `tables/`.

    A sample's key is its row in the cohort; `KEY.json` holds ids, label, split and metadata.
    """
    done, entries = 0, []
    for shard in shards:
        path = folder / f"{shard.split}-{shard.number:06d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row, sample in zip(shard.rows.tolist(), samples(cohort, shard.rows), strict=True):
                encoded = cohort.read_image(row)
                text = json.dumps(sample, ensure_ascii=False, allow_nan=False)
                _add(tar, f"{key_of(row)}.{ending(encoded)}", encoded)
                _add(tar, f"{key_of(row)}.json", text.encode())
                done += 1
                progress(done, len(cohort))
        entries.append({"name": path.name, "images": len(shard.rows), "sha256": sha256_of(path)})
    (folder / TABLES).mkdir()
    for level in LEVELS:
        path = folder / TABLES / f"{level}s.parquet"
        cohort.tables.of_level(level).to_parquet(path, index=False)
        entries.append({"name": f"{TABLES}/{path.name}", "sha256": sha256_of(path)})
    content = {
        "format": FORMAT,
        "info": asdict(cohort.info),
        "classes": list(cohort.classes),
        "schema": cohort.schema.to_dict(),
        "files": entries,
    }
    write_json(folder / SIDECAR, content)


def ending(encoded: bytes) -> str:
    """Of an image's file name."""
    return "png" if encoded.startswith(b"\x89PNG") else "jpg"


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file without date and owner, so that the same cohort gives the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))

"""HAM10000: dermoscopy, as Harvard Dataverse, Kaggle or the ISIC 2018 challenge hand it out.

The layouts, the columns and all facts are in `ham10000.toml`.
"""

from __future__ import annotations

from pathlib import Path

from slimp.sources.raw import RawTable
from slimp.sources.recognise import read_published


def read(raw: Path, *, table: str | None = None, images: str | None = None) -> RawTable:
    """The table and images in `raw`.

    Raises:
        TableError: no known layout is there, or a file is at fault.
    """
    return read_published(Path(__file__).with_suffix(".toml"), raw, table=table, images=images)

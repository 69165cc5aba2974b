"""What a source's reader hands over: the published table, and a way to open its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd

OpenImage = Callable[[str], bytes | None]
"""Image cell -> the encoded image, or None if it is not there; called from several threads.

Raises `OSError` if this one image cannot be read, `UserError` if nothing should be.
"""


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A dataset as it was published, before anything is typed or dropped."""

    table: pd.DataFrame
    """Text cells; the index holds the file and the row, as `reading.read_table` says."""
    open_image: OpenImage
    looked_in: str
    """Where images were looked for, in words."""
    close: Callable[[], None] = lambda: None
    """Closes what `open_image` keeps open."""
    layout: str = ""
    """Which of the dataset's known layouts this is, and what is to be said about it."""
    may_lack: tuple[str, ...] = ()
    """Columns of the schema that the table may lack in this layout; '*' is any but the image."""


@runtime_checkable
class Reader(Protocol):
    """Finds a dataset's table and images in a folder or zip file.

    Raises:
        TableError: the table is missing or unreadable.
    """

    def __call__(self, raw: Path, *, table: str | None, images: str | None) -> RawTable:
        """`table` and `images` are paths from `raw` on that replace the usual ones."""
        ...

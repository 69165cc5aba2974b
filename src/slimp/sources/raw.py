"""What reading a source gives: the published table, and a way to open its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

OpenImage = Callable[[str], bytes | None]
"""Image cell -> the encoded image, or None if it is not there; called from several threads.

Raises `OSError` if this one image cannot be read, `UserError` if nothing should be.
"""


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A dataset as it was published, before anything is typed or dropped."""

    table: pd.DataFrame
    """Text cells; the index holds the file and the row, as `read_table.read_table` says."""
    open_image: OpenImage
    looked_in: str
    """Where images were looked for, in words."""
    hint: Callable[[str], str] = lambda cell: ""
    """A sentence that begins with a space, for an image cell that names no file; or ''."""
    close: Callable[[], None] = lambda: None
    """Closes what `open_image` keeps open."""
    published: int | None = None
    """How many images the dataset has in full, where that is known."""
    layout: str = ""
    """Which of the dataset's known layouts this is, and what is to be said about it."""

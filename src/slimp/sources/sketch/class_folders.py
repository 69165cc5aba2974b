"""Images in folders named after their classes: the table that such folders stand for."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from slimp.errors import TableError
from slimp.sources.sketch.further_tables import ENDINGS
from slimp.sources.sketch.image_columns import image_files
from slimp.sources.sketch.words import plain, words

CLASSES = 200
"""Folders of classes, at most."""


def table_of_folders(folder: Path) -> str:
    """A table as CSV with the columns `path`, `class` and, where folders say so, `split`.

    Args:
        folder: holds images as `train/nevus/1.jpg` or `nevus/1.jpg`.

    Raises:
        TableError: the images are not in folders of classes.
    """
    files = image_files(folder)
    parts = [Path(file).parent.parts for file in files]
    splits = set(words()["cells"]["split"])
    has_split = bool(parts) and all(len(p) > 1 and plain(p[0]) in splits for p in parts)
    classes = {p[has_split] for p in parts if len(p) > has_split}
    if not all(len(p) > has_split for p in parts) or not 2 <= len(classes) <= CLASSES:
        tables = [path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS]
        has = f"Name a table in it: {', '.join(tables[:5])}." if tables else "Name a table."
        raise TableError(
            f"{folder}: is a folder, not a table, and its images do not lie in folders named after "
            f"their classes, as in train/nevus/1.jpg. {has}"
        )
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class", *["split"] * has_split])
    for file, part in sorted(zip(files, parts, strict=True)):
        writer.writerow([file, part[has_split], *part[:has_split]])
    return text.getvalue()

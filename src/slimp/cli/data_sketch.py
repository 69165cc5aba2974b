"""Proposes the schema file of your own table, from what is in its columns.

The proposal says in comments what it doubts. Read and correct it, then import the table by it:
the command to do so is printed at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimp.cli.console import note, say


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where things are."""

    table: Path
    """CSV, TSV, Parquet or spreadsheet; a row per image, or per lesion."""
    images: Path | None = None
    """Folder or zip file of the images. Default: images beside the table."""
    out: Path | None = None
    """Schema file to write. Default: it is printed."""
    overwrite: bool = False
    """Replace the file --out."""
    sheet: str | None = None
    """Of a spreadsheet with several."""
    header: int | None = None
    """Row that names the columns, the first being 1, if it is not found."""
    encoding: str | None = None
    """Of a text file, if it is not found, as in cp1250."""
    delimiter: str | None = None
    """Of a text file, if it is not found."""


def run(arguments: Arguments) -> None:
    """Writes or prints the proposal.

    Raises:
        UserError: the table cannot be read, or the file is there already.
    """
    from slimp.data.files import new_file
    from slimp.errors import UserError
    from slimp.sources.layout import TableLayout
    from slimp.sources.sketch.table import sketch_table

    out = arguments.out
    if out is not None and out.exists() and not arguments.overwrite:
        raise UserError(f"{out}: is there already. Replace it with --overwrite, or name another.")
    layout = TableLayout(
        sheet=arguments.sheet,
        header=arguments.header,
        encoding=arguments.encoding,
        delimiter=arguments.delimiter,
    )
    sketch = sketch_table(arguments.table, arguments.images, layout)
    if out is None:
        say(sketch.text.rstrip("\n"))
        command = sketch.next_command(Path("FILE"))
        note(f"next: write it to a file with --out FILE, correct it, then\n  {command}")
        return
    with new_file(out) as temporary:
        temporary.write_text(sketch.text, encoding="utf-8")
    say(f"written: {out}\nnext: read and correct it, then\n  {sketch.next_command(out)}")

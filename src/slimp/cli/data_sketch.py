"""Proposes the schema file of your own table, from what is in its columns.

The proposal says in comments what is in doubt. Read and correct it, then import the table by it:
the command to do so is printed at the end. Without a table, name the folder of your images: if they
lie in folders named after their classes (train/nevus/1.jpg), the table is made from those, and
written beside --out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimp.cli.console import note, say
from slimp.cli.inputs import check_file
from slimp.errors import UserError

EXAMPLE = "slimp data sketch my_data/metadata.csv --out schema.toml"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    table: Path
    """CSV, TSV, Parquet or spreadsheet with a row per image or lesion; or a folder of classes."""
    images: Path | None = None
    """Folder or zip file of the images. Default: images beside the table."""
    out: Path | None = None
    """Schema file to write. Default: it is printed."""
    overwrite: bool = False
    """Replace the file --out, and the table beside it."""
    sheet: str | None = None
    """Sheet of a spreadsheet with several."""
    header: int | None = None
    """Row with the column names, counted from 1. Default: detected."""
    encoding: str | None = None
    """Encoding of a text file, such as cp1250. Default: detected."""
    delimiter: str | None = None
    """Column delimiter of a text file, such as ';'. Default: detected."""


def run(arguments: Arguments) -> None:
    """Writes or prints the proposal.

    Raises:
        UserError: the table cannot be read, or the file is there already.
    """
    from slimp.data.files import new_file
    from slimp.sources.layout import TableLayout
    from slimp.sources.sketch.image_columns import table_of_folders
    from slimp.sources.sketch.table import sketch_table

    out, table, images = arguments.out, arguments.table, arguments.images
    made = table_of_folders(table) if table.is_dir() else None
    if made is not None:
        if out is None:
            raise UserError(
                f"{table}: {len(made)} images in folders named after classes. Pass --out FILE.toml "
                "for the schema; the table of the images is written beside it as FILE.csv."
            )
        table, images = out.with_suffix(".csv"), table
    for path in filter(None, [out, table if made is not None else None]):
        check_file(path, overwrite=arguments.overwrite)
    if made is not None:
        with new_file(table) as temporary:
            made.to_csv(temporary, index=False, lineterminator="\n")
    flags = ("sheet", "header", "encoding", "delimiter")
    layout = TableLayout(**{name: getattr(arguments, name) for name in flags})
    sketch = sketch_table(table, images, layout)
    if out is None:
        say(sketch.text.rstrip("\n"))
        command, doubt = sketch.next_command(Path("FILE")), sketch.doubt(Path("FILE"))
        note(f"next: write it to a file with --out FILE, correct it{doubt}, then\n  {command}")
        return
    with new_file(out) as temporary:
        temporary.write_text(sketch.text, encoding="utf-8")
    next_step = f"next: read and correct it{sketch.doubt(out)}, then"
    say(f"written: {out}\n{next_step}\n  {sketch.next_command(out)}")

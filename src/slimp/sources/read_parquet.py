"""Tables in Parquet files as text cells without loss, and the images that they may hold."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from threading import Lock

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slimp.errors import TableError
from slimp.sources.header import find_header
from slimp.sources.parse_cells import image_key
from slimp.sources.read_spreadsheet import GROUPED, WHOLE

EMBEDDED = "embedded"
"""Key in `DataFrame.attrs` of the column whose images lie in the Parquet file itself."""


def read_parquet(content: bytes, place: str) -> tuple[pd.DataFrame, str | None]:
    """The cells as `read_spreadsheet.cell_text` has them, and the column of images, if any.

    Images that lie in the file, as `{bytes, path}` in the way of Hugging Face, are read as their
    names.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        embedded = [field.name for field in file.schema_arrow if _is_image(field.type)]
        read = [f"{name}.path" if name in embedded else name for name in file.schema_arrow.names]
        table = file.read(columns=read)
        names = find_header([table.column_names], place, 1)[1]
        columns = [
            _image_names(table[name]) if name in embedded else _as_text(table[name], name, place)
            for name in table.column_names
        ]
        frame = pa.table(columns, names=names).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{place}: is a damaged Parquet file: {error}.") from None
    frame.index += 2
    return frame, embedded[0] if embedded else None


class ParquetImages:
    """Images in a column of a Parquet file, found by the names that `read_parquet` gives them."""

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._file, self._column = path, pq.ParquetFile(path), column
        counts = (
            self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)
        )
        self._starts = list(accumulate(counts, initial=0))
        names = _image_names(self._file.read(columns=[f"{column}.path"]).column(0)).to_pylist()
        self._rows = {image_key(name): row for row, name in enumerate(names)}
        self._group, self._images = -1, pa.chunked_array([], pa.binary())
        self._lock = Lock()

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None. An import asks in the order of rows.

        Raises:
            OSError: the file is damaged there.
        """
        row = self._rows.get(image_key(cell))
        if row is None:
            return None
        with self._lock:
            group = bisect_right(self._starts, row) - 1
            if group != self._group:
                try:
                    table = self._file.read_row_group(group, columns=[f"{self._column}.bytes"])
                except (pa.ArrowException, OSError) as error:
                    raise OSError(f"{self._path.name} is damaged ({error})") from None
                self._group, self._images = group, pc.struct_field(table.column(0), "bytes")
            content: bytes | None = self._images[row - self._starts[group]].as_py()
            return content

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _is_image(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or {field.name for field in kind} != {"bytes", "path"}:
        return False
    types = kind.field("bytes").type, kind.field("path").type
    return bool(pa.types.is_binary(types[0]) and pa.types.is_string(types[1]))


def _image_names(column: pa.ChunkedArray) -> pa.Array:
    """The paths of the images; rows are numbered where a path is missing or stands twice."""
    paths = [path or "" for path in pc.struct_field(column, "path").to_pylist()]
    keys = {image_key(path) for path in paths}
    if len(keys) == len(paths) and "" not in keys:
        return pa.array(paths)
    return pa.array([f"row_{row:07d}" for row in range(1, len(paths) + 1)])


def _as_text(column: pa.ChunkedArray, name: str, place: str) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    try:
        if pa.types.is_floating(kind):
            column = pc.if_else(pc.is_nan(column), None, column)
            whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), WHOLE))
            plain = pc.if_else(whole, column, 0).cast(pa.int64(), safe=False).cast(pa.string())
            column = pc.if_else(whole, plain, column.cast(pa.string()))
        elif pa.types.is_timestamp(kind) and kind.tz is None:
            midnight = pc.equal(pc.floor_temporal(column, unit="day"), column)
            dates = pc.all(midnight).as_py() is not False
            column = column.cast(pa.date32() if dates else kind)
        elif pa.types.is_boolean(kind):
            column = pc.if_else(column, "True", "False")  # as spreadsheets and pandas have it
        elif "binary" in str(kind):
            raise pa.ArrowInvalid("bytes are no text")
        text = pc.utf8_normalize(pc.fill_null(column.cast(pa.string()), ""), form="NFC")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise TableError(
            f"{place}, column '{name}': holds {kind}, but a cell must be one text, number or date. "
            "Write the column in another form, or leave it out."
        ) from None
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        text = pc.replace_substring_regex(text, GROUPED, r"\10")
    return text

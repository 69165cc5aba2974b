"""Text cells -> typed columns, one feature at a time; a cell that does not fit is refused."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from slimp.data.schema import AGES, ISO_DATE, Feature
from slimp.errors import TableError

TICKS = {
    **dict.fromkeys(("true", "yes", "1", "1.0"), True),
    **dict.fromkeys(("false", "no", "0", "0.0"), False),
}
"""Spellings of a checkbox cell, in lower case; pandas writes 1.0 where a column has holes."""
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
MARKED = r"[+-]?[0-9]*(?:[.,' ][0-9]+)+"
"""A number with any marks before decimals or between thousands."""
WITH_UNIT = r"^(?P<number>.*[0-9][.,]?)\s*(?P<unit>[^0-9.,\s][^0-9]*)$"
LARGEST = 1e30
"""A number beyond is no measurement, and its square overflows."""
IMAGE_ENDING = re.compile(
    r"\.(?:jpe?g|jpe|jfif|png|tiff?|bmp|webp|gif|dcm|dicom|ima)$", re.IGNORECASE
)
UNREAD_ENDING = re.compile(
    r"\.(?:heic|heif|avif|jxl|jp2|dng|cr2|cr3|nef|arw|orf|rw2|raf)$", re.IGNORECASE
)
"""Of pictures by phones and cameras whose formats are not read."""
NO_ENDING = re.compile(r"(?:^|/)[^/.]*(?:\.[0-9]*)*$")
"""A file's name without an ending, as DICOM files often have it: `IM0001`, `1.2.840.1.7`."""
JOINED = "joined"
"""Key in `DataFrame.attrs` of column -> (file it was joined from, column of the ids here, rows
without a partner there) for each join that has it."""

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Where: TypeAlias = Callable[[int], str]
"""Position of a cell -> the words that name its file, row and image."""


class MisfitError(TableError):
    """A cell does not fit its kind: where, why and, apart from it, the remedy in the schema."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}".rstrip())
        self.problem, self.remedy = problem, remedy


def read_feature(
    table: pd.DataFrame, feature: Feature, where: Where, said: list[str] | None = None
) -> dict[str, pd.Series]:
    """The feature's columns, typed as `parse_cells` does, of a table that holds what it reads.

    What had to be assumed is added to `said`, a sentence each.
    """
    if feature.from_date is not None and feature.to_date is not None:
        start, end = table[feature.from_date], table[feature.to_date]
        time, notes = _time_between(start, end, feature, where)
        said = [] if said is None else said
        said += notes
        return {feature.name: time}
    typed = {column: parse_cells(table[column], feature, where) for column in feature.columns}
    for column, origins in table.attrs.get(JOINED, {}).items():
        if column in typed and "" in feature.aliases:  # no row is no blank cell
            lost = frozenset.intersection(*(rows for _, _, rows in origins))
            typed[column] = typed[column].mask(table.index.isin(lost))
    return typed


def parse_cells(cells: pd.Series, feature: Feature, where: Where) -> pd.Series:
    """The column as float64 (continuous), str (categorical) or boolean (checkbox).

    A cell is missing if it is empty or one of `feature.missing`, spaces around it aside, once its
    alias, if it has one, stands for it: `aliases = { "" = "no" }` makes a blank a no.

    Raises:
        MisfitError: names the first cell that does not fit, and the remedy.
    """
    known, missing = _known(cells, feature)
    typed = known
    if feature.kind == "continuous":
        typed = read_numbers(known, feature)
    elif feature.kind == "checkbox":
        typed = known.str.lower().map(TICKS).astype("boolean")
    elif feature.categories is not None:
        typed = known.where(known.isin(feature.categories))
    else:  # where a column has both 3 and 3.0, as of two files, these are one category
        found = set(known.dropna())
        whole = {cell: cell[: -len(".0")] for cell in found if cell.endswith((".0", ",0"))}
        typed = known.replace({cell: plain for cell, plain in whole.items() if plain in found})
    _refuse_misfits(cells, typed.isna() & ~missing, feature, where)
    return typed


def missing_spellings(cells: pd.Series, feature: Feature) -> dict[str, int]:
    """What stands for missing in the column -> how many cells; '' is the empty cell."""
    counts = cells.str.strip()[_known(cells, feature)[1]].value_counts()
    return {str(spelling): int(count) for spelling, count in sorted(counts.items())}


def _known(cells: pd.Series, feature: Feature) -> tuple[pd.Series, pd.Series]:
    """The cells by their aliases, null where they are missing, and whether they are."""
    spelled = cells.str.strip().replace(dict(feature.aliases))
    missing = spelled.isin(["", *feature.missing])
    if feature.kind == "continuous" and feature.missing:  # -1, -1.0 and -1,00 are one number
        words = pd.Series([word.strip() for word in feature.missing], dtype="str")
        plain = words.str.fullmatch(NUMBER)  # as TOML writes it, whatever the table's marks
        codes = np.where(plain, words.where(plain, "nan").astype(np.float64), _cast(words, feature))
        missing |= np.isin(_cast(spelled, feature), codes[~np.isnan(codes)])
    return spelled.where(~missing), missing


def _refuse_misfits(cells: pd.Series, misfits: pd.Series, feature: Feature, where: Where) -> None:
    """Raises for the first cell that is a misfit."""
    if not misfits.any():
        return
    row, more = int(misfits.to_numpy(dtype=bool).argmax()), int(misfits.sum()) - 1
    cell = cells.iloc[row].strip()
    also = f" The same goes for {more} more cell(s) of this column." if more else ""
    problem, remedy = _problem(cell, feature)
    raise MisfitError(f"{where(row)}, column '{cells.name}': '{cell}' {problem}{also}", remedy)


def _problem(cell: str, feature: Feature) -> tuple[str, str]:
    """Why the cell does not fit, and the remedy."""
    if cell in (*feature.columns, feature.from_date, feature.to_date):
        return "is the name of the column: where a row repeats the header, remove it.", ""
    name, wanted, advice = feature.name, "a number", ""
    is_plain = re.fullmatch(NUMBER, cell) is not None
    if feature.from_date is not None:
        wanted = f"a date written as {feature.date_format or '%Y-%m-%d'}"
        advice = f'Say how dates are written, as in {name}.format = "%d.%m.%Y". '
    elif feature.kind == "checkbox":
        wanted, advice = "a yes or no", "Write True/False, yes/no or 1/0. "
    elif feature.kind == "categorical":
        wanted = f"one of the categories {', '.join(feature.categories or ())}"
    elif re.fullmatch(MARKED, cell) and (feature.decimal == "," or not is_plain):
        wanted = f'clearly a number with decimal = "{feature.decimal}"'
        wanted += f' and thousands = "{feature.thousands}"' if feature.thousands else ""
        advice = (
            f"Set {name}.decimal and {name}.thousands as this column is written; under [table] "
            "they hold for all columns. "
        )
    elif is_plain:
        wanted = f"a measurement: it is too large, beyond {LARGEST:g}"
    elif feature.unit or feature.units:
        units = ", ".join(filter(None, [feature.unit, *feature.units]))
        advice = (
            f"Cells may end in: {units}. Of another unit, say what its numbers are multiplied by, "
            f'as in {name}.units = {{ "cm" = 10 }}. '
        )
    return f"is not {wanted}.", (
        f"{advice}Missing values are written as an empty cell. If '{cell}' means missing, add: "
        f'{name}.missing = ["{cell}"]'
    )


def read_numbers(known: pd.Series, feature: Feature) -> pd.Series:
    """The cells as float64 in the feature's unit; what is no number, or too large, is NaN."""
    values = _cast(known, feature) * feature.factor
    if (feature.unit or feature.units) and np.isnan(values[known.notna().to_numpy()]).any():
        values = np.where(np.isnan(values), _with_units(known, feature), values)
    return pd.Series(np.where(np.abs(values) < LARGEST, values, np.nan), index=known.index)


def _cast(known: pd.Series, feature: Feature) -> Array:
    """The numbers that cells without a unit are; NaN where they are none, or could be two."""
    text = pa.array(known, type=pa.string(), from_pandas=True)
    if feature.thousands is not None:  # no number with such marks begins with 0
        mark, decimal = re.escape(feature.thousands), re.escape(feature.decimal)
        gap = r"[ \x{00a0}\x{202f}]" if feature.thousands == " " else mark
        pattern = rf"^[+-]?[1-9][0-9]{{0,2}}(?:{gap}[0-9]{{3}})+(?:{decimal}[0-9]*)?$"
        grouped = pc.match_substring_regex(text, pattern)
        text = pc.if_else(grouped, pc.replace_substring_regex(text, gap, ""), text)
    if feature.decimal == ",":
        unclear = pc.match_substring_regex(text, r"^[+-]?[0-9]{1,3}(?:\.[0-9]{3})+$")
        text = pc.replace_substring(pc.if_else(unclear, None, text), ",", ".")
    plain = pc.match_substring_regex(text, f"^{NUMBER}$")
    numbers = pc.cast(pc.if_else(plain, text, None), pa.float64())
    values: Array = numbers.to_numpy(zero_copy_only=False)
    return values


def _with_units(known: pd.Series, feature: Feature) -> Array:
    """The numbers of cells that end in a unit which the feature knows; others are NaN."""

    def plain(unit: str) -> str:
        return unicodedata.normalize("NFKC", unit).strip().casefold()

    units = {**({feature.unit: 1.0} if feature.unit else {}), **feature.units}
    factors = {plain(unit): factor for unit, factor in units.items()}
    parts = known.str.extract(WITH_UNIT)
    factor = parts["unit"].map(plain, na_action="ignore").map(factors)
    numbers = _cast(parts["number"].str.strip(), feature)
    product: Array = numbers * factor.to_numpy(dtype=np.float64, na_value=np.nan)
    return product


def _time_between(
    start: pd.Series, end: pd.Series, feature: Feature, where: Where
) -> tuple[pd.Series, list[str]]:
    """The time from one date to the other in the feature's unit, and what was assumed.

    It is unknown if one of them is. Years of two digits may be a century too late.
    """
    (since, own), (until, _) = _dates(start, feature, where), _dates(end, feature, where)
    late, notes = (since > until) & own & ("%y" in (feature.date_format or "")), list[str]()
    if late.any():  # 65 is 2065 to strptime
        since[late] = (since[late] - pd.DateOffset(years=100)).to_numpy()
        notes.append(
            f"column '{start.name}': {int(late.sum())} date(s) with a year of two digits, such as "
            f"{start[late].iloc[0].strip()}, count as a century earlier than they are usually "
            f"read, because they would lie after '{end.name}'"
        )
    time = (_days(until) - _days(since)) / AGES[str(feature.unit)]
    if (time < 0).any():
        row = int((time < 0).argmax())
        raise TableError(
            f"{where(row)}, column '{end.name}': {end.iloc[row].strip()} lies before "
            f"{start.iloc[row].strip()}, the date in '{start.name}'. Correct one of them, or empty "
            "the cell if it is not known."
        )
    return pd.Series(time, index=start.index), notes


def _dates(cells: pd.Series, feature: Feature, where: Where) -> tuple[pd.Series, pd.Series]:
    """The dates, and whether each is written in the feature's own format, not in that of ISO."""
    known, missing = _known(cells, feature)
    iso = known.str.extract(rf"^{ISO_DATE.pattern}$")[0]
    dates = pd.to_datetime(iso, format="%Y-%m-%d", errors="coerce")
    if feature.date_format is not None:
        try:
            own = pd.to_datetime(known, format=feature.date_format, errors="coerce")
        except ValueError as error:
            raise TableError(f"feature '{feature.name}': format: {error}.") from None
        dates = dates.where(iso.notna(), own)
    _refuse_misfits(cells, dates.isna() & ~missing, feature, where)
    return dates, iso.isna()


def _days(dates: pd.Series) -> Array:
    """Days since 1970-01-01; missing as NaN."""
    days: Array = dates.to_numpy().astype("datetime64[D]").astype(np.float64)
    return np.where(dates.isna(), np.nan, days)


def as_whole(cell: str) -> str | None:
    """The whole number that the cell is, as '1' for '1.0' and '1,0'; None if it is none."""
    found = re.fullmatch(r"([+-]?[0-9]{1,18})(?:[.,]0{0,2})?", cell.strip())  # 1,000 may be more
    return None if found is None else str(int(found[1]))


def require_columns(table: pd.DataFrame, file: str, columns: Mapping[str, str], place: str) -> None:
    """Raises if the table has not all the columns; each comes with what asks for it."""
    names = [str(name) for name in table.columns]
    for column, asked in columns.items():
        if column in names:
            continue
        near = difflib.get_close_matches(column, names, n=1)
        near += [name for name in names if column.lower() in name.lower()]
        more = ", ..." if len(names) > 20 else ""
        hint = f"The table has: {', '.join(names[:20])}{more}."
        hint = f"Did you mean '{near[0]}'?" if near else hint
        raise TableError(f"{file}: there is no column '{column}' ({place}: {asked}). {hint}")


def image_key(cell: str) -> str:
    """The image cell as a relative path with `/` and without the file's ending; '' if empty."""
    parts = [part for part in cell.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    path = "/".join(parts)
    return UNREAD_ENDING.sub("", path) if UNREAD_ENDING.search(path) else IMAGE_ENDING.sub("", path)


def image_ending(path: str) -> str:
    """The path's ending if it is one of images, such that `.jpg` and `.JPEG` are one; else ''."""
    found = IMAGE_ENDING.search(path) or UNREAD_ENDING.search(path)
    ending = "" if found is None else found[0].lower()
    return {".jpeg": ".jpg", ".tiff": ".tif"}.get(ending, ending)


def fold(text: str) -> str:
    """The text such that two spellings of one file name are one."""
    return unicodedata.normalize("NFC", text).casefold()


def points_outside(cell: str) -> bool:
    """Whether the cell, read as a path, leaves the image folder: '..', absolute, or a drive."""
    path = cell.strip().replace("\\", "/")
    absolute = path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path) is not None
    return absolute or ".." in path.split("/") or "\0" in path

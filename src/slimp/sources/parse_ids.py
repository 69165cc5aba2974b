"""Text cells that are ids: what is missing, what is the same, and what cannot be known.

A patient whose id is spelled in two ways would lie in two parts of a split, and two patients under
one spelling would be one. So spellings are joined only where they can mean nothing else, the import
report says so, and whatever could be the same or not is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import pandas as pd

from slimp.data.schema import SimilarIds
from slimp.errors import TableError
from slimp.sources.parse_cells import Where

MISSING_WORDS = frozenset(
    {
        *(
            "",
            "nan",
            "<na>",
            "na",
            "n/a",
            "n.a.",
            "nat",
            "none",
            "null",
            "nil",
            "missing",
            "unknown",
        ),
        *("unk", "-", "--", "---", "?", "??", ".", "#n/a", "#na", "#ref!", "#value!", "#name?"),
        *("#num!", "#null!", "#div/0!"),
    }
)
"""Cells that name nobody, in small letters: what pandas, R, databases and spreadsheets write."""
FLOAT = re.compile(r"[0-9]+[.,]0{1,2}")
"""A whole number after a round trip through a column with holes: 100.0; 1,000 may be a thousand."""
DECIMAL = re.compile(r"[0-9]+[.,][0-9]+")
EXPONENT = re.compile(r"[0-9](?:[.,][0-9]+)?[eE]\+[0-9]+")
"""A long number as a spreadsheet shows it: 1.2345E+12; its last digits are lost."""
LONG = re.compile(r"([0-9]{15})([0-9]+)")
"""A long number: its first 15 digits, which a spreadsheet keeps, and the others, which become 0."""
DAY = re.compile(r"[0-9]{1,2}-[A-Z][a-z]{2}|[A-Z][a-z]{2}-[0-9]{1,2}")
PAIR = re.compile(r"[0-9]{1,2}[-/][0-9]{1,2}")


def is_missing(cell: str, missing: Collection[str]) -> bool:
    """Whether an id or label is none; `missing` are the schema's words for it."""
    return cell in missing or cell.casefold() in MISSING_WORDS


def parse_ids(
    cells: pd.Series, where: Where, *, missing: Collection[str] = ()
) -> tuple[pd.Series, list[str]]:
    """The ids, '' where there is none, and what there is to say about their spellings.

    Spaces around an id do not count, and `100.0` is `100` unless the column has other decimals.

    Raises:
        TableError: a number has lost its digits in a spreadsheet.
    """
    codes, spellings = pd.factorize(cells.to_numpy(dtype=object))
    ids = [unicodedata.normalize("NFC", s).strip("\ufeff\u200b \t\r\n\xa0") for s in spellings]
    ids = ["" if is_missing(i, missing) else i for i in ids]
    if (damaged := _damaged(ids)) is not None:
        row = int((codes == ids.index(damaged)).argmax())
        raise TableError(
            f"{where(row)}, column '{cells.name}': '{damaged}' is what a spreadsheet makes of an "
            "id, and two people may share it now. Restore the ids from their origin, and keep the "
            "column as text."
        )
    notes = list[str]()
    decimals = {i for i in ids if DECIMAL.fullmatch(i)}
    if decimals and all(map(FLOAT.fullmatch, decimals)):
        ids = [re.split("[.,]", i)[0] if i in decimals else i for i in ids]
        example = min(decimals)
        notes.append(f"column '{cells.name}': ids such as '{example}' are read without the '.0'")
    spelled = pd.Series(spellings, index=ids, dtype="str").drop("", errors="ignore")
    several = spelled[spelled.index.duplicated(keep=False)]
    if len(several):
        one, other = several[several.index[0]].iloc[:2]
        notes.append(
            f"column '{cells.name}': {several.index.nunique()} id(s) are written in more than one "
            f"way, such as '{one}' and '{other}'; each counts as one"
        )
    read = pd.array(ids, dtype="str").take(codes)
    return pd.Series(read, index=cells.index, name=cells.name), notes


def similar_form(cell: str) -> str:
    """The id such that spellings which a careless hand may mix are equal: p01 for 'P 1'."""
    kept = cell
    if not cell.isascii() or " " in cell or not cell.isprintable():  # costs too much for all
        kept = "".join(c for c in cell if not c.isspace() and unicodedata.category(c) != "Cf")
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", kept.casefold())


def join_similar(
    ids: pd.Series,
    rule: SimilarIds,
    where: Where,
    *,
    within: pd.Series | None = None,
    form: Callable[[str], str] = similar_form,
) -> tuple[pd.Series, list[str]]:
    """The ids, where those that a careless hand may mix are one, and what there is to say.

    Such ids have one `form`, within one group of `within` (such as the lesions of a patient).

    Raises:
        TableError: there are such ids, and the rule is to refuse them.
    """
    keys = [ids.map({i: form(i) for i in ids.unique()}), *([] if within is None else [within])]
    first = ids.groupby(keys, sort=False).transform("first")
    differ = (ids != first).to_numpy()
    if rule == "different" or not differ.any():
        return ids, []
    row = int(differ.argmax())
    pair = f"'{ids.iloc[row]}' and '{first.iloc[row]}'"
    alike = f"{pair} differ in letter case, leading zeros or spaces only"
    if rule == "refuse":
        raise TableError(
            f"{where(row)}, column '{ids.name}': {alike}. Write them alike, or say on top of the "
            'schema what such ids are: similar_ids = "same" or "different".'
        )
    count = ids[differ].nunique()
    return first, [
        f"column '{ids.name}': {count} spelling(s) of ids, such as {alike}; they are one"
    ]


def _damaged(ids: Sequence[str]) -> str | None:
    """An id that a spreadsheet has changed, if there is one."""
    if broken := next(filter(EXPONENT.fullmatch, ids), None):
        return broken
    ends = {i: found[2] for i in ids if (found := LONG.fullmatch(i))}
    zeros = "".join(ends.values())
    if len(zeros) > 3 and set(zeros) == {"0"}:  # by chance: 1 in 10,000
        return next(iter(ends))
    return next(filter(DAY.fullmatch, ids), None) if any(map(PAIR.fullmatch, ids)) else None


def missing_words(cells: pd.Series, missing: Collection[str]) -> dict[str, int]:
    """What stands for missing in a column of ids or labels -> how many cells; '' is the blank."""
    counts = sorted(Counter(cells.str.strip()).items())
    return {word: n for word, n in counts if is_missing(word, missing)}

"""Text cells that are ids, labels or splits: what is missing, what is the same, what is unclear.

A patient whose id is spelled in two ways would lie in two parts of a split, and two patients under
one spelling would be one. So spellings are joined only where they can mean nothing else, the import
report says so, and whatever could be the same or not is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from slimp.data.schema import SimilarIds
from slimp.errors import TableError
from slimp.sources.parse_cells import TICKS, Where, as_whole
from slimp.sources.words import hyphens, plain, words

MISSING_WORDS = frozenset(
    {
        *("", "nan", "<na>", "na", "n/a", "n.a.", "nat", "none", "null", "nil", "missing"),
        *("unknown", "unk", "-", "--", "---", "?", "??", ".", "#n/a", "#na", "#ref!", "#value!"),
        *("#name?", "#num!", "#null!", "#div/0!"),
    }
)
"""Cells that name nobody, in small letters: what pandas, R, databases and spreadsheets write."""
FLOAT = re.compile(r"[0-9]+[.,]0{1,2}")
"""A whole number after a round trip through a column with holes: 100.0; 1,000 may be a thousand."""
NEGATIVE = re.compile(r"-[0-9]+(?:[.,]0*)?")
"""Numbers that name nobody: -1 or -999, as databases and codes of categories have it."""
DECIMAL = re.compile(r"[0-9]+[.,][0-9]+")
EXPONENT = re.compile(r"[0-9](?:[.,][0-9]+)?[eE]\+[0-9]+")
"""A long number as a spreadsheet shows it: 1.2345E+12; its last digits are lost."""
LONG = re.compile(r"([0-9]{15})([0-9]+)")
"""A long number: its first 15 digits, which a spreadsheet keeps, and the others, which become 0."""
PAIR = re.compile(r"[0-9]{1,2}[-/][0-9]{1,2}")
DAY = re.compile(
    r"[0-9]{1,2}(?:-|\. ?)[A-Z][a-zä]{2}|[A-Z][a-z]{2}-[0-9]{1,2}|"
    r"(?:19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}"
)
"""What a spreadsheet makes of an id such as 3-11: 11-Mar, 03. Nov, Mar-11; as a cell, a date."""

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), "test"),
}
FOLD = re.compile(r"(?:(?:fold|cv|split)[\s_-]*)?0*([0-9]{1,3})(?:\.0+)?")
MARKS = {**TICKS, "": False, "x": True}
"""Cells of a column per class."""


def is_missing(cell: str, missing: Collection[str]) -> bool:
    """Whether an id or label is none; `missing` are the schema's words for it."""
    return cell in missing or hyphens(cell).casefold() in MISSING_WORDS


def parse_ids(
    cells: pd.Series, where: Where, *, missing: Collection[str] = ()
) -> tuple[pd.Series, list[str]]:
    """The ids, '' where there is none, and what there is to say about their spellings.

    Spaces around an id do not count, and `100.0` is `100` unless the column has other decimals.

    Raises:
        TableError: a number has lost its digits in a spreadsheet.
    """
    codes, spellings = pd.factorize(cells.to_numpy(dtype=object))
    ids = [spelling.strip("\ufeff\u200b \t\r\n\xa0") for spelling in spellings]
    ids = ["" if is_missing(i, missing) or _names_nobody(i) else i for i in ids]
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


def _names_nobody(cell: str) -> bool:
    """Whether an id is a negative number, or a word for unknown in another language."""
    word = not re.search("[0-9]", cell) and plain(cell) in words()["cells"]["missing"]
    return word or NEGATIVE.fullmatch(hyphens(cell)) is not None


def similar_form(cell: str) -> str:
    """The id such that spellings which a careless hand may mix are equal: p01 for 'P 1'."""
    kept = cell
    if not cell.isascii() or " " in cell or not cell.isprintable():  # costs too much for all
        marks = hyphens(unicodedata.normalize("NFKC", cell))
        kept = "".join(c for c in marks if unicodedata.category(c) != "Cf" and not c.isspace())
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
    alike = f"{pair} differ in letter case, leading zeros, spaces or kinds of dashes only"
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


def parse_labels(
    cells: pd.Series, names: Mapping[str, str], missing: Collection[str] = ()
) -> tuple[pd.Series, list[str]]:
    """The labels by their names here, missing where there is none, and warnings.

    `1` and `1.0` are one label unless the column has other decimals. A word that means missing is
    none, unless `names` has it; a name of '' is none too.
    """
    stripped = cells.str.strip()
    spellings = [str(spelling) for spelling in stripped.unique()]
    numbers = {as_whole(key): name for key, name in names.items() if as_whole(key) is not None}
    decimals = any(DECIMAL.fullmatch(s) and not FLOAT.fullmatch(s) for s in spellings)
    labels, warnings = dict[str, str](), list[str]()
    for cell in sorted(spellings):
        name = names.get(cell, numbers.get(as_whole(cell)))
        if name is not None:
            labels[cell] = name
        elif is_missing(cell, missing):
            labels[cell] = ""
            if cell and cell not in missing:
                warnings.append(
                    f"column '{cells.name}': {int((stripped == cell).sum())} cell(s) '{cell}' "
                    f'count as no label; if that is a class, add "{cell}" = "{cell}" under '
                    "[label_names]."
                )
        else:
            labels[cell] = str(as_whole(cell)) if FLOAT.fullmatch(cell) and not decimals else cell
    known = stripped.map(labels).astype("str")
    return known.where(known != ""), [*warnings, *_doubtful_classes(known, names)]


def _doubtful_classes(labels: pd.Series, names: Mapping[str, str]) -> list[str]:
    """Warnings of classes without a name beside others that have one, and of classes alike."""
    counts = labels[labels != ""].value_counts()
    warnings, alike = list[str](), dict[str, str]()
    for label in counts.index:
        other = alike.setdefault(similar_form(label), label)
        if other != label:
            warnings.append(
                f"labels '{other}' and '{label}' differ in letter case, leading zeros or spaces "
                f'only and are two classes; to join them, add "{label}" = "{other}" under '
                "[label_names]."
            )
    unnamed = counts.drop([*names, *names.values()], errors="ignore").sort_index()
    if any(names.values()) and len(unnamed):
        shown = ", ".join(f"'{label}' ({n} images)" for label, n in unnamed.head(5).items())
        warnings.append(
            f"label_names has no name for {len(unnamed)} class(es), such as {shown}; they stay as "
            "they are. If one is meant by a name there, correct its spelling."
        )
    return warnings


def parse_splits(
    cells: pd.Series, names: Mapping[str, str], where: Where, missing: Collection[str] = ()
) -> tuple[pd.Series, list[str]]:
    """`train`, `validation`, `test` or `fold<number>` per cell, missing where there is none.

    `names` says what a cell is in other words. Any word but the common ones is refused.
    """
    stripped = cells.str.strip()
    parts = dict[str, str]()
    for cell in map(str, stripped.unique()):
        said = names.get(cell, cell)
        word = re.sub(r"[\s_-]|(?<=.)set$", "", said.casefold())
        if word in SPLIT_WORDS:
            parts[cell] = SPLIT_WORDS[word]
        elif is_missing(said, missing):
            parts[cell] = ""
        elif found := FOLD.fullmatch(said.casefold()):
            parts[cell] = f"fold{found[1]}"
        else:
            row = int((stripped == cell).argmax())
            raise TableError(
                f"{where(row)}, column '{cells.name}': '{said}' is no part of a split. Write "
                "train, validation, test or the number of a fold; or say what it is under "
                f'[split_names], as in "{cell}" = "test".'
            )
    read = [f"'{cell}' is {part}" for cell, part in parts.items() if part not in ("", cell)]
    known = stripped.map(parts).astype("str")
    notes = [f"column '{cells.name}': {', '.join(read)}"] if read else []
    return known.where(known != ""), notes


def read_marks(cells: pd.Series) -> pd.Series:
    """Whether each cell of a column per class is marked; missing where it is neither 0 nor 1."""
    plain = cells.str.strip().str.casefold().str.replace(r"\.0*$", "", regex=True)
    return plain.map(MARKS).astype("boolean")


def one_hot_labels(
    table: pd.DataFrame, columns: Sequence[str], unmarked: str | None, where: Where
) -> pd.Series:
    """The name of the column that is marked in each row; '' where none of them has a cell.

    A row that is marked as none or as several of the classes is refused.
    """
    cells = table[list(columns)]
    marks = cells.apply(read_marks)
    marked, strange = marks.fillna(False).to_numpy(dtype=bool), marks.isna().to_numpy()
    filled = (cells.apply(lambda c: c.str.strip()) != "").any(axis=1).to_numpy()
    ones = marked.sum(axis=1)
    wrong = strange.any(axis=1) | (ones > 1) | (filled & (ones == 0) & (unmarked is None))
    if wrong.any():
        row = int(wrong.argmax())
        column = columns[int(strange[row].argmax())]
        problem = f"is marked as {ones[row]} of the classes {', '.join(columns)}"
        if strange[row].any():
            problem = f"has '{table[column].iloc[row]}' in column '{column}', which is no 0 or 1"
        raise TableError(
            f"{where(row)}: the row {problem}. It must have 1 in the column of its class and 0 in "
            "the others; if a row of zeros is of a further class, name it: label = { one_hot = "
            '[...], unmarked = "..." }.'
        )
    names = np.where(ones > 0, np.array(columns, dtype=object)[marked.argmax(axis=1)], unmarked)
    return pd.Series(np.where(filled, names, ""), index=table.index, name="label", dtype="str")

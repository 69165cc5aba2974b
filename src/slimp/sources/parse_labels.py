"""Text cells of labels and official splits, whose words mean the same in few spellings only."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from slimp.errors import TableError
from slimp.sources.parse_cells import Where, as_whole
from slimp.sources.parse_ids import DECIMAL, FLOAT, is_missing, similar_form

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), "test"),
}
FOLD = re.compile(r"(?:(?:fold|cv|split)[\s_-]*)?0*([0-9]{1,3})(?:\.0+)?")
MARKS = {
    **dict.fromkeys(("0", "false", "no", ""), False),
    **dict.fromkeys(("1", "true", "yes", "x"), True),
}
"""Cells of a column per class."""


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

    Any word but the common ones, and those in `names`, is refused.
    """
    stripped = cells.str.strip()
    parts = dict[str, str]()
    for cell in map(str, stripped.unique()):
        word = re.sub(r"[\s_-]|(?<=.)set$", "", cell.casefold())
        if cell in names or word in SPLIT_WORDS:
            parts[cell] = names.get(cell) or SPLIT_WORDS.get(word, "")
        elif is_missing(cell, missing):
            parts[cell] = ""
        elif found := FOLD.fullmatch(cell.casefold()):
            parts[cell] = f"fold{found[1]}"
        else:
            row = int((stripped == cell).argmax())
            raise TableError(
                f"{where(row)}, column '{cells.name}': '{cell}' is no part of a split. Write "
                "train, validation, test or the number of a fold; or say what it is under "
                f'[split_names], as in "{cell}" = "test".'
            )
    read = [f"'{cell}' is {part}" for cell, part in parts.items() if part not in ("", cell)]
    known = stripped.map(parts).astype("str")
    said = [f"column '{cells.name}': {', '.join(read)}"] if read else []
    return known.where(known != ""), said


def one_hot_labels(
    table: pd.DataFrame, columns: Sequence[str], unmarked: str | None, where: Where
) -> pd.Series:
    """The name of the column that is marked in each row; '' where none of them has a cell.

    A row that is marked as none or as several of the classes is refused.
    """
    cells = table[list(columns)].apply(lambda c: c.str.strip().str.casefold())
    cells = cells.replace(r"\.0*$", "", regex=True)
    marked = cells.isin([mark for mark, is_one in MARKS.items() if is_one]).to_numpy()
    strange = ~cells.isin(list(MARKS)).to_numpy()
    filled = (cells != "").any(axis=1).to_numpy()
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

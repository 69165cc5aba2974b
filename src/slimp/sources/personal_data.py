"""Values that seem to be personal data: e-mail addresses, telephones, dates, names, free text.

Judged by the values only, never by the column's name; a pattern counts if most values have it.
"""

from __future__ import annotations

import re

import pandas as pd

MOST = 0.8
"""Share of the known values that must look alike."""
SOME = 0.02
"""Share of the values that suffices for an address or a telephone in the midst of text."""
DISTINCT = 0.3
"""Distinct values per known one that names and texts have; categories repeat."""
FEWEST = 10
"""Known values, at least."""
LOOKED_AT = 20_000
"""Distinct values, at most, that are matched; drawn evenly over the sorted ones."""
WORDS = 4
"""Of a text, on average."""

EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
TELEPHONE = re.compile(
    r"(?<![\w.])(?:\+\d{1,3}[ ./-]?\(?\d[\d ()/-]{5,14}\d|\(?0\d{1,5}\)?[ /-] ?\d[\d /-]{4,12}\d)"
    r"(?![\w.])"
)
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
DATE = re.compile(
    rf"(?:{_YEAR}([-/.]){_MONTH}\1{_DAY}|{_DAY}([-/. ]){_MONTH}\2{_YEAR}"
    rf"|{_MONTH}([-/.]){_DAY}\3{_YEAR}|{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))"
    r"(?:[T ]\d\d?:\d\d(?::\d\d)?.*)?"
)
NAME = re.compile(
    r"(?:(?:Dr|Prof|Mr|Mrs|Ms|Frau|Herr)\.? )*"
    r"[^\W\d_a-z][^\W\d_]+(?:-[^\W\d_]+)?(?:,? (?:(?:van|von|de|da|del|di|der|den|bin|al) )*"
    r"[^\W\d_a-z][^\W\d_]*\.?(?:-[^\W\d_]+)?){1,3}"
)


def personal_kind(values: pd.Series) -> tuple[str, str] | None:
    """What the values look like, and one of them; None for ordinary columns."""
    if pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_float_dtype(values.dtype):
        return None
    known = values.dropna().astype(str).str.strip()
    known = known[known != ""]
    if len(known) < FEWEST:
        return None
    distinct = known.value_counts().sort_index()
    varied = len(distinct) >= DISTINCT * len(known)
    if len(distinct) > LOOKED_AT:
        distinct = distinct.iloc[:: -(-len(distinct) // LOOKED_AT)]
    texts = pd.Series(distinct.index.astype(str))
    weight = distinct.to_numpy() / distinct.sum()
    dates = texts.str.fullmatch(DATE.pattern).to_numpy(dtype=bool)
    if weight[dates].sum() >= MOST:
        return "dates", str(texts[dates].iloc[0])
    for kind, pattern in (("e-mail addresses", EMAIL), ("telephone numbers", TELEPHONE)):
        whole = texts.str.fullmatch(pattern.pattern).to_numpy(dtype=bool)
        inside = (texts.str.contains(pattern.pattern) & texts.str.contains(r"[^\W\d_]")).to_numpy(
            dtype=bool
        )  # in the midst of words
        if weight[whole].sum() >= MOST or weight[inside].sum() >= SOME:
            return kind, str(texts[whole | inside].iloc[0])
    names = texts.str.fullmatch(NAME.pattern).to_numpy(dtype=bool)
    if varied and weight[names].sum() >= MOST:
        return "names of people", str(texts[names].iloc[0])
    words = texts.str.count(r"\S+").to_numpy(dtype=float)
    if varied and float((words * weight).sum()) >= WORDS:
        return "free text", str(texts.iloc[0])
    return None

"""Words of table headers and cells in seven languages (`words.toml`), as hints."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache(maxsize=1)
def words() -> dict[str, Any]:
    """The content of `words.toml`."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def hints_at(header: str, *topics: str) -> bool:
    """Whether a part of the header is a word of one of the topics, or holds a long one.

    Example:
        >>> hints_at("Geburtsdatum_Patient", "birth"), hints_at("image", "person_level")
        (True, False)
    """
    known = words()["headers"]
    return any(_has_word(header, known[topic]) for topic in topics)


def header_unit(header: str) -> str | None:
    """The unit that the header names or implies, as in 'size_mm' or 'Alter'."""
    units = words()["units"].items()
    return next((unit for unit, said in units if _has_word(header, said["headers"])), None)


def is_called_id(header: str) -> bool:
    """Whether the header calls its column an id, or a number of something.

    Example:
        >>> is_called_id("Pat.-Nr."), is_called_id("case number"), is_called_id("number of moles")
        (True, True, False)
    """
    known, parts = words()["headers"], parts_of(header)
    return any(part in known["id"] for part in parts) or parts[-1:] in [
        [w] for w in known["number"]
    ]


def names_diagnosis(header: str) -> bool:
    """Whether the header calls its column a diagnosis; 'skin type class' and histories do not."""
    return hints_at(header, "label") and not hints_at(header, "person_level")


def _has_word(header: str, known: list[str]) -> bool:
    parts = parts_of(header)
    return any(part == w or (len(w) >= 5 and w in part) for w in known for part in parts)


def parts_of(header: str) -> list[str]:
    """The words of a header in lower case, without accents.

    Example:
        >>> parts_of("Größe_mm"), parts_of("patientId2")
        (['groesse', 'mm'], ['patient', 'id'])
    """
    cut = re.sub(r"(?<=[a-zäöüß])(?=[A-ZÄÖÜ])", " ", header)
    return [part for part in re.split(r"[^a-z]+", plain(cut)) if part]


def plain(text: str) -> str:
    """The text in lower case, blanks joined, German umlauts spelled out, other accents gone.

    Letters that are no Latin ones with accents stay, or a patient 'Ł.' would be a point.

    Example:
        >>> plain("  Não  Größe ")
        'nao groesse'
    """
    text = " ".join(unicodedata.normalize("NFC", text).lower().split())
    if text.isascii():
        return text
    for letter, letters in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss")):
        text = text.replace(letter, letters)
    marks = unicodedata.normalize("NFKD", text)
    return hyphens("".join(c for c in marks if unicodedata.category(c) not in ("Mn", "Cf")))


def hyphens(text: str) -> str:
    """The text with a hyphen for each kind of dash, and for the minus sign.

    Example:
        >>> hyphens("P\u20131"), hyphens("\u2014")
        ('P-1', '-')
    """
    if text.isascii():
        return text
    return "".join("-" if c == "\u2212" or unicodedata.category(c) == "Pd" else c for c in text)


def spaced(text: str) -> str:
    """The text as `plain`, with blanks for marks: 'Basal_cell' is 'basal cell'."""
    return re.sub(r"[\s_-]+", " ", plain(text)).strip()

"""Words of table headers and cells in six languages (`words.toml`), as hints."""

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


def hints_at(header: str, topic: str) -> bool:
    """Whether a part of the header is a word of the topic, or holds a long one.

    Example:
        >>> hints_at("Geburtsdatum_Patient", "birth"), hints_at("image", "age")
        (True, False)
    """
    return _has_word(header, tuple(words()["headers"][topic]))


def has_part(header: str, topic: str) -> bool:
    """Whether a part of the header is a word of the topic, none of which counts within a longer.

    Example:
        >>> has_part("Pat.-Nr.", "id"), has_part("nodule", "id")
        (True, False)
    """
    return not set(words()["headers"][topic]).isdisjoint(parts_of(header))


def header_unit(header: str) -> str | None:
    """The unit that the header names or implies, as in 'size_mm' or 'Alter'."""
    units = words()["headers"]["units"]
    return next((unit for unit, said in units.items() if _has_word(header, tuple(said))), None)


def _has_word(header: str, known: tuple[str, ...]) -> bool:
    parts = parts_of(header)
    return any(
        part == word or (len(word) >= 5 and word in part) for word in known for part in parts
    )


def parts_of(header: str) -> list[str]:
    """The words of a header in lower case, without accents.

    Example:
        >>> parts_of("Größe_mm"), parts_of("patientId2")
        (['groesse', 'mm'], ['patient', 'id'])
    """
    spaced = re.sub(r"(?<=[a-zäöüß])(?=[A-ZÄÖÜ])", " ", header)
    return [part for part in re.split(r"[^a-z]+", plain(spaced)) if part]


def plain(text: str) -> str:
    """The text in lower case, blanks joined, German umlauts spelled out, other accents gone.

    Example:
        >>> plain("  Não  Größe ")
        'nao groesse'
    """
    text = " ".join(unicodedata.normalize("NFC", text).lower().split())
    for letter, letters in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss")):
        text = text.replace(letter, letters)
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def slug(header: str) -> str:
    """A name for a feature: the header's letters and digits, joined by '_'.

    Example:
        >>> slug("Größe (mm)")
        'groesse_mm'
    """
    return re.sub(r"[^a-z0-9]+", "_", plain(header)).strip("_") or "column"

"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import settings

# A busy or slow machine is no fault of the code.
settings.register_profile("slimp", deadline=None)
settings.load_profile("slimp")


PRIVATE = re.compile(
    r"\b(lent|lends?|lending|loans?|lenders?|borrow\w*|brokers?|storeys?|settled?|settles|"
    r"torn|strays?|barren|whom|at hand|(?:best|hardest|no) floors?|the floors?|"
    r"dealt|deals?|leave the house|point nowhere|of everything random|"
    r"no one saw|meet and did)\b",
    re.IGNORECASE,
)
"""Words that a reader would have to learn from us; house.md's table has the field's."""


@pytest.fixture(scope="session")
def private_words() -> re.Pattern[str]:
    return PRIVATE


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images with real metadata, where this machine has one."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("SLIMP_TEST_DATA", root.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data at {folder}; set SLIMP_TEST_DATA to a folder that holds it")
    return folder

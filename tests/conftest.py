"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# A busy or slow machine is no fault of the code.
settings.register_profile("slimp", deadline=None, max_examples=50)
settings.load_profile("slimp")

ROOT = Path(__file__).resolve().parents[1]


def shaped() -> Iterator[str]:
    """The modules that state shapes, but for those that draw the cohorts of nearly every test."""
    for path in (ROOT / "src").rglob("*.py"):
        words = path.relative_to(ROOT / "src").with_suffix("").parts
        if "synthetic" not in words and "jaxtyping" in path.read_text(encoding="utf-8"):
            yield ".".join(words)


# Before anything imports them. Types without shapes are left to mypy: to check them too takes long.
install_import_hook(list(shaped()), "beartype.beartype")


PRIVATE = re.compile(
    r"\b(lent|lends?|lending|loans?|lenders?|borrow\w*|brokers?|storeys?|settled?|settles|"
    r"torn|strays?|barren|whom|at hand|(?:best|hardest|no) floors?|the floors?|"
    r"dealt|deals?|leave the house|point nowhere|of everything random|"
    r"no one saw|meet and did)\b",
    re.IGNORECASE,
)
"""Words that a reader would have to learn from us; house.md's table has the field's."""


LONG = ("test_loop", "test_fuzz_inputs", "test_end_to_end", "test_nested", "test_protocol")
"""Files that take longest; see the durations that .ci/run prints."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that no process waits at the end for the other one's."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session", autouse=True)
def _apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leaves the user's cache alone, and out the wait for the disk; test_files tests the latter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("os.fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cohort, a run, features and a probe, each made by its verb, in seconds."""
    from slimp.cli import main as cli

    root = tmp_path_factory.mktemp("made")
    names = ("cohort", "run", "features.parquet", "probe")
    places = {name.partition(".")[0]: root / name for name in names}
    for line in (
        "data import synthetic - {cohort} --patients 80 --lesions 3 --image-size 32",
        "pretrain {cohort} --out {run} --preset tiny --image-size 32 --epochs 2 --workers 0 "
        "--patients 16 --lesions 4 --validate-every 1 --seed 1",
        "embed {run} {cohort} --out {features}",
        "probe {run} {cohort} --out {probe}",
    ):
        assert cli.main(line.format(**places).split()) == 0, line
    return places


@pytest.fixture(scope="session")
def private_words() -> re.Pattern[str]:
    return PRIVATE


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images with real metadata, where this machine has one."""
    folder = Path(os.environ.get("SLIMP_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data at {folder}; set SLIMP_TEST_DATA to a folder that holds it")
    return folder

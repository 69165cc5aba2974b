"""Fixtures that more than one test file uses."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from hypothesis import settings
from jaxtyping import AbstractArray, AbstractDtype, install_import_hook, jaxtyped

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


def shapes_only(thing: Any = None, *, typechecker: Any) -> Any:
    """`jaxtyped`, but for functions and dataclasses that state no shape: they stay as they are."""
    if thing is None:
        return partial(shapes_only, typechecker=typechecker)
    inner = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
    classes = inner.__mro__ if isinstance(inner, type) else [inner]
    names = vars(sys.modules[inner.__module__])
    for owner in classes:
        stated = vars(owner).get("__annotations__", inner.__annotations__)
        known = [
            names.get(word) for word in re.findall(r"\w+", " ".join(map(str, stated.values())))
        ]
        if any(isinstance(x, type) and issubclass(x, AXES) for x in known):
            return jaxtyped(thing, typechecker=typechecker)
    return thing


AXES = (AbstractDtype, AbstractArray)
# Before anything imports them. Types without shapes are left to mypy: to check them too takes long.
jaxtyping.jaxtyped = shapes_only
install_import_hook(list(shaped()), "beartype.beartype")


PRIVATE = re.compile(
    r"\b(lent|lends?|lending|loans?|lenders?|borrow\w*|brokers?|storeys?|settled?|settles|"
    r"torn|strays?|barren|whom|at hand|(?:best|hardest|no) floors?|the floors?|"
    r"dealt|deals?|leave the house|point nowhere|of everything random|"
    r"no one saw|meet and did)\b",
    re.IGNORECASE,
)
"""Words that a reader would have to learn from us; house.md's table has the field's."""


def pytest_configure(config: pytest.Config) -> None:
    """Imports libraries that a process would compile anew, unless it only hands out the tests.

    What a module of the hook imports is looked for among the hook's own compiled files.
    """
    if config.getoption("dist", "no") == "no":
        for name in ("beartype", "matplotlib.pyplot", "sklearn.ensemble", "timm"):
            import_module(name)


FORKS = ("test_processes", "test_killed", "test_experiment")
"""Files whose tests fork this process, before other libraries have started threads in it: a lock
that one of these holds stays shut in the child."""
LONG = (
    "test_nested_beats_flat",
    "test_loop",
    "test_fuzz_inputs",
    "test_end_to_end",
    "test_nested",
    "test_protocol",
)
"""Files that take longest; see the durations that .ci/run prints."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Forks come first, then long files, so that no process waits at the end for the other one."""
    order = [*FORKS, *LONG]
    items.sort(key=lambda item: order.index(x) if (x := item.path.stem) in order else len(order))


@pytest.fixture(scope="session", autouse=True)
def _apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leaves the user's cache alone, and out the wait for the disk; test_files tests the latter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("os.fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cohort, a run, features and a probe, each made by its verb, in seconds.

    They are made by one of the processes that test side by side; each has a copy.
    """
    names = ("cohort", "run", "features.parquet", "probe")
    own = tmp_path_factory.mktemp("made")
    shared = own.parent
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / "made.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "everything" / "probe").is_dir():
            _make(shared / "everything", names)
    shutil.copytree(shared / "everything", own, dirs_exist_ok=True)
    return {name.partition(".")[0]: own / name for name in names}


def _make(root: Path, names: Sequence[str]) -> None:
    from slimp.cli import main as cli

    places = {name.partition(".")[0]: root / name for name in names}
    root.mkdir()
    for line in (
        "data import synthetic - {cohort} --patients 80 --lesions 3 --image-size 32",
        "pretrain {cohort} --out {run} --preset tiny --image-size 32 --epochs 2 --workers 0 "
        "--patients 16 --lesions 4 --validate-every 1 --seed 1",
        "embed {run} {cohort} --out {features}",
        "probe {run} {cohort} --out {probe} --replicates 200",
    ):
        assert cli.main(line.format(**places).split()) == 0, line


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

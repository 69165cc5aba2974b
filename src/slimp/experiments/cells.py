"""The cells of an experiment: what has to be done once, named by all that determines it.

A cell is done when its folder holds `done.json`, which is written last. Any number of processes, on
any number of machines, may work on one folder: each takes cells that are ready and that nobody
else has locked. The system frees the lock of a process that dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from slimp import __version__
from slimp.data.files import make_folder, read_json, remove_partials, write_json
from slimp.errors import UserError
from slimp.training.run_folder import versions

Stage = Literal["cohort", "split", "pretrain", "adapt", "embed", "score"]
DONE, LOCK, CELL = "done.json", "lock", "cell.json"
ELSEWHERE = {"app", "checks", "cli", "explain", "prediction", "report"}
"""Folders of the package that no cell is made with."""
PREDICTIONS = "predictions.parquet"
"""File of a score."""
WAIT_SECONDS = 0.5
"""Between two looks at cells that others work on."""
Announce = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A stage with its resolved settings, its inputs, and the version of the code."""

    stage: Stage
    settings: Mapping[str, Any] = field(hash=False)
    """All that determines the outcome beside the inputs; JSON."""
    upstream: tuple[Cell, ...] = ()
    words: str = field(default="", compare=False)
    """What a reader calls it; not part of its name."""
    place: str = field(default="", compare=False)
    """Of a cohort: where its data are; not part of its name."""
    machine: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Of a training: devices, checkpoints and the like; not part of its name."""

    @cached_property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of its content."""
        text = json.dumps(self.to_dict(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """The content of `cell.json`."""
        return {
            "stage": self.stage,
            "settings": dict(self.settings),
            "upstream": [cell.id for cell in self.upstream],
            "slimp": __version__,
        }

    def folder(self, cells: Path) -> Path:
        """Its own, among those of all cells."""
        return cells / self.id

    def is_done(self, cells: Path) -> bool:
        """Whether its outcome is there."""
        return (self.folder(cells) / DONE).is_file()

    def is_of_other_code(self, cells: Path) -> bool:
        """Whether its outcome is there, and other code than this made it."""
        return self.is_done(cells) and read_json(self.folder(cells) / DONE).get("code") != code()

    def of(self, *stages: Stage) -> Cell | None:
        """The nearest cell of these stages that this one rests on, or this one."""
        if self.stage in stages:
            return self
        found = (cell.of(*stages) for cell in self.upstream)
        return next((cell for cell in found if cell is not None), None)


Execute = Callable[[Cell, Path], None]
"""Does what a cell asks for, in its folder; it may find what a killed process left there."""


def in_order(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """These cells and all they rest on, once each, inputs before outputs."""
    found: dict[str, Cell] = {}

    def add(cell: Cell) -> None:
        if cell.id not in found:
            for other in cell.upstream:
                add(other)
            found[cell.id] = cell

    for cell in cells:
        add(cell)
    return tuple(found.values())


def work(
    cells: Sequence[Cell], folder: Path, execute: Execute, announce: Announce
) -> dict[str, str]:
    """Returns when all these cells are done, by this process or by others.

    Cells that raise UserError are left out with all that rests on them.

    Args:
        cells: as `in_order` gives them.
        folder: of all cells.
        execute: makes one cell.
        announce: called with a line per cell that this process made, or could not.

    Returns:
        Name of a cell that could not be made -> a line with the reason.
    """
    failed: dict[str, str] = {}

    def possible(cell: Cell) -> bool:
        return cell.id not in failed and all(map(possible, cell.upstream))

    while pending := [c for c in cells if not c.is_done(folder) and possible(c)]:
        idle = True
        for cell in pending:
            if not all(other.is_done(folder) for other in cell.upstream):
                continue
            with locked(cell.folder(folder) / LOCK) as mine:
                if mine and not cell.is_done(folder):
                    began = time.perf_counter()
                    idle = False
                    try:
                        _make(cell, folder, execute)
                    except UserError as error:
                        failed[cell.id] = f"{cell.words}: not made. {error}"
                        announce(failed[cell.id])
                        continue
                    left = sum(not other.is_done(folder) for other in cells)
                    took = time.perf_counter() - began
                    announce(f"{cell.words}: {took:.1f} s; {left} of {len(cells)} cells left")
        if idle:
            time.sleep(WAIT_SECONDS)
    return failed


def _make(cell: Cell, folder: Path, execute: Execute) -> None:
    own, began = cell.folder(folder), time.perf_counter()
    remove_partials(own)
    write_json(own / CELL, cell.to_dict())
    execute(cell, folder)
    seconds = round(time.perf_counter() - began, 2)
    write_json(own / DONE, {"seconds": seconds, "versions": versions(), "code": code()})


@cache
def code() -> str:
    """A hash of the code that makes cells: two commits of one version differ in it."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*")):
        own = path.suffix in (".py", ".toml")  # what the columns of a public data set are
        if own and path.relative_to(package).parts[0] not in ELSEWHERE:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether this process has the lock; the system frees it if the process dies."""
    make_folder(path.parent)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True

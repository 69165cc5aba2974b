"""The order of the house, and what its rooms must look like."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "slimp"

ORDER = (
    "errors",
    "data",
    "sources",
    "checks",
    "models",
    "features",
    "training",
    "evaluation",
    "retrieval",
    "prediction",
    "report",
    "cli",
)
"""What lies under `src/slimp`, in the order of the data's way; imports go up this list only."""

LINES = 400
"""Ceiling for a module."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of every import from within the package, wherever it stands in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            inside = [f"slimp.{alias.name}" for alias in node.names]
            names = inside if node.module == "slimp" else [node.module or ""]
        else:
            continue
        for name in names:
            if name.startswith("slimp.") and name != "slimp.__version__":
                yield node.lineno, name.split(".")[1]


def test_every_room_has_its_place():
    rooms = {room_of(path) for path in modules()} - {"__init__", "__main__"}
    assert not rooms - set(ORDER), "add the new room to ORDER, where the data pass it"


def test_imports_point_upwards():
    wrong = []
    for path in modules():
        room = room_of(path)
        if room in ("__init__", "__main__"):
            continue
        for line, other in imported_rooms(path):
            if other != room and ORDER.index(other) >= ORDER.index(room):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_within_a_package_imports_make_no_circle():
    """Also where Python would not mind, because one of them stands inside a function."""
    depends = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): {
            node.module
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("slimp.")
        }
        for path in modules()
        if path.name != "__init__.py"
    }
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in finished:
            for other in sorted(depends.get(name, ())):
                visit(other, (*trail, name))
            finished.add(name)

    for name in depends:
        visit(name, ())


def test_modules_are_short():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in modules()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LINES
    }
    assert not long


def test_no_room_for_odds_and_ends():
    odd = {"utils", "util", "common", "misc", "helpers", "helper"}
    assert not [path for path in modules() if odd & set(path.with_suffix("").parts)]


def test_modules_say_what_they_are():
    silent = [
        str(path.relative_to(ROOT))
        for path in modules()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_tests_mirror_the_tree():
    """A test file is named after a module, a package, a dataset, or a concern listed here."""
    concerns = {"house", "readme", "end_to_end", "refusals", "own_data", "fuzz_inputs"}
    known = {path.stem for path in (*modules(), *PACKAGE.rglob("*.toml"))} | {
        path.name for path in PACKAGE.rglob("*/")
    }
    strange = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if not any(path.stem.removeprefix("test_").startswith(name) for name in {*known, *concerns})
    ]
    assert not strange


def tracked_files() -> list[Path]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = listed.stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_tracked_file_depends_on_one_machine():
    """No home folders, no package index: those are the affair of whoever installs."""
    paths = "|".join(("/" + name + "/") for name in ("work", "root", "home", "Users", "opt"))
    hosts = r"pypi\.org|pythonhosted|download\.pytorch|index[-_]url|find[-_]links"
    forbidden = re.compile(rf"(?<![\w.:/~<-])(?:{paths})\w|{hosts}")
    found = []
    for path in tracked_files():
        if path == Path(__file__).resolve() or path.name == "LICENSE":
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if match := forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found, "\n".join(found)


def test_tracked_files_are_small():
    """Neither data nor weights are part of the project."""
    assert not [path for path in tracked_files() if path.stat().st_size > 500_000]


def test_constraints_name_versions_only():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert not [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.!]+", pin)]
    names = [re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() for pin in pins]
    assert not [a for a, b in pairwise(sorted(names)) if a == b]
    assert {"torch", "torchvision", "timm", "numpy", "pandas"} <= set(names)


def test_every_dependency_is_defended():
    """Every requirement has its line in docs/dependencies.md."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*content["project"]["dependencies"], *content["dependency-groups"]["dev"]]
    for extra in content["project"].get("optional-dependencies", {}).values():
        wanted += extra
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    names = [re.split(r"[\[><=~ ]", line)[0] for line in wanted]
    assert not [name for name in names if f"| `{name}` |" not in text]

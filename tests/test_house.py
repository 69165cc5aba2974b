"""The order of the house, and what its rooms must look like."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median

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
    "explain",
    "experiments",
    "app",
    "report",
    "cli",
)
"""What lies under `src/slimp`, in the order of the data's way; imports go up this list only."""

ENTRIES, LINES, MEDIAN, FUNCTION, LOOP, PARAMETERS = 15, 350, 150, 60, 100, 7
"""Limits: entries of the package, lines of a module, of the median module, of a function, of the
training loop, parameters of a function."""
TRAINING_LOOPS = ("training/loop.py:train", "training/finetune.py:finetune")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def inside(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def name_of(path: Path) -> str:
    """The dotted name; of a package, that of its folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(name: str) -> str:
    return name.split(".")[1]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import from within the package, wherever it stands in the file.

    `import_module` and `__import__` count too, with the constant start of an f-string or a sum.
    """
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = [node.module or ""]
            if (PACKAGE.parent / (node.module or "").replace(".", "/")).is_dir():
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            names = [constant_start(argument).rstrip(".") for argument in node.args[:1]]
        else:
            continue
        for name in names:
            if name.startswith("slimp.") and name != "slimp.__version__":
                yield node.lineno, name


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def constant_start(node: ast.expr) -> str:
    """What a text is known to begin with."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        first = node.values[:1]
        return constant_start(first[0]) if first and isinstance(first[0], ast.Constant) else ""
    return constant_start(node.left) if isinstance(node, ast.BinOp) else ""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{inside(path)}:{node.name}", node


def test_the_package_is_its_folders():
    entries = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    entries -= {"__init__", "__main__", "py.typed", "__pycache__"}
    assert entries == set(ORDER), "one row of ORDER per folder, where the data pass it"
    assert len(entries) <= ENTRIES


def test_imports_point_to_earlier_folders():
    wrong = []
    for path in modules():
        if path.parent == PACKAGE and path.stem in ("__init__", "__main__"):
            continue
        own = folder_of(name_of(path))
        for line, name in imports(path):
            other = folder_of(name)
            if other != own and ORDER.index(other) >= ORDER.index(own):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_imports_make_no_circle():
    """Also where Python would not mind, because one of them stands inside a function."""
    known = {name_of(path) for path in modules()}
    depends = {
        name_of(path): {
            name if name in known else name.rpartition(".")[0] for _, name in imports(path)
        }
        for path in modules()
        if path != PACKAGE / "__init__.py"
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


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("import slimp.checks.report", "slimp.checks.report"),
        ("from slimp.checks import report", "slimp.checks.report"),
        ("from slimp.checks.report import cautions", "slimp.checks.report"),
        ("importlib.import_module('slimp.checks.report')", "slimp.checks.report"),
        ("import_module(f'slimp.checks.{name}')", "slimp.checks"),
        ("__import__('slimp.checks.' + name)", "slimp.checks"),
    ],
)
def test_every_way_to_import_is_seen(tmp_path, line, module):
    (tmp_path / "some.py").write_text(line)
    assert list(imports(tmp_path / "some.py")) == [(1, module)]


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_modules_are_short():
    long = {inside(path) for path in modules() if lines_of(path) > LINES}
    assert not long
    assert median(map(lines_of, modules())) <= MEDIAN


def test_functions_are_short():
    long = {
        name
        for path in modules()
        for name, node in functions(path)
        for limit in [LOOP if name in TRAINING_LOOPS else FUNCTION]
        if (node.end_lineno or 0) - node.lineno + 1 > limit
    }
    assert not long


def test_functions_take_few_parameters():
    many = set()
    for path in modules():
        for name, node in functions(path):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if len([a for a in given if a.arg not in ("self", "cls")]) > PARAMETERS:
                many.add(name)
    assert not many


def test_no_room_for_odds_and_ends():
    odd = {"utils", "util", "common", "misc", "helpers", "helper"}
    assert not [path for path in modules() if odd & set(path.with_suffix("").parts)]


def test_modules_say_what_they_are():
    silent = [
        str(path.relative_to(ROOT)) for path in modules() if not ast.get_docstring(parsed(path))
    ]
    assert not silent


def test_tests_mirror_the_folders():
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("*/test_*.py")}
    assert not [
        name for name in folders if name != Path("benchmarks") and not (PACKAGE / name).is_dir()
    ]


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


def test_shapes_are_stated_of_classes():
    """From numpy 2.5 on, which needs Python 3.12, `NDArray` is an alias that jaxtyping refuses."""
    stated = re.compile(r"\b(?:Float|Int|UInt|Bool|Complex|Num|Shaped)\d*\[\s*NDArray")
    assert not [inside(path) for path in modules() if stated.search(path.read_text("utf-8"))]


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
    wanted = [*content["project"]["dependencies"]]
    wanted += [line for group in content["dependency-groups"].values() for line in group]
    for extra in content["project"].get("optional-dependencies", {}).values():
        wanted += extra
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    names = [re.split(r"[\[><=~ ]", line)[0] for line in wanted]
    assert not [name for name in names if f"| `{name}` |" not in text]

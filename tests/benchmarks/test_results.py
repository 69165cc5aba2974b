"""A kept result counts only while the command that made it is here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slimp.experiments.recipe import get_recipe
from summary import BLOCKS, block

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
KEPT = sorted(RESULTS.glob("*.json"))
EXPERIMENTS = sorted((RESULTS / "experiments").glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_its_script_is_here(path: Path) -> None:
    words = json.loads(path.read_text("utf-8"))["command"].split()
    assert words[0] == "python"
    assert (ROOT / words[1]).is_file()
    assert not any(word.startswith("/") for word in words)


def test_the_tables_are_those_of_the_results() -> None:
    page = (ROOT / "benchmarks" / "results" / "README.md").read_text("utf-8")
    heads = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert heads == [path.stem for path in KEPT]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_whole_and_can_be_run_again(path: Path) -> None:
    kept = json.loads(path.read_text("utf-8"))
    found = kept["result"]
    assert kept["command"].split()[:4] == ["slimp", "experiment", found["name"], "--cohort"]
    assert all(row["done"] == row["planned"] for row in found["rows"])
    recipe = get_recipe(found["name"])
    assert {row["arm"] for row in found["rows"]} == {arm.name for arm in recipe.arms}


def test_the_page_of_results_is_that_of_the_experiments() -> None:
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    heads = [line[3:].replace(", ", "_") for line in page.splitlines() if line.startswith("## ")]
    assert heads == ["Beside the paper", *(path.stem for path in EXPERIMENTS)]


@pytest.mark.parametrize("name", BLOCKS)
def test_tables_in_pages_are_those_of_the_results(name: str) -> None:
    """`python benchmarks/summary.py` writes them."""
    page, _ = BLOCKS[name]
    assert block(name) in page.read_text("utf-8")

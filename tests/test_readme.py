"""What README and docs tell people to type does work."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from slimp.cli.flags import parse
from slimp.cli.main import VERBS, find_verb
from slimp.data.schema import Schema

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(page.read_text("utf-8")) if name == language]


def commands() -> list[str]:
    lines = [
        line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()
    ]
    return [line for line in lines if line.startswith("slimp ")]


def parsed(line: str) -> object:
    words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    verb = find_verb(words)
    assert verb, f"no such verb: {line}"
    module = import_module(f"slimp.cli.{verb.replace(' ', '_')}")
    argv = words[len(verb.split()) :]
    if "--print-config" in argv:
        with pytest.raises(SystemExit):
            parse(argv, module.Arguments, command=verb)
        return None
    return parse(argv, module.Arguments, command=verb)


@pytest.mark.parametrize("line", commands())
def test_commands_exist(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed: 3\n")
    parsed(line)


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"demo", "test", "check"} <= named <= targets


def test_schema_files_are_valid():
    for page in PAGES:
        for block in blocks(page, "toml"):
            if re.search(r"^image = ", block, re.MULTILINE):
                Schema.from_dict(tomllib.loads(block))


def test_every_verb_is_documented():
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert not [verb for verb in VERBS if f"| `slimp {verb}" not in text]


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules_that_a_page_names_exist(page):
    text = page.read_text("utf-8")
    for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|j2))`", text):
        places = (ROOT, ROOT / "src" / "slimp", ROOT / "benchmarks", page.parent)
        folders = {path.parent for path in (ROOT / "src").rglob("*.py")}
        assert any((place / name).is_file() for place in (*places, *folders)), name
    for module, rest in re.findall(r"\b(slimp(?:\.[a-z_]+)+)((?:\.[A-Z]\w+)?)", text):
        parts = module.split(".")
        path = ROOT / "src"
        while parts and (path / parts[0]).is_dir():
            path /= parts.pop(0)
        path = (
            path / f"{parts.pop(0)}.py" if parts and path.name != "slimp" else path / "__init__.py"
        )
        assert path.is_file(), module
        for name in (*parts, *filter(None, rest.split("."))):
            assert name in path.read_text("utf-8"), f"{module}{rest}"


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    """On a synthetic cohort and a run of two steps, in the places that the README names."""
    from slimp.data.cohort import Cohort
    from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic
    from slimp.training.config import PretrainConfig
    from slimp.training.loop import pretrain

    monkeypatch.chdir(tmp_path)
    write_synthetic(Path("cohorts/mine"), SyntheticConfig(patients=60, lesions=3, image_size=32))
    settings = PretrainConfig.from_preset("tiny", image_size=32, epochs=1, workers=0)
    pretrain(Cohort.load("cohorts/mine"), settings, "runs/mine")
    names: dict[str, object] = {}
    for code in blocks(ROOT / "README.md", "python"):
        exec(compile(code, "README.md", "exec"), names)  # the README is ours
    assert {"cohort", "table", "result"} <= set(names)


@pytest.mark.parametrize("name", ["method.md", "python.md"])
def test_python_of_the_docs_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(ROOT / "docs" / name, "python"):
        exec(compile(code, name, "exec"), names)  # the page is ours


NOT_RUN = {"datasets.md": "reads a published archive", "download.md": "needs the network"}
ALONE = {"method.md", "python.md"}  # above


@pytest.fixture(scope="module")
def workplace(made, tmp_path_factory) -> Path:
    """A folder in which the places that the pages name are there."""
    from slimp.cli.main import main
    from slimp.data.cohort import Cohort
    from slimp.sources.synthetic.cohort import SyntheticConfig, write_masks

    here = tmp_path_factory.mktemp("workplace")
    cohort = Cohort.load(made["cohort"])
    for name in ("new", "masks", "cohorts"):
        (here / name).mkdir()
    shutil.copytree(made["cohort"], here / "cohorts" / "pad")
    for name, patients in {"mine": 20, "ham": 12}.items():
        shutil.copytree(made["run"], here / "runs" / {"ham": "pad"}.get(name, name))
        few = cohort.select_patients(cohort.patients["patient_id"][:patients])
        few.save(here / "cohorts" / name)
    (here / "new" / "a.jpg").write_bytes(cohort.read_image(0))
    write_masks(here / "masks", SyntheticConfig.of(cohort.info), cohort.images["image_id"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for line in (
            "probe runs/pad cohorts/pad --out probes/image --features image --no-report",
            "export onnx runs/pad --probe probes/image --out deployed",
            "data export cohorts/pad --format webdataset --out shards/pad",
            "data export cohorts/pad --format hf --ignore-splits --out hub/pad",
        ):
            assert main(line.split()) == 0
    return here


def known(here: Path) -> dict[str, object]:
    """What the pages take for granted."""
    import slimp
    from slimp.evaluation.probe_config import ProbeConfig
    from slimp.evaluation.protocol import assess
    from slimp.evaluation.similarity import similarity_by_level
    from slimp.experiments.missing_metadata import hide
    from slimp.training.parts import parts_of_run

    cohort, ham = (slimp.Cohort.load(here / "cohorts" / name) for name in ("pad", "ham"))
    model = slimp.Slimp.from_pretrained(here / "runs" / "pad")
    table = slimp.embed(model, cohort)
    return {
        **{"slimp": slimp, "cohort": cohort, "model": model, "table": table},
        "sides": [
            (side, slimp.embed(model, side).features["image"]) for side in (cohort, hide(ham, 1.0))
        ],
        "parts": parts_of_run(here / "runs" / "pad", cohort),
        "train_patients": cohort.patients["patient_id"].tolist(),
        "lesions_of_donors": cohort.lesions,
        "patients_of_donors": cohort.patients,
        "found": assess(table, cohort, ProbeConfig(features="image", seeds=1, replicates=10)),
        "similarity": similarity_by_level(model, cohort, table.features["image"]),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if blocks(p, "python") and p.name not in {*NOT_RUN, *ALONE, "README.md"}],
    ids=lambda page: page.stem,
)
@pytest.mark.filterwarnings("default")  # of the libraries that the pages call
def test_python_of_a_page_runs(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    names = known(workplace)
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), names)  # the page is ours

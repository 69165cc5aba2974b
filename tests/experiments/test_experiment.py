"""An experiment: its cells are made once, in any order, by anyone, and the table follows."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from tiny import SIZE, VIT, tiny_cohort, with_images

from slimp.cli.main import main
from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.evaluation.paired_bootstrap import Difference, compare
from slimp.experiments import cohorts, recipe, rows, trainers
from slimp.experiments.cells import code, in_order, locked
from slimp.experiments.claims import verdict_of
from slimp.experiments.cost import cost_of, machine_file, remembered
from slimp.experiments.machine import encoder_cost
from slimp.experiments.plan import Plan, first_here, make_plan, open_experiment
from slimp.experiments.recipe import FLAT, METADATA, SCALES, Arm, Claim, Recipe, Scale, recipes
from slimp.experiments.run import Share, run_experiment, write_table
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.training import loop
from slimp.training.config import PretrainConfig, part_of

CLAIM = Claim(words="nested is ahead", arm="nested", control="flat", least=0.035, most=0.068)
OTHER_CLAIM = replace(CLAIM, arm="metadata", control="nested", least=None, most=0.0)
TINY = Scale(
    name="tiny",
    preset="tiny",
    pretrain={
        **{"encoder_options": VIT, "image_size": SIZE, "tabular_width": 8, "projection_width": 8},
        **{"epochs": 1, "patients": 8, "lesions": 2, "precision": "32", "accelerator": "cpu"},
        **{"checkpoint_every_steps": 1, "workers": 0},
    },
    adapt={
        **{"epochs": 1, "patients": 8, "lesions": 2, "precision": "32", "accelerator": "cpu"},
        "workers": 0,
    },
    probe={"split": "patient", "seeds": 2, "test_fraction": 0.3, "folds": 2, "strengths": (0.1,)},
)
RECIPE = Recipe(
    name="tiny",
    question="Does it work?",
    arms=(
        Arm(name="nested"),
        Arm(name="flat", changes=FLAT),
        Arm(name="nested again", features=("image",)),
        Arm(name="metadata", trainer="metadata"),
    ),
    control="flat",
    claims=(CLAIM, OTHER_CLAIM),
    figures={("nested", "full", "malignant"): 0.928},
    options={"costs": True},
    columns={"parameters": 7.0, "operations": None},
)
STEPS = 4
"""Of a training."""
FILES = ("table.md", "table.json", "predictions.parquet")


SMALL = {
    name: replace(config, patients=36, lesions=2, image_size=SIZE, seed=3)
    for name, config in cohorts.DRAWN.items()
}


@contextmanager
def small_ones() -> Iterator[pytest.MonkeyPatch]:
    """The tiny recipe, cohorts and scale go by names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes(), "tiny", RECIPE)
        patch.setitem(SCALES, "laptop", TINY)
        for name, config in SMALL.items():
            patch.setitem(cohorts.DRAWN, name, config)
        patch.setattr("slimp.experiments.machine.training_pace", lambda: 1e9)
        patch.setattr(rows, "REPLICATES", 50)
        yield patch


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    with small_ones():
        yield


def plan(**changes: Any) -> Plan:
    return make_plan(RECIPE, TINY, "synthetic", changes=changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """What an experiment leaves that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with small_ones():
        run_experiment(plan(), out)
    return out


def same(a: Path, b: Path) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in FILES)


def content(out: Path) -> dict[str, Any]:
    return json.loads((out / "table.json").read_text())


# ------------------------------------------------------------------ cells


def test_arms_that_share_a_stage_share_its_cell():
    chains = {(c.arm, c.part.seed): c.score for c in plan().chains}
    first, again = chains["nested", 0], chains["nested again", 0]
    assert first.id != again.id  # probed on other features
    assert first.upstream == again.upstream
    stages = [cell.stage for cell in plan().cells]
    assert {stage: stages.count(stage) for stage in stages} == {
        **{"cohort": 1, "split": 2, "pretrain": 2 * 2, "embed": 2 * 2},
        "score": 4 * 2,
    }


def test_another_setting_is_another_cell_but_not_one_that_changes_no_result():
    ids = {cell.id for cell in plan().cells}
    assert ids == {cell.id for cell in plan(keep_checkpoints=7).cells}
    others = {cell.id for cell in plan(temperature=0.2).cells}
    assert {c.stage for c in plan().cells if c.id in others & ids} == {"cohort", "split", "score"}
    assert len(ids & others) == 1 + 2 + 2  # the cohort, its splits, and the metadata alone


def test_settings_that_change_no_result_reach_the_training(whole):
    asked = [c.machine["keep_checkpoints"] for c in plan(keep_checkpoints=7).cells if c.machine]
    assert set(asked) == {7}
    for path in (whole / "cells").glob("*/run/config.json"):
        held = json.loads(path.read_text())["pretrain"]
        assert (held["checkpoint_every_steps"], held["accelerator"]) == (1, "cpu")


@pytest.mark.parametrize("name", ["hierarchy", "seed", "validation_fraction"])
def test_what_tells_the_arms_or_parts_apart_is_not_set(name):
    with pytest.raises(UserError, match=name):
        plan(**{name: 0})


def test_stages_read_the_split_that_was_drawn_once(whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    score = plan().chains[0].score
    (score.folder(out / "cells") / "done.json").unlink()
    monkeypatch.setattr("slimp.evaluation.result.make_splits", None)  # as a newer scikit-learn
    run_experiment(plan(), out)
    assert same(whole, out)
    training = score.of("pretrain")
    patients = training.folder(out / "cells") / "run" / "patients.parquet"
    said = pd.read_parquet(out / "predictions.parquet")
    tests = said[(said["arm"] == "nested") & (said["seed"] == 0)]
    pd.read_parquet(patients).assign(patient_id=tests["patient_id"].iloc[0]).to_parquet(patients)
    (score.folder(out / "cells") / "done.json").unlink()
    (reason,) = run_experiment(plan(), out).failed
    assert tests["patient_id"].iloc[0] in reason


def test_an_arm_that_cannot_be_made_leaves_a_hole(tmp_path, monkeypatch, capsys):
    def broken(*arguments: Any) -> None:
        raise UserError("no such weights here")

    monkeypatch.setitem(trainers.OWN, "broken", broken)
    arms = (Arm(name="broken", trainer="broken"), Arm(name="metadata", trainer="metadata"))
    own = Recipe(name="tiny", question="?", arms=arms, control="metadata")
    monkeypatch.setitem(recipes(), "tiny", own)
    out = tmp_path / "out"
    assert main(["experiment", "tiny", "--cohort", "synthetic", "--out", str(out)]) == 2
    assert "no such weights here" in capsys.readouterr().err
    done = {row["arm"]: row["done"] for row in content(out)["rows"]}
    assert done == {"broken": 0, "metadata": 2}


def test_inputs_come_before_outputs():
    order = [cell.id for cell in in_order([plan().chains[-1].score, *plan().cells])]
    assert len(order) == len(set(order))
    assert all(order.index(u.id) < order.index(c.id) for c in plan().cells for u in c.upstream)


def test_a_lock_is_held_by_one_and_freed(tmp_path):
    with locked(tmp_path / "a" / "lock") as mine:
        assert mine
        with locked(tmp_path / "a" / "lock") as other:
            assert not other
    with locked(tmp_path / "a" / "lock") as mine:
        assert mine


# ------------------------------------------------------------------ the table


def test_scores_are_those_of_a_loop(whole):
    said = pd.read_parquet(whole / "predictions.parquet")
    for row in content(whole)["rows"]:
        own = said[
            (
                said[["arm", "features", "labels"]] == [row["arm"], row["features"], row["labels"]]
            ).all(axis=1)
        ]
        each = [
            balanced_accuracy_score(part["label"], part["predicted"])
            for _, part in own.groupby("seed")
        ]
        assert row["mean"] == pytest.approx(np.mean(each))
        assert row["ci95"][0] <= row["mean"] <= row["ci95"][1]
        assert row["done"] == row["planned"] == 2


def test_differences_are_paired_with_the_control(whole):
    table = {(r["arm"], r["features"], r["labels"]): r for r in content(whole)["rows"]}
    assert {labels for _, _, labels in table} == {"native", "malignant"}
    for (arm, features, labels), row in table.items():
        if arm == "flat":
            assert row["minus"] == {}
            continue
        found = row["minus"]["flat"]
        control = table["flat", features, labels]
        assert found["difference"] == pytest.approx(row["mean"] - control["mean"])
        assert found["p"] <= found["p_holm"] <= 1


def test_the_papers_figure_stands_beside_malignant_against_the_rest_alone(whole):
    with_figure = [r for r in content(whole)["rows"] if r["paper"] is not None]
    assert [(r["arm"], r["labels"], r["paper"]) for r in with_figure] == [
        ("nested", "malignant", 0.928)
    ]
    text = (whole / "table.md").read_text()
    assert "0.928 at the paper's scale" in text
    assert content(whole)["verdict"][0]["verdict"] in ("agrees", "disagrees", "undecided")


@pytest.mark.parametrize(
    ("difference", "ci95", "p", "verdict"),
    [
        (0.05, (0.02, 0.08), 0.001, "agrees"),
        (0.02, (0.01, 0.03), 0.001, "agrees"),  # smaller, but on the same side
        (0.05, (0.02, 0.08), 0.2, "undecided"),  # not after correction
        (0.02, (-0.02, 0.06), 0.3, "undecided"),
        (0.00, (-0.02, 0.02), 0.9, "disagrees"),  # short of what was published
        (-0.05, (-0.08, -0.02), 0.001, "disagrees"),
        (0.0, (np.nan, np.nan), 1.0, "undecided"),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_verdicts(difference, ci95, p, verdict, sign):
    found = Difference(
        a=0.5,
        b=0.5,
        difference=sign * difference,
        p_value=p,
        effect_size=0.0,
        ci95=ci95 if sign > 0 else (-ci95[1], -ci95[0]),
    )
    ends = (0.035, 0.068) if sign > 0 else (-0.068, -0.035)
    claim = replace(CLAIM, least=ends[0], most=ends[1])
    assert verdict_of(claim, found, p) == verdict
    assert verdict_of(claim, None, None) == "undecided"


def test_a_claim_beside_another_control_is_corrected_too(whole):
    """For the arms that this control could have been compared with."""
    said = pd.read_parquet(whole / "predictions.parquet")
    said = said[(said["features"] == "full") & (said["labels"] == "native")]
    one = {arm: own.dropna(axis="columns", how="all") for arm, own in said.groupby("arm")}
    raw = [
        compare(one[arm], one["nested"], replicates=50).differences["balanced_accuracy"].p_value
        for arm in ("flat", "metadata")
    ]
    judged = write_table(whole).verdicts[1]
    assert judged.row.holm == pytest.approx(rows.holm_adjusted(raw)[1])
    assert judged.row.control == "nested"


def test_sizes_of_tabular_encoders_stand_beside_the_scores(whole):
    run = plan().chains[0].score.of("pretrain").folder(whole / "cells") / "run"
    model = Slimp.from_pretrained(run)
    size = sum(p.numel() for level in model.levels.values() for p in level.tabular.parameters())
    found = {r["arm"]: r["columns"] for r in content(whole)["rows"]}
    assert found["nested"]["parameters"] == size
    assert found["nested"]["operations"] > size / 2
    assert found["metadata"] == {}
    assert "parameters (paper: 7.0)" in (whole / "table.md").read_text()


def test_holm_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7):
        p = rng.random(n) ** 3
        want, worst = np.empty(n), 0.0
        for rank, i in enumerate(sorted(range(n), key=lambda i: p[i])):
            worst = want[i] = max(worst, min(1.0, (n - rank) * p[i]))
        np.testing.assert_allclose(rows.holm_adjusted(p.tolist()), want)
    assert rows.holm_adjusted([]) == []


# ------------------------------------------------------------------ interrupted, divided, partial


def begin(out: Path, *, stop: bool) -> int:
    """The number of a process that goes on with the plan; `stop`: up to a training's third step."""
    if child := os.fork():
        return child
    learn, done = loop.learn, count(1)

    def learn_or_wait(*arguments: Any) -> dict[str, float]:
        if next(done) == 3:
            time.sleep(600)
        return learn(*arguments)

    try:
        if stop:
            loop.learn = learn_or_wait
        run_experiment(plan(), out)
    finally:
        os._exit(0)


def checkpointed(out: Path) -> list[int]:
    """The steps of the checkpoints that trainings left, below the last one."""
    held = (out / "cells").glob("*/run/checkpoints/step_*")
    return [step for path in held if (step := int(path.name[5:])) < STEPS]


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_the_same_table(whole, tmp_path):
    rng, out, kills = random.Random(1), tmp_path / "out", 0
    for k in range(12):
        child = begin(out, stop=k < 2)
        deadline = time.monotonic() + (60 if k < 2 else rng.uniform(0.05, 0.9))
        while time.monotonic() < deadline and not (k < 2 and checkpointed(out)):
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if k < 2:
            assert checkpointed(out)  # so a training goes on from a step below its last
        kills += not (out / "table.md").exists()
    assert kills >= 3
    run_experiment(plan(), out)
    assert same(whole, out)


@pytest.mark.slow
def test_two_shards_are_the_whole(whole, tmp_path):
    made: list[list[str]] = []
    for number in (1, 2):
        lines: list[str] = []
        found = run_experiment(
            plan(), tmp_path / "out", share=Share(only={}, shard=(number, 2)), announce=lines.append
        )
        made.append([line.split(":")[0] for line in lines])
    assert min(map(len, made)) > 3
    assert not set(made[0]) & set(made[1])
    assert found.done == len(plan().chains)
    assert same(whole, tmp_path / "out")


@pytest.mark.slow
def test_two_processes_make_the_whole(whole, tmp_path):
    run_experiment(plan(), tmp_path / "out", share=Share(only={}, jobs=2))
    assert same(whole, tmp_path / "out")


def test_a_shard_may_have_nothing_to_do(tmp_path):
    only = {"arm": "metadata", "seed": "0"}
    done = [
        run_experiment(plan(), tmp_path / "out", share=Share(only=only, shard=(number, 2))).done
        for number in (1, 2)
    ]
    assert done in ([0, 1], [1, 1])


def test_what_is_done_is_not_done_again(whole):
    lines: list[str] = []
    run_experiment(plan(), whole, announce=lines.append)
    assert lines == []


def test_what_other_code_made_is_not_taken_in_silence(whole, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr("slimp.experiments.cells.code", lambda: "other")
    run_experiment(plan(), whole, announce=lines.append)
    count = len(plan().cells)
    assert [line.partition(" cells")[0] for line in lines] == [f"{count} of {count}"]


def test_a_partial_folder_shows_its_holes(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("run"))
    for chain in plan().chains:
        if chain.part.seed == 0 or chain.arm not in ("nested", "metadata"):
            (chain.score.folder(out / "cells") / "done.json").unlink()
    assert main(["experiment", "show", str(out)]) == 0
    assert "Holes: 2 of 8" in (out / "table.md").read_text()
    table = {r["arm"]: r for r in content(out)["rows"] if r["features"] == "full"}
    assert (table["nested"]["done"], table["flat"]["done"]) == (1, 0)
    assert table["flat"]["mean"] is None
    assert table["nested"]["minus"] == {}


def test_a_folder_of_nothing_but_its_plan_is_shown(tmp_path):
    open_experiment(tmp_path / "out", plan(), Path("cells"))
    found = write_table(tmp_path / "out")
    assert found.done == 0
    assert {row.estimate for row in found.rows} == {None}


def test_a_folder_keeps_its_question(whole, tmp_path, monkeypatch):
    cohort = tmp_path / "cohort"
    tiny_cohort(patients=36, seed=3).save(cohort)
    own = make_plan(RECIPE, TINY, str(cohort), malignant=("bcc",))
    for other in (own, plan(epochs=2), make_plan(RECIPE, TINY, "synthetic", malignant=("bcc",))):
        with pytest.raises(UserError, match=str(whole)):
            run_experiment(other, whole, share=Share(only={"arm": "metadata"}))
    with pytest.raises(UserError, match="--cells"):
        run_experiment(plan(), whole, cells=tmp_path)
    monkeypatch.chdir(tmp_path)
    same_plan = make_plan(RECIPE, TINY, "cohort", malignant=("bcc",))
    assert same_plan.to_dict(Path()) == own.to_dict(Path())


def test_an_arm_that_the_recipe_gained_or_lost_is_no_row(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "out", ignore=shutil.ignore_patterns("run"))
    arms = (*RECIPE.arms[:2], Arm(name="new"), RECIPE.arms[3])
    monkeypatch.setitem(recipes(), "tiny", replace(RECIPE, arms=arms))
    found = write_table(tmp_path / "out")
    assert {row.arm for row in found.rows} == {"nested", "flat", "metadata"}
    assert "no longer has them: nested again." in (tmp_path / "out" / "table.md").read_text()


def test_weights_and_code_are_part_of_a_name(tmp_path):
    def ids(**options: Any) -> set[str]:
        arm = Arm(name="nested", trainer="frozen", options=options)
        own = replace(RECIPE, arms=(arm,), control="nested", claims=(), figures={})
        cells = make_plan(own, TINY, "synthetic").cells
        assert all(c.settings["code"] for c in cells if c.stage == "pretrain")
        return {cell.id for cell in cells if cell.stage == "pretrain"}

    path = tmp_path / "a.safetensors"
    path.write_bytes(b"1")
    first = ids(weights=str(path)), ids(weights=f"{path}@128")
    assert first[0] == ids(weights=str(path))
    path.write_bytes(b"2")
    assert not first[0] & ids(weights=str(path))
    assert not first[1] & ids(weights=f"{path}@128")
    assert "auto" not in {
        c.settings["pretrain"]["precision"]
        for c in plan(precision="auto").cells
        if c.stage == "pretrain"
    }
    with pytest.raises(UserError, match="nonsense"):
        trainers.code_of("nonsense")


# ------------------------------------------------------------------ the command line, the recipes


@pytest.mark.slow
def test_the_command_line_runs_and_shows(tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "out")
    words = ["experiment", "tiny", "--cohort", "synthetic", "--out", out]
    words += ["--only", "arm=nested", "--only", "seed=1"]
    assert main([*words, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert "pretrain nested, seed 1 fold 0" in capsys.readouterr().out
    assert main([*words, "--set", "epochs=2"]) == 0
    shown = capsys.readouterr().out
    assert "tiny with epochs=2" in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Does it work?" in page
    monkeypatch.setitem(SCALES, "paper", TINY)
    assert main(["experiment", "list", "--cohort", "synthetic"]) == 0
    assert "nested-vs-flat" in capsys.readouterr().out


def test_the_page_has_a_forest_plot_per_feature_set(whole):
    assert main(["experiment", "show", str(whole)]) == 0
    page = (whole / "report.html").read_text()
    assert page.count("Forest plot of") == 4
    assert "<script" not in page


def test_a_cohort_folder_will_do(tmp_path):
    tiny_cohort(patients=36, seed=3).save(tmp_path / "cohort")
    own = make_plan(RECIPE, TINY, str(tmp_path / "cohort"))
    share = Share(only={"arm": "metadata"})
    found = run_experiment(own, tmp_path / "out", share=share)
    assert {row.labels for row in found.rows if row.estimate} == {"native"}  # none is malignant
    assert not list((tmp_path / "out" / "cells").glob("*/cohort"))
    wrong = make_plan(RECIPE, TINY, str(tmp_path / "cohort"), malignant=("bcc", "nothing"))
    with pytest.raises(UserError, match="malignant='nothing'"):
        run_experiment(wrong, tmp_path / "other", share=share)
    assert not (tmp_path / "other").exists(), "before anything is trained"


def test_a_cohort_is_taken_with_the_one_that_it_learns_from(tmp_path, monkeypatch):
    (tmp_path / "pad-ufes-20").mkdir()
    monkeypatch.setenv("SLIMP_TEST_DATA", str(tmp_path))
    assert first_here(recipes()["nested-vs-flat"]) == "pad-ufes-20"
    assert first_here(recipes()["what-to-train"]) == "synthetic"


OURS, REAL = [*recipes()], dict(SCALES)


def drawn(name: str) -> str:
    """The first cohort of a recipe that needs no data."""
    return next(cohort for cohort in recipes()[name].cohorts if cohort in cohorts.DRAWN)


@pytest.mark.parametrize("name", OURS)
def test_every_recipe_can_be_planned(name):
    for scale in REAL.values():
        own = make_plan(recipes()[name], scale, drawn(name))
        assert {chain.arm for chain in own.chains} == {arm.name for arm in recipes()[name].arms}
        assert cost_of(own.cells, own.cohort, Path()).bytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_every_recipe_runs_to_its_end(name, tmp_path, monkeypatch):
    for cohort, config in SMALL.items():  # each class among those who train and who test
        monkeypatch.setitem(cohorts.DRAWN, cohort, replace(config, patients=60))
    own = make_plan(recipes()[name], TINY, drawn(name))
    found = run_experiment(own, tmp_path / "out", share=Share(only={"seed": "0"}))
    assert not found.failed
    assert all(row.estimate is not None for row in found.rows)
    assert {row.arm for row in found.rows} == {arm.name for arm in recipes()[name].arms}
    assert all(
        {*row.columns} == {*recipes()[name].columns} or not row.columns for row in found.rows
    )
    assert all(judged.row.against is not None for judged in found.verdicts)


def test_costs_are_those_of_a_formula():
    """A ViT: patches in, per block 12 d^2 of products and 2 t d of attention per token."""
    config = replace(PretrainConfig.from_preset("tiny"), image_size=64)
    found = encoder_cost(**asdict(part_of(config, ModelConfig)))
    d, depth, t, patch = 96, 4, 64, 3 * 8 * 8
    products = t * patch * d + depth * (12 * t * d * d + 2 * t * t * d)
    assert found["operations"] == pytest.approx(2 * products, rel=0.01)
    assert found["parameters"] == pytest.approx(depth * 12 * d * d + (patch + t) * d, rel=0.02)
    assert found["activations"] > 4 * depth * 12 * t * d
    once = cost_of(plan().cells, "synthetic", Path())
    twice = cost_of(plan(epochs=2).cells, "synthetic", Path())
    assert twice.seconds == pytest.approx(2 * once.seconds)
    half = cost_of(plan(lesions=1).cells, "synthetic", Path())
    assert half.seconds == pytest.approx(once.seconds / 2)


def test_what_is_measured_of_a_machine_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paces = iter([1.5, 2.5, 3.5])
    monkeypatch.setattr("slimp.experiments.machine.training_pace", lambda: next(paces))
    measured = remembered.__wrapped__  # as another process has it
    assert [measured("training_pace") for _ in range(2)] == [1.5, 1.5]
    assert machine_file().parent == tmp_path / "slimp" / "machine"
    machine_file().write_text("{ damaged")
    assert measured("training_pace") == 2.5
    assert measured("device_of", '{"accelerator": "cpu"}') == "cpu"
    assert len(json.loads(machine_file().read_text())) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "slimp" / "machine" / machine_file().name))
    assert measured("training_pace") == 3.5  # no folder can be made there


def test_a_question_of_cancers_needs_their_names(tmp_path):
    tiny_cohort(patients=36, seed=3).save(tmp_path / "cohort")
    with pytest.raises(UserError, match="--malignant"):
        make_plan(replace(RECIPE, labels=("malignant",)), TINY, str(tmp_path / "cohort"))


@pytest.mark.parametrize(
    ("split", "learns"), [("patient", ("shuffled patients",)), ("grouped-5", ())]
)
def test_all_who_do_not_test_learn_and_nobody_else(split, learns, tmp_path, monkeypatch):
    """Though the cohort has a split of its own, by which training would set some aside."""
    cohort = tiny_cohort(patients=36, seed=3)
    some = cohort.images["patient_id"].isin(cohort.patients["patient_id"][::4])
    cohort = with_images(cohort, split=some.map({True: "test", False: "train"}))
    cohort.save(tmp_path / "cohort")
    met = []

    def seen(cohort: Cohort, *_: Any, **__: Any) -> None:
        met.append(cohort.images)
        raise UserError("seen")

    monkeypatch.setitem(trainers.OWN, "", seen)
    own = Recipe(
        name="tiny", question="?", arms=(Arm(name="a", learns=learns), METADATA), control="a"
    )
    monkeypatch.setitem(recipes(), "tiny", own)
    scale = replace(TINY, probe={**TINY.probe, "split": split, "seeds": 1 + (split == "patient")})
    planned = make_plan(own, scale, str(tmp_path / "cohort"))
    found = run_experiment(planned, tmp_path / "out", share=Share(only={"fold": "0|3"}))
    by = "fold" if split == "grouped-5" else "seed"
    tests = [set(part["image_id"]) for _, part in found.predictions.groupby(by)]
    assert len(met) == len(tests) == 2
    for learned in met:
        assert "split" not in learned
        assert set(cohort.images["image_id"]) - set(learned["image_id"]) in tests
    assert split == "patient" or not tests[0] & tests[1]


def test_patients_may_all_have_images_that_test(tmp_path, monkeypatch):
    """Where images are split; nobody is left then in whose space lesions could be compared."""
    cohort = tiny_cohort(patients=12, lesions=8, seed=3)
    several = cohort.lesions["patient_id"].value_counts().loc[lambda n: n > 5].index
    cohort = cohort.select_patients(several)
    cohort.save(tmp_path / "cohort")
    own = Recipe(
        name="tiny",
        question="?",
        arms=tuple(replace(arm, apart="image") for arm in (recipe.UNTRAINED, METADATA)),
        control="untrained",
        probe={"split": "image", "test_fraction": 0.7, "seeds": 1},
    )
    monkeypatch.setitem(recipes(), "tiny", own)
    found = run_experiment(make_plan(own, TINY, str(tmp_path / "cohort")), tmp_path / "out")
    assert set(found.predictions["patient_id"]) == set(cohort.patients["patient_id"])
    assert all(row.estimate for row in found.rows if row.labels == "native")


def test_what_an_arm_is_compared_in():
    one = Recipe(
        name="one",
        question="?",
        control="nested",
        features=("image", "image+table"),
        arms=(
            Arm(name="nested"),
            Arm(name="full", features=("full",)),
            Arm(name="metadata", trainer="metadata"),
            Arm(name="of full", features=("image",), control="full"),
        ),
    )
    nested, full, metadata, other = one.arms
    assert one.compared_in(nested, "image") is None
    assert one.compared_in(full, "full") is None  # which of the two?
    assert one.compared_in(metadata, "full") == "image+table"
    assert one.compared_in(other, "image") == "full"


def test_recipes_refuse_what_they_lack():
    with pytest.raises(UserError, match="nobody"):
        replace(RECIPE, control="nobody")
    with pytest.raises(UserError, match="one name"):
        replace(RECIPE, arms=(*RECIPE.arms, Arm(name="flat")))
    with pytest.raises(UserError, match="nonsense"):
        recipe.get_recipe("nonsense")


def test_the_hash_of_the_code_holds_what_the_columns_of_public_data_are(tmp_path, monkeypatch):
    package = tmp_path / "slimp"
    for name in ("experiments/cells.py", "sources/pad_ufes_20.toml", "app/static/page.js"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    monkeypatch.setattr("slimp.experiments.cells.__file__", str(package / "experiments/cells.py"))
    code.cache_clear()
    found = [code()]
    for name in ("sources/pad_ufes_20.toml", "app/static/page.js"):
        (package / name).write_text("changed")
        code.cache_clear()
        found.append(code())
    monkeypatch.undo()
    code.cache_clear()
    assert found[0] != found[1] == found[2]

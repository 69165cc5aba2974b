"""The demo in miniature: three acts, each honest about what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from slimp.cli import demo
from slimp.cli.demo_acts import Act, DemoConfig, run_demo
from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.prediction.predictor import Predictor

torch.set_num_threads(1)
pytestmark = pytest.mark.slow

CONFIG = DemoConfig(
    patients=80,
    clinic=100,
    lesions=3,
    image_size=16,
    epochs=1,
    neighbours=3,
    encoder={
        "encoder_options": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
        "workers": 0,
        "accelerator": "cpu",
        "precision": "32",
    },
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Act, ...]]:
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run_demo(out, seed=1, config=CONFIG)


def test_everything_lies_where_it_says(made):
    out, _ = made
    names = {"config.json", "metrics.json", "report.html", "reference", "similar", "clinic"}
    assert {path.name for path in out.iterdir()} == names
    for folder in ("reference/run", "reference/flat", "clinic/run", "clinic/alone"):
        assert (out / folder / "model.safetensors").is_file()
    assert (out / "clinic" / "run" / "transfer.json").is_file()
    for target in re.findall(r'href="([^#"]+)"', (out / "report.html").read_text(encoding="utf-8")):
        assert (out / target).is_file()


def test_terminal_page_and_metrics_say_the_same(made, monkeypatch, capsys):
    out, acts = made
    monkeypatch.setattr("slimp.cli.demo_acts.run_demo", lambda *_, **__: acts)
    demo.run(demo.Arguments(out=out, seed=1))
    terminal = " ".join(capsys.readouterr().out.split())
    page = " ".join((out / "report.html").read_text(encoding="utf-8").split())
    found = json.loads((out / "metrics.json").read_text())["acts"]
    for act, recorded in zip(acts, found, strict=True):
        for arm, score in ((arm, str(score)) for arm, score in act.scores().items()):
            assert f"{arm} {score}" in terminal
            assert arm in page
            assert score[:5] in page
            assert recorded["arms"][arm]["mean"] == pytest.approx(float(score[:5]), abs=5e-4)
        for finding in act.findings:
            assert finding in terminal
        for claim in recorded["differences"]:
            low, high = claim["ci95"]
            shown = low > 0, high < 0
            want = {(True, False): "shown", (False, True): "the opposite is shown"}
            assert claim["verdict"] == want.get(shown, "not shown at this size")


def test_arms_of_an_act_are_tested_on_the_same_unseen_patients(made):
    out, acts = made
    for act, run in zip(acts, ("reference/run", "clinic/run"), strict=False):
        parts = pd.read_parquet(out / run / "patients.parquet").set_index("patient_id")["part"]
        tested = {frozenset(r.predictions["patient_id"]) for r in act.arms.values()}
        assert len(tested) == 1
        assert set(parts[sorted(*tested)]) == {"held_out"}
    ids = [
        set(Cohort.load(out / n / "cohort").patients["patient_id"])
        for n in ("reference", "similar", "clinic")
    ]
    assert sum(map(len, ids)) == len(set.union(*ids))


def test_imputed_metadata_help_or_are_left_out(made):
    act = made[1][2]
    for words in ("clinic like the reference", "shifted clinic"):
        decided = [f for f in act.findings if words in f and ("left out" in f or " above " in f)]
        assert len(decided) == 1


def test_its_probes_can_be_predicted_with(made, tmp_path):
    cohort = Cohort.load(made[0] / "clinic" / "cohort")
    picture = tmp_path / "seen.jpg"
    picture.write_bytes(cohort.read_image(0))
    table = pd.DataFrame({"image": ["seen.jpg"]})
    (found,) = Predictor.load(made[0] / "clinic" / "probe").predict([picture], table)
    assert found.status == "predicted"


def test_a_folder_in_use_is_left_alone_and_a_seed_repeats(made, tmp_path):
    out, acts = made
    before = (out / "report.html").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        run_demo(out, config=CONFIG)
    assert (out / "report.html").read_bytes() == before
    again = run_demo(tmp_path / "again", seed=1, config=CONFIG)
    assert [act.to_dict() for act in again] == [act.to_dict() for act in acts]

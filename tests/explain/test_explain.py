"""A whole explanation: targets, features, files, the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import (
    MODEL,
    RUN,
    SMALL_RESNET,
    fitted,
    tiny_cohort,
    tiny_config,
    with_feature,
    with_features,
    with_images,
    with_tables,
)

from slimp.cli.main import main
from slimp.data.images import image_batches
from slimp.errors import UserError
from slimp.evaluation.logistic import LinearProbe
from slimp.explain.beside import image_probes
from slimp.explain.columns import (
    attended,
    counterfactuals,
    feature_tables,
    left_out,
    movement,
    rank_correlation,
    with_field,
)
from slimp.explain.config import ExplainConfig
from slimp.explain.explain import Explanation, explain
from slimp.explain.maps import collected_attention
from slimp.explain.targets import LogOdds, match_of
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.report.explanation import verdict
from slimp.sources.synthetic.cohort import SyntheticConfig, write_masks
from slimp.training.adapt import adapt
from slimp.training.config import AdaptConfig
from slimp.training.loop import pretrain

FEW = ExplainConfig(images=6, batch_size=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explain") / "run"
    pretrain(tiny_cohort(), tiny_config(epochs=1, patients=10), out)
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> Slimp:
    return Slimp.from_pretrained(run)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    for name in tiny_cohort().images["image_id"][:9]:
        square = np.zeros((20, 20), dtype=np.uint8)
        square[4:12, 4:16] = 255
        Image.fromarray(square).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def found(model: Slimp, masks: Path) -> Explanation:
    return explain(model, tiny_cohort(), FEW, masks=masks)


def pixels_of(count: int) -> torch.Tensor:
    return next(image_batches(tiny_cohort(), 16))[0][:count]


@pytest.mark.parametrize("level", ["lesion", "patient"])
def test_the_match_is_the_cosine_of_the_pairs_that_training_compares(
    model: Slimp, level: str
) -> None:
    cohort = tiny_cohort()
    h = model.image_encoder(pixels_of(5))
    match = match_of(model, cohort, range(5), level)  # type: ignore[arg-type]
    lesion = model.level("lesion")
    m = model.encode_rows("lesion", match.rows["lesion"])
    below, target = lesion.project_below(h), lesion.project_metadata(m)
    if level == "patient":
        patient = model.level("patient")
        below = patient.project_below(torch.cat([h, m], dim=1))
        target = patient.project_metadata(model.encode_rows("patient", match.rows["patient"]))
    torch.testing.assert_close(match(h), torch.cosine_similarity(below, target))


def test_a_level_that_nothing_trained_is_refused(model: Slimp) -> None:
    with pytest.raises(UserError, match="image"):
        match_of(model, tiny_cohort(), range(2), "image")


def test_the_slope_of_a_probe_is_that_of_its_log_odds(model: Slimp) -> None:
    rng = np.random.default_rng(0)
    probe = LinearProbe(
        classes=("a", "b", "c"),
        blocks={"lesion": 2, "image": 4},
        mean=rng.random(6),
        scale=rng.random(6) + 0.5,
        coef=rng.normal(size=(3, 6)),
        intercept=rng.normal(size=3),
        priors=np.ones(3) / 3,
    )
    x = rng.normal(size=(7, 6))
    log_odds = np.log(probe.predict_proba(x))
    expected = log_odds[:, 1] - log_odds.mean(axis=1)
    x[:, 2:] += 1
    log_odds = np.log(probe.predict_proba(x))
    moved = log_odds[:, 1] - log_odds.mean(axis=1) - expected
    slope = LogOdds.of(probe, "b").slope
    np.testing.assert_allclose(moved, slope.sum(), rtol=1e-5)
    with pytest.raises(UserError, match="'d'"):
        LogOdds.of(probe, "d")
    with pytest.raises(UserError, match="image"):
        LogOdds.of(replace(probe, blocks={"table": 6}), "a")
    with pytest.raises(UserError, match="relative"):
        LogOdds.of(replace(probe, blocks={"image": 4, "relative": 2}), "a")


def test_hiding_a_feature_is_encoding_a_table_without_it(model: Slimp) -> None:
    cohort = tiny_cohort()
    h = model.image_encoder(pixels_of(5)).detach()
    match = match_of(model, cohort, range(5), "lesion")
    falls = left_out(match, h)
    level = model.encodings["lesion"]
    for t, feature in enumerate(level.features):
        table = cohort.lesions.copy()
        table[list(feature.columns)] = None
        without = match_of(model, with_tables(cohort, lesions=table), range(5), "lesion")(h)
        known = match.rows["lesion"].present[:, t].numpy()
        np.testing.assert_allclose(falls[known, t], (match(h) - without).detach()[known], atol=1e-5)
        assert np.isnan(falls[~known, t]).all()


def test_counterfactual_rows_differ_in_one_feature(model: Slimp) -> None:
    match = match_of(model, tiny_cohort(), range(12), "lesion")
    own = match.rows["lesion"]
    for t, (other, changed) in enumerate(counterfactuals(match, 0)):
        theirs = other.rows["lesion"]
        assert torch.equal(own.present, theirs.present)
        differs = torch.zeros(12, dtype=torch.bool)
        for k, (feature, at) in enumerate(model.encodings["lesion"].cells()):
            unequal = getattr(own, feature.kind)[:, at] != getattr(theirs, feature.kind)[:, at]
            if k == t:
                differs = unequal.any(dim=1)
            else:
                assert not unequal.any()
        assert torch.equal(differs, torch.from_numpy(changed))


def test_a_changed_column_is_a_table_that_says_so(model: Slimp) -> None:
    cohort = tiny_cohort()
    changed = with_field(cohort, model.encodings, "age=60")
    assert (changed.patients["age"] == 60).all()
    pd.testing.assert_frame_equal(changed.lesions, cohort.lesions)
    assert with_field(cohort, model.encodings, "itch=true").lesions["itch"].all()
    for wrong in ("height=1", "age=old", "region=moon", "itch=maybe"):
        with pytest.raises(UserError, match=wrong):
            with_field(cohort, model.encodings, wrong)


def test_a_column_in_another_unit_is_missing_and_not_changed(model: Slimp) -> None:
    cohort = tiny_cohort()
    name = model.encodings["lesion"].features[0].name
    other = replace(cohort, schema=with_feature(cohort.schema, name, unit="inches"))
    assert not match_of(model, other, range(4), "lesion").rows["lesion"].present[:, 0].any()
    assert match_of(model, cohort, range(4), "lesion").rows["lesion"].present[:, 0].any()
    with pytest.raises(UserError, match=f"reads no column '{name}'"):
        with_field(other, model.encodings, f"{name}=1")


def test_the_map_of_own_metadata_has_not_moved(model: Slimp) -> None:
    config = replace(FEW, deletion=False, level="patient", counterfactual="age=60")
    found = explain(model, tiny_cohort(), config)
    assert "age=60" in found.words
    shift = found.by_image["gradient-attention counterfactual_shift"]
    assert (shift >= -1e-6).all()
    assert not np.allclose(found.by_image["score"], found.by_image["own_score"])
    same = with_tables(tiny_cohort(), patients=tiny_cohort().patients.assign(age=60.0))
    again = explain(model, same, config).by_image
    np.testing.assert_allclose(again["own_score"], again["score"], atol=1e-6)
    np.testing.assert_allclose(
        again["gradient-attention counterfactual_shift"].fillna(0), 0, atol=1e-6
    )


def test_a_changed_column_of_a_coarser_level_is_read(model: Slimp) -> None:
    few = replace(FEW, deletion=False, shift=False)
    found = explain(model, tiny_cohort(), replace(few, counterfactual="age=60"))
    assert found.level == "patient"
    assert not np.allclose(found.by_image["score"], found.by_image["own_score"])
    assert explain(model, tiny_cohort(), replace(few, counterfactual="itch=true")).level == "lesion"
    with pytest.raises(UserError, match=r"'age' is patient metadata.*Pass --level patient\."):
        explain(model, tiny_cohort(), replace(few, counterfactual="age=60", level="lesion"))
    lesions_only = Slimp(replace(model.config, patient_weight=0.0), model.encodings)
    with pytest.raises(UserError, match="Name a column of a finer level"):
        explain(lesions_only, tiny_cohort(), replace(few, counterfactual="age=60"))


@pytest.mark.parametrize("tabular", [{}, {"tabular": "ft-transformer", "tabular_depth": 2}])
def test_attention_shares_are_chefers_of_each_row(tabular: dict[str, Any]) -> None:
    cohort = tiny_cohort()
    torch.manual_seed(0)
    model = Slimp(ModelConfig(**{**MODEL, **tabular}), fitted(cohort)).eval()
    model.level("lesion").tabular.requires_grad_(False)  # frozen ones are explained too
    h = model.image_encoder(pixels_of(4)).detach()
    match = match_of(model, cohort, range(4), "lesion")
    shares, present = attended(match, h), match.rows["lesion"].present.numpy()
    assert np.isnan(shares[~present]).all()
    encoder: Any = model.level("lesion").tabular
    layers = encoder.encoder.transformer_encoder["layers"]
    for k in range(4):
        one = match[torch.tensor([k])]
        with collected_attention(encoder, [layer.attn_drop for layer in layers]) as attention:
            (score,) = one(h[k : k + 1])
        total = torch.eye(attention[0].shape[-1])
        for weights, grad in zip(attention, torch.autograd.grad(score, attention), strict=True):
            step = (weights * grad)[0].clamp(min=0).mean(0).detach()
            total = total[: len(step)] + step @ total
        row = total[0] if tabular else (total - torch.eye(len(total)))[1:].mean(0)
        tokens = row[1:]
        if tabular:
            of = torch.zeros(present.shape[1]).index_add(0, encoder.owner, tokens)
        else:
            of = tokens
        expected = np.where(present[k], of.numpy(), np.nan)
        if np.nansum(expected) > 0:
            np.testing.assert_allclose(shares[k], expected / np.nansum(expected), rtol=1e-4)


def test_the_map_moves_with_what_matters() -> None:
    names = [*map(str, range(20))]
    ids = pd.DataFrame({"image_id": names, "patient_id": names})
    unclear = [*range(1, 6), *[np.nan] * 15]  # of 5 patients
    worth = {
        "fall": pd.DataFrame({"age": [1.0, 2.0] * 10, "sex": [-1.0, 1.0] * 10, "site": unclear}),
        "shift": pd.DataFrame({"age": [0.5, 0.7] * 10, "sex": [0.1, np.nan] * 10, "site": 9.0}),
    }
    features, cells = feature_tables(ids, worth)
    assert features["feature"].tolist() == ["site", "age", "sex"]
    assert (
        cells.loc[(cells["image_id"] == "1") & (cells["feature"] == "age"), "shift"].item() == 0.7
    )
    moved = movement(features, cells, ids)
    assert moved["relevant"].mean == pytest.approx(0.6)
    assert moved["difference"].mean == pytest.approx(0.4)  # of the images that have both
    assert moved["difference"].ci95[0] == pytest.approx(0.4)
    few = feature_tables(ids[:9], {name: values[:9] for name, values in worth.items()})
    assert movement(*few, ids[:9]) == {}  # nothing can be told of any feature


def test_rank_correlation_is_spearmans() -> None:
    a, b = torch.rand(3, 4, 4), torch.rand(3, 4, 4)
    ours = rank_correlation(a, b)
    for k in range(3):
        frame = pd.DataFrame({"a": a[k].flatten(), "b": b[k].flatten()})
        assert ours[k] == pytest.approx(frame.corr(method="spearman").loc["a", "b"], abs=1e-6)


def test_everything_is_explained_and_nothing_depends_on_the_batches(
    model: Slimp, masks: Path, found: Explanation
) -> None:
    assert set(found.figures) == {"gradient-attention", "centre", "area"}
    own = found.figures["gradient-attention"]
    assert {"mass_ratio", "minus_centre_auroc", "deletion", "randomised_correlation"} <= set(own)
    assert found.figures["area"]["mass_ratio"].mean == 1
    assert found.maps["gradient-attention"].shape == (6, 2, 2)
    assert list(found.features["feature"])
    assert found.features["fall"].is_monotonic_decreasing
    again = explain(model, tiny_cohort(), replace(FEW, batch_size=1), masks=masks)
    for name, values in found.maps.items():
        np.testing.assert_allclose(values, again.maps[name], rtol=1e-3, atol=1e-6)
    pd.testing.assert_frame_equal(found.features, again.features, atol=1e-3, check_exact=False)


def test_the_model_is_left_as_it_was_found(model: Slimp) -> None:
    model.train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    explain(model, tiny_cohort(), replace(FEW, images=2))
    assert model.training
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()


def test_without_masks_no_map_is_scored(model: Slimp) -> None:
    config = replace(FEW, methods=("rollout", "occlusion"), deletion=False)
    found = explain(model, tiny_cohort(), config)
    assert "mass_ratio" not in found.figures["rollout"]
    assert set(found.maps) == {"rollout", "occlusion"}


def test_masks_without_a_lesion_are_counted(model: Slimp, masks: Path, tmp_path: Path) -> None:
    shutil.copytree(masks, tmp_path / "masks")
    blank = sorted((tmp_path / "masks").iterdir())[0]
    Image.fromarray(np.zeros((20, 20), dtype=np.uint8)).save(blank)
    config = replace(FEW, images=9, deletion=False, shift=False)
    said = verdict(explain(model, tiny_cohort(), config, masks=tmp_path / "masks"))
    assert said.endswith(" 1 of the 9 masks are empty, or full, and say nothing.")
    assert "masks are empty" not in verdict(explain(model, tiny_cohort(), config, masks=masks))
    assert "cannot be told from fewer than 10 patients" in said


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match="lime"):
        ExplainConfig(methods=("lime",))


def test_the_command_line_leaves_a_folder(
    run: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_cohort().save(tmp_path / "cohort")
    words = ["explain", str(run), str(tmp_path / "cohort"), "--out", str(tmp_path / "out")]
    words += ["--images", "5", "--methods", "gradient-attention,grad-cam"]
    assert main([*words, "--masks", str(masks)]) == 0
    said = capsys.readouterr()
    assert "spot in the middle" in said.out
    assert "of these 5 images" in said.err  # whose patients trained
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["grad-cam"]["auroc"]["ci95"]
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        assert maps["grad-cam"].shape == (5, 2, 2)
        assert len(maps["image_id"]) == 5
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/jpeg") == 3 * len(
        set(pd.read_csv(tmp_path / "out" / "images.csv")["patient_id"])
    )
    assert main(words) == 2  # the folder is there
    for flags in (["--label", "MEL"], ["--level", "lesion", "--probe", "p"]):
        assert main([*words, "--overwrite", *flags]) == 2
        assert flags[0] in capsys.readouterr().err


def test_a_match_that_an_adaptation_left_behind_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_cohort().save(tmp_path / "cohort")
    settings = AdaptConfig(epochs=1, patients=10, validation_fraction=0.0, **RUN)
    adapt(run, with_features(tiny_cohort()), settings, tmp_path / "adapted")
    for name, told in ((run, False), (tmp_path / "adapted", True)):
        words = ["explain", str(name), str(tmp_path / "cohort"), "--images", "2", "--no-deletion"]
        assert main([*words, "--out", str(tmp_path / f"out{told}"), "--no-report"]) == 0
        assert ("without lesion metadata" in capsys.readouterr().err) is told


@pytest.mark.slow
def test_a_probe_and_what_its_features_are_worth(run: Path, tmp_path: Path) -> None:
    tiny_cohort().save(tmp_path / "cohort")
    both = [str(run), str(tmp_path / "cohort")]
    probe = ["probe", *both, "--out", str(tmp_path / "probe"), "--seeds", "1", "--no-report"]
    assert main([*probe, "--no-held-out", "--malignant", "melanoma"]) == 0
    words = ["explain", *both, "--out", str(tmp_path / "out"), "--probe", str(tmp_path / "probe")]
    words += ["--images", "4", "--no-deletion", "--methods", "grad-cam"]
    assert main(words) == 0  # of each image its own class, joined as the probe's are
    assert set(pd.read_csv(tmp_path / "out" / "images.csv")["label"]) <= {"benign", "malignant"}
    assert main([*words, "--label", "malignant", "--overwrite"]) == 0
    features = pd.read_csv(tmp_path / "out" / "features.csv").set_index("feature")
    assert {"image", "all metadata", "age"} <= set(features.index)
    assert features["permutation"].notna().all()
    assert features.loc["image", ["fall", "known"]].isna().all()
    cells = pd.read_csv(tmp_path / "out" / "rows.csv")
    age = cells[cells["feature"] == "age"]
    assert age["fall"].mean() == pytest.approx(features.loc["age", "fall"])


def test_images_whose_class_a_probe_lacks_are_left_out_and_counted(model: Slimp) -> None:
    cohort, width = tiny_cohort(), MODEL["encoder_options"]["embed_dim"]
    probe = LinearProbe(
        blocks={"image": width},
        classes=("a", "b"),
        coef=np.eye(2, width),
        intercept=np.zeros(2),
        mean=np.zeros(width),
        scale=np.ones(width),
        priors=np.full(2, 0.5),
    )
    labels = np.array(["a", "b", "other"])[np.arange(len(cohort)) % 3]
    config = replace(FEW, images=len(cohort), deletion=False)
    found = explain(model, with_images(cohort, label=labels), config, probe=(probe, None))
    assert found.left_out == (labels == "other").sum()
    np.testing.assert_array_equal(found.rows, np.flatnonzero(labels != "other"))
    with pytest.raises(UserError, match="label of the probe"):
        explain(model, with_images(cohort, label="other"), config, probe=(probe, None))


@pytest.mark.slow
def test_other_models_answer_the_same_question_on_the_same_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = tiny_cohort()
    cohort = with_images(cohort, label=np.where(np.arange(len(cohort)) % 2, "odd", "even"))
    cohort.save(tmp_path / "cohort")
    masks = tmp_path / "masks"
    masks.mkdir()
    write_masks(masks, SyntheticConfig.of(cohort.info), cohort.images["image_id"])
    shutil.copytree(run, tmp_path / "twin")
    cnn = Slimp(ModelConfig(**{**MODEL, **SMALL_RESNET, "image_size": 32}), {})
    (tmp_path / "cnn").mkdir()
    cnn.save_pretrained(tmp_path / "cnn")
    words = ["explain", str(run), str(tmp_path / "cohort"), "--out", str(tmp_path / "out")]
    others = f"{tmp_path / 'twin'},net={tmp_path / 'cnn'}"
    words += ["--beside", others, "--no-deletion"]
    assert main(words) == 2  # no masks
    assert "--masks" in capsys.readouterr().err
    assert main([*words, "--masks", str(masks)]) == 0
    table = pd.read_csv(tmp_path / "out" / "beside.csv").set_index(["model", "map", "figure"])
    assert {"grad-cam", "occlusion"} == set(table.index.get_level_values("map").dropna())
    twin = table.loc[str(tmp_path / "twin")]["difference"]
    np.testing.assert_allclose(twin, 0, atol=1e-6)
    own, other = (table.loc[(str(x), "occlusion", "auroc")] for x in (run, "net"))
    assert other["difference"] == pytest.approx(own["mean"] - other["mean"])
    assert own[["difference"]].isna().all()
    images = pd.read_csv(tmp_path / "out" / "images.csv")
    assert own["mean"] == pytest.approx(images["occlusion auroc"].mean())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Beside other models" in page
    assert f"--beside {others} --out" in page  # asks it again
    assert len(images) == len(np.load(tmp_path / "out" / "maps.npz")["image_id"])


def test_a_run_of_a_fold_is_tested_on_patients_that_it_never_met(run: Path, tmp_path: Path) -> None:
    cohort = tiny_cohort()
    cohort = with_images(cohort, label=np.where(np.arange(len(cohort)) % 2, "odd", "even"))
    cohort.save(tmp_path / "cohort")
    shutil.copytree(run, tmp_path / "fold")
    met = pd.read_parquet(run / "patients.parquet")
    met = met[met["part"] != "held_out"]
    met.to_parquet(tmp_path / "fold" / "patients.parquet")
    [(_, result)] = image_probes([str(tmp_path / "fold")], tmp_path / "cohort").values()
    assert not set(result.predictions["patient_id"]) & set(met["patient_id"])

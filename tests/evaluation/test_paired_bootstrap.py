"""Two probes in pairs: the difference, its interval, and how often chance looks like it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from tables import ids_of

from slimp.cli.main import main
from slimp.data.files import read_json, write_json
from slimp.errors import UserError
from slimp.evaluation.bootstrap import draw_patients
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.paired_bootstrap import compare, leakage, read_predictions, resampling_unit
from slimp.evaluation.probe_config import LEAKING, ProbeConfig, SplitMode
from slimp.evaluation.result import ProbeResult
from slimp.features.feature_table import FeatureTable

CLASSES = ["bcc", "mel", "nev"]


def predictions(
    skill: float, *, seeds: int = 2, patients: int = 30, chance: int = 0, images: int = 3
) -> pd.DataFrame:
    """Right with probability `skill`; what is hard about an image does not depend on the probe."""
    rng = np.random.default_rng(chance)
    rows = []
    for seed in range(seeds):
        for patient in range(seed, patients + seed):  # each seed tests other patients too
            for image in range(images):
                label = CLASSES[(patient + image) % 3]
                wrong = CLASSES[(patient + image + 1) % 3]
                predicted = label if rng.random() < skill else wrong
                share = {f"p_{c}": 0.6 if c == predicted else 0.2 for c in CLASSES}
                ids = {"image_id": f"p{patient}i{image}", "patient_id": f"p{patient}"}
                said = {"label": label, "predicted": predicted, "decision": "balanced"}
                rows.append({**ids, "seed": seed, **said, **share})
    return pd.DataFrame(rows)


def test_the_figures_are_those_of_a_loop_over_drawn_patients() -> None:
    """Images of a drawn patient are repeated as often as it was drawn; scikit-learn scores them."""
    a, b = predictions(0.8, seeds=1, chance=1), predictions(0.6, seeds=1, chance=2)
    found = compare(a, b, replicates=100, seed=4).differences["balanced_accuracy"]
    names = np.unique(a["patient_id"])
    drawn = draw_patients(len(names), 100, np.random.default_rng(4)).astype(int)
    values = []
    for times in drawn:
        rows = np.repeat(np.arange(len(a)), times[np.searchsorted(names, a["patient_id"])])
        ours, theirs = (
            balanced_accuracy_score(t["label"].iloc[rows], t["predicted"].iloc[rows])
            for t in (a, b)
        )
        values.append(ours - theirs)
    assert found.a == pytest.approx(balanced_accuracy_score(a["label"], a["predicted"]))
    assert found.difference == pytest.approx(found.a - found.b)
    assert found.ci95 == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    far = np.abs(values - np.mean(values)) >= abs(found.difference)
    assert found.p_value == pytest.approx((1 + far.sum()) / 101)
    spread = np.std(values) * len(names) ** 0.5
    assert found.effect_size == pytest.approx(found.difference / spread)


def test_the_same_predictions_do_not_differ() -> None:
    a = predictions(0.7)
    for row in compare(a, a.sample(frac=1, random_state=0), replicates=50).differences.values():
        assert (row.difference, row.ci95, row.p_value, row.effect_size) == (0, (0, 0), 1, 0)


def test_swapping_the_probes_swaps_the_sign() -> None:
    a, b = predictions(0.8, chance=1), predictions(0.5, chance=2)
    there, back = compare(a, b, replicates=200), compare(b, a, replicates=200)
    for name, row in there.differences.items():
        other = back.differences[name]
        assert (row.a, row.b) == (other.b, other.a)
        assert row.difference == pytest.approx(-other.difference)
        assert row.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))
        assert row.p_value == pytest.approx(other.p_value)
        assert row.effect_size == pytest.approx(-other.effect_size)


def test_equally_good_probes_seldom_look_different_and_a_better_one_does() -> None:
    def p_value(skill: float, chance: int) -> float:
        a = predictions(0.7, seeds=1, patients=60, chance=2 * chance)
        b = predictions(skill, seeds=1, patients=60, chance=2 * chance + 1)
        found = compare(a, b, replicates=200, headline_only=True)
        return found.differences["balanced_accuracy"].p_value

    equal = [p_value(0.7, chance) for chance in range(100, 130)]
    assert 0 < np.mean(np.array(equal) < 0.2) < 0.42  # 0.2 within three standard errors
    assert np.mean([p_value(0.4, chance) < 0.05 for chance in range(10)]) > 0.8


def test_images_of_one_probe_only_are_left_out_and_counted() -> None:
    a, b = predictions(0.8, chance=1), predictions(0.6, chance=2)
    whole = compare(a, b, replicates=20)
    assert (whole.only_a, whole.only_b, whole.images) == (0, 0, len(a))
    assert whole.patients == 31
    kept = a["patient_id"] != "p5"
    fewer = compare(a[kept], b, replicates=20)
    assert (fewer.only_a, fewer.only_b, fewer.patients) == (0, len(b) - kept.sum(), 30)
    assert fewer.differences == compare(a[kept], b[kept], replicates=20).differences


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(seed=t["seed"] + 9), "no image in common"),
        (lambda t: t.assign(label="bcc"), r"image 'p0i1' has another label .* image\(s\) in all"),
        (lambda t: t.assign(patient_id="x"), "image 'p0i0' has another patient_id"),
        (lambda t: t.rename(columns={"p_nev": "p_ack"}), "have label 'nev', but no column"),
        (lambda t: t.assign(p_scc=0.0), "different classes: bcc, mel, nev and bcc"),
        (lambda t: pd.concat([t, t]), "the second predictions have an image twice"),
    ],
)
def test_what_cannot_be_paired_is_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        compare(predictions(0.8), change(predictions(0.6)), replicates=5)


def saved(folder: Path, table: pd.DataFrame) -> str:
    folder.mkdir()
    table.to_parquet(folder / "predictions.parquet", index=False)
    return str(folder)


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = saved(tmp_path / "a", predictions(0.8, chance=1))
    b = saved(tmp_path / "b", predictions(0.5, chance=2)[1:])
    write_json(tmp_path / "a" / "metrics.json", {"resampling": {"unit": "lesions"}})
    out = tmp_path / "out"
    words = ["compare", a, b, "--replicates", "50"]
    assert main([*words, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "balanced_accuracy" in captured.out
    assert "of 31 lesions" in captured.out  # the cohort of A has no patient ids
    assert "1 prediction(s) only in A, 0 only in B" in captured.err
    found = compare(read_predictions(a), read_predictions(b), replicates=50)
    written = read_json(out / "metrics.json")
    assert written["differences"]["ece"]["p_value"] == found.differences["ece"].p_value
    assert read_json(out / "config.json")["replicates"] == 50
    assert main([*words, "--out", str(out)]) == 2
    assert main(words) == 0
    assert main(["compare", a, str(tmp_path)]) == 2
    assert "holds no predictions.parquet" in capsys.readouterr().err
    (tmp_path / "b" / "predictions.parquet").write_bytes(b"PAR1")
    assert main(words) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda t: t.assign(image_id="other " + t["image_id"]), "Probe the same cohort with both"),
        (lambda t: t.assign(seed=t["seed"] + 9), "Probe both runs with the same --seed and split"),
    ],
)
def test_probes_of_two_cohorts_are_told_from_those_of_two_splits(
    change, remedy: str, tmp_path: Path
) -> None:
    for name, table in (("a", predictions(0.8)), ("b", change(predictions(0.8)))):
        saved(tmp_path / name, table)
        table.to_csv(tmp_path / name / "split.csv", index=False)
    a, b = (read_predictions(tmp_path / name) for name in "ab")
    with pytest.raises(UserError, match=f"no image in common.*{remedy}"):
        compare(a, b, replicates=5)
    (tmp_path / "b" / "split.csv").unlink()
    with pytest.raises(UserError, match="the same --seed and split"):
        compare(a, b, replicates=5)


def test_probes_of_a_fold_each_are_compared_as_one_cross_validation(tmp_path: Path) -> None:
    whole = predictions(0.8, seeds=1, chance=1)
    fold = whole["patient_id"].str[1:].astype(int) % 3 + 1
    whole = whole.assign(seed=42, fold=fold)
    for k, rows in predictions(0.6, seeds=1, chance=2).groupby(fold):
        (tmp_path / f"probe-{k}").mkdir()
        rows.to_parquet(tmp_path / f"probe-{k}" / "predictions.parquet")
        write_json(tmp_path / f"probe-{k}" / "metrics.json", {"resampling": {"unit": "lesions"}})
    assert resampling_unit(tmp_path / "probe-{fold}") == "lesions"
    joined = read_predictions(tmp_path / "probe-{fold}")
    found = compare(joined, whole, replicates=20).differences["balanced_accuracy"]
    means = [
        np.mean([balanced_accuracy_score(r["label"], r["predicted"]) for _, r in t.groupby("fold")])
        for t in (joined, whole)
    ]
    assert (found.a, found.b) == pytest.approx(tuple(means))
    with pytest.raises(UserError, match="another fold in the second"):
        compare(joined, whole.assign(fold=fold % 3 + 1))
    with pytest.raises(UserError, match="no predictions"):
        read_predictions(tmp_path / "none-{fold}")


@pytest.mark.parametrize("folded", [0, 1])
def test_folds_are_compared_with_a_single_test_part_on_the_images_of_both(folded: int) -> None:
    pair = [predictions(0.8, seeds=1, chance=1), predictions(0.6, seeds=1, chance=2)[:40]]
    plain = compare(*pair, replicates=20)
    number = pair[folded]["patient_id"].str[1:].astype(int) % 3
    pair[folded] = pair[folded].assign(fold=number)
    assert compare(*pair, replicates=20) == plain
    assert plain.images == 40


def probes(identity: float, signal: float, *, lesions: int = 2) -> dict[str, ProbeResult]:
    """Features that say who (`identity`) and what (`signal`); a class per patient."""
    rng = np.random.default_rng(0)
    patient = np.arange(60).repeat(2 * lesions)
    y = patient % 3
    x = rng.normal(size=(len(y), 96))
    x += signal * rng.normal(size=(3, 96))[y] + identity * rng.normal(size=(60, 96))[patient]
    ids = ids_of(np.array(["a", "b", "c"])[y], patient, np.arange(len(y)) // 2)
    table = FeatureTable(ids=ids, features={"image": x.astype(np.float32)})
    config = ProbeConfig(seeds=2, strengths=(1e-2,), replicates=100)
    modes: tuple[SplitMode, ...] = ("patient", *LEAKING)
    return {mode: probe(table, replace(config, split=mode)) for mode in modes}


def test_the_excess_is_the_difference_of_the_means_seed_by_seed() -> None:
    made = probes(identity=2.0, signal=0.0)
    found = leakage(made)
    for mode in ("lesion", "image"):
        ours, theirs = made[mode].balanced_accuracy, made["patient"].balanced_accuracy
        excess = found.excess[mode]
        assert excess.mean == pytest.approx(ours.mean - theirs.mean)
        each = np.subtract(ours.per_seed, theirs.per_seed)
        assert excess.per_seed == pytest.approx(each.tolist())
        assert excess.ci95[0] > 0.0  # who the patient is says what it has


def test_replicates_that_test_no_patient_of_a_split_shift_nothing() -> None:
    """All is found, whatever the split; one has a single patient, whom many replicates lack."""
    made = probes(identity=0.0, signal=5.0)
    few = made["patient"].predictions
    kept = few[(few["seed"] == 1) | (few["patient_id"] == few["patient_id"].iloc[0])]
    found = leakage({**made, "patient": replace(made["patient"], predictions=kept)})
    for excess in found.excess.values():
        assert (excess.mean, excess.ci95) == (0, (0, 0))


def test_where_nothing_leaks_zero_is_in_the_interval() -> None:
    found = leakage(probes(identity=0.0, signal=0.08))
    for excess in found.excess.values():
        assert excess.ci95[0] <= 0 <= excess.ci95[1]

"""Scores of maps against masks: known cases, ties, invariances, a naive loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import MODEL, SIZE, tiny_cohort

from slimp.cli.main import main
from slimp.data.cohort import Cohort
from slimp.data.images import Pictures
from slimp.errors import UserError
from slimp.evaluation.bootstrap import FEWEST_PATIENTS
from slimp.explain.masks import find_masks, read_mask
from slimp.explain.scores import (
    MEASURES,
    area_scores,
    centre_map,
    deletion_and_insertion,
    estimates,
    mask_scores,
)
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.sources.synthetic.cohort import synthetic_mask
from slimp.sources.synthetic.config import SyntheticConfig


def squares(n: int = 2, size: int = 8) -> np.ndarray:
    masks = np.zeros((n, size, size), dtype=bool)
    masks[:, 2:6, 2:6] = True
    return masks


def test_a_map_that_is_the_mask_is_perfect() -> None:
    found = mask_scores(squares().astype(float), squares())
    assert found.to_numpy().tolist() == [[4.0, 1.0, 1.0, 1.0]] * 2  # the area is a quarter


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_map_that_knows_nothing_scores_what_the_area_does(value: float) -> None:
    constant = np.full((2, 8, 8), value)
    np.testing.assert_allclose(mask_scores(constant, squares()), area_scores(squares()))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), levels=st.integers(1, 6))
def test_ties_are_broken_at_random_on_average(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    values, inside = rng.integers(0, levels, 36).astype(float), rng.random(36) < 0.4
    inside[0], inside[1] = True, False
    ours = mask_scores(values.reshape(1, 6, 6), inside.reshape(1, 6, 6)).iloc[0]
    ranks, hits = [], []
    for _ in range(1500):
        order = np.lexsort((rng.random(36), -values))
        ranks.append(inside[order[: inside.sum()]].mean())
        hits.append(inside[order[0]])
    assert ours["rank_accuracy"] == pytest.approx(np.mean(ranks), abs=0.03)
    assert ours["pointing_game"] == pytest.approx(np.mean(hits), abs=0.06)
    pairs = np.subtract.outer(values[inside], values[~inside])
    assert ours["auroc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_no_lesion_and_nothing_else_are_not_scored() -> None:
    masks = np.stack([np.zeros((8, 8), bool), np.ones((8, 8), bool)])
    assert mask_scores(np.random.default_rng(0).random((2, 8, 8)), masks).isna().all(axis=None)
    assert area_scores(masks).isna().all(axis=None)


def test_scale_of_a_map_does_not_matter() -> None:
    maps = np.random.default_rng(0).random((2, 8, 8))
    np.testing.assert_allclose(mask_scores(maps, squares()), mask_scores(1e-6 * maps, squares()))


def test_the_spot_is_in_the_middle() -> None:
    spot = centre_map(8)
    assert np.allclose(spot, spot[::-1, ::-1])
    assert mask_scores(spot[None], squares(1))["mass_ratio"].iloc[0] > 1.5


def test_deletion_and_insertion_follow_the_map() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(ModelConfig(**MODEL)).eval()
    images = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    apart = torch.zeros(3, SIZE, SIZE)
    apart[:, :8] = 1
    deletion, insertion = deletion_and_insertion(encoder, images, lambda h: h[:, 0], apart)
    # What is taken away first in the one comes back last in the other.
    other = deletion_and_insertion(encoder, images, lambda h: h[:, 0], apart.flip(1))
    assert deletion.shape == insertion.shape == (3,)
    assert not np.allclose(deletion, other[0])
    unmoved = deletion_and_insertion(encoder, images, lambda h: h.new_ones(len(h)), apart)
    assert np.allclose(unmoved, 1)


def test_images_without_a_figure_are_left_out_and_patients_count_by_their_images() -> None:
    found = estimates({"x": np.array([1.0, np.nan, 3.0, 5.0])}, np.array(["a", "a", "b", "c"]))
    assert found["x"].mean == pytest.approx(3.0)
    assert set(MEASURES) <= set(mask_scores(squares().astype(float), squares()))


@pytest.mark.parametrize("known", [1, 9, 10])
def test_a_figure_of_few_patients_has_no_interval(known: int) -> None:
    x = np.where(np.arange(12) < known, np.arange(12.0), np.nan)
    low, high = estimates({"x": x}, np.arange(12).astype(str))["x"].ci95
    assert np.isnan([low, high]).all() == (known < FEWEST_PATIENTS)
    assert known < FEWEST_PATIENTS or 0 <= low < np.nanmean(x) < high <= known - 1


def test_masks_are_found_by_name_and_read_as_the_encoder_sees(tmp_path: Path) -> None:
    cohort = tiny_cohort()
    names = cohort.images["image_id"].tolist()
    wide = Image.new("L", (40, 40), 0)
    wide.paste(1, (0, 0, 40, 20))  # of 0 and 1
    wide.save(tmp_path / f"{names[0]}_segmentation.png")
    found = find_masks(tmp_path, names)
    assert list(found) == [names[0]]
    mask = read_mask(found[names[0]], (SIZE, SIZE), SIZE)
    assert mask[:8].all()
    assert not mask[8:].any()
    wide.save(tmp_path / f"{names[0]}.png")
    with pytest.raises(UserError, match="two masks"):
        find_masks(tmp_path, names)
    Image.new("L", (40, 20)).save(tmp_path / f"{names[1]}.png")
    with pytest.raises(UserError, match=names[1]):
        read_mask(tmp_path / f"{names[1]}.png", (SIZE, SIZE), SIZE)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="torn"):
        read_mask(tmp_path / "torn.png", (SIZE, SIZE), SIZE)


def test_a_mask_is_not_taken_for_that_of_an_image_of_the_same_name_in_another_folder(tmp_path):
    ids = ["train/mel/0", "train/nevus/0", "test/nevus/1", "2.jpg"]
    wanted = ["train/mel/0.png", "train/nevus/0_mask.png", "1.png", "deep/2_segmentation.png"]
    for name in (*wanted, "train/nevus/1.png"):  # the last one: of an image that is not here
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_masks(tmp_path, ids) == {
        image: tmp_path / name for image, name in zip(ids, wanted, strict=True)
    }
    (tmp_path / "0.png").touch()
    with pytest.raises(
        UserError, match=r"/0\.png: a mask of .* 'train/mel/0' or of 'train/nevus/0'"
    ):
        find_masks(tmp_path, ids)


def test_a_folder_without_any_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no mask"):
        find_masks(tmp_path, tiny_cohort().images["image_id"].tolist())
    with pytest.raises(UserError, match="no such folder"):
        find_masks(tmp_path / "none", ["a"])


def test_masks_of_a_drawn_cohort_score_themselves_as_perfect(tmp_path: Path) -> None:
    words = ["data", "import", "synthetic", "-", str(tmp_path / "cohort"), "--patients", "3"]
    words += ["--image-size", "32", "--seed", "2", "--masks", str(tmp_path / "masks")]
    assert main(words) == 0
    assert main(words) == 2  # both are there
    cohort = Cohort.load(tmp_path / "cohort")
    files = find_masks(tmp_path / "masks", cohort.images["image_id"].tolist())
    assert len(files) == len(cohort)
    masks = np.stack([read_mask(path, (32, 32), 32) for path in files.values()])
    config = SyntheticConfig.of(cohort.info)
    for name, mask in zip(files, masks, strict=True):
        np.testing.assert_array_equal(mask, synthetic_mask(config, name))
    scores = mask_scores(masks.astype(float), masks)
    np.testing.assert_allclose(scores["mass_ratio"], 1 / masks.mean(axis=(1, 2)))
    assert (scores[["rank_accuracy", "pointing_game", "auroc"]] == 1).all(axis=None)
    pixels = np.stack([Pictures(cohort).read(k, 32) for k in range(len(cohort))])
    grey = pixels.mean(axis=3)  # lesions are darker than the skin around them
    assert (grey[masks].mean() - grey[~masks].mean()) < 0

"""How far is far: rates on more of the same, invariances; and what is no photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from slimp.errors import CheckpointError, UserError
from slimp.features.feature_table import FeatureTable
from slimp.prediction.novelty import (
    Surroundings,
    fault_of,
    load_reference,
    save_reference,
    texture,
)


def clustered(patients: int, rng: np.random.Generator, d: int = 12) -> tuple[np.ndarray, ...]:
    """Features that vary far more in some directions than in others, three images a patient."""
    scale = np.geomspace(1, 0.01, d)
    own = np.repeat(rng.normal(size=(patients, d)), 3, axis=0)
    x = (0.7 * own + 0.7 * rng.normal(size=(3 * patients, d))) * scale
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(d, d)))[0]
    return (x @ turn + 5).astype(np.float32), np.repeat(np.arange(patients), 3).astype(str)


def test_more_of_the_same_is_refused_as_often_as_stated() -> None:
    rng = np.random.default_rng(0)
    near = Surroundings.of(*clustered(300, rng))
    p = near.p_values(clustered(2000, rng)[0])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() == pytest.approx(level, abs=0.3 * level + 0.004)


def test_an_odd_direction_is_far_even_amid_the_rest() -> None:
    rng = np.random.default_rng(1)
    x, patients = clustered(300, rng)
    near = Surroundings.of(x, patients)
    directions = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2]
    odd = x.mean(axis=0) + 0.3 * directions[-1]  # closer to the mean than most images are
    assert np.linalg.norm(odd - x.mean(axis=0)) < np.median(
        np.linalg.norm(x - x.mean(axis=0), axis=1)
    )
    assert near.p_values(odd[None].astype(np.float32))[0] == pytest.approx(1 / 901)


def test_scale_and_offset_of_features_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    (x, patients), (new, _) = clustered(60, rng), clustered(20, rng)
    factor = np.float32(2) ** np.arange(12, dtype=np.float32)
    plain, scaled = Surroundings.of(x, patients), Surroundings.of(x * factor + 3, patients)
    np.testing.assert_allclose(plain.p_values(new), scaled.p_values(new * factor + 3), atol=3 / 181)
    same = plain.nearest(new, 2).row == scaled.nearest(new * factor + 3, 2).row
    assert same.mean() > 0.95


def test_p_values_count_the_image_itself() -> None:
    rng = np.random.default_rng(3)
    near = Surroundings.of(*clustered(40, rng))
    far = np.full((1, 12), 1e4, dtype=np.float32)
    assert near.p_values(far)[0] == pytest.approx(1 / 121)
    middle = near.mean[None].astype(np.float32)
    assert near.p_values(middle)[0] == 1


def test_fewer_images_than_features_still_give_distances() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(8, 30)).astype(np.float32)
    x[:, 3] = 2.0  # a constant feature
    near = Surroundings.of(x, np.array(list("aabbccdd")))
    assert np.isfinite(near.usual).all()
    assert np.isfinite(near.p_values(x)).all()


def test_a_single_patient_is_no_reference() -> None:
    with pytest.raises(UserError, match="single patient"):
        Surroundings.of(np.eye(3, dtype=np.float32), np.array(["a", "a", "a"]))


def test_the_reference_comes_back_as_saved(tmp_path: Path) -> None:
    names = [f"i{i}" for i in range(4)]
    ids = pd.DataFrame({"image_id": names, "lesion_id": names, "patient_id": names, "label": "x"})
    image = np.arange(8, dtype=np.float32).reshape(4, 2)
    table = FeatureTable(ids=ids, features={"image": image})
    save_reference(tmp_path, table, np.array([3, 1]))
    back = load_reference(tmp_path)
    assert back.ids["image_id"].tolist() == ["i1", "i3"]
    np.testing.assert_array_equal(back.features["image"], image[[1, 3]])
    save_reference(tmp_path, table, np.array([True, False, False, True]))
    assert load_reference(tmp_path).ids["image_id"].tolist() == ["i0", "i3"]


def test_no_or_a_damaged_reference_is_refused(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"reference.parquet.*Make the probe again"):
            load_reference(tmp_path)
        (tmp_path / "reference.parquet").write_bytes(b"PAR1 nonsense")


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8))


def slope(height: int, width: int) -> np.ndarray:
    """A grey that grows downwards and to the right."""
    grey = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width))
    return np.repeat(grey[..., None], 3, axis=2)


def test_texture_of_known_pictures() -> None:
    stripes = np.zeros((50, 50, 3))
    stripes[::2] = 200
    spread, smoothness = texture(picture(stripes))
    assert spread == pytest.approx(100)
    assert smoothness == pytest.approx(0, abs=0.01)  # -1 downwards, 1 to the right
    assert texture(picture(slope(40, 60)))[1] > 0.9


@pytest.mark.parametrize("size", [(20, 20), (300, 90), (600, 600)])
def test_noise_and_one_colour_are_told_and_photographs_are_not(size: tuple[int, int]) -> None:
    noise = picture(np.random.default_rng(0).integers(0, 256, size=(*size, 3)))
    assert (fault_of(noise) or "").startswith("the picture is noise")
    assert "one colour" in (fault_of(picture(np.full((*size, 3), 77))) or "")
    assert fault_of(picture(slope(*size))) is None
    assert fault_of(noise.filter(ImageFilter.GaussianBlur(2))) is None


def test_grain_does_not_make_noise_of_a_photograph() -> None:
    rng = np.random.default_rng(1)
    grainy = slope(128, 128) + rng.normal(scale=20, size=(128, 128, 1))
    assert fault_of(picture(grainy.clip(0, 255))) is None

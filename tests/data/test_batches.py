"""Batches: who is in them, in what order, and that nothing depends on workers or on resuming."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import fitted, grid_cohort

from slimp.data.batches import PatientBatches, epoch_loader
from slimp.data.cohort import Cohort
from slimp.data.config import BatchConfig
from slimp.errors import CohortError


def make_batches(cohort: Cohort, **changes: object) -> PatientBatches:
    views = int(changes.pop("views", 1))  # type: ignore[call-overload]
    augment_images = bool(changes.pop("augment", True))
    encodings = fitted(cohort)
    config = BatchConfig(**{"patients": 3, "lesions": 4, "workers": 0, **changes})  # type: ignore[arg-type]
    return PatientBatches(
        cohort, encodings, config, image_size=16, views=views, augment=augment_images
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_an_epoch_visits_each_patient_once_with_up_to_n_lesions(
    counts: list[int], patients: int, lesions: int, images_per_lesion: int, drawn_images: int
) -> None:
    cohort = grid_cohort(counts, images_per_lesion)
    batches = make_batches(
        cohort, patients=patients, lesions=lesions, images_per_lesion=drawn_images
    )
    seen: list[str] = []
    for k in range(batches.batches_per_epoch):
        rows = batches.sampler.draw(5, k)
        assert len(set(rows.tolist())) == len(rows)
        table = cohort.images.iloc[rows]
        assert table["patient_id"].nunique() <= patients
        for patient, part in table.groupby("patient_id"):
            seen.append(str(patient))
            expected = min(lesions, counts[int(str(patient)[1:])])
            assert part["lesion_id"].nunique() == expected
            per_lesion = part.groupby("lesion_id").size()
            assert (per_lesion == min(drawn_images, images_per_lesion)).all()
    assert sorted(seen) == sorted(cohort.patients["patient_id"])


def test_no_epoch_ends_in_a_batch_of_one_patient() -> None:
    batches = make_batches(grid_cohort([1] * 10), patients=3)
    sizes = [len(batches.sampler.draw(0, k)) for k in range(batches.batches_per_epoch)]
    assert sorted(sizes) == [2, 2, 3, 3]


def test_lesions_of_the_wanted_label_are_always_drawn() -> None:
    cohort = grid_cohort([9, 9])
    batches = make_batches(cohort, lesions=2, always_include="rare")
    for epoch in range(20):
        labels = cohort.images["label"].iloc[batches.sampler.draw(epoch, 0)]
        assert (labels == "rare").sum() == 2  # one per patient
        assert (labels == "usual").sum() == 2


def test_an_unknown_label_to_include_is_refused() -> None:
    with pytest.raises(CohortError, match="no image of cohort 'tables' has the label 'malignant'"):
        make_batches(grid_cohort([2]), always_include="malignant")


def test_lesions_are_drawn_anew_each_epoch_and_all_of_them_in_time() -> None:
    batches = make_batches(grid_cohort([9]), lesions=3)
    draws = [tuple(batches.sampler.draw(epoch, 0).tolist()) for epoch in range(30)]
    assert len(set(draws)) > 10
    assert set().union(*map(set, draws)) == set(range(9))


def test_loading_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(epoch_loader(make_batches(grid_cohort([2, 2])), range(2)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers_and_wherever_one_resumes(
    workers: int,
) -> None:
    cohort = grid_cohort([2, 3, 1, 4, 2, 2, 1])
    alone = make_batches(cohort, views=2)
    many = make_batches(cohort, views=2, workers=workers)
    whole = list(epoch_loader(alone, range(2)))
    rest = list(epoch_loader(many, range(2), first_batch=2))
    assert len(rest) == len(whole) - 2
    for ours, theirs in zip(whole[2:], rest, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels)
        for level, other in zip(ours.levels, theirs.levels, strict=True):
            assert level.rows is not None
            assert other.rows is not None
            assert torch.equal(level.rows.continuous, other.rows.continuous)
            assert torch.equal(level.rows.present, other.rows.present)
            assert torch.equal(level.parent, other.parent)


def test_levels_lead_from_each_image_to_its_own_metadata() -> None:
    cohort = grid_cohort([2, 3, 1], images=2)
    batches = make_batches(cohort, images_per_lesion=2, feature_dropout=0.0)
    batch = batches[0, 0]
    lesion, patient = batch.levels
    assert batch.lesions == 6
    assert lesion.rows is not None
    assert patient.rows is not None
    images = cohort.images.iloc[batch.image_rows.numpy()]
    size = cohort.lesions.set_index("lesion_id")["size"]
    age = cohort.patients.set_index("patient_id")["age"]
    for level, values, ids in ((lesion, size, "lesion_id"), (patient, age, "patient_id")):
        fitted = batches.metadata.encodings[level.name].features[0]
        parent = lesion.parent if level is lesion else patient.parent[lesion.parent]
        got = level.rows.continuous[parent, 0].numpy() * fitted.std + fitted.mean
        np.testing.assert_allclose(got, values[images[ids]].to_numpy(), rtol=1e-5)


def test_feature_dropout_hides_the_stated_share_in_training_only() -> None:
    cohort = grid_cohort([4] * 40)
    dropped = make_batches(cohort, patients=10, feature_dropout=0.3)
    present = [
        level.rows.present.flatten()
        for k in range(dropped.batches_per_epoch)
        for level in dropped[0, k].levels
        if level.rows is not None
    ]
    assert 0.63 < torch.cat(present).float().mean() < 0.77  # of 360 cells: 3 standard errors
    clean = make_batches(cohort, augment=False, feature_dropout=0.3)[0, 0]
    assert all(level.rows.present.all() for level in clean.levels if level.rows is not None)


def test_groups_join_equal_metadata_even_under_feature_dropout() -> None:
    cohort = grid_cohort([2, 2, 2, 2])
    cohort.lesions["size"] = 1.0
    batch = make_batches(cohort, patients=4, feature_dropout=0.9)[0, 0]
    groups = batch.levels[0].groups
    assert groups is not None
    sites = cohort.lesions["site"].to_numpy()[cohort.lesion_of_image[batch.image_rows.numpy()]]
    equal = groups[:, None] == groups[None, :]
    np.testing.assert_array_equal(equal.numpy(), sites[:, None] == sites[None, :])


def test_closing_the_loader_ends_its_processes() -> None:
    before = set(multiprocessing.active_children())
    loader = epoch_loader(make_batches(grid_cohort([2] * 9), workers=2), range(9))
    next(loader)
    assert len(set(multiprocessing.active_children()) - before) == 2
    loader.close()
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.gpu
def test_pixels_are_pinned_for_a_gpu() -> None:
    """Else copies that should overlap with the GPU's work wait for it instead."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    batch = next(epoch_loader(make_batches(grid_cohort([2, 2])), range(1), pin_memory=True))
    assert batch.pixels.is_pinned()

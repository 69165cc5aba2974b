"""Similarity of image and metadata: slow loop, closed forms, invariances, refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import MODEL, fitted

from slimp.data.batches import PatientBatches
from slimp.data.config import BatchConfig
from slimp.evaluation.similarity import similarity, similarity_by_level
from slimp.features import knn as module
from slimp.features.embed import embed
from slimp.features.knn import recall_at_k, recall_by_chance
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize


def slow_recall(a, b, k, groups):
    """The definition, one query at a time."""

    def cos(x, y):
        return float(x @ y / (x.norm() * y.norm()))

    hits = 0
    for i in range(len(a)):
        order = sorted(range(len(b)), key=lambda j: -cos(a[i], b[j]))
        hits += any(groups[j] == groups[i] for j in order[:k])
    return hits / len(a)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 24), kinds=st.integers(1, 24))
def test_recall_equals_the_slow_loop(seed, n, kinds):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, 5, dtype=torch.float64, generator=generator)
    groups = torch.randint(kinds, (n,), generator=generator)
    fast = recall_at_k(a, b, (1, 3, 7), groups)
    for k, value in fast.items():
        assert value == pytest.approx(slow_recall(a, b, k, groups.tolist()))


def test_recall_does_not_depend_on_the_block_size(monkeypatch):
    a, b = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(50) // 2
    whole = recall_at_k(a, b, groups=groups)
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 130)  # blocks of 2 rows
    assert recall_at_k(a, b, groups=groups) == whole


def test_recall_ignores_lengths_and_a_common_order():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 40, 8, generator=generator)
    order = torch.randperm(40, generator=generator)
    assert recall_at_k(
        a[order] * 3, b[order] * (torch.rand(40, 1, generator=generator) + 0.1)
    ) == recall_at_k(a, b)


def test_recall_by_chance_is_the_mean_over_all_orders():
    groups = torch.tensor([3, 3, 3, 8, 1])
    orders = torch.tensor(list(itertools.permutations(range(5))))  # of what is retrieved
    for k, chance in recall_by_chance(groups, (1, 2, 4, 9)).items():
        found = (groups[orders[:, :k]][:, None] == groups[:, None]).any(dim=2)  # (orders, rows)
        assert chance == pytest.approx(found.float().mean().item())
    assert recall_by_chance(torch.arange(600), (5,)) == {5: pytest.approx(5 / 600)}


def test_a_collapsed_model_recalls_nothing():
    ones = torch.ones(20, 4)
    assert recall_at_k(ones, ones) == {1: 0.0, 5: 0.0, 10: 0.0}


def test_shared_groups_forgive_swapped_twins():
    eye = torch.eye(4)
    swapped = eye[[1, 0, 2, 3]]
    assert recall_at_k(eye, swapped, (1,)) == {1: 0.5}
    assert recall_at_k(eye, swapped, (1,), torch.tensor([7, 7, 1, 2])) == {1: 1.0}


def test_identical_sides_separate_fully():
    x = torch.eye(12)
    found = similarity(x, x)
    assert found.median_matching == pytest.approx(1)
    assert found.median_nonmatching == pytest.approx(0)
    assert (found.overlap, found.auroc) == (0.0, 1.0)
    assert found.image_to_metadata == found.metadata_to_image == {1: 1.0, 5: 1.0, 10: 1.0}
    assert len(found.nonmatching) == 12 * 11


def test_overlap_and_auroc_of_two_normals():
    # In high dimension with b = rho * a + noise, cosines are normal around rho and around 0.
    generator = torch.Generator().manual_seed(4)
    n, d, rho = 4000, 400, 0.1
    a, noise = torch.randn(2, n, d, generator=generator)
    found = similarity(a, rho * a + math.sqrt(1 - rho**2) * noise)
    distance = rho * math.sqrt(d)  # of the means, in standard deviations 1 / sqrt(d)

    def phi(x):
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    assert found.overlap == pytest.approx(2 * phi(-distance / 2), abs=0.03)
    assert found.auroc == pytest.approx(phi(distance / math.sqrt(2)), abs=0.02)


def test_pairs_within_a_group_are_never_non_matching():
    # Within a group cosines are 1, across groups 0, so a stray pair would show.
    groups = torch.arange(600) // 200
    x = torch.eye(3)[groups]
    for pairs in (10**6, 5000):  # all pairs, and a sample
        found = similarity(x, x, groups, pairs=pairs)
        assert found.nonmatching.max() < 0.5
        assert len(found.nonmatching) == pytest.approx(min(pairs, 600 * 400), rel=0.05)


def test_the_sample_repeats_under_its_seed():
    a, b = torch.randn(2, 500, 4, generator=torch.Generator().manual_seed(5))
    drawn = [similarity(a, b, pairs=900, seed=seed).nonmatching for seed in (3, 3, 4)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def tiny_model(cohort, **changes):
    torch.manual_seed(0)
    config = ModelConfig(**MODEL, **changes)
    return Slimp(config, fitted(cohort.flatten() if config.hierarchy == "flat" else cohort))


def images_of(model: Slimp, cohort):
    return embed(model, cohort).features["image"]


def test_levels_equal_one_forward_pass_over_everything():
    cohort = synthesize(SyntheticConfig(patients=40, lesions=2, image_size=16))
    model = tiny_model(cohort).train()
    found = similarity_by_level(model, cohort, images_of(model, cohort))
    assert model.training
    everyone = BatchConfig(patients=40, lesions=100)
    batches = PatientBatches(cohort, model.encodings, everyone, image_size=16, augment=False)
    pairs = model.eval()(batches[0, 0])
    assert list(found) == [pair.name for pair in pairs] == ["lesion", "patient"]
    for pair in pairs:
        cosines = torch.cosine_similarity(pair.anchor, pair.target).detach().numpy()
        np.testing.assert_allclose(
            np.sort(found[pair.name].matching), np.sort(cosines), rtol=1e-4, atol=1e-5
        )
    assert len(found["patient"].matching) == 40
    assert len(found["lesion"].matching) == len(cohort.lesions)


def test_levels_that_are_not_trained_or_say_nothing_are_left_out():
    cohort = synthesize(SyntheticConfig(patients=5, lesions=3, image_size=16))
    for changes in ({"patient_weight": 0.0}, {"hierarchy": "flat"}):
        model = tiny_model(cohort, **changes)
        assert list(similarity_by_level(model, cohort, images_of(model, cohort))) == ["lesion"]
    alone = cohort.select_patients(cohort.patients["patient_id"][:1])
    model = tiny_model(cohort)
    assert "patient" not in similarity_by_level(model, alone, images_of(model, alone))


def test_refusals():
    x = torch.eye(3)
    with pytest.raises(ValueError, match="at least 2 groups"):
        similarity(x, x, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="0 rows"):
        recall_at_k(x[:0], x[:0])
    with pytest.raises(ValueError, match="ks >= 1"):
        recall_at_k(x, x, (0, 1))

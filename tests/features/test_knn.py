from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slimp.features import knn as knn
from slimp.features.knn import knn_balanced_accuracy, knn_predict


def slow_votes(train_x, train_y, test_x, classes, neighbours, temperature, balanced):
    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    out = torch.zeros(len(test_x), classes, dtype=test_x.dtype)
    for i, row in enumerate(test_x):
        near = sorted(range(len(train_x)), key=lambda j: -cosine(row, train_x[j]))[:neighbours]
        for j in near:
            size = int((train_y == train_y[j]).sum()) if balanced else 1
            out[i, train_y[j]] += math.exp(cosine(row, train_x[j]) / temperature) / size
    return out / out.sum(dim=1, keepdim=True)


def draw(seed: int = 0, n: int = 30, m: int = 9, d: int = 5):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n + m, d, generator=g, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=g)
    return x[:n], y, x[n:]


@pytest.mark.parametrize("balanced", [True, False])
def test_equals_a_slow_loop(balanced, monkeypatch):
    monkeypatch.setattr(knn, "CELLS_AT_ONCE", 130)  # chunks must not show
    train_x, train_y, test_x = draw()
    found = knn_predict(
        train_x, train_y, test_x, classes=3, neighbours=7, temperature=0.5, balanced=balanced
    )
    wanted = slow_votes(train_x, train_y, test_x, 3, 7, 0.5, balanced)
    torch.testing.assert_close(found, wanted)


def test_length_of_the_features_does_not_matter():
    train_x, train_y, test_x = draw(1)
    scale = torch.rand(len(train_x), 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(
        knn_predict(train_x, train_y, test_x, classes=3),
        knn_predict(train_x * scale, train_y, test_x * 9, classes=3),
    )


def test_one_neighbour_is_the_nearest_row_and_a_tiny_temperature_is_finite():
    train_x, train_y, _ = draw(2)
    found = knn_predict(train_x, train_y, train_x, classes=3, neighbours=1)
    assert (found.argmax(dim=1) == train_y).all()
    cold = knn_predict(train_x, train_y, train_x, classes=3, temperature=1e-6)
    torch.testing.assert_close(cold, found)


def test_a_rare_class_is_not_outvoted_when_balanced():
    direction = torch.eye(2)[[0] * 18 + [1] * 2] + 1.0
    y = torch.tensor([0] * 18 + [1] * 2)
    query = direction[-1:]
    shares = {
        balanced: knn_predict(
            direction, y, query, classes=2, neighbours=20, temperature=1.0, balanced=balanced
        )[0, 1]
        for balanced in (True, False)
    }
    assert shares[True] > 0.5 > shares[False]


def test_balanced_accuracy_of_named_classes():
    x = torch.eye(3)
    train = np.array(["nv", "mel", "bcc"], dtype=object)
    assert knn_balanced_accuracy(x, train, x, train) == 1.0
    # A class that training lacks counts as never found.
    assert knn_balanced_accuracy(x[:2], train[:2], x, train) == pytest.approx(2 / 3)

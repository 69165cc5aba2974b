"""InfoNCE against a slow loop, CLIP's form and closed forms; the nested sum against its parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import equal, one_way, slow_info_nce
from torch import Tensor

from slimp.errors import UserError
from slimp.models.losses import Pair, SoftPositives, info_nce, nested_loss, sigmoid_loss


def sides(n: int = 6, d: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def soft_positives(n: int, seed: int = 0, temperature: float = 0.2) -> SoftPositives:
    """Points in 3 dimensions on a coarse grid, so that some are equal."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(3, (n, 3), generator=generator).double() / 5
    return SoftPositives(points=points, temperature=temperature)


def slow_weights(soft: SoftPositives) -> list[list[float]]:
    points = soft.points.tolist()
    return [
        [
            math.exp(-sum(abs(x - y) for x, y in zip(p, q, strict=True)) / soft.temperature)
            for q in points
        ]
        for p in points
    ]


def clip_loss(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """CLIP's symmetric loss as its paper prints it (arXiv 2103.00020, fig. 3)."""
    a = a / a.norm(dim=1, keepdim=True)
    b = b / b.norm(dim=1, keepdim=True)
    logits = math.exp(math.log(1 / temperature)) * a @ b.t()
    labels = torch.arange(len(a))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


cases = st.fixed_dictionaries(
    {
        "n": st.integers(2, 9),
        "d": st.integers(1, 6),
        "seed": st.integers(0, 10_000),
        "temperature": st.floats(0.03, 3.0),
    }
)


@settings(deadline=None)
@given(case=cases, group_count=st.integers(1, 9))
def test_equals_a_slow_loop(case, group_count):
    a, b = sides(case["n"], case["d"], case["seed"])
    generator = torch.Generator().manual_seed(case["seed"])
    some = torch.randint(group_count, (case["n"],), generator=generator)
    temperature = case["temperature"]
    for groups in (None, some):
        slow = equal(range(case["n"]) if groups is None else groups.tolist())
        both = info_nce(a, b, temperature=temperature, groups=groups)
        assert float(both) == pytest.approx(float(slow_info_nce(a, b, temperature, slow)), abs=1e-9)
        forth = info_nce(a, b, temperature=temperature, groups=groups, symmetric=False)
        assert float(forth) == pytest.approx(float(one_way(a, b, temperature, slow)), abs=1e-9)


@settings(deadline=None)
@given(case=cases, sharpness=st.floats(0.05, 2.0))
def test_soft_positives_equal_a_slow_loop_in_any_order(case, sharpness):
    n, temperature = case["n"], case["temperature"]
    a, b = sides(n, case["d"], case["seed"])
    soft = soft_positives(n, case["seed"], sharpness)
    want = slow_info_nce(a, b, temperature, slow_weights(soft))
    found = info_nce(a, b, temperature=temperature, soft=soft)
    assert float(found) == pytest.approx(float(want), abs=1e-9)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(case["seed"]))
    moved = SoftPositives(points=soft.points[order], temperature=sharpness)
    other = info_nce(a[order], b[order], temperature=temperature, soft=moved)
    torch.testing.assert_close(other, found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_positives_end_in_equal_rows_in_own_rows_and_in_all_rows(dtype):
    """Cold: shared positives, bit for bit; where no rows are equal, each row its own. Hot: all."""
    a, b = sides(9, dtype=dtype)
    points = soft_positives(9).points.to(dtype)
    groups = torch.unique(points, dim=0, return_inverse=True)[1]
    assert len(groups.unique()) < 9
    shared = info_nce(a, b, groups=groups)
    cold = info_nce(a, b, soft=SoftPositives(points=points, temperature=1e-4))
    assert torch.equal(cold, shared)
    distinct = SoftPositives(points=torch.arange(9.0).to(dtype)[:, None], temperature=1e-4)
    torch.testing.assert_close(info_nce(a, b, soft=distinct), info_nce(a, b))
    hot = info_nce(a, b, soft=SoftPositives(points=points, temperature=1e9))
    torch.testing.assert_close(hot, info_nce(a, b, groups=torch.zeros(9, dtype=torch.long)))


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_equals_clips_symmetric_loss_in_32_bits(temperature):
    a, b = sides(64, 32, dtype=torch.float32)
    got, want = info_nce(a, b, temperature=temperature), clip_loss(a, b, temperature)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    exact = info_nce(a.double(), b.double(), temperature=temperature).float()
    torch.testing.assert_close(got, exact, atol=1e-6, rtol=1e-6)


@settings(deadline=None)
@given(case=cases)
def test_unchanged_by_scale_order_and_swapping_sides(case):
    a, b = sides(case["n"], case["d"], case["seed"])
    groups = torch.arange(case["n"]) // 2
    loss = info_nce(a, b, temperature=case["temperature"], groups=groups)
    generator = torch.Generator().manual_seed(case["seed"])
    order = torch.randperm(case["n"], generator=generator)
    scale = torch.rand(case["n"], 1, generator=generator, dtype=torch.float64) * 100 + 0.01
    for other in (
        info_nce(a[order], b[order], temperature=case["temperature"], groups=groups[order]),
        info_nce(a * scale, b / scale, temperature=case["temperature"], groups=groups),
        info_nce(b, a, temperature=case["temperature"], groups=groups),
        info_nce(a, b, temperature=case["temperature"], groups=7 - 3 * groups),
    ):
        torch.testing.assert_close(other, loss)


@pytest.mark.parametrize("n", [2, 3, 50])
@pytest.mark.parametrize("grouped", [False, True])
def test_identical_rows_give_log_n(n, grouped):
    rows = sides(1)[0].expand(n, -1)
    groups = torch.arange(n) // 2 if grouped else None
    assert float(info_nce(rows, rows, groups=groups)) == pytest.approx(math.log(n))


def test_shared_positives_do_not_push_equal_rows_apart():
    """Plain InfoNCE drives the partners of equal rows apart; with groups it draws them together."""
    target = torch.eye(2).double().repeat_interleave(2, dim=0)
    tilt = torch.tensor([[1, 0.2], [1, -0.2], [0.2, 1], [-0.2, 1]]).double()

    def gap_grows(groups: Tensor | None) -> bool:
        b = (target + 0.3 * tilt).requires_grad_()
        (gradient,) = torch.autograd.grad(info_nce(tilt, b, temperature=0.3, groups=groups), b)
        moved = F.normalize(b - 1e-3 * gradient, dim=1)
        before = F.normalize(b, dim=1)
        return bool((moved[0] @ moved[1]) < (before[0] @ before[1]))

    assert gap_grows(None)
    assert not gap_grows(torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize(
    "positives", [{}, {"groups": torch.tensor([0, 1, 0, 2])}, {"soft": soft_positives(4)}]
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients(positives, symmetric):
    a, b = sides(4, 3)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(a: Tensor, b: Tensor, temperature: Tensor) -> Tensor:
        return info_nce(a, b, temperature=temperature, symmetric=symmetric, **positives)

    assert torch.autograd.gradcheck(loss, (a.requires_grad_(), b.requires_grad_(), temperature))


@pytest.mark.parametrize(
    "positives",
    [{}, {"groups": torch.tensor([0, 1, 0, 2, 1, 3, 3])}, {"soft": soft_positives(7)}],
)
def test_blocks_of_rows_are_the_same_loss_with_the_same_gradient(positives, monkeypatch):
    a, b = (side.double().requires_grad_() for side in sides(7))
    found = []
    for block in (2**21, 7 * 3):  # all rows at once; three, three and one
        monkeypatch.setattr("slimp.models.losses.LARGEST_BLOCK", block)
        monkeypatch.setattr("slimp.models.losses.FEWEST_ROWS", 1)
        loss = info_nce(a, b, temperature=0.2, **positives)
        found.append((loss, *torch.autograd.grad(loss, (a, b))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("match", [True, False])
@pytest.mark.parametrize("grouped", [False, True])
def test_large_logits_are_stable(match, grouped):
    """Cosines of +-1 over the smallest temperature anyone asks for."""
    a = torch.eye(4).requires_grad_()
    b = torch.eye(4) if match else -torch.eye(4)
    loss = info_nce(a, b, temperature=1e-4, groups=torch.arange(4) if grouped else None)
    loss.backward()
    want = torch.tensor(0.0 if match else 1e4 + math.log(3))
    torch.testing.assert_close(loss, want, rtol=1e-6, atol=0.0)
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_compared_in_32_bits(half):
    a, b = sides(16, 8).to(half)
    want = info_nce(a.float(), b.float(), temperature=0.02)
    for temperature in (0.02, torch.tensor(0.02)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = info_nce(a, b, temperature=temperature)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want)
    assert info_nce(*sides()).dtype == torch.float64


@pytest.mark.parametrize("soft", [None, soft_positives(2000)])
def test_thousands_of_rows_need_no_square_table(soft):
    """What is kept for the backward pass; a table of 2,000 x 2,000 is made block by block."""
    a, b = sides(2000, 16, dtype=torch.float32)
    a.requires_grad_()
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        info_nce(a, b, temperature=torch.tensor(0.07, requires_grad=True), soft=soft).backward()
    assert kept
    assert max(tensor.numel() for tensor in kept) <= 2**21


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: info_nce(*sides(1)), "at least 2 rows, got 1"),
        (lambda: sigmoid_loss(*sides(0)), "at least 2 rows, got 0"),
        (lambda: info_nce(*sides(), temperature=0.0), "temperature must be positive, got 0"),
        (lambda: info_nce(*sides(), temperature=-1.0), "must be positive, got -1"),
        (lambda: info_nce(*sides(), temperature=float("nan")), "must be positive, got nan"),
        (lambda: info_nce(*sides(), temperature=torch.tensor(0.0)), "must be positive, got 0"),
        (
            lambda: info_nce(*sides(), temperature=torch.tensor(-2.0, requires_grad=True)),
            "must be positive, got -2",
        ),
    ],
)
def test_refusals(call: Callable[[], Tensor], message: str):
    with pytest.raises(UserError, match=message):
        call()


# ------------------------------------------------------------------------------ sigmoid


@settings(deadline=None)
@given(case=cases, bias=st.floats(-12.0, 3.0), group_count=st.integers(1, 9))
def test_the_sigmoid_loss_equals_a_slow_loop(case, bias, group_count):
    """SigLIP's, pair by pair (arXiv 2303.15343, eq. in section 3.2)."""
    n, temperature = case["n"], case["temperature"]
    a, b = sides(n, case["d"], case["seed"])
    some = torch.randint(group_count, (n,), generator=torch.Generator().manual_seed(case["seed"]))
    for groups in (None, some):
        of = range(n) if groups is None else groups.tolist()
        total = 0.0
        for i in range(n):
            for j in range(n):
                cosine = float(a[i] @ b[j] / (a[i].norm() * b[j].norm()))
                z = 1 if of[i] == of[j] else -1
                total += math.log1p(math.exp(-z * (cosine / temperature + bias)))
        found = sigmoid_loss(a, b, temperature=temperature, bias=bias, groups=groups)
        assert float(found) == pytest.approx(total / n, rel=1e-6)
        back = sigmoid_loss(b, a, temperature=temperature, bias=bias, groups=groups)
        torch.testing.assert_close(back, found)


def test_the_sigmoid_loss_in_blocks_is_the_same():
    a, b = sides(2000, 8)
    a.requires_grad_()
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1 - 7
    want = -F.logsigmoid((2 * torch.eye(2000) - 1) * logits).sum() / 2000
    (gradient,) = torch.autograd.grad(want, a)
    found = sigmoid_loss(a, b, temperature=0.1, bias=-7.0)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(torch.autograd.grad(found, a)[0], gradient)


# ------------------------------------------------------------------------------ nested


def pair(name: str, n: int = 6, seed: int = 0, groups: Tensor | None = None) -> Pair:
    anchor, target = sides(n, seed=seed)
    temperature = torch.tensor(0.1, dtype=torch.float64)
    return Pair(name=name, anchor=anchor, target=target, temperature=temperature, groups=groups)


def test_total_is_the_weighted_sum_of_the_levels():
    groups = torch.tensor([0, 0, 1])
    pairs = (pair("view", 8, 0), pair("lesion", 6, 1), pair("patient", 3, 2, groups))
    weights = {"view": 0.5, "lesion": 0.9, "patient": 0.1, "image": 0.7}
    result = nested_loss(pairs, weights)
    parts = {p.name: info_nce(p.anchor, p.target, temperature=0.1, groups=p.groups) for p in pairs}
    assert list(result.parts) == ["view", "lesion", "patient"]
    for name, want in parts.items():
        torch.testing.assert_close(result.parts[name], want)
    total = 0.5 * parts["view"] + 0.9 * parts["lesion"] + 0.1 * parts["patient"]
    torch.testing.assert_close(result.total, total)


def test_a_pair_with_a_bias_takes_the_sigmoid_loss():
    biased = replace(pair("lesion"), bias=torch.tensor(-2.0, dtype=torch.float64))
    want = sigmoid_loss(biased.anchor, biased.target, temperature=0.1, bias=-2.0)
    torch.testing.assert_close(nested_loss((biased,), {"lesion": 0.9}).total, 0.9 * want)


@pytest.mark.parametrize("weights", [{"lesion": 0.9}, {"lesion": 0.9, "patient": 0.0}])
def test_levels_without_a_weight_are_not_computed(weights):
    broken = pair("patient", 3)
    broken.target.fill_(torch.nan)
    result = nested_loss((pair("lesion"), broken), weights)
    assert list(result.parts) == ["lesion"]
    torch.testing.assert_close(result.total, 0.9 * result.parts["lesion"])


@pytest.mark.parametrize("n", [0, 1])
def test_a_level_with_too_few_rows_adds_nothing_and_is_named(n):
    lonely, lesions = pair("patient", n), pair("lesion")
    lesions.anchor.requires_grad_()
    result = nested_loss((lesions, lonely), {"lesion": 0.9, "patient": 0.1})
    assert "patient" not in result.parts
    torch.testing.assert_close(result.total, 0.9 * result.parts["lesion"])
    result.total.backward()
    assert lesions.anchor.grad.isfinite().all()


@pytest.mark.parametrize(
    ("pairs", "weights", "message"),
    [
        ((pair("lesion", 1), pair("patient", 1)), {"lesion": 1.0}, r"lesion: 1 row\(s\)\)"),
        ((pair("lesion"),), {"patient": 1.0}, r"with a weight: none\)"),
        ((pair("lesion"),), {}, "nothing to contrast"),
        ((), {"lesion": 1.0}, "Use more patients or lesions per batch"),
    ],
)
def test_nothing_to_contrast_is_refused(pairs, weights, message):
    with pytest.raises(UserError, match=message):
        nested_loss(pairs, weights)

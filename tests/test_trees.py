"""Arithmetic on parameter dicts."""

from __future__ import annotations

import pytest
import torch

import vfunc
from vfunc import trees

A = {"x": torch.tensor([[1.0, 2.0]]), "y": torch.tensor(3.0)}
B = {"y": torch.tensor(-1.0), "x": torch.tensor([[4.0, 0.5]])}


def test_names_carry_the_structure_not_the_order():
    assert float(trees.dot(A, B)) == 2.0
    moved = trees.axpy(2.0, A, B)
    assert list(moved) == ["y", "x"]
    assert moved["y"] == 5.0
    assert moved["x"].tolist() == [[6.0, 4.5]]


def test_norm_and_scale():
    assert float(trees.norm(trees.scale(A, -2.0))) == pytest.approx(2 * 14**0.5)


@pytest.mark.parametrize("size", [1e-35, 1e-22, 1e25])
def test_a_norm_is_right_where_squares_leave_float32(size):
    a = {"x": torch.tensor([3.0, 0.0]) * size, "y": torch.tensor(4.0) * size}
    assert float(trees.norm(a)) == pytest.approx(5 * size, rel=1e-6)
    b = {"x": torch.tensor([0.0, 1.0]), "y": torch.tensor(1.0)}
    for one, other in ((a, b), (a, a), (b, a)):
        want = 1.0 if one is other else 0.8 / 2**0.5
        assert float(trees.cosine(one, other)) == pytest.approx(want, rel=1e-6)


def test_a_norm_of_ordinary_numbers_is_the_root_of_their_inner_product():
    draw = torch.Generator().manual_seed(0)
    a = {"x": torch.randn(1000, generator=draw), "y": torch.randn(3, 5, generator=draw)}
    assert torch.equal(trees.norm(a), trees.dot(a, a).sqrt())
    assert float(trees.norm(trees.zeros_like(a))) == 0 == float(trees.norm({}))
    for number in (float("inf"), float("nan")):
        broken = a | {"z": torch.tensor(number)}
        assert not torch.isfinite(trees.norm(broken))
    assert torch.isnan(trees.cosine(a, trees.zeros_like(a)))


def test_sums_are_in_float32_at_least():
    half = {"x": torch.full((5000,), 0.1, dtype=torch.bfloat16)}
    assert trees.dot(half, half).dtype == torch.float32
    assert float(trees.dot(half, half)) == pytest.approx(5000 * float(half["x"][0]) ** 2, rel=1e-5)
    assert trees.dot({"x": A["x"].double()}, {"x": A["x"]}).dtype == torch.float64


def test_flatten_and_back():
    vector = trees.flatten(A)
    assert vector.tolist() == [1.0, 2.0, 3.0]
    back = trees.unflatten(vector, A)
    assert all(torch.equal(back[n], A[n]) for n in A)


def test_leaves_are_fresh_and_share_memory():
    made = trees.leaves(A)
    assert all(x.is_leaf and x.requires_grad for x in made.values())
    assert not any(x.requires_grad for x in A.values())
    assert made["x"].data_ptr() == A["x"].data_ptr()
    assert not any(x.requires_grad for x in trees.detach(made).values())


def test_zero_and_finite():
    assert trees.is_zero(trees.zeros_like(A))
    assert not trees.is_zero(A)
    assert trees.is_finite(A)
    assert not trees.is_finite(A | {"y": torch.tensor(float("nan"))})
    assert not trees.is_finite(A | {"y": torch.tensor(float("inf"))})


def test_normal_like_repeats_for_a_seed_and_leaves_the_global_state():
    state = torch.get_rng_state()
    draw = [trees.normal_like(A, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draw[0]["x"], draw[1]["x"])
    assert not torch.equal(draw[0]["x"], draw[2]["x"])
    assert draw[0]["x"].dtype == A["x"].dtype
    assert torch.equal(torch.get_rng_state(), state)


def test_normal_like_does_not_depend_on_the_order_of_names():
    one, other = (
        trees.normal_like(like, torch.Generator().manual_seed(1))
        for like in (A, dict(reversed(A.items())))
    )
    assert list(other) == ["y", "x"]
    assert all(torch.equal(one[n], other[n]) for n in A)


def test_gradient_is_zero_where_the_output_does_not_depend():
    made = trees.leaves(A)
    grad = trees.gradient((made["x"] ** 2).sum(), made)
    assert grad["x"].tolist() == [[2.0, 4.0]]
    assert grad["y"] == 0
    assert trees.is_zero(trees.gradient(torch.tensor(1.0), made))


def test_other_structure_is_refused_with_what_differs():
    trees.require_same_structure("phi", A, B)
    with pytest.raises(vfunc.UserError, match=r"phi does not match: missing \['y'\]"):
        trees.require_same_structure("phi", {"x": A["x"]}, A)
    with pytest.raises(vfunc.UserError, match=r"unexpected \['z'\]"):
        trees.require_same_structure("phi", A | {"z": A["y"]}, A)
    with pytest.raises(vfunc.UserError, match=r"\('x', \(2,\), \(1, 2\)\)"):
        trees.require_same_structure("phi", A | {"x": torch.zeros(2)}, A)

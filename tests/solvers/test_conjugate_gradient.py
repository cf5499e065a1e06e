"""Conjugate gradient: exactness, honesty about failure."""

from __future__ import annotations

import math

import measures
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vfunc
from vfunc.solvers import Outcome, conjugate_gradient

pytestmark = pytest.mark.usefixtures("float64")

SHAPES = {"a": (2, 2), "b": (3,)}
N = 7


def matvec_of(matrix, shapes=SHAPES):
    """The matrix as a function of a parameter dict."""

    def matvec(x):
        y = matrix @ torch.cat([x[n].flatten() for n in shapes])
        parts = y.split([math.prod(s) for s in shapes.values()])
        return {n: p.view(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}

    return matvec


def right_hand_side(draw):
    return {n: measures.normal(draw, *s) for n, s in SHAPES.items()}


def positive(draw, eigenvalues):
    q, _ = torch.linalg.qr(measures.normal(draw, N, N))
    return q @ torch.diag(torch.as_tensor(eigenvalues)) @ q.T


@given(seed=st.integers(0, 10_000))
def test_exact_in_n_steps(seed):
    draw = measures.generator(seed)
    matrix = positive(draw, [1.0, 2.0, 3.0, 5.0, 7.0, 9.0, 11.0])
    b = right_hand_side(draw)
    solution = conjugate_gradient(matvec_of(matrix), b, tolerance=1e-10)
    assert solution.converged
    assert solution.iterations <= N
    assert measures.apart(matvec_of(matrix)(solution.x), b) <= 1e-9
    assert solution.residual <= 1e-10
    assert 1.0 - 1e-9 <= solution.curvature <= 11.0


@given(seed=st.integers(0, 10_000))
def test_as_many_steps_as_distinct_eigenvalues(seed):
    draw = measures.generator(seed)
    matrix = positive(draw, [1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0])
    solution = conjugate_gradient(matvec_of(matrix), right_hand_side(draw), tolerance=1e-8)
    assert solution.converged
    assert solution.iterations == 2


def test_residual_is_the_true_one_where_it_stops():
    draw = measures.generator(1)
    matrix, b = positive(draw, [1e-3, 1.0, 3.0, 5.0, 7.0, 30.0, 200.0]), right_hand_side(draw)
    solution = conjugate_gradient(matvec_of(matrix), b, tolerance=1e-10, max_iterations=3)
    assert solution.outcome is Outcome.iterations
    assert solution.iterations == 3
    gap = measures.apart(matvec_of(matrix)(solution.x), b)
    assert solution.residual == pytest.approx(gap, rel=1e-8)
    with pytest.raises(
        vfunc.NotConvergedError, match=r"the damping .* after 3 iterations"
    ) as raised:
        solution.require("adjoint")
    assert str(raised.value).startswith("adjoint: ")
    assert "raise it, loosen the tolerance" in str(raised.value)


def test_negative_curvature_is_reported():
    draw = measures.generator(2)
    matrix = positive(draw, [-1.0, 1.0, 3.0, 5.0, 7.0, 9.0, 11.0])
    solution = conjugate_gradient(matvec_of(matrix), right_hand_side(draw), tolerance=1e-12)
    assert solution.outcome is Outcome.negative_curvature
    assert solution.curvature < 0
    with pytest.raises(vfunc.NotConvergedError, match="negative curvature; raise the damping"):
        solution.require("adjoint")


def test_negative_curvature_at_once_leaves_zero():
    b = right_hand_side(measures.generator(3))
    solution = conjugate_gradient(matvec_of(-torch.eye(N)), b)
    assert solution.outcome is Outcome.negative_curvature
    assert measures.size(solution.x) == 0
    assert solution.residual == pytest.approx(1.0)


def test_zero_right_hand_side_needs_no_product():
    def never(x):
        raise AssertionError

    solution = conjugate_gradient(never, {"a": torch.zeros(2)})
    assert solution.converged
    assert solution.iterations == 0
    assert solution.require("nothing") is solution


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"max_iterations": 0}])
def test_options_that_cannot_be_met_are_refused(options):
    with pytest.raises(vfunc.UserError, match="tolerance > 0 and max_iterations >= 1"):
        conjugate_gradient(lambda x: x, {"a": torch.ones(2)}, **options)

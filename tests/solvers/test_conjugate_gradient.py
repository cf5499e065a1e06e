"""Conjugate gradient: exactness, honesty about failure."""

from __future__ import annotations

import measures
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import N, counting, flat, matvec_of, named, right_hand_side, symmetric

import vfunc
from vfunc.solvers import Outcome, conjugate_gradient

pytestmark = pytest.mark.usefixtures("float64")


@given(seed=st.integers(0, 10_000))
def test_exact_in_n_steps(seed):
    draw = measures.generator(seed)
    matrix = symmetric(draw, [1.0, 2.0, 3.0, 5.0, 7.0, 9.0, 11.0])
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
    matrix = symmetric(draw, [1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0])
    solution = conjugate_gradient(matvec_of(matrix), right_hand_side(draw), tolerance=1e-8)
    assert solution.converged
    assert solution.iterations == 2


def test_residual_is_the_true_one_where_it_stops():
    draw = measures.generator(1)
    matrix, b = symmetric(draw, [1e-3, 1.0, 3.0, 5.0, 7.0, 30.0, 200.0]), right_hand_side(draw)
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
    assert "loosen the tolerance, or raise the damping" in str(raised.value)


def test_negative_curvature_is_reported():
    draw = measures.generator(2)
    matrix = symmetric(draw, [-1.0, 1.0, 3.0, 5.0, 7.0, 9.0, 11.0])
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


@given(seed=st.integers(0, 10_000))
def test_any_positive_diagonal_leaves_it_exact_in_n_steps(seed):
    draw = measures.generator(seed)
    matrix, b = symmetric(draw, [1.0, 2.0, 3.0, 5.0, 7.0, 9.0, 11.0]), right_hand_side(draw)
    diagonal = named(10 ** measures.normal(draw, N).clamp(-1, 1))
    want = torch.linalg.solve(matrix, flat(b))
    solution = conjugate_gradient(
        matvec_of(matrix), b, tolerance=1e-10, max_iterations=N, preconditioner=diagonal
    )
    assert solution.converged
    assert measures.apart(solution.x, named(want)) <= 1e-8
    by_function = conjugate_gradient(
        matvec_of(matrix),
        b,
        tolerance=1e-10,
        max_iterations=N,
        preconditioner=lambda r: {n: x / diagonal[n] for n, x in r.items()},
    )
    assert measures.apart(by_function.x, solution.x) == 0


def test_the_matrix_s_own_diagonal_solves_a_diagonal_system_at_once():
    draw = measures.generator(4)
    diagonal = 10 ** measures.normal(draw, N)
    b = right_hand_side(draw)
    system = matvec_of(torch.diag(diagonal))
    solution = conjugate_gradient(system, b, tolerance=1e-12, preconditioner=named(diagonal))
    assert solution.converged
    assert solution.iterations == 1
    assert conjugate_gradient(system, b, tolerance=1e-12).iterations > 1


def test_preconditioned_iterates_are_those_of_the_scaled_system():
    """k steps with M on A x = b are M^{-1/2} times k plain steps on M^{-1/2} A M^{-1/2}."""
    draw = measures.generator(5)
    matrix, b = symmetric(draw, [0.1, 1.0, 3.0, 5.0, 7.0, 9.0, 50.0]), right_hand_side(draw)
    diagonal = 10 ** measures.normal(draw, N).clamp(-1, 1)
    root = diagonal.sqrt()
    scaled = matrix / root[:, None] / root
    for steps in (1, 2, 4):
        got = conjugate_gradient(matvec_of(matrix), b, steps=steps, preconditioner=named(diagonal))
        plain = conjugate_gradient(matvec_of(scaled), named(flat(b) / root), steps=steps)
        assert measures.apart(got.x, named(flat(plain.x) / root)) <= 1e-10


def test_takes_the_steps_asked_for_whatever_the_residual():
    draw = measures.generator(6)
    matrix, b = symmetric(draw, [1.0, 2.0, 3.0, 5.0, 7.0, 9.0, 30.0]), right_hand_side(draw)
    for steps in (1, 3):
        matvec, calls = counting(matvec_of(matrix))
        solution = conjugate_gradient(matvec, b, tolerance=1e-9, steps=steps)
        assert solution.outcome is Outcome.steps
        assert not solution.converged
        assert solution.require("adjoint") is solution
        assert solution.iterations == solution.products == len(calls) == steps
        gap = measures.apart(matvec_of(matrix)(solution.x), b)
        assert solution.residual == pytest.approx(gap, rel=1e-8)
    # a loose tolerance does not end it, and is met
    loose = conjugate_gradient(matvec_of(matrix), b, tolerance=0.9, steps=3)
    assert loose.converged
    assert loose.iterations == 3
    # nothing is left to do after N steps but to move rounding errors
    assert conjugate_gradient(matvec_of(matrix), b, steps=1000).iterations <= 2 * N


@pytest.mark.parametrize(
    ("preconditioner", "message"),
    [
        ({"a": torch.tensor([1.0, 0.0])}, "entries that are not positive"),
        ({"b": torch.ones(2)}, "does not match"),
        (lambda r: {n: -x for n, x in r.items()}, "not positive definite"),
    ],
)
def test_preconditioners_that_are_not_positive_are_refused(preconditioner, message):
    b = {"a": torch.ones(2)}
    with pytest.raises(vfunc.UserError, match=message):
        conjugate_gradient(lambda x: x, b, preconditioner=preconditioner)


def test_numbers_that_are_not_finite_are_reported():
    b = {"a": torch.ones(2)}
    bad = conjugate_gradient(lambda x: {"a": x["a"] * torch.nan}, b, steps=3)
    assert bad.outcome is Outcome.not_finite
    with pytest.raises(vfunc.NotConvergedError, match="not finite"):
        bad.require("adjoint")

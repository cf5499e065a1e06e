"""Every solver against torch.linalg, and what each promises besides."""

from __future__ import annotations

import itertools
import math

import measures
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import N, counting, flat, matvec_of, named, right_hand_side, symmetric

import vfunc
from vfunc.solvers import (
    Outcome,
    conjugate_gradient,
    dense,
    largest_eigenvalue,
    neumann,
    nystrom,
)

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)
DAMPING = 0.5


def solve(solver, matrix, b):
    """The solver on matrix + DAMPING I, and the calls it made."""
    damped = matrix + DAMPING * torch.eye(len(matrix))
    matvec, calls = counting(matvec_of(matrix if solver is nystrom else damped))
    options = {
        conjugate_gradient: {"max_iterations": 100},
        neumann: {"max_iterations": 2000},
        nystrom: {"damping": DAMPING, "rank": N},
        dense: {},
    }[solver]
    return solver(matvec, b, tolerance=1e-10, **options), calls


SOLVERS = [conjugate_gradient, neumann, nystrom, dense]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_product_may_come_in_any_order(solver):
    draw = measures.generator(0)
    matrix, b = symmetric(draw, torch.linspace(0.5, 3, N)), right_hand_side(draw)
    wanted, _ = solve(solver, matrix, b)
    damped = matrix + DAMPING * torch.eye(N)
    matvec = matvec_of(matrix if solver is nystrom else damped)
    options = {nystrom: {"damping": DAMPING, "rank": N}, neumann: {"max_iterations": 2000}}
    found = solver(
        lambda x: dict(reversed(matvec(x).items())), b, tolerance=1e-10, **options.get(solver, {})
    )
    assert len(b) > 1 and found.outcome is wanted.outcome
    assert measures.apart(found.x, wanted.x) < 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
@given(seed=SEEDS)
def test_equals_linear_algebra_on_positive_systems(solver, seed):
    draw = measures.generator(seed)
    eigenvalues = 10 ** measures.normal(draw, N).clamp(-1, 1)
    matrix, b = symmetric(draw, eigenvalues), right_hand_side(draw)
    damped = matrix + DAMPING * torch.eye(N)
    solution, calls = solve(solver, matrix, b)
    assert solution.converged
    assert measures.apart(solution.x, named(torch.linalg.solve(damped, flat(b)))) <= 1e-8
    assert solution.residual == pytest.approx(
        measures.apart(matvec_of(damped)(solution.x), b), abs=1e-11
    )
    assert solution.products == len(calls)
    floor = float(eigenvalues.min()) + DAMPING
    assert floor - 1e-9 <= solution.curvature <= float(eigenvalues.max()) + DAMPING + 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
def test_negative_curvature_is_reported(solver):
    draw = measures.generator(2)
    matrix = symmetric(draw, [-20.0, 1.0, 3.0, 5.0, 7.0, 9.0, 11.0])
    solution, calls = solve(solver, matrix, right_hand_side(draw))
    assert solution.outcome is Outcome.negative_curvature
    assert solution.curvature < 0
    assert solution.products == len(calls)
    with pytest.raises(vfunc.NotConvergedError, match="raise the damping, or pray"):
        solution.require("adjoint", ", or pray")


@pytest.mark.parametrize("solver", SOLVERS)
def test_zero_right_hand_side_needs_no_product(solver):
    solution, calls = solve(solver, torch.eye(N), named(torch.zeros(N)))
    assert solution.converged
    assert measures.size(solution.x) == 0
    assert not calls


@pytest.mark.parametrize("solver", SOLVERS)
def test_numbers_that_are_not_finite_are_reported(solver):
    matrix = torch.full((N, N), torch.nan)
    solution, _ = solve(solver, matrix, right_hand_side(measures.generator(1)))
    assert solution.outcome is Outcome.not_finite


@pytest.mark.parametrize("solver", SOLVERS)
def test_single_precision(solver):
    draw = measures.generator(3)
    matrix, b = symmetric(draw, torch.linspace(1, 9, N)).float(), right_hand_side(draw)
    b = {n: x.float() for n, x in b.items()}
    damped = matvec_of(matrix + DAMPING * torch.eye(N, dtype=torch.float32))
    options = {"damping": DAMPING, "rank": N} if solver is nystrom else {}
    solution = solver(matvec_of(matrix) if options else damped, b, tolerance=1e-4, **options)
    assert solution.converged
    assert all(x.dtype == torch.float32 for x in solution.x.values())
    assert measures.apart(damped(solution.x), b) <= 2e-4


# Neumann


@given(seed=SEEDS, terms=st.integers(1, 12), step=st.floats(0.02, 0.19))
def test_neumann_is_the_truncated_sum(seed, terms, step):
    draw = measures.generator(seed)
    matrix, b = symmetric(draw, torch.linspace(1.0, 10.0, N)), right_hand_side(draw)
    solution = neumann(matvec_of(matrix), b, terms=terms, step=step)
    contraction = torch.eye(N) - step * matrix
    powers = [torch.linalg.matrix_power(contraction, j) for j in range(terms)]
    want = step * sum(powers) @ flat(b)
    assert measures.apart(solution.x, named(want)) <= 1e-12
    assert solution.outcome is Outcome.steps
    assert solution.iterations == solution.products == terms
    assert solution.residual == pytest.approx(
        measures.apart(matvec_of(matrix)(solution.x), b), rel=1e-9
    )


@pytest.mark.parametrize("product", [0.3, 1.0, 1.6, 1.95])
def test_neumann_converges_inside_its_radius_at_its_rate(product):
    """s lambda_max = product < 2: the residual shrinks by max |1 - s lambda| in the end."""
    draw = measures.generator(7)
    eigenvalues = torch.linspace(1.0, 10.0, N)
    matrix, b = symmetric(draw, eigenvalues), right_hand_side(draw)
    step = product / 10.0
    far = neumann(matvec_of(matrix), b, terms=160, step=step)
    near = neumann(matvec_of(matrix), b, terms=150, step=step)
    rate = float((1 - step * eigenvalues).abs().max())
    assert (far.residual / near.residual) ** 0.1 == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize("product", [2.05, 3.0, 10.0])
@pytest.mark.parametrize("terms", [None, 200])
def test_neumann_diverges_outside_its_radius_and_says_so(product, terms):
    draw = measures.generator(8)
    matrix, b = symmetric(draw, torch.linspace(1.0, 10.0, N)), right_hand_side(draw)
    options = {"max_iterations": 200} if terms is None else {"terms": terms}
    solution = neumann(matvec_of(matrix), b, tolerance=1e-12, step=product / 10, **options)
    assert solution.outcome is Outcome.diverged
    assert solution.residual <= 1
    assert solution.residual == pytest.approx(
        measures.apart(matvec_of(matrix)(solution.x), b), rel=1e-9
    )
    with pytest.raises(vfunc.NotConvergedError, match="above 2 / step; raise the damping"):
        solution.require("adjoint")


@given(seed=SEEDS)
def test_the_power_method_bounds_the_largest_eigenvalue(seed):
    draw = measures.generator(seed)
    n = 60
    eigenvalues = 10 ** measures.normal(draw, n)
    shapes = {"x": (n,)}
    matvec, calls = counting(matvec_of(symmetric(draw, eigenvalues), shapes))
    bound, smallest, spent = largest_eigenvalue(matvec, {"x": torch.zeros(n)}, seed=seed)
    top = float(eigenvalues.max())
    assert 0.6 * top <= bound <= 1.5 * top
    assert 0 < smallest <= top
    assert spent == len(calls) == 8


def test_neumann_stops_at_its_limit():
    draw = measures.generator(9)
    matrix, b = symmetric(draw, torch.linspace(0.01, 10.0, N)), right_hand_side(draw)
    solution = neumann(matvec_of(matrix), b, tolerance=1e-12, max_iterations=20)
    assert solution.outcome is Outcome.iterations
    assert (solution.iterations, solution.products) == (20, 28)


def test_neumann_diverges_along_a_negative_eigenvalue_that_the_power_method_misses():
    draw = measures.generator(2)
    matrix = symmetric(draw, [-2.0, 1.0, 3.0, 5.0, 7.0, 9.0, 11.0])
    solution = neumann(matvec_of(matrix), right_hand_side(draw), max_iterations=200)
    assert solution.outcome in (Outcome.diverged, Outcome.negative_curvature)
    with pytest.raises(vfunc.NotConvergedError, match=r"negative .*damping, or pray"):
        solution.require("adjoint", ", or pray")


def test_neumann_sees_a_residual_of_negative_curvature_at_any_step():
    draw = measures.generator(3)
    matrix = symmetric(draw, [-2.0, 1.0, 3.0, 5.0, 7.0, 9.0, 11.0])
    b = named(torch.linalg.eigh(matrix).eigenvectors[:, 0])
    solution = neumann(matvec_of(matrix), b, step=0.01)
    assert solution.outcome is Outcome.negative_curvature
    assert solution.curvature == pytest.approx(-2.0)
    assert measures.size(solution.x) == 0


# Nystrom


def decaying(draw, n=30):
    eigenvalues = 4.0 * 0.6 ** torch.arange(float(n))
    return symmetric(draw, eigenvalues)


def gaussian(rank, seed, shapes):
    """The sketch that the seed draws, before it is made orthonormal."""
    draw = torch.Generator().manual_seed(seed)
    columns = [
        torch.cat([torch.randn(s, generator=draw).flatten() for s in shapes.values()])
        for _ in range(rank)
    ]
    return torch.stack(columns, -1)


def defined(matrix, b, rank, seed, shapes):
    """(H_r + damping I)^{-1} b written out: H Omega (Omega^T H Omega)^+ (H Omega)^T."""
    omega = gaussian(rank, seed, shapes)
    core = torch.linalg.pinv(omega.T @ matrix @ omega, hermitian=True, rtol=1e-13)
    low = matrix @ omega @ core @ omega.T @ matrix
    return torch.linalg.solve(low + DAMPING * torch.eye(len(matrix)), flat(b))


@pytest.mark.parametrize("rank", range(1, N + 1))
@given(seed=SEEDS)
def test_nystrom_is_the_dense_formula_at_every_rank(rank, seed):
    draw = measures.generator(seed)
    shapes = {"a": (2, 2), "b": (3,)}
    matrix, b = symmetric(draw, torch.linspace(0.2, 9.0, N)), right_hand_side(draw)
    matvec, calls = counting(matvec_of(matrix))
    solution = nystrom(matvec, b, damping=DAMPING, rank=rank, tolerance=1e-9, seed=seed)
    assert measures.apart(solution.x, named(defined(matrix, b, rank, seed, shapes))) <= 1e-9
    damped = matvec_of(matrix + DAMPING * torch.eye(N))
    assert solution.residual == pytest.approx(measures.apart(damped(solution.x), b), abs=1e-11)
    assert solution.outcome is (Outcome.converged if rank == N else Outcome.low_rank)
    assert solution.require("adjoint") is solution
    assert solution.iterations == rank
    assert solution.products == len(calls) == rank + 1


def test_nystrom_at_full_rank_is_exact_for_an_indefinite_curvature_too():
    draw = measures.generator(12)
    matrix, b = symmetric(draw, [-0.3, 0.5, 1.0, 2.0, 4.0, 6.0, 9.0]), right_hand_side(draw)
    solution = nystrom(matvec_of(matrix), b, damping=DAMPING, rank=N, tolerance=1e-9)
    want = torch.linalg.solve(matrix + DAMPING * torch.eye(N), flat(b))
    assert solution.converged
    assert solution.curvature == pytest.approx(DAMPING - 0.3)
    assert measures.apart(solution.x, named(want)) <= 1e-10


@pytest.mark.parametrize("rank", [3, 4, 12])
@given(seed=SEEDS)
def test_nystrom_is_exact_from_the_curvature_s_own_rank_on(rank, seed):
    draw = measures.generator(seed)
    matrix, b = symmetric(draw, [5.0, 2.0, 0.1, 0.0, 0.0, 0.0, 0.0]), right_hand_side(draw)
    solution = nystrom(matvec_of(matrix), b, damping=DAMPING, rank=rank, tolerance=1e-8)
    want = torch.linalg.solve(matrix + DAMPING * torch.eye(N), flat(b))
    assert solution.converged
    assert measures.apart(solution.x, named(want)) <= 1e-8
    assert solution.iterations == min(rank, N)


def test_nystrom_s_error_falls_in_rank():
    draw = measures.generator(11)
    matrix = decaying(draw)
    n = len(matrix)
    b, shapes = {"x": measures.normal(draw, n)}, {"x": (n,)}
    want = {"x": torch.linalg.solve(matrix + DAMPING * torch.eye(n), b["x"])}
    errors = []
    for rank in (1, 2, 4, 8, 16):
        solutions = [
            nystrom(matvec_of(matrix, shapes), b, damping=DAMPING, rank=rank, seed=seed)
            for seed in range(10)
        ]
        errors.append(sum(measures.apart(s.x, want) for s in solutions) / 10)
    assert all(after < 0.8 * before for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.05 * errors[0]


def test_nystrom_of_an_indefinite_curvature_keeps_what_is_positive():
    """Damping covers the negative eigenvalue: the sketch is restricted, and x stays bounded."""
    rank = N - 1
    draw = measures.generator(12)
    matrix, b = symmetric(draw, [-0.4, -0.3, 0.5, 2.0, 4.0, 6.0, 9.0]), right_hand_side(draw)
    solution = nystrom(matvec_of(matrix), b, damping=DAMPING, rank=rank, tolerance=1e-9, seed=2)
    omega, _ = torch.linalg.qr(gaussian(rank, 2, {"a": (2, 2), "b": (3,)}))
    values, vectors = torch.linalg.eigh(omega.T @ matrix @ omega)
    assert values[0] < 0 < values[1]
    sketch = omega @ vectors[:, values > 0]
    low = matrix @ sketch @ torch.linalg.inv(sketch.T @ matrix @ sketch) @ sketch.T @ matrix
    want = torch.linalg.solve(low + DAMPING * torch.eye(N), flat(b))
    assert solution.outcome is Outcome.low_rank
    assert solution.curvature == pytest.approx(DAMPING + float(values[0]))
    assert measures.apart(solution.x, named(want)) <= 1e-8
    assert measures.size(solution.x) <= measures.size(b) / DAMPING


def test_the_draw_follows_the_seed_and_not_the_order_of_parameters():
    draw = measures.generator(13)
    matrix, b = symmetric(draw, torch.linspace(0.2, 9.0, N)), right_hand_side(draw)
    turned = {n: b[n] for n in reversed(b)}

    def at(b, seed):
        return nystrom(matvec_of(matrix), b, damping=DAMPING, rank=3, seed=seed).x

    def turned_matvec(x):
        y = matvec_of(matrix)(x)
        return {n: y[n] for n in x}

    same = nystrom(turned_matvec, turned, damping=DAMPING, rank=3, seed=1).x
    assert measures.apart({n: same[n] for n in b}, at(b, 1)) <= 1e-12
    assert measures.apart(at(b, 1), at(b, 2)) > 1e-3


# dense


def test_dense_solves_an_indefinite_system_too():
    draw = measures.generator(14)
    matrix, b = symmetric(draw, [-2.0, 1.0, 3.0, 5.0, 7.0, 9.0, 11.0]), right_hand_side(draw)
    solution = dense(matvec_of(matrix), b)
    assert solution.outcome is Outcome.negative_curvature
    assert solution.curvature == pytest.approx(-2.0)
    assert measures.apart(matvec_of(matrix)(solution.x), b) <= 1e-12


def test_dense_refuses_what_is_too_large_or_not_symmetric():
    many = {"x": torch.ones(2049)}
    with pytest.raises(vfunc.UserError, match="2049 x 2049; it takes up to 2048"):
        dense(lambda x: x, many)
    draw = measures.generator(15)
    with pytest.raises(vfunc.UserError, match="needs a symmetric matrix"):
        dense(matvec_of(measures.normal(draw, N, N)), right_hand_side(draw))


def test_dense_says_where_the_dtype_cannot_meet_the_tolerance():
    draw = measures.generator(16)
    matrix = symmetric(draw, [1e-12, 1.0, 3.0, 5.0, 7.0, 9.0, 1e3])
    solution = dense(matvec_of(matrix), right_hand_side(draw), tolerance=1e-12)
    assert solution.outcome is Outcome.ill_conditioned
    with pytest.raises(vfunc.NotConvergedError, match="loosen the tolerance"):
        solution.require("adjoint")


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (neumann, {"tolerance": 0.0}),
        (neumann, {"terms": 0}),
        (neumann, {"step": -1.0}),
        (nystrom, {"damping": 0.0, "rank": 1}),
        (nystrom, {"damping": 1.0, "rank": 0}),
        (nystrom, {"damping": 1.0, "rank": 1, "tolerance": 0.0}),
        (dense, {"tolerance": 0.0}),
    ],
)
def test_options_that_cannot_be_met_are_refused(solver, options):
    with pytest.raises(vfunc.UserError, match=rf"{solver.__name__} needs"):
        solver(lambda x: x, {"a": torch.ones(2)}, **options)


def test_a_solution_s_curvature_of_nothing_is_infinite():
    assert math.isinf(dense(lambda x: x, {"a": torch.zeros(2)}).curvature)

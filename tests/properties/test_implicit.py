"""The implicit value by every solver, and each approximation as the dense formula it defines."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cases
import measures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.implicit import dense, implicit, newton_steps, optimum

import vfunc
from vfunc.estimators.curvature import optimizer_preconditioner
from vfunc.simulate import AdamW, TensorState, UpdateRule
from vfunc.solvers import largest_eigenvalue

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)
DAMPING = 10.0
TIGHT = {"damping": DAMPING, "solver_tolerance": 1e-11, "max_iterations": 500}
EXACT = [
    {"solver": "cg"},
    {"solver": "cg", "precondition": "optimizer"},
    {"solver": "neumann"},
    {"solver": "nystrom", "nystrom_rank": 1000},
    {"solver": "dense"},
]


def ask(made, **options):
    """The estimate, at tight tolerances unless told otherwise."""
    estimator = vfunc.make_estimator("implicit", TIGHT | options)
    return estimator(made.problem, made.theta, made.phi)


def solved(made):
    """The matrices at the dense oracle's theta*, and the damped Hessian there."""
    star = optimum(made.problem, made.theta, made.phi, DAMPING)
    at = dense(made.problem, star, made.phi)
    return at, at.hessian + DAMPING * torch.eye(len(at.theta))


@pytest.mark.parametrize("options", EXACT, ids=lambda options: "-".join(map(str, options.values())))
@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_every_exact_solver_gives_the_dense_solution(options, seed, case):
    made = cases.situation(case, seed, "adamw")
    estimate = ask(made, **options)
    value, grad = implicit(made.problem, made.theta, made.phi, DAMPING)
    assert float(estimate.value) == pytest.approx(value, rel=1e-8)
    assert measures.apart(estimate.grad, grad) <= 1e-8
    assert estimate.approximations == ()
    notes = estimate.diagnostics
    assert notes["adjoint_residual"] <= 1e-11
    assert notes["inner_gap"] <= 1e-11
    assert notes["solver"] == options["solver"]
    assert notes["smallest_curvature"] > 0
    assert notes["negative_curvature"] is False


@pytest.mark.parametrize("engine", ["reverse", "forward"])
@pytest.mark.parametrize("options", EXACT, ids=lambda options: "-".join(map(str, options.values())))
def test_every_exact_solver_by_every_exact_engine(options, engine):
    made = cases.situation("layernorm view", 2, "adamw")
    estimate = ask(made, engine=engine, **options)
    _, grad = implicit(made.problem, made.theta, made.phi, DAMPING)
    assert measures.apart(estimate.grad, grad) <= 1e-8
    assert estimate.diagnostics["engine"] == estimate.diagnostics["hessian_engine"] == engine
    assert estimate.approximations == ()


@pytest.mark.parametrize("case", cases.SMALL)
@settings(max_examples=1)
@given(seed=SEEDS)
def test_gradient_is_the_slope_of_the_solved_inner_problem(case, seed):
    """The value differenced here is the oracle's, whose Newton solver is its own."""
    made = cases.situation(case, seed, "adamw")
    along = measures.direction(made.phi, seed)

    def value(h):
        star = optimum(made.problem, made.theta, measures.moved(made.phi, h, along), DAMPING)
        return -float(made.problem.feedback_loss(star))

    want = measures.slope(value)
    for options in EXACT:
        grad = ask(made, **options).grad
        assert abs(measures.inner(grad, along) - want) <= 1e-6 * measures.size(grad), options


def krylov(matrix, b, steps):
    """The minimum of <x, A x> / 2 - <b, x> over span(b, A b, ...): what k steps of CG define."""
    basis = b[:, None] / b.norm()
    for _ in range(steps - 1):
        more = matrix @ basis[:, -1:]
        for _ in range(2):  # Gram-Schmidt, twice for the rounding
            more = more - basis @ (basis.T @ more)
        basis = torch.cat([basis, more / more.norm()], -1)
    return basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)


@pytest.mark.parametrize("case", ["mlp", "layernorm view"])
@settings(max_examples=2)
@given(seed=SEEDS)
def test_few_steps_of_cg_are_the_krylov_minimum_and_come_nearer(case, seed):
    made = cases.situation(case, 3 * seed)
    at, damped = solved(made)
    exact = at.pulled(torch.linalg.solve(damped, at.down))
    distances = []
    for steps in (1, 2, 3, 5):
        estimate = ask(made, solver_steps=steps)
        want = at.pulled(krylov(damped, at.down, steps))
        assert measures.apart(estimate.grad, want) <= 1e-8
        distances.append(measures.apart(estimate.grad, exact))
        assert estimate.diagnostics["adjoint_iterations"] == steps
        residual = estimate.diagnostics["adjoint_residual"]
        if residual > TIGHT["solver_tolerance"]:
            assert estimate.approximations == (
                f"adjoint cut short after {steps} steps of cg: a relative residual of "
                f"{residual:.1e} remains",
            )
    assert distances[-1] < 0.05 * distances[0]


@pytest.mark.parametrize("case", ["mlp", "layernorm view"])
@settings(max_examples=2)
@given(seed=SEEDS)
def test_few_terms_of_neumann_are_the_truncated_sum_and_come_nearer(case, seed):
    made = cases.situation(case, seed)
    at, damped = solved(made)

    def matvec(x):
        y = damped @ torch.cat([x[n].flatten() for n in made.theta])
        parts = y.split([p.numel() for p in made.theta.values()])
        return {n: y.view(p.shape) for (n, p), y in zip(made.theta.items(), parts, strict=True)}

    step = 1 / largest_eigenvalue(matvec, made.theta, seed=made.problem.seed)[0]
    exact = at.pulled(torch.linalg.solve(damped, at.down))
    contraction, distances = torch.eye(len(damped)) - step * damped, []
    for terms in (1, 2, 4, 8):
        estimate = ask(made, solver="neumann", solver_steps=terms)
        powers = [torch.linalg.matrix_power(contraction, j) for j in range(terms)]
        want = at.pulled(step * sum(powers) @ at.down)
        assert measures.apart(estimate.grad, want) <= 1e-8
        distances.append(measures.apart(estimate.grad, exact))
        if estimate.diagnostics["adjoint_residual"] > TIGHT["solver_tolerance"]:
            assert f"after {terms} steps of neumann" in estimate.approximations[0]
    assert all(later < earlier for earlier, later in itertools.pairwise(distances))
    assert distances[-1] < 0.2 * distances[0]


@pytest.mark.parametrize("case", ["mlp", "layernorm view"])
@settings(max_examples=1)
@given(seed=SEEDS)
def test_low_ranks_of_nystrom_are_the_dense_formula_and_come_nearer(case, seed):
    """With the Gauss-Newton matrix, whose rank is at most (classes - 1) * points = 10."""
    made = cases.situation(case, seed)
    at, _ = solved(made)
    matrix, n = at.gauss_newton, len(at.theta)
    exact = at.pulled(torch.linalg.solve(matrix + DAMPING * torch.eye(n), at.down))
    distances = []
    for rank in (1, 3, 6, 10):
        estimate = ask(made, curvature="gauss_newton", solver="nystrom", nystrom_rank=rank)
        draw = torch.Generator().manual_seed(made.problem.seed)
        columns = []
        for _ in range(min(rank, n)):
            drawn = {x: measures.normal(draw, *made.theta[x].shape) for x in sorted(made.theta)}
            columns.append(torch.cat([drawn[x].flatten() for x in made.theta]))
        sketch = matrix @ torch.stack(columns, -1)
        core = torch.stack(columns, -1).T @ sketch
        low = sketch @ torch.linalg.pinv(core, hermitian=True, rtol=1e-13) @ sketch.T
        want = at.pulled(torch.linalg.solve(low + DAMPING * torch.eye(n), at.down))
        assert measures.apart(estimate.grad, want) <= 1e-7
        distances.append(measures.apart(estimate.grad, exact))
        if rank < min(n, 10):
            assert f"curvature of rank {rank} of {n}" in estimate.approximations[1]
    assert distances[-1] <= 1e-6 < distances[0]
    assert distances[2] < distances[0]


@pytest.mark.parametrize("case", ["mlp view", "layernorm"])
@settings(max_examples=2)
@given(seed=SEEDS)
def test_gauss_newton_has_its_own_adjoint_at_the_true_optimum(case, seed):
    made = cases.situation(case, seed)
    at, _ = solved(made)
    damped = at.gauss_newton + DAMPING * torch.eye(len(at.theta))
    want = at.pulled(torch.linalg.solve(damped, at.down))
    value, exact = implicit(made.problem, made.theta, made.phi, DAMPING)
    estimate = ask(made, curvature="gauss_newton")
    assert float(estimate.value) == pytest.approx(value, rel=1e-8)
    assert measures.apart(estimate.grad, want) <= 1e-8
    assert estimate.approximations == (
        "adjoint by the Gauss-Newton matrix in place of the Hessian",
    )
    assert estimate.diagnostics["smallest_curvature"] >= DAMPING * (1 - 1e-12)
    assert measures.apart(want, exact) > 1e-6


def test_gauss_newton_by_differences_needs_no_forward_mode():
    made = cases.situation("mlp", 3)
    exact = ask(made, curvature="gauss_newton")
    by_engine = ask(
        made, curvature="gauss_newton", engine="finite_difference", solver_tolerance=1e-8
    )
    kernels = replace(made.problem, no_second_order="its kernels have none")
    by_kernel = ask(replace(made, problem=kernels), curvature="gauss_newton", solver_tolerance=1e-8)
    for estimate in (by_engine, by_kernel):
        assert measures.apart(estimate.grad, exact.grad) <= 1e-5
        assert estimate.diagnostics["tangents"] == 0
        assert estimate.diagnostics["hessian_engine"] == "finite_difference"


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@settings(max_examples=2)
@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_few_newton_steps_pull_back_where_they_end_and_come_nearer(curvature, seed, case):
    made = cases.situation(case, seed)
    value, exact = implicit(made.problem, made.theta, made.phi, DAMPING)
    gaps, distances = [], []
    for steps in (1, 2, 3):
        estimate = ask(made, inner_steps=steps, curvature=curvature, solver="dense")
        point, gap = newton_steps(
            made.problem,
            made.theta,
            made.phi,
            DAMPING,
            steps,
            gauss_newton=curvature == "gauss_newton",
        )
        assert estimate.diagnostics["inner_iterations"] == steps
        at = dense(made.problem, point, made.phi)
        matrix = at.hessian if curvature == "hessian" else at.gauss_newton
        damped = matrix + DAMPING * torch.eye(len(at.theta))
        want = at.pulled(torch.linalg.solve(damped, at.down))
        assert measures.apart(estimate.grad, want) <= 1e-8
        fall = float(made.problem.feedback_loss(made.theta) - made.problem.feedback_loss(point))
        assert float(estimate.value) == pytest.approx(fall, rel=1e-9)
        gaps.append(gap)
        distances.append(abs(fall - value))
        if gap > 1e-11:
            assert f"after {steps} Newton steps" in estimate.approximations[0]
            assert estimate.diagnostics["inner_gap"] == pytest.approx(gap, rel=1e-3)
    assert gaps[0] < 0.2
    assert gaps[2] < 0.1 * gaps[0]
    assert distances[2] < distances[0]
    if curvature == "hessian":
        assert measures.apart(estimate.grad, exact) < 1e-2


@given(seed=SEEDS)
def test_the_preconditioner_is_what_adamw_divides_by(seed):
    """Read off a live AdamW: without momentum its step is -lr g / (sqrt(v / c2) + eps)."""
    draw = measures.generator(seed)
    eps, lr, betas = 1e-3, 0.1, (0.0, 0.9)
    p = torch.nn.Parameter(measures.normal(draw, 5))
    live = torch.optim.AdamW([p], lr=lr, betas=betas, eps=eps, weight_decay=0.0)
    for _ in range(3):
        p.grad, before = measures.normal(draw, 5), p.detach().clone()
        live.step()
    divisor = -lr * p.grad / (p.detach() - before)
    rule, state = vfunc.from_optimizer(live, {"p": p})
    made = cases.situation("mlp", 1)
    problem = replace(made.problem, rule=rule, state=state)
    diagonal = optimizer_preconditioner(problem, {"p": p.detach()}, 2.0)
    torch.testing.assert_close(diagonal["p"], divisor + 2.0, rtol=1e-10, atol=0)
    fresh = optimizer_preconditioner(replace(problem, state={}), {"p": p.detach()}, 2.0)
    torch.testing.assert_close(fresh["p"], torch.full((5,), 2.0 + eps))


def test_preconditioning_follows_the_second_moments():
    """The more unequal the moments, the other the path; the end is the same."""
    made = cases.situation("mlp", 1)
    plain = ask(made)
    moments = {
        n: TensorState(
            5, {"exp_avg": torch.zeros_like(x), "exp_avg_sq": 1e4 * torch.rand_like(x) ** 4}
        )
        for n, x in made.theta.items()
    }
    problem = replace(made.problem, rule=UpdateRule(AdamW(0.1)), state=moments)
    other = ask(replace(made, problem=problem), precondition="optimizer")
    assert measures.apart(other.grad, plain.grad) <= 1e-8
    one = ask(replace(made, problem=problem), precondition="optimizer", solver_steps=1)
    assert measures.apart(one.grad, ask(made, solver_steps=1).grad) > 1e-2

"""How the estimators go over into each other, and what first order promises."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cases
import measures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.implicit import dense, optimum

import vfunc
from vfunc.simulate import SGD, UpdateRule

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)


def at_rate(made, eta):
    """The problem with plain SGD at this step size."""
    return replace(made.problem, rule=UpdateRule(SGD(eta)))


def exponent(sizes, errors):
    """b of errors = a * sizes^b, by least squares in the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


@pytest.mark.parametrize("case", cases.SMALL)
@given(seed=SEEDS)
def test_lookahead_of_one_step_is_first_order_to_second_order_in_eta(case, seed):
    made = cases.situation(case, seed)
    etas = [2e-3, 1e-3, 5e-4, 2.5e-4]
    value_errors, grad_errors = [], []
    for eta in etas:
        problem = at_rate(made, eta)
        first = vfunc.FirstOrder()(problem, made.theta, made.phi)
        one = vfunc.Unrolled(1)(problem, made.theta, made.phi)
        value_errors.append(abs(float(one.value - first.value)))
        gap = {n: one.grad[n] - first.grad[n] for n in one.grad}
        grad_errors.append(measures.size(gap))
    assert exponent(etas, value_errors) == pytest.approx(2, abs=0.15)
    assert exponent(etas, grad_errors) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("case", cases.SMALL)
@given(seed=SEEDS)
def test_one_step_objective_expands_in_eta(case, seed):
    """J(phi) = L_down(theta - eta g_pre(phi)) = L_down - eta V + O(eta^2), J by hand."""
    made = cases.situation(case, seed)
    task = made.problem.construct(made.phi, made.problem.batches[0])
    g_pre = vfunc.pretrain_gradient(made.problem, made.theta, task)
    here = float(made.problem.feedback_loss(made.theta))
    etas, errors = [4e-3, 2e-3, 1e-3, 5e-4], []
    for eta in etas:
        j = float(made.problem.feedback_loss(measures.moved(made.theta, -eta, g_pre)))
        v = float(vfunc.FirstOrder()(at_rate(made, eta), made.theta, made.phi).value)
        errors.append(abs(j - (here - v)))
    assert exponent(etas, errors) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("case", cases.SMALL)
@given(seed=SEEDS)
def test_implicit_goes_over_into_first_order_as_damping_grows(case, seed):
    made = cases.situation(case, seed)
    v = vfunc.FirstOrder()(at_rate(made, 1.0), made.theta, made.phi)
    dampings = [500.0, 1000.0, 2000.0, 4000.0]
    value_errors, grad_errors = [], []
    for damping in dampings:
        ask = vfunc.Implicit(damping=damping, solver_tolerance=1e-11)
        estimate = ask(made.problem, made.theta, made.phi)
        value_errors.append(abs(damping * float(estimate.value) - float(v.value)))
        gap = {n: damping * estimate.grad[n] - v.grad[n] for n in v.grad}
        grad_errors.append(measures.size(gap))
    assert exponent(dampings, value_errors) == pytest.approx(-1, abs=0.15)
    assert exponent(dampings, grad_errors) == pytest.approx(-1, abs=0.15)


@pytest.mark.parametrize("case", cases.SMALL)
@settings(max_examples=2)
@given(seed=SEEDS)
def test_repeated_gradient_steps_reach_the_implicit_solution(case, seed):
    """SGD on L_pre plus the proximal term, one batch, eta < 2 / (L + damping).

    A step multiplies the error by at most max |1 - eta (h + damping)|, h the eigenvalues of H at
    theta*; the gradient's falls by that in the end, up to what the path's own curvature does.
    """
    made = cases.situation(case, seed)
    damping, counts = 4.0, (12, 22, 32)
    center = made.theta
    star = optimum(made.problem, center, made.phi, damping)
    spectrum = torch.linalg.eigvalsh(dense(made.problem, star, made.phi).hessian) + damping
    eta = (0.15, 0.3, 0.45)[seed % 3] / float(spectrum[-1])
    factor = float((1 - eta * spectrum).abs().max())

    def proximal(theta, task):
        pull = sum(((theta[n] - center[n]) ** 2).sum() for n in theta)
        return made.problem.pretrain_loss(theta, task) + 0.5 * damping * pull

    problem = replace(
        made.problem,
        pretrain_loss=proximal,
        linear=None,
        rule=UpdateRule(SGD(eta)),
    )
    solved = vfunc.Implicit(damping=damping, solver_tolerance=1e-11)(
        made.problem, made.theta, made.phi
    )
    grad_errors = []
    for steps in counts:
        repeated = replace(problem, batches=made.problem.batches[:1] * steps)
        looked = vfunc.Unrolled(steps)(repeated, made.theta, made.phi)
        off = abs(float(looked.value - solved.value))
        assert off <= 1.5 * factor**steps * abs(float(solved.value))
        grad_errors.append(measures.apart(looked.grad, solved.grad))
    for before, after in itertools.pairwise(grad_errors):
        assert (after / before) ** 0.1 == pytest.approx(factor, abs=0.05)


@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_preconditioned_by_plain_sgd_is_first_order(seed, case):
    made = cases.situation(case, seed)
    first = vfunc.FirstOrder()(made.problem, made.theta, made.phi)
    stepped = vfunc.FirstOrder("preconditioned")(made.problem, made.theta, made.phi)
    assert float(stepped.value) == pytest.approx(float(first.value), rel=1e-9, abs=1e-14)
    assert measures.apart(stepped.grad, first.grad) <= 1e-9
    assert stepped.scale == first.scale


@pytest.mark.parametrize(
    ("optimizer", "factor"), [("sgd decay", 1.0), ("momentum", 0.7), ("nesterov", 1.6)]
)
@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_momentum_and_decay_add_a_constant_and_precondition(seed, case, optimizer, factor):
    """The next step is affine in g: d = -eta (factor g + what the past and the weights add)."""
    made = cases.situation(case, seed, optimizer)
    first, stepped = vfunc.FirstOrder(), vfunc.FirstOrder("preconditioned")
    gaps = []
    for phi in (made.phi, {n: x + 0.3 for n, x in made.phi.items()}):
        a, b = first(made.problem, made.theta, phi), stepped(made.problem, made.theta, phi)
        gaps.append(float(b.value) - factor * float(a.value))
        assert measures.apart(b.grad, {n: factor * x for n, x in a.grad.items()}) <= 1e-9
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-9, abs=1e-13)
    assert abs(gaps[0]) > 1e-9


@pytest.mark.parametrize("value", ["dot", "preconditioned"])
@given(seed=SEEDS)
def test_subset_is_a_direction_that_is_zero_outside(value, seed):
    """Over all parameters with w zero outside S = over S alone."""
    module = cases.seeded(cases.NormedNetwork, seed)
    everything = vfunc.functional(module, "all")
    part = vfunc.functional(module, "last:1")
    whole = cases._supervised(everything, measures.generator(seed), everything.theta, view=True)
    some = cases._supervised(part, measures.generator(seed), part.theta, view=True)
    _, g_down = vfunc.feedback_gradient(whole.problem, whole.theta)
    w = {n: 0.1 * g if n in part.names else torch.zeros_like(g) for n, g in g_down.items()}
    construction = vfunc.construct_task(whole.problem, whole.phi, whole.problem.batches[0])
    pulled = vfunc.pull_back(whole.problem, whole.theta, construction, w)
    estimate = vfunc.FirstOrder(value)(some.problem, some.theta, some.phi)
    assert float(pulled.inner) == pytest.approx(float(estimate.value), rel=1e-10)
    assert measures.apart(pulled.grad, estimate.grad) <= 1e-10


@given(seed=SEEDS, eta=st.floats(1e-3, 3.0))
def test_lower_bound_on_quadratics(seed, eta):
    """L_down(theta) - L_down(theta+) >= eta V - (L eta^2 / 2) |g_pre|^2, tight along L's vector."""
    draw = measures.generator(seed)
    root = measures.normal(draw, 5, 5)
    curvature = root @ root.T / 5
    smoothness, vectors = torch.linalg.eigh(curvature)
    pull = measures.normal(draw, 5)

    def ask(task_gradient):
        problem = vfunc.ValueProblem(
            construct=lambda phi, batch: {"c": phi["c"]},
            pretrain_loss=lambda theta, task: (theta["x"] * task["c"]).sum(),
            feedback_loss=lambda theta: (
                0.5 * theta["x"] @ curvature @ theta["x"] + pull @ theta["x"]
            ),
            batches=(None,),
            rule=UpdateRule(SGD(eta)),
        )
        theta, phi = {"x": measures.normal(draw, 5)}, {"c": task_gradient}
        promised = float(vfunc.FirstOrder()(problem, theta, phi).value)
        promised -= 0.5 * float(smoothness[-1]) * eta**2 * float(task_gradient @ task_gradient)
        return float(vfunc.Unrolled(1)(problem, theta, phi).value), promised

    won, promised = ask(measures.normal(draw, 5))
    assert won >= promised - 1e-12
    won, promised = ask(vectors[:, -1].clone())
    assert won == pytest.approx(promised, rel=1e-9, abs=1e-11)


@given(seed=SEEDS)
def test_cosine_ignores_the_size_of_the_gradient(seed):
    """The objective's gradient is orthogonal to what only scales g_pre."""
    made = cases.situation("mlp", seed)

    def scaled(factor):
        loss = made.problem.pretrain_loss
        problem = replace(made.problem, pretrain_loss=lambda t, c: factor * loss(t, c), linear=None)
        return vfunc.FirstOrder("cosine")(problem, made.theta, made.phi)

    one, ten = scaled(1.0), scaled(10.0)
    assert float(ten.objective) == pytest.approx(float(one.objective), rel=1e-10)
    assert measures.apart(ten.grad, one.grad) <= 1e-9
    assert float(ten.value) == pytest.approx(10 * float(one.value), rel=1e-10)
    assert -1 <= float(one.objective) <= 1

"""Values and gradients against slow, independent oracles, and engine against engine."""

from __future__ import annotations

import cases
import measures
import optimizers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.implicit import implicit
from reference.unrolled import unrolled

import vfunc

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("optimizer", list(optimizers.OPTIMIZERS))
@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_unrolled_is_the_autograd_loop(steps, optimizer, seed, case):
    made = cases.situation(case, seed, optimizer)
    estimate = vfunc.Unrolled(steps)(made.problem, made.theta, made.phi)
    value, grad = unrolled(made.problem, made.theta, made.phi, made.optimizer, steps)
    assert float(estimate.value) == pytest.approx(value, rel=1e-9, abs=1e-13)
    assert measures.apart(estimate.grad, grad) <= 1e-9


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw", "clip"])
@settings(max_examples=1)
@given(seed=SEEDS)
def test_unrolled_is_the_autograd_loop_for_a_transformer(optimizer, seed):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    made = cases.situation("qwen2", seed, optimizer)
    estimate = vfunc.Unrolled(3)(made.problem, made.theta, made.phi)
    with sdpa_kernel(SDPBackend.MATH):
        value, grad = unrolled(made.problem, made.theta, made.phi, made.optimizer, 3)
    assert float(estimate.value) == pytest.approx(value, rel=1e-9)
    assert measures.apart(estimate.grad, grad) <= 1e-9


@pytest.mark.parametrize("case", cases.SMALL)
@settings(max_examples=2)
@given(seed=SEEDS)
def test_implicit_is_the_dense_solution(case, seed):
    made = cases.situation(case, seed)
    ask = vfunc.Implicit(damping=10.0, solver_tolerance=1e-11, max_iterations=100)
    estimate = ask(made.problem, made.theta, made.phi)
    value, grad = implicit(made.problem, made.theta, made.phi, 10.0)
    assert float(estimate.value) == pytest.approx(value, rel=1e-8)
    assert measures.apart(estimate.grad, grad) <= 1e-8


@pytest.mark.parametrize("case", list(cases.CASES))
@settings(max_examples=2)
@given(seed=SEEDS)
def test_engines_agree_on_the_task_and_the_hessian(case, seed):
    made = cases.situation(case, seed)
    w = measures.direction(made.theta, seed)
    construction = vfunc.construct_task(made.problem, made.phi, made.problem.batches[0])
    for hessian in (False, True):
        want = vfunc.pullback.mixed_product(
            made.problem, made.theta, construction, w, "reverse", hessian=hessian
        )
        g_pre = vfunc.pretrain_gradient(made.problem, made.theta, construction.task)
        assert float(want.inner) == pytest.approx(measures.inner(w, g_pre), rel=1e-9, abs=1e-12)
        for engine in (*cases.engines(made, hessian=hessian), "finite_difference"):
            got = vfunc.pullback.mixed_product(
                made.problem, made.theta, construction, w, engine, hessian=hessian
            )
            bound = 1e-7 if engine == "finite_difference" else 1e-9
            assert got.engine == engine
            assert float(got.inner) == pytest.approx(float(want.inner), rel=bound, abs=bound)
            assert measures.apart(dict(got.task), dict(want.task)) <= bound
            assert (got.hessian is None) is (not hessian)
            if hessian:
                assert measures.apart(got.hessian, want.hessian) <= bound


@pytest.mark.parametrize("case", list(cases.CASES))
@settings(max_examples=1)
@given(seed=SEEDS)
def test_hessian_product_is_the_gradient_s_slope(case, seed):
    made = cases.situation(case, seed)
    w, probe = measures.direction(made.theta, seed), measures.direction(made.theta, seed + 1)
    construction = vfunc.construct_task(made.problem, made.phi, made.problem.batches[0])

    def along(h):
        theta = measures.moved(made.theta, h, probe)
        return measures.inner(w, vfunc.pretrain_gradient(made.problem, theta, construction.task))

    product = vfunc.pullback.mixed_product(
        made.problem, made.theta, construction, w, "auto", hessian=True
    )
    error = abs(measures.inner(product.hessian, probe) - measures.slope(along))
    assert error <= 1e-6 * (1e-3 + measures.size(product.hessian))

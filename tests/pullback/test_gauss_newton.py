"""Gauss-Newton products against dense matrices, and where they equal the Hessian's."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.implicit import dense
from systems import flat, named

import vfunc
from vfunc.pullback import mixed_product
from vfunc.pullback.gauss_newton import GaussNewton

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)


def matrix_at(made, **options):
    """The Gauss-Newton operator at the case's own point."""
    construction = vfunc.construct_task(made.problem, made.phi, made.problem.batches[0])
    return GaussNewton.at(made.problem.composite, made.theta, construction.task, **options)


@pytest.mark.parametrize("case", cases.SMALL)
@given(seed=SEEDS)
def test_product_is_that_of_the_dense_matrix_and_never_negative(case, seed):
    made = cases.situation(case, seed)
    want = dense(made.problem, made.theta, made.phi).gauss_newton
    got, x = matrix_at(made), measures.direction(made.theta, seed)
    shapes = {n: p.shape for n, p in made.theta.items()}
    product = named(want @ flat(x), shapes)
    assert measures.apart(got(x), product) <= 1e-10
    assert measures.apart(matrix_at(made, differences=True)(x), product) <= 1e-7
    assert measures.inner(got(x), x) >= -1e-15
    assert float(torch.linalg.eigvalsh(want)[0]) >= -1e-12


@given(seed=SEEDS)
def test_product_is_symmetric(seed):
    made = cases.situation("mlp", seed)
    got = matrix_at(made)
    x, y = measures.direction(made.theta, seed), measures.direction(made.theta, seed + 1)
    assert measures.inner(got(x), y) == pytest.approx(measures.inner(x, got(y)), rel=1e-9)


@given(seed=SEEDS)
def test_equals_the_hessian_where_the_outputs_are_linear_in_theta(seed):
    draw = measures.generator(seed)

    def logits(theta, x):
        return torch.tanh(x) @ theta["w"].T + theta["b"]

    theta = {
        "w": measures.normal(draw, cases.CLASSES, cases.FEATURES),
        "b": measures.normal(draw, cases.CLASSES),
    }
    made = cases._supervised(logits, draw, theta, view=True)
    x = measures.direction(theta, seed)
    construction = vfunc.construct_task(made.problem, made.phi, made.problem.batches[0])
    product = mixed_product(made.problem, theta, construction, x, "reverse", hessian=True)
    assert measures.apart(matrix_at(made)(x), product.hessian) <= 1e-10


@settings(max_examples=1)
@given(seed=SEEDS)
def test_a_transformer_through_the_estimator_s_own_attention_kernel(seed):
    """sdpa, whose fast kernels have no forward mode, against differences of plain gradients."""
    made = cases.situation("qwen2", 2 * seed)
    task = vfunc.construct_task(made.problem, made.phi, made.problem.batches[0]).task
    notes = vfunc.Implicit(damping=20.0, curvature="gauss_newton", solver_tolerance=1e-7)(
        made.problem, made.theta, made.phi
    )
    assert notes.diagnostics["smallest_curvature"] >= 20.0
    x = measures.direction(made.theta, seed)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        got = matrix_at(made)(x)

    # G x is the gradient in theta of <d grad_z loss (z_0) [J x], z(theta)>, z_0 held: the slope
    # of the outputs by differences, the rest by plain gradients
    composite = made.problem.composite
    step = 1e-5
    z = composite.outputs(made.theta, task).detach()
    jx = (
        composite.outputs(measures.moved(made.theta, step, x), task)
        - composite.outputs(measures.moved(made.theta, -step, x), task)
    ).detach() / (2 * step)
    p = F.softmax(z, -1)
    middle = (p * jx - p * (p * jx).sum(-1, keepdim=True)) / task["tokens"][:, 1:].numel()
    leaves = {n: t.detach().requires_grad_() for n, t in made.theta.items()}
    outputs = composite.outputs(leaves, task)
    grads = torch.autograd.grad(outputs, list(leaves.values()), middle, materialize_grads=True)
    want = dict(zip(leaves, grads, strict=True))
    assert measures.apart(got, want) <= 1e-8


def test_outputs_that_do_not_depend_on_theta_have_no_curvature():
    made = cases.situation("mlp", 1)
    fixed = torch.zeros(5, cases.CLASSES)
    composite = vfunc.CompositeForm(lambda theta, task: fixed, made.problem.composite.loss)
    still = replace(made, problem=replace(made.problem, composite=composite))
    for differences in (False, True):
        product = matrix_at(still, differences=differences)(measures.direction(made.theta, 1))
        assert measures.size(product) == 0

"""The value of each example and token, against one gradient each."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import cases
import measures
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import vfunc
from vfunc.problem import pieces_of_code

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)


def with_parts(case, seed, optimizer="sgd"):
    """The case, its loss told term by term."""
    made = cases.situation(case, seed, optimizer)
    coefficients = made.problem.linear.coefficients

    def parts(theta, task):
        return (task["q"] * coefficients(theta, task)).sum(-1)

    return replace(made, problem=replace(made.problem, parts=parts))


@pytest.mark.parametrize("case", ["mlp", "layernorm", "qwen2"])
@given(seed=SEEDS)
def test_each_part_is_its_own_gradient_s_product_with_g_down(case, seed):
    made = with_parts(case, seed)
    values = vfunc.value_of_parts(made.problem, made.theta, made.phi)
    task = made.problem.construct(made.phi, made.problem.batches[0])
    _, g_down = vfunc.feedback_gradient(made.problem, made.theta)
    leaves = {n: x.detach().requires_grad_() for n, x in made.theta.items()}
    losses = made.problem.parts(leaves, task)
    assert values.shape == losses.shape
    assert not values.requires_grad
    for index in range(0, losses.numel(), 3):
        grads = torch.autograd.grad(
            losses.flatten()[index],
            list(leaves.values()),
            retain_graph=True,
            materialize_grads=True,
        )
        expected = made.optimizer.lr * measures.inner(g_down, dict(zip(leaves, grads, strict=True)))
        assert float(values.flatten()[index]) == pytest.approx(expected, rel=1e-9, abs=1e-14)


@given(seed=SEEDS)
def test_the_parts_add_up_to_the_value_of_first_order(seed):
    made = with_parts("mlp", seed, "adamw")
    values = vfunc.value_of_parts(made.problem, made.theta, made.phi)
    for value in ("dot", "cosine"):
        estimate = vfunc.FirstOrder(value)(made.problem, made.theta, made.phi)
        assert float(values.sum()) == pytest.approx(float(estimate.value), rel=1e-12)


def test_leaving_out_an_example_takes_its_part_off_the_value():
    made = with_parts("mlp", 3)
    values = vfunc.value_of_parts(made.problem, made.theta, made.phi)
    x, y = made.problem.batches[0]
    fewer = replace(made.problem, batches=((x[1:], y[1:]),))
    rest = float(vfunc.FirstOrder()(fewer, made.theta, made.phi).value)
    # the loss is a mean: with an example less, the others weigh more
    assert rest * (len(x) - 1) / len(x) == pytest.approx(float(values[1:].sum()), rel=1e-12)


def test_one_tangent_pass_and_no_backward_but_g_down_s():
    made = with_parts("mlp", 4)
    calls = []

    def counted(name, function):
        def call(*arguments):
            calls.append(name)
            return function(*arguments)

        return call

    problem = replace(
        made.problem,
        parts=counted("parts", made.problem.parts),
        pretrain_loss=counted("pretrain_loss", made.problem.pretrain_loss),
        feedback_loss=counted("feedback_loss", made.problem.feedback_loss),
    )
    vfunc.value_of_parts(problem, made.theta, made.phi)
    # the first time, a plain gradient holds forward mode to it, and the loss the terms
    assert calls.count("parts") == 2 and calls.count("pretrain_loss") == 1
    calls.clear()
    vfunc.value_of_parts(problem, made.theta, made.phi)
    assert sorted(calls) == ["feedback_loss", "parts"]


def test_a_problem_without_terms_or_forward_mode_is_told_so():
    made = cases.situation("mlp", 1)
    with pytest.raises(vfunc.UserError, match="give the ValueProblem `parts`"):
        vfunc.value_of_parts(made.problem, made.theta, made.phi)
    problem = replace(with_parts("mlp", 1).problem, no_second_order="flash attention")
    with pytest.raises(vfunc.UserError, match="needs forward mode: flash attention"):
        vfunc.value_of_parts(problem, made.theta, made.phi)


def test_weights_of_zero_have_no_value():
    made = with_parts("mlp", 5)

    def masked(theta, task):
        return made.problem.parts(theta, task) * F.one_hot(torch.tensor(2), len(task["x"]))

    def loss(theta, task):
        return masked(theta, task).sum()

    problem = replace(made.problem, parts=masked, pretrain_loss=loss)
    values = vfunc.value_of_parts(problem, made.theta, made.phi)
    assert values.nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("factor", [2.0, 1 / 5, -1.0])
def test_terms_that_are_not_the_loss_s_are_refused(factor):
    """A mean forgotten, or taken twice: every value would be that many times too large."""
    made = with_parts("mlp", 6)
    parts = made.problem.parts

    def other(theta, task):
        return factor * parts(theta, task)

    for _ in range(2):  # what was refused is not taken for looked at
        with pytest.raises(vfunc.UserError, match="parts must return the terms of the loss"):
            vfunc.value_of_parts(replace(made.problem, parts=other), made.theta, made.phi)


CASTS = {"theta": (torch.bfloat16, torch.float32), "logits": (torch.float32, torch.float32),
         "loss": (torch.float32, torch.bfloat16)}  # fmt: skip


@pytest.mark.parametrize("asked", ["parts", "linear"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cast", CASTS)
def test_rounding_of_a_loss_that_casts_is_no_other_loss(cast, seed, asked, monkeypatch):
    """Products in bfloat16 and terms in float32, as language models are trained."""
    monkeypatch.setattr(pieces_of_code, "_watched", OrderedDict())
    draw = measures.generator(seed)
    x, y = (measures.normal(draw, 50, n).float() for n in (4, 3))
    of_theta, of_loss = CASTS[cast]
    theta = {"W": measures.normal(draw, 4, 4).to(of_theta),
             "V": measures.normal(draw, 4, 3).to(of_theta)}  # fmt: skip
    phi = {"s": measures.normal(draw, 3).float()}

    def logits(theta, x):
        hidden = torch.tanh(x.bfloat16() @ theta["W"].bfloat16())
        return (hidden @ theta["V"].bfloat16()).to(of_loss)

    def coefficients(theta, task):
        return -3.7 * logits(theta, task["x"]).log_softmax(-1).float()

    def loss(theta, task):
        return (task["q"].to(of_loss) * -3.7 * logits(theta, task["x"]).log_softmax(-1)).sum()

    problem = vfunc.ValueProblem(
        lambda phi, x: {"x": x, "q": (x[:, :3] * phi["s"]).softmax(-1)},
        loss,
        lambda theta: (logits(theta, x).float() - y).square().mean(),
        (x,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
        linear=vfunc.LinearForm("q", coefficients),
        parts=lambda theta, task: (task["q"] * coefficients(theta, task)).sum(-1),
    )
    if asked == "linear":
        assert vfunc.FirstOrder(engine="linear")(problem, theta, phi).grad["s"].any()
    else:
        assert vfunc.value_of_parts(problem, theta, phi).any()

"""A task that follows phi without a graph, against a phi that the task does not use."""

from __future__ import annotations

from dataclasses import replace

import measures
import pytest
import torch

import vfunc
from vfunc.estimators import RandomDirection, Zero

pytestmark = pytest.mark.usefixtures("float64")


def detached(phi, x):
    return phi["s"].detach() * x


def under_no_grad(phi, x):
    with torch.no_grad():
        return phi["s"] * x


def by_numbers(phi, x):
    return x * phi["s"].sum().item()


def places(phi, x):
    return x[:, (x * phi["s"]).sum(0).argsort()]


HIDDEN = {one.__name__: one for one in (detached, under_no_grad, by_numbers, places)}


def asked(make):
    draw = measures.generator(0)
    x = measures.normal(draw, 5, 4)
    theta = {"W": measures.normal(draw, 4, 4)}
    phi = {"s": measures.normal(draw, 4), "unused": measures.normal(draw, 2)}

    def coefficients(theta, task):
        return (task["x"] @ theta["W"]).tanh() / 5

    problem = vfunc.ValueProblem(
        lambda phi, x: {"x": x, "q": make(phi, x)},
        lambda theta, task: (coefficients(theta, task) * task["q"]).sum(),
        lambda theta: (x @ theta["W"]).square().mean(),
        (x, x + 1),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
        linear=vfunc.LinearForm("q", coefficients),
    )
    return problem, theta, phi


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("engine", ["auto", "linear", "forward", "reverse", "finite_difference"])
def test_it_is_refused_by_every_engine(engine, name):
    for _ in range(2):  # what was refused is not taken for looked at
        with pytest.raises(vfunc.UserError, match=r"'q' follows phi .* without a graph") as said:
            vfunc.FirstOrder(engine=engine)(*asked(HIDDEN[name]))
    assert "\n" not in str(said.value) and len(str(said.value)) < 400
    assert "for the value alone of a frozen designer, let construct hold its" in str(said.value)


@pytest.mark.parametrize(
    "estimator",
    [
        vfunc.FirstOrder("cosine"),
        vfunc.FirstOrder("preconditioned"),
        vfunc.Unrolled(2),
        vfunc.Implicit(10.0),
        RandomDirection(),
    ],
    ids=str,
)
def test_and_by_every_estimator_that_has_a_gradient(estimator):
    with pytest.raises(vfunc.UserError, match="'q' follows phi"):
        estimator(*asked(detached))


@pytest.mark.parametrize("estimator", [vfunc.FirstOrder(), vfunc.Unrolled(2)], ids=str)
def test_a_frozen_designer_has_its_value_as_the_refusal_says(estimator):
    """Held by construct itself, beside a phi that it does not use: the value is the same."""
    problem, theta, frozen = asked(detached)
    construct, none = problem.construct, {"none": torch.zeros(1)}
    alone = replace(problem, construct=lambda phi, x: construct(frozen, x))
    found = estimator(alone, theta, none)
    expected = estimator(*asked(lambda phi, x: phi["s"] * x))
    assert float(found.value) == float(expected.value) != 0.0
    assert not found.grad["none"].any()


def drawn(phi, x):
    return x + torch.rand(5, 4)


def drawn_elsewhere(phi, x, draws=measures.generator(1)):
    return x + torch.rand(5, 4, generator=draws)


def constant(phi, x):
    return x * 2


def attacked(phi, x):
    """Moved up a frozen teacher's loss: gradients are taken within."""
    at = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(at.tanh().square().sum(), at)
    return x + 0.1 * slope.sign()


class Annealed:
    """Changes every third time it is called: as the first look and the second end, here."""

    def __init__(self):
        self.calls = 0

    def __call__(self, phi, x):
        self.calls += 1
        return x * (1 + self.calls // 4)


@pytest.mark.parametrize("make", [constant, drawn, drawn_elsewhere, attacked, Annealed()])
def test_a_phi_without_influence_has_a_gradient_of_zero(make):
    """The control of a designer that is not asked; what is drawn anew does not follow phi."""
    problem, theta, phi = asked(make)
    construction = vfunc.construct_task(problem, phi, problem.batches[0])
    state = torch.get_rng_state()
    found = vfunc.pull_back(problem, theta, construction, theta)
    assert all(not x.any() for x in found.grad.values()) and found.grad.keys() == phi.keys()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_phi_with_a_domain_is_moved_within_it(hidden):
    """Probabilities, which torch checks to be some: what is drawn by them follows them."""

    def make(phi, x):
        places = torch.distributions.Categorical(phi["s"]).sample((4,))
        return x[:, places] if hidden else x * 2

    problem, theta, phi = asked(make)
    phi = {"s": torch.tensor([0.97, 0.01, 0.01, 0.01])}
    if hidden:
        with pytest.raises(vfunc.UserError, match="'q' follows phi"):
            vfunc.FirstOrder()(problem, theta, phi)
    else:
        assert not vfunc.FirstOrder()(problem, theta, phi).grad["s"].any()


@pytest.mark.parametrize("own", [False, True])
def test_a_live_designer_under_no_grad_is_told(own):
    """It does not follow the phi that it is given: its own parameters, phi's memory, it uses."""
    designer, other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    ran = designer if own else other
    problem, theta, _ = asked(lambda phi, x: (ran(x).detach(), designer)[0])
    phi = vfunc.functional(designer).theta
    if own:
        with pytest.raises(vfunc.UserError, match="construct calls the live Linear whose param"):
            vfunc.FirstOrder()(problem, theta, phi)
    else:
        assert not vfunc.FirstOrder()(problem, theta, phi).grad["weight"].any()
    assert not designer._forward_pre_hooks


def test_one_that_is_used_in_part_has_zeros_for_the_rest():
    found = vfunc.FirstOrder()(*asked(lambda phi, x: phi["s"] * x))
    assert found.grad["s"].any() and not found.grad["unused"].any()


def test_no_gradient_is_asked_where_there_is_none():
    assert not any(x.any() for x in Zero()(*asked(detached)).grad.values())


def test_the_designer_is_asked_again_for_each_piece_of_code_once():
    problem, theta, phi = asked(constant)
    construct, calls = problem.construct, []

    def counted(phi, x):
        calls.append(1)
        return construct(phi, x)

    problem = vfunc.ValueProblem(
        counted, problem.pretrain_loss, problem.feedback_loss, problem.batches, problem.rule
    )
    counts = []
    for _ in range(2):
        calls.clear()
        vfunc.FirstOrder()(problem, theta, phi)
        counts.append(len(calls))
    assert counts == [4, 1]

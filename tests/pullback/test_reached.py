"""Losses and constructs that use live modules, and forward modes that are lost, are not silent."""

from __future__ import annotations

import dataclasses

import measures
import pytest
import torch
from torch import nn

import vfunc
from vfunc.pullback.missing import MissingDerivativeError

pytestmark = pytest.mark.usefixtures("float64")

ESTIMATORS = {
    "dot": vfunc.FirstOrder(),
    "dot by reverse": vfunc.FirstOrder(engine="reverse"),
    "dot by differences": vfunc.FirstOrder(engine="finite_difference"),
    "preconditioned": vfunc.FirstOrder("preconditioned"),
    "unrolled": vfunc.Unrolled(2),
    "implicit": vfunc.Implicit(damping=10.0),
}


class Setting:
    """A learner that weighs features by the designer."""

    def __init__(self):
        torch.manual_seed(0)
        self.live = nn.Linear(3, 3)
        self.designer = nn.Linear(3, 3)
        self.f, self.d = vfunc.functional(self.live), vfunc.functional(self.designer)
        draw = measures.generator(0)
        self.x = measures.normal(draw, 5, 3)
        self.batches = (measures.normal(draw, 6, 3), measures.normal(draw, 6, 3))

    def problem(self, **more):
        given = {
            "construct": lambda phi, b: {"x": b, "q": self.d(phi, b)},
            "pretrain_loss": lambda th, t: (self.f(th, t["x"]) - t["q"]).square().mean(),
            "feedback_loss": lambda th: self.f(th, self.x).square().mean(),
        }
        return vfunc.ValueProblem(
            **(given | more), batches=self.batches, rule=vfunc.UpdateRule(vfunc.SGD(0.1))
        )


@pytest.fixture
def at():
    return Setting()


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
class TestALiveModuleInPlaceOfWhatIsGiven:
    def test_in_the_feedback_loss(self, at, estimator):
        problem = at.problem(feedback_loss=lambda th: at.live(at.x).square().mean())
        with pytest.raises(vfunc.UserError, match="without a graph to theta"):
            estimator(problem, at.f.theta, at.d.theta)

    def test_in_the_loss_of_the_task(self, at, estimator):
        problem = at.problem(
            pretrain_loss=lambda th, t: (at.live(t["x"]) - t["q"].detach()).square().mean()
        )
        with pytest.raises(vfunc.UserError, match=r"none to\s+theta|stop-gradient"):
            estimator(problem, at.f.theta, at.d.theta)

    def test_in_the_construct(self, at, estimator):
        problem = at.problem(construct=lambda phi, b: {"x": b, "q": at.designer(b)})
        with pytest.raises(vfunc.UserError, match="'q' has a graph, and none to phi"):
            estimator(problem, at.f.theta, at.d.theta)


def test_so_does_the_linear_form(at):
    def coefficients(theta, task):
        return at.live(task["x"]).log_softmax(1)

    problem = at.problem(
        construct=lambda phi, b: {"x": b, "q": at.d(phi, b).softmax(1)},
        pretrain_loss=lambda th, t: (at.live(t["x"]).log_softmax(1) * t["q"]).sum(),
        linear=vfunc.LinearForm("q", coefficients),
    )
    with pytest.raises(vfunc.UserError, match=r"linear\.coefficients has a graph, and none to"):
        vfunc.FirstOrder()(problem, at.f.theta, at.d.theta)


def test_what_uses_neither_is_a_control_and_allowed(at):
    problem = at.problem(construct=lambda phi, b: {"x": b, "q": b.sin()})
    estimate = vfunc.FirstOrder()(problem, at.f.theta, at.d.theta)
    assert all(not x.any() for x in estimate.grad.values()) and float(estimate.value) != 0
    still = at.problem(pretrain_loss=lambda th, t: t["q"].square().mean())
    estimate = vfunc.FirstOrder()(still, at.f.theta, at.d.theta)
    assert float(estimate.value) == 0


def products(theta, task):
    """What torch's forward mode goes through as through a constant (torch 2.14)."""
    h = (task["x"] @ theta["W"]).square() + 1
    index = torch.tensor([0, 0, 1]).expand_as(h)
    return h.new_ones(len(h), 2).scatter_reduce(1, index, h, "prod").log()


def of_products(**more):
    draw = measures.generator(0)
    theta, phi = {"W": measures.normal(draw, 3, 3)}, {"a": measures.normal(draw, 3, 2)}
    x = measures.normal(draw, 4, 3)
    problem = vfunc.ValueProblem(
        lambda phi, b: {"x": b, "q": (b @ phi["a"]).softmax(1)},
        lambda th, t: (products(th, t) * t["q"]).sum(),
        lambda th: (x @ th["W"]).square().mean(),
        (x,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
        linear=vfunc.LinearForm("q", products),
    )
    return dataclasses.replace(problem, **more), theta, phi


@pytest.mark.parametrize("engine", ["linear", "forward"])
def test_a_forward_mode_that_is_lost_is_told(engine):
    with pytest.raises(MissingDerivativeError, match="not what its backward pass says"):
        vfunc.FirstOrder(engine=engine)(*of_products())


@pytest.mark.parametrize("more", [{}, {"linear": None}], ids=["linear", "plain"])
def test_and_auto_takes_another_engine(more):
    found = vfunc.FirstOrder()(*of_products(**more))
    reference = vfunc.FirstOrder(engine="finite_difference")(*of_products())
    assert found.diagnostics["engine"] == "reverse"
    assert float(found.value) != 0
    assert measures.apart(found.grad, reference.grad) < 1e-5


@pytest.mark.parametrize("engine", ["linear", "forward"])
def test_what_is_looked_at_along_no_direction_is_looked_at_again(engine):
    problem, theta, phi = of_products()
    x = problem.batches[0]
    silent = dataclasses.replace(problem, feedback_loss=lambda th: 0.0 * (x @ th["W"]).sum())
    vfunc.FirstOrder(engine=engine)(silent, theta, phi)
    with pytest.raises(MissingDerivativeError, match="not what its backward pass says"):
        vfunc.FirstOrder(engine=engine)(problem, theta, phi)


def test_a_tangent_that_is_wrong_by_a_quarter_is_told():
    def partly(theta, task):
        h = task["x"] @ theta["W"]
        return products(theta, task) + 3 * h[:, :2].square()

    problem, theta, phi = of_products()
    problem = dataclasses.replace(
        problem,
        pretrain_loss=lambda th, t: (partly(th, t) * t["q"]).sum(),
        linear=vfunc.LinearForm("q", partly),
    )
    with pytest.raises(MissingDerivativeError, match="not what its backward pass says"):
        vfunc.FirstOrder(engine="linear")(problem, theta, phi)


def test_a_tangent_of_ones_own_that_is_wrong_is_named():
    problem, theta, phi = of_products()

    def tangent(theta, w, task):
        return torch.zeros(4, 2)

    problem = dataclasses.replace(problem, linear=vfunc.LinearForm("q", products, tangent))
    with pytest.raises(
        vfunc.UserError, match=r"linear\.tangent is not the tangent of linear\.coeff"
    ):
        vfunc.FirstOrder()(problem, theta, phi)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("engine", ["auto", "linear", "forward", "reverse"])
def test_a_minimum_of_the_task_is_no_lost_tangent(engine, dtype):
    """Targets that are the learner's own prediction: the gradient is rounding, the tangent right."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 8)).to(dtype)
    f = vfunc.functional(module)
    x = torch.randn(64, 6, dtype=dtype)
    own = module(x).detach()

    def coefficients(theta, task):
        return -f(theta, task["x"]).log_softmax(-1) / len(x)

    problem = vfunc.ValueProblem(
        lambda phi, b: {"x": b, "q": (own + phi["a"]).softmax(-1)},
        lambda th, t: (coefficients(th, t) * t["q"]).sum(),
        lambda th: f(th, x)[:, 0].mean(),
        (x,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
        linear=vfunc.LinearForm("q", coefficients),
    )
    phi = {"a": torch.zeros(8, dtype=dtype)}
    found = vfunc.FirstOrder(engine=engine)(problem, f.theta, phi)
    assert found.diagnostics["engine"] == ("linear" if engine == "auto" else engine)
    assert any(x.any() for x in found.grad.values())

"""Second derivatives that are no numbers, losses that differentiate, checkpoints: told or passed."""

from __future__ import annotations

import measures
import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import vfunc
from vfunc.errors import NonFiniteError
from vfunc.pullback.missing import MissingDerivativeError

pytestmark = pytest.mark.usefixtures("float64")


def asked(loss, estimator):
    draw = measures.generator(0)
    theta, phi = {"W": measures.normal(draw, 3, 4)}, {"a": measures.normal(draw, 3)}
    x = measures.normal(draw, 5, 3)
    problem = vfunc.ValueProblem(
        lambda phi, b: {"x": b + phi["a"] * b.sin()},
        loss,
        lambda th: (x @ th["W"]).square().mean(),
        (x, measures.normal(draw, 5, 3)),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )
    return estimator(problem, theta, phi)


def padded(theta, task):
    """Rows of which one is padding: its norm is zero."""
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    return F.normalize((task["x"] @ theta["W"]) * mask[:, None], dim=-1).sum(0).square().sum()


def test_auto_goes_on_where_double_backward_is_no_number():
    found = asked(padded, vfunc.FirstOrder())
    assert found.diagnostics["engine"] == "forward"
    assert "not finite" in found.diagnostics["engine_why"]
    reference = asked(padded, vfunc.FirstOrder(engine="finite_difference"))
    assert measures.apart(found.grad, reference.grad) < 1e-6


def test_an_engine_that_is_asked_for_says_so():
    with pytest.raises(MissingDerivativeError, match="a norm, a root or a quotient at zero"):
        asked(padded, vfunc.FirstOrder(engine="reverse"))


def test_what_is_infinite_all_the_same_is_left_to_who_descends():
    def loss(theta, task):
        return (task["x"] @ theta["W"]).square().mean() * torch.tensor(torch.inf)

    found = asked(loss, vfunc.FirstOrder(engine="reverse"))
    assert not torch.isfinite(found.value)


def test_differences_that_are_no_numbers_are_told():
    here = measures.normal(measures.generator(0), 3, 4)  # where theta is

    def loss(theta, task):  # a root of what a step along w makes negative
        return task["x"].square().sum() * (1e-14 - (theta["W"] - here).square()).sqrt().mean()

    with pytest.raises(NonFiniteError, match="not finite a step of"):
        asked(loss, vfunc.FirstOrder(engine="finite_difference"))


def penalised(theta, task):
    """A loss with a gradient of its own in it: a penalty on the slope in the input."""
    x = task["x"] * 1.0
    if not x.requires_grad:
        x.requires_grad_()
    y = torch.tanh(x @ theta["W"]).sum()
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    return slope.square().sum()


@pytest.mark.parametrize("engine", ["auto", "reverse", "finite_difference"])
@pytest.mark.parametrize(
    "estimator", [vfunc.FirstOrder, lambda engine: vfunc.Unrolled(2, engine=engine)]
)
def test_a_loss_that_differentiates_within_itself(engine, estimator):
    found = asked(penalised, estimator(engine=engine))

    def by_hand(theta, task):
        h = torch.tanh(task["x"] @ theta["W"])
        return ((1 - h.square()) @ theta["W"].T).square().sum()

    reference = asked(by_hand, estimator(engine="reverse"))
    assert measures.apart(found.grad, reference.grad) < 1e-5
    assert float(found.value) == pytest.approx(float(reference.value), rel=1e-6)


def recomputed(theta, task):
    h = checkpoint(lambda x: torch.tanh(x @ theta["W"]), task["x"], use_reentrant=False)
    return F.hardsigmoid(h).square().mean()


def test_a_checkpoint_stops_no_choice_of_an_engine():
    """`hardsigmoid` has no double backward, a checkpoint no forward mode: differences do."""
    found = asked(recomputed, vfunc.FirstOrder())
    assert found.diagnostics["engine"] == "finite_difference"
    with pytest.raises(MissingDerivativeError, match="saved tensor hooks"):
        asked(recomputed, vfunc.FirstOrder(engine="forward"))

"""Gradients that are zero, absent or None: what the live optimizer makes of them is followed."""

from __future__ import annotations

import pytest
import torch

import vfunc
from vfunc.simulate import UpdateRule, from_optimizer

pytestmark = pytest.mark.usefixtures("float64")

KINDS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_what_the_loss_does_not_reach_moves_if_its_grad_is_zeros(kind, set_to_none):
    """With zeros it decays and its momentum goes on; without, it stays: over three steps."""
    live = {n: torch.full((2,), 1.5, requires_grad=True) for n in ("reached", "other")}
    optimizer = KINDS[kind](live.values())
    for p in live.values():
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    rule, state = from_optimizer(optimizer, live)
    theta = {n: p.detach().clone() for n, p in live.items()}
    problem = vfunc.ValueProblem(
        lambda phi, batch: {"a": phi["a"]},
        lambda theta, task: (theta["reached"] * task["a"]).sum(),
        lambda theta: (theta["reached"] ** 2).sum() + (theta["other"] ** 2).sum(),
        (None,) * 3,
        rule,
        state,
    )
    phi = {"a": torch.tensor([0.3, -0.7])}
    value = float(vfunc.Unrolled(3)(problem, theta, phi).value)
    for _ in range(3):
        (live["reached"] * phi["a"]).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
    assert torch.equal(live["other"], theta["other"]) is set_to_none
    fallen = problem.feedback_loss(theta) - problem.feedback_loss(live).detach()
    assert value == pytest.approx(float(fallen), rel=1e-12)


def test_zeros_enter_the_pullback_as_a_step_of_their_own():
    """The decay of what is stepped without being reached multiplies its cotangent."""
    live = {"a": torch.ones(2, requires_grad=True), "b": torch.ones(2, requires_grad=True)}
    optimizer = torch.optim.SGD(live.values(), lr=0.1, weight_decay=0.5)
    for p in live.values():
        p.grad = torch.zeros_like(p)
    rule, _ = from_optimizer(optimizer, live)
    theta, ones = {n: p.detach() for n, p in live.items()}, {n: torch.ones(2) for n in live}
    g = {"a": torch.ones(2)}
    theta_bar, _, g_bar = rule.vjp(theta, {}, g, ones, {})
    assert torch.allclose(theta_bar["b"], torch.full((2,), 0.95))
    assert not g_bar["b"].any()
    live["b"].grad = None
    theta_bar, _, _ = from_optimizer(optimizer, live)[0].vjp(theta, {}, g, ones, {})
    assert torch.equal(theta_bar["b"], ones["b"])


def test_accumulated_gradients_that_are_not_there_yet():
    """`{n: p.grad for n, p in module.named_parameters()}`: None, and names outside S."""
    live = {n: torch.ones(2, requires_grad=True) for n in ("a", "b")}
    optimizer = torch.optim.SGD(live.values(), lr=0.1)
    held = {"a": torch.full((2,), 3.0), "b": None, "outside": torch.ones(7)}
    rule, _ = from_optimizer(optimizer, live, accumulated=held, weight=0.5)
    after, _ = rule.step(live, {}, {n: torch.ones(2) for n in live})
    assert torch.allclose(after["a"], torch.full((2,), 1 - 0.35))
    assert torch.allclose(after["b"], torch.full((2,), 1 - 0.05))
    for wrong, message in (
        ({"a": torch.ones(3)}, r"accumulated\['a'\] is \(3,\); it has to be .* shape \(2,\)"),
        ({"a": 1.0}, r"accumulated\['a'\] is a float"),
        ([None], "accumulated takes gradients by the parameters' names, not a list"),
    ):
        with pytest.raises(vfunc.UserError, match=message):
            from_optimizer(optimizer, live, accumulated=wrong)
    with pytest.raises(vfunc.UserError, match=r"accumulated\['b'\] is None, not a gradient"):
        UpdateRule(vfunc.SGD(0.1), accumulated={"a": torch.ones(2), "b": None})

"""Optimizers that step otherwise than their class are refused, and whatever is missed is caught."""

from __future__ import annotations

import copy
import sys

import every_optimizer
import pytest
import torch
from every_optimizer import EVERY
from torch.optim import optimizer as optimizer_module

import vfunc
from vfunc.simulate import SGD, UpdateRule, check_rule, check_step, from_optimizer

pytestmark = pytest.mark.usefixtures("float64")


class OwnStep(torch.optim.AdamW):
    """Steps twice as far."""

    def step(self, closure=None):
        before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        loss = super().step(closure)
        after = [p for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for old, new in zip(before, after, strict=True):
                new.add_(new - old)
        return loss


class OwnGroups(torch.optim.SGD):
    """Gathers its gradients in a way of its own."""

    def _init_group(self, group, params, grads, momentum_buffer_list):
        found = super()._init_group(group, params, grads, momentum_buffer_list)
        grads[:] = [g / g.norm() for g in grads]
        return found


class Renamed(torch.optim.AdamW):
    """A subclass that changes nothing of the step."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.note = "kept"


def parameters():
    """Two live parameters."""
    return {"w": torch.ones(3, 2, requires_grad=True), "b": torch.ones(2, requires_grad=True)}


def with_pre_hook(live):
    optimizer = torch.optim.AdamW(live.values())
    optimizer.register_step_pre_hook(scale_gradients)
    return optimizer


def with_post_hook(live):
    optimizer = torch.optim.SGD(live.values(), lr=0.1)
    optimizer.register_step_post_hook(scale_gradients)
    return optimizer


def with_its_own_attribute(live):
    optimizer = torch.optim.SGD(live.values(), lr=0.1)
    optimizer.step = lambda closure=None: None
    return optimizer


def with_a_hook(live):
    live["b"].register_hook(lambda g: g / g.norm())
    return torch.optim.SGD(live.values(), lr=0.1)


def with_a_late_hook(live):
    live["w"].register_post_accumulate_grad_hook(scale_gradients)
    return torch.optim.SGD(live.values(), lr=0.1)


def with_complex(live):
    live["z"] = torch.ones(2, dtype=torch.complex128, requires_grad=True)
    return torch.optim.Adam(live.values())


def scale_gradients(*args):
    """A hook."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda live: OwnStep(live.values()), r"`step` is not that of torch.optim.AdamW \(OwnStep"),
        (
            lambda live: OwnGroups(live.values(), lr=0.1),
            r"`_init_group` is not that of torch.optim.SGD",
        ),
        (with_its_own_attribute, r"`step` is not that of torch.optim.SGD"),
        (with_pre_hook, r"AdamW has a hook, scale_gradients \(register_step_pre_hook\)"),
        (with_post_hook, r"SGD has a hook, scale_gradients \(register_step_post_hook\)"),
        (with_a_hook, r"b has a gradient hook, .*<lambda> \(register_hook\)"),
        (with_a_late_hook, r"w has a gradient hook, .* \(register_post_accumulate_grad_hook\)"),
        (with_complex, r"z is torch.complex128: simulated steps are those of real parameters"),
    ],
)
def test_what_changes_the_step_is_named(make, message):
    live = parameters()
    optimizer = make(live)
    for ask in (from_optimizer, check_step):
        with pytest.raises(vfunc.UserError, match=message) as refused:
            ask(optimizer, live)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_hooks_of_all_optimizers_are_refused(kind):
    live = parameters()
    register = getattr(optimizer_module, f"register_optimizer_step_{kind}_hook")
    handle = register(scale_gradients)
    try:
        with pytest.raises(vfunc.UserError, match=f"register_optimizer_step_{kind}_hook"):
            from_optimizer(torch.optim.SGD(live.values(), lr=0.1), live)
    finally:
        handle.remove()
    from_optimizer(torch.optim.SGD(live.values(), lr=0.1), live)


def test_a_subclass_that_changes_nothing_and_a_scheduled_step_are_read():
    live = parameters()
    optimizer = Renamed(live.values(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)  # wraps the step
    rule, _ = from_optimizer(optimizer, live)
    assert rule.eta == 0.1
    assert check_step(optimizer, live) < 1e-12
    live["w"].grad = torch.ones_like(live["w"])
    optimizer.step()
    scheduler.step()
    assert from_optimizer(optimizer, live)[0].eta == 0.05
    assert check_step(optimizer, live) < 1e-12


@pytest.mark.parametrize("case", [c for c in EVERY if c not in ("Adam fused",)])
def test_every_optimizer_passes_the_check_and_nothing_live_changes(case):
    live = every_optimizer.start(case)
    optimizer = every_optimizer.made(case, live)
    every_optimizer.walk(optimizer, live, 2)
    state = copy.deepcopy(optimizer.state_dict())
    before = {n: p.detach().clone() for n, p in live.items()}
    drawn = torch.get_rng_state()
    assert check_step(optimizer, live) < 1e-10
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in live.items())
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for key, entries in state["state"].items():
        for name, x in entries.items():
            assert torch.equal(torch.as_tensor(x), torch.as_tensor(after["state"][key][name]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_check_holds_in_every_precision(dtype):
    live = {n: p.detach().to(dtype).requires_grad_() for n, p in parameters().items()}
    optimizer = torch.optim.AdamW(live.values(), lr=1e-2)
    for _ in range(3):
        for p in live.values():
            p.grad = torch.full_like(p, 0.3)
        optimizer.step()
    check_step(optimizer, live)


def test_a_step_that_is_patched_where_nobody_looks_is_caught(monkeypatch):
    """The function below the class: no subclass and no hook, and yet another step."""
    live = parameters()
    optimizer = torch.optim.SGD(live.values(), lr=0.1)
    module = sys.modules["torch.optim.sgd"]
    inner = module.sgd

    def halved(params, grads, *args, **kwargs):
        return inner(params, [g / 2 for g in grads], *args, **kwargs)

    monkeypatch.setattr(module, "sgd", halved)
    rule, _ = from_optimizer(optimizer, live)
    assert check_rule(UpdateRule(SGD(0.1))) is None
    for ask in (lambda: check_step(optimizer, live), lambda: check_rule(rule.at(1))):
        with pytest.raises(vfunc.UserError, match=r"not the optimizer's own: .* in w by \d") as e:
            ask()
        assert "\n" not in str(e.value)


def test_a_rule_or_a_state_that_is_not_the_optimizer_s_is_caught():
    live = parameters()
    optimizer = torch.optim.AdamW(live.values(), lr=0.1)
    for _ in range(3):
        for p in live.values():
            p.grad = torch.full_like(p, 0.3)
        optimizer.step()
    with pytest.raises(vfunc.UserError, match=r"SGD\(lr=0.1.* differ in w by"):
        check_step(optimizer, live, rule=UpdateRule(SGD(0.1)))
    with pytest.raises(vfunc.UserError, match="differ in"):
        check_step(optimizer, live, state={})


def test_parameters_are_copied_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("vfunc.simulate.agreement.TOGETHER", 5)
    live = parameters() | {"more": torch.ones(1, requires_grad=True)}
    optimizer = torch.optim.RMSprop([{"params": [live["w"]]}, {"params": [live["b"]], "lr": 0.3}])
    optimizer.add_param_group({"params": [live["more"]], "momentum": 0.5})
    assert check_step(optimizer, live) < 1e-12
    assert check_step(optimizer, {"b": live["b"]}) < 1e-12

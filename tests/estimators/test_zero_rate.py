"""A learning rate of zero, the first of most warm-ups: values are zero, and nothing is undefined."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import pytest
import torch
from torch import nn

import vfunc
from vfunc import trees

pytestmark = pytest.mark.usefixtures("float64")

RULES = {
    "sgd": vfunc.SGD,
    "momentum": lambda lr: vfunc.SGD(lr, 0.9, weight_decay=0.1),
    "adamw": lambda lr: vfunc.AdamW(lr, eps=1e-2),
}


def made_at(rate, rule="sgd"):
    made = cases.situation("mlp view", 3)
    rules = RULES[rule](rate)
    return replace(made.problem, rule=vfunc.UpdateRule(rules), state={}), made.theta, made.phi


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", ["dot", "preconditioned"])
def test_a_designer_steps_as_at_any_small_rate(value, rule):
    still, small = (vfunc.FirstOrder(value)(*made_at(rate, rule)) for rate in (0.0, 1e-9))
    assert float(still.value) == 0.0 and still.scale > 0
    at_rest, moving = (trees.scale(e.grad, 1 / e.scale) for e in (still, small))
    assert measures.apart(at_rest, moving) < 1e-6


@pytest.mark.parametrize("estimator", [vfunc.FirstOrder(), vfunc.FirstOrder("preconditioned"),
                                       vfunc.FirstOrder("cosine"), vfunc.Unrolled(2),
                                       vfunc.Implicit(damping=10.0)], ids=repr)  # fmt: skip
def test_what_descends_is_finite(estimator):
    problem, theta, phi = made_at(0.0)
    live = {n: x.clone().requires_grad_() for n, x in phi.items()}
    estimate = estimator(problem, theta, phi)
    estimate.descend(live)
    assert estimate.scale > 0 and all(torch.isfinite(x.grad).all() for x in live.values())


def test_one_group_at_rest_leaves_the_unit_to_the_others():
    problem, theta, phi = made_at(0.1)
    names = list(theta)
    rules = {n: vfunc.SGD(0.0 if n == names[0] else 0.1) for n in names}
    estimate = vfunc.FirstOrder()(replace(problem, rule=vfunc.UpdateRule(rules)), theta, phi)
    assert estimate.scale == 0.1 and float(estimate.value) == float(estimate.objective)


def test_the_loop_of_the_readme_survives_a_warm_up():
    torch.manual_seed(0)
    learner, designer = nn.Linear(3, 2), nn.Linear(3, 2)
    f, d = vfunc.functional(learner), vfunc.functional(designer)
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 3))
    own = torch.optim.Adam(designer.parameters(), 1e-2)
    x, y = torch.randn(8, 3), torch.randn(8, 2)

    def loss(theta, task):
        return (f(theta, x) - task["q"]).square().mean()

    for _ in range(5):
        rule, state = vfunc.from_optimizer(optimizer, f.live)
        problem = vfunc.ValueProblem(
            lambda phi, batch: {"q": d(phi, batch)},
            loss,
            lambda theta: (f(theta, x) - y).square().mean(),
            (x,),
            rule,
            state,
        )
        own.zero_grad()
        vfunc.FirstOrder()(problem, f.theta, d.theta).descend(d.live)
        own.step()
        optimizer.zero_grad()
        loss(f.live, {"q": d(d.theta, x)}).backward()
        optimizer.step()
        scheduler.step()
    assert all(torch.isfinite(p).all() for m in (learner, designer) for p in m.parameters())


@pytest.mark.parametrize("silent", ["feedback_loss", "pretrain_loss"])
def test_a_cosine_with_a_zero_gradient_says_so(silent):
    problem, theta, phi = made_at(0.1)
    loss = getattr(problem, silent)
    zero = replace(problem, **{silent: lambda *args: 0.0 * loss(*args)}, linear=None)
    which = "g_down" if silent == "feedback_loss" else "g_pre"
    with pytest.raises(vfunc.errors.NonFiniteError, match=rf"undefined: .*\|{which}\| (is )?0\b"):
        vfunc.FirstOrder("cosine")(zero, theta, phi)


def of_groups(rates, factor, kind="SGD", steps=0, schedule=True):
    """A problem whose optimizer has two groups of these base rates, times a factor now."""
    made = cases.situation("mlp view", 3)
    live = {n: nn.Parameter(x.clone()) for n, x in made.theta.items()}
    half = len(live) // 2
    groups = [list(live.values())[:half], list(live.values())[half:]]
    given = [{"params": p, "lr": rate} for p, rate in zip(groups, rates, strict=True)]
    optimizer = getattr(torch.optim, kind)(given)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: factor if k <= steps else 1.0
    )
    for _ in range(steps):
        for p in live.values():
            p.grad = torch.ones_like(p)
        optimizer.step()
        scheduler.step()
    for p in live.values():
        p.grad = None
    more = {"schedule": scheduler} if schedule else {}
    rule, state = vfunc.from_optimizer(optimizer, live, **more)
    theta = {n: made.theta[n].clone() for n in live}
    return replace(made.problem, rule=rule, state=state), theta, made.phi


@pytest.mark.parametrize("schedule", [True, False], ids=["by a scheduler", "by its base alone"])
@pytest.mark.parametrize("value", ["dot", "preconditioned", "deflated_preconditioned"])
def test_groups_keep_their_proportion_at_rest(value, schedule):
    still, small = (
        vfunc.FirstOrder(value)(*of_groups((1.0, 1e-3), factor, schedule=schedule))
        for factor in (0.0, 1e-9)
    )
    assert float(still.value) == 0.0
    at_rest, moving = (trees.scale(e.grad, 1 / e.scale) for e in (still, small))
    assert measures.apart(at_rest, moving) < 1e-6


def test_so_does_adafactor_whose_large_steps_are_not_proportional():
    still, small = (
        vfunc.FirstOrder("preconditioned")(
            *of_groups((1.0, 1.0), factor, kind="Adafactor", steps=3)
        )
        for factor in (0.0, 1e-9)
    )
    at_rest, moving = (trees.scale(e.grad, 1 / e.scale) for e in (still, small))
    assert measures.apart(at_rest, moving) < 1e-6


def test_a_batch_without_a_domain_has_a_scale_at_rest():
    problem, theta, phi = made_at(0.0)
    silent = replace(problem, domains={"a": replace(problem, silent=True)})
    estimate = vfunc.DomainMatched(vfunc.FirstOrder())(silent, theta, phi)
    live = {n: x.clone().requires_grad_() for n, x in phi.items()}
    estimate.descend(live)
    assert estimate.scale > 0


def test_a_schedule_that_ends_is_no_error():
    made = cases.situation("mlp view", 3)
    live = {n: nn.Parameter(x.clone()) for n, x in made.theta.items()}
    optimizer = torch.optim.SGD(live.values(), lr=1.0)
    rates = [1.0, 0.5, 0.0]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: rates[k])
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    rule, state = vfunc.from_optimizer(optimizer, live, schedule=scheduler)
    problem = replace(made.problem, rule=rule, state=state)
    assert float(vfunc.FirstOrder()(problem, made.theta, made.phi).scale) == 1.0

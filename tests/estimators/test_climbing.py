"""An optimizer that climbs (`maximize`): simulated where the step is, refused where it is assumed."""

from __future__ import annotations

from dataclasses import replace

import cases
import pytest
import torch

import vfunc
from vfunc import trees

pytestmark = pytest.mark.usefixtures("float64")

SUPPOSE = {
    "dot": vfunc.FirstOrder("dot"),
    "cosine": vfunc.FirstOrder("cosine"),
    "deflated": vfunc.FirstOrder("deflated"),
    "implicit": vfunc.Implicit(),
    "implicit, damped": vfunc.Implicit(damping=10.0),
    "parts": vfunc.value_of_parts,
}
SIMULATE = {
    "preconditioned": vfunc.FirstOrder("preconditioned"),
    "unrolled": vfunc.Unrolled(1),
}


def climbing(kind):
    made = cases.situation("mlp view", 3)
    live = {n: torch.nn.Parameter(x.clone()) for n, x in made.theta.items()}
    optimizer = getattr(torch.optim, kind)(live.values(), lr=1e-2, maximize=True)
    rule, state = vfunc.from_optimizer(optimizer, live)
    problem = replace(made.problem, rule=rule, state=state)
    return problem, made.theta, made.phi


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop"])
@pytest.mark.parametrize("name", SUPPOSE)
def test_values_that_suppose_a_descent_are_refused(name, kind):
    problem, theta, phi = climbing(kind)
    with pytest.raises(vfunc.UserError, match=r"the optimizer climbs \(maximize=True\): take"):
        SUPPOSE[name](problem, theta, phi)


@pytest.mark.parametrize("name", SIMULATE)
def test_values_of_the_simulated_step_are_its_own(name):
    problem, theta, phi = climbing("SGD")
    g = torch.autograd.grad(
        problem.pretrain_loss(
            leaves := trees.leaves(theta), problem.construct(phi, problem.batches[0])
        ),
        list(leaves.values()),
    )
    after = {n: x + 1e-2 * d for (n, x), d in zip(theta.items(), g, strict=True)}
    gained = float(problem.feedback_loss(theta) - problem.feedback_loss(after))
    value = float(SIMULATE[name](problem, theta, phi).value)
    assert value == pytest.approx(gained, rel=0.2) and gained != 0


def test_one_group_that_climbs_is_enough():
    made = cases.situation("mlp view", 3)
    live = [torch.nn.Parameter(x.clone()) for x in made.theta.values()]
    groups = [{"params": live[:1], "maximize": True}, {"params": live[1:]}]
    optimizer = torch.optim.SGD(groups, lr=1e-2)
    rule, state = vfunc.from_optimizer(optimizer, dict(zip(made.theta, live, strict=True)))
    problem = replace(made.problem, rule=rule, state=state)
    with pytest.raises(vfunc.UserError, match="the optimizer climbs"):
        vfunc.FirstOrder()(problem, made.theta, made.phi)

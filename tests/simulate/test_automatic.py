"""A rule of one's own: `step` alone is written, and the adjoint is its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cases
import measures
import pytest
import torch

import vfunc
from vfunc.simulate import AutomaticRule, TensorState, UpdateRule

pytestmark = pytest.mark.usefixtures("float64")


@dataclass(frozen=True)
class Lion(AutomaticRule):
    """A smooth Lion: the tangent hyperbolic stands for the sign."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    sharpness: float = 5.0

    def step(self, p, state, g):
        m = state.buffers.get("m", torch.zeros_like(g))
        update = torch.tanh(self.sharpness * (self.betas[0] * m + (1 - self.betas[0]) * g))
        m = self.betas[1] * m + (1 - self.betas[1]) * g
        return p - self.lr * update, TensorState(state.step + 1, {"m": m})


@dataclass(frozen=True)
class Rooted(AutomaticRule):
    """Divides by a root that can be zero."""

    lr: float

    def step(self, p, state, g):
        return p - self.lr * g / ((g * g).sqrt() + 1e-8), state


@dataclass(frozen=True)
class Detached(AutomaticRule):
    """Loses its graph."""

    lr: float

    def step(self, p, state, g):
        with torch.no_grad():
            return p - self.lr * g, state


@dataclass(frozen=True)
class Stateful(AutomaticRule):
    """Keeps a buffer of another shape, and one that has no slope."""

    lr: float

    def step(self, p, state, g):
        size = state.buffers.get("size", torch.ones(1)) + g.square().sum().reshape(1)
        count = state.buffers.get("count", torch.zeros((), dtype=torch.long)) + 1
        after = p - self.lr * g / size.sqrt()
        return after, TensorState(state.step + 1, {"size": size, "count": count})


@dataclass(frozen=True)
class InPlace(AutomaticRule):
    """Changes what it is given."""

    lr: float

    def step(self, p, state, g):
        return p.sub_(self.lr * g), state


def problem_of(rule, steps):
    """A lookahead of nonlinear steps."""
    draw = measures.generator(0)
    x = measures.normal(draw, 6, 3)
    problem = vfunc.ValueProblem(
        lambda phi, batch: {"y": batch * phi["y"]},
        lambda theta, task: ((torch.tanh(x @ theta["w"]) - task["y"]) ** 2).mean(),
        lambda theta: (x @ theta["w"]).square().mean(),
        (1.0, -0.5, 2.0)[:steps],
        UpdateRule(rule),
    )
    return problem, {"w": measures.normal(draw, 3)}, {"y": measures.normal(draw, 6)}


@pytest.mark.parametrize("rule", [Lion(0.1), Stateful(0.1)], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("steps", [1, 3])
def test_unrolled_through_a_rule_with_a_step_alone(rule, steps):
    problem, theta, phi = problem_of(rule, steps)
    estimate = vfunc.Unrolled(steps)(problem, theta, phi)
    along = measures.direction(phi, 1)

    def value(t):
        return float(vfunc.Unrolled(steps)(problem, theta, measures.moved(phi, t, along)).value)

    assert measures.slope(value) == pytest.approx(
        measures.inner(estimate.grad, along), rel=1e-7, abs=1e-12
    )
    vfunc.certify(problem, theta, phi, vfunc.Unrolled(steps), directions=1, quiet=True)


@pytest.mark.parametrize(
    ("rule", "g", "message"),
    [
        (
            Rooted(0.1),
            [0.0, 1.0],
            r"derivative of Rooted.step in g is not finite in 1 of 2 entries",
        ),
        (Detached(0.1), [1.0, 1.0], r"Detached.step returns a parameter without a graph"),
    ],
)
def test_a_derivative_that_is_not_there_is_refused(rule, g, message):
    one = torch.ones(2)
    with pytest.raises(vfunc.UserError, match=message) as refused:
        rule.vjp(one, TensorState(), torch.tensor(g), one, {})
    assert "\n" not in str(refused.value)


def test_what_was_not_finite_before_is_not_the_rule_s():
    _, _, g_bar = Lion(0.1).vjp(
        torch.ones(2), TensorState(), torch.ones(2), torch.tensor([float("nan"), 1.0]), {}
    )
    assert torch.isnan(g_bar[0])


@dataclass(frozen=True)
class InPlaceBuffers(AutomaticRule):
    """Changes its momentum, by the tensor or by the entry of its state."""

    lr: float
    entry: bool = False

    def step(self, p, state, g):
        m = state.buffers["m"]
        state.buffers["m"] = m + g if self.entry else m.add_(g)
        return p - self.lr * state.buffers["m"], state


@dataclass(frozen=True)
class InPlacePullback(vfunc.AutomaticRule):
    """Scales the cotangent that it is given."""

    lr: float

    def step(self, p, state, g):
        return p - self.lr * g, state

    def vjp(self, p, state, g, p_bar, buffers_bar):
        return p_bar, {}, p_bar.mul_(-self.lr)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (InPlace(0.1), r"InPlace.step changes its p in place"),
        (InPlaceBuffers(0.1), r"InPlaceBuffers.step changes its m in place"),
        (InPlaceBuffers(0.1, entry=True), r"InPlaceBuffers.step changes 'm' of the state"),
        (InPlacePullback(0.1), r"InPlacePullback.vjp changes its p_bar in place"),
    ],
)
def test_a_rule_that_works_in_place_is_refused_before_it_reaches_the_learner(rule, message):
    theta, g, bar = ({"w": torch.full((2,), x)} for x in (1.0, 2.0, 3.0))
    m = torch.full((2,), 4.0)
    state = {"w": TensorState(1, {"m": m})}
    with pytest.raises(vfunc.UserError, match=message):
        UpdateRule(rule).step(theta, state, g)
        UpdateRule(rule).vjp(theta, state, g, bar, {})
    assert state["w"].buffers["m"] is m
    assert [float(x[0]) for x in (theta["w"], g["w"], bar["w"], m)] == [1.0, 2.0, 3.0, 4.0]


def test_the_live_optimizer_s_check_moves_nothing_either():
    w = torch.nn.Parameter(torch.ones(2))
    rule = UpdateRule({"w": InPlace(0.1)})
    with pytest.raises(vfunc.UserError, match=r"InPlace.step changes its p in place"):
        vfunc.check_step(torch.optim.SGD([w], lr=0.1), {"w": w}, rule)
    assert w.tolist() == [1.0, 1.0]


@dataclass(frozen=True)
class Returning(vfunc.AutomaticRule):
    """A step that returns what it is made with."""

    lr: float
    what: Any

    def step(self, p, state, g):
        return self.what


class Sizeless:
    def step(self, p, state, g):
        return p - 0.1 * g, state


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (torch.ones(2), "a Tensor"),
        (None, "a NoneType"),
        ((torch.ones(2), {"m": torch.ones(2)}), "a tuple of Tensor, dict"),
    ],
)
def test_a_step_that_returns_something_else_is_told(what, told):
    with pytest.raises(vfunc.UserError, match=rf"Returning.step returned {told}; it has to return"):
        UpdateRule(Returning(0.1, what)).step({"w": torch.ones(2)}, {}, {"w": torch.ones(2)})


def test_a_number_among_the_buffers_is_told():
    counts: dict[str, Any] = {}
    rule = UpdateRule(Returning(0.1, (torch.ones(2), TensorState(1, counts))))
    counts["count"] = 1  # behind the type checker of the tests
    with pytest.raises(vfunc.UserError, match=r"Returning keeps a int as its buffer 'count'"):
        rule.step({"w": torch.ones(2)}, {}, {"w": torch.ones(2)})


def test_a_rule_without_a_step_size_is_told():
    sizeless: Any = Sizeless()
    with pytest.raises(vfunc.UserError, match=r"Sizeless has no `lr`, the step size"):
        UpdateRule({"w": sizeless})


def test_clipping_by_a_bare_number_is_told():
    bare: Any = 0.5
    optimizer = torch.optim.SGD([w := torch.nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(vfunc.UserError, match=r"clip is 0.5; write vfunc.Clip\(max_norm\)"):
        vfunc.from_optimizer(optimizer, {"w": w}, clip=bare)


def test_a_state_may_hold_what_has_been_switched_off():
    w = torch.nn.Parameter(torch.ones(3))
    live = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    w.grad = torch.ones(3)
    live.step()
    live.param_groups[0]["momentum"] = 0.0
    assert vfunc.check_step(live, {"w": w}) == 0.0


@dataclass(frozen=True)
class Langevin(vfunc.AutomaticRule):
    """Steps down the gradient, and noise: a state that is made again would be another one."""

    lr: float

    def step(self, p, state, g):
        return p - self.lr * g + 0.3 * torch.randn_like(p), TensorState(state.step + 1)


def test_states_that_a_rule_draws_are_those_of_the_way_there():
    made = cases.situation("mlp", 0)
    problem = replace(
        made.problem, batches=made.problem.batches[:1] * 4, rule=UpdateRule(Langevin(0.1)), state={}
    )
    found = []
    for states in ("memory", "disk"):
        torch.manual_seed(0)
        found.append(vfunc.Unrolled(4, states=states)(problem, made.theta, made.phi))
    assert all(torch.equal(found[0].grad[n], x) for n, x in found[1].grad.items())


def test_steps_that_draw_are_not_taken_twice():
    made = cases.situation("mlp", 0)
    problem = replace(
        made.problem, batches=made.problem.batches[:1] * 4, rule=UpdateRule(Langevin(0.1)), state={}
    )
    with pytest.raises(vfunc.errors.UserError, match="checkpoint_every makes steps again"):
        vfunc.Unrolled(4, checkpoint_every=2)(problem, made.theta, made.phi)
    ask = vfunc.Unrolled(4, checkpoint_every=2, truncate=2)  # its steps are taken once
    assert ask(problem, made.theta, made.phi).grad.keys() == made.phi.keys()

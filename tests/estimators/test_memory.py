"""A lookahead holds the activations of one step, whatever the number of steps."""

from __future__ import annotations

import math
from dataclasses import replace

import cases
import measures
import pytest
import torch
from live_bytes import LiveBytes
from optimizers import Optimizer
from reference.unrolled import unrolled
from torch import nn

import vfunc
from vfunc.estimators import trajectory
from vfunc.simulate import SGD, AdamW, UpdateRule

pytestmark = pytest.mark.usefixtures("float64")

# rule, and the copies of theta's size that its state has
RULES = {"sgd": (SGD(0.01), 0), "momentum": (SGD(0.01, 0.9), 1), "adamw": (AdamW(0.01), 2)}


def network():
    """A tanh network whose activations are several times its parameters."""
    module = cases.seeded(
        lambda: nn.Sequential(
            *(layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.Tanh())), nn.Linear(8, 3)
        ),
        0,
    )
    learner = vfunc.functional(module)
    draw = measures.generator(0)
    x, labels = measures.normal(draw, 64, 8), torch.randint(0, 3, (64,), generator=draw)

    def pretrain_loss(theta, task):
        return ((learner(theta, task["x"]) - task["y"]) ** 2).mean()

    problem = vfunc.ValueProblem(
        lambda phi, x: {"x": x, "y": x @ phi["y"]},
        pretrain_loss,
        lambda theta: nn.functional.cross_entropy(learner(theta, x), labels),
        (measures.normal(draw, 64, 8),),
        UpdateRule(SGD(0.01)),
    )
    phi = {"y": measures.normal(draw, 8, 3)}
    return cases.Situation(problem, learner.theta, phi, Optimizer())


def size(params):
    """Bytes."""
    return sum(x.numel() * x.element_size() for x in params.values())


def peak(function):
    """The most bytes of tensors that were alive at once, of those that `function` made."""
    with LiveBytes() as counter:
        function()
    return counter.peak


def beyond(made, rule, copies, steps, **options):
    """Peak bytes beyond a copy of theta and optimizer state a step, in units of theta."""
    problem = replace(made.problem, batches=made.problem.batches[:1] * steps, rule=UpdateRule(rule))
    ask = vfunc.Unrolled(steps, **options)
    every = options.get("checkpoint_every", 1)
    stored = steps if every == 1 else math.ceil(steps / every) + every
    bytes_ = peak(lambda: ask(problem, made.theta, made.phi))
    return bytes_ / size(made.theta) - stored * (1 + copies)


@pytest.mark.parametrize("engine", ["reverse", "forward"])
@pytest.mark.parametrize("rule", list(RULES))
def test_peak_beyond_the_stored_states_does_not_grow_with_the_number_of_steps(rule, engine):
    made = network()
    # a lookahead of one step needs no Hessian product; from two on every step but one does
    one, two, four, sixteen = (
        beyond(made, *RULES[rule], steps, engine=engine) for steps in (1, 2, 4, 16)
    )
    assert max(four, sixteen) <= two + 0.5
    # of one step the graph is kept while L_down is computed, and no gradient twice
    assert one <= two + 2
    if engine == "reverse":  # where the Hessian product adds next to nothing to the graph
        assert max(four, sixteen) <= 1.25 * one + 2


def test_a_step_more_takes_little_more_than_its_gradient():
    made = network()

    def needed(steps):
        rule = UpdateRule(AdamW(0.01))
        problem = replace(made.problem, batches=made.problem.batches[:1] * steps, rule=rule)
        ask = vfunc.Unrolled(steps, engine="reverse")
        ask(problem, made.theta, made.phi)  # the first call of a function is watched with copies
        return peak(lambda: ask(problem, made.theta, made.phi)) / size(made.theta)

    apart = trajectory.STATES_APART
    # a gradient a step, and of one step in so many theta and its moments
    assert needed(3 * apart) - needed(2 * apart) == pytest.approx(apart + 3, abs=0.1)


@pytest.mark.parametrize("checkpoint_every", [1, 4])
def test_states_that_are_made_again_are_the_same_to_the_last_bit(checkpoint_every, monkeypatch):
    made = network()
    steps = trajectory.STATES_APART + 3
    rule = UpdateRule(AdamW(0.01), clip=vfunc.Clip(0.1))
    problem = replace(made.problem, batches=made.problem.batches[:1] * steps, rule=rule)

    def gradient():
        ask = vfunc.Unrolled(steps, checkpoint_every=checkpoint_every, engine="reverse")
        return ask(problem, made.theta, made.phi).grad["y"]

    made_again = gradient()
    monkeypatch.setattr(trajectory, "STATES_APART", 1)
    assert torch.equal(made_again, gradient())


@pytest.mark.parametrize("value", ["deflated", "deflated_preconditioned"])
def test_gradients_of_further_batches_are_held_one_at_a_time(value):
    made = network()

    def needed(count):
        problem = replace(made.problem, batches=made.problem.batches * max(count, 1))
        ask = vfunc.FirstOrder(value, engine="reverse", means=0, mean_batches=count)
        ask(problem, made.theta, made.phi)  # the first call of a function is watched with copies
        return peak(lambda: ask(problem, made.theta, made.phi)) / size(made.theta)

    plain, one, two, eight = map(needed, (0, 1, 2, 8))
    assert eight <= two + 0.5
    assert max(one, two) <= plain + 3  # the sum, and what is left of g_down; no activations


@pytest.mark.parametrize("rule", list(RULES))
def test_nor_does_it_for_a_transformer(rule):
    made = cases.situation("qwen2", 5)
    one, four, sixteen = (
        beyond(made, *RULES[rule], steps, engine="reverse") for steps in (1, 4, 16)
    )
    assert sixteen <= four + 0.5
    assert four <= 1.25 * one + 2


@pytest.mark.parametrize("rule", list(RULES))
def test_sparse_states_hold_less(rule):
    made, copies = network(), 1 + RULES[rule][1]
    every_step = beyond(made, *RULES[rule], 2, engine="reverse")
    sparse = beyond(made, *RULES[rule], 16, checkpoint_every=4, engine="reverse")
    assert sparse <= every_step + 0.5
    # nothing is stored for steps that the adjoint does not reach; s_14 is new, as s_0 is not
    cut = beyond(made, *RULES[rule], 16, truncate=2, engine="reverse") + 14 * copies
    assert cut <= every_step + copies + 0.5


@pytest.mark.parametrize("rule", list(RULES))
def test_states_on_disk_take_no_memory_a_step(rule):
    made = network()
    four, sixteen = (
        # what `beyond` takes off is not there
        beyond(made, *RULES[rule], n, states="disk", engine="reverse") + n * (1 + RULES[rule][1])
        for n in (4, 16)
    )
    assert sixteen <= four + 0.5


@pytest.mark.parametrize(("states", "most"), [("memory", 16.6), ("disk", 7.6)])
def test_an_adjoint_lets_go_of_what_it_has_read(states, most):
    """Copies of theta at K = 8 under AdamW, where activations are few: half of one more would show."""
    layers = [layer for _ in range(8) for layer in (nn.Linear(32, 32, bias=False), nn.Tanh())]
    learner = vfunc.functional(cases.seeded(lambda: nn.Sequential(*layers), 0))
    draw = measures.generator(0)
    x, y = measures.normal(draw, 2, 32), measures.normal(draw, 2, 32)
    problem = vfunc.ValueProblem(
        lambda phi, x: {"y": x * phi["a"]},
        lambda theta, task: (learner(theta, x) - task["y"]).square().mean(),
        lambda theta: (learner(theta, x) - y).square().mean(),
        (x,) * 8,
        UpdateRule(AdamW(0.01)),
    )
    phi = {"a": torch.ones(32)}
    ask = vfunc.Unrolled(8, states=states, engine="reverse")
    ask(problem, learner.theta, phi)  # the first call of a function is watched with copies
    assert peak(lambda: ask(problem, learner.theta, phi)) / size(learner.theta) < most


@pytest.mark.parametrize("case", ["network", "qwen2"])
def test_the_autograd_loop_holds_the_activations_of_every_step(case):
    """The counter notices what the adjoint avoids."""
    made = network() if case == "network" else cases.situation("qwen2", 5)
    optimizer = Optimizer(momentum=0.9, lr=0.01)

    def naive(steps):
        problem = replace(made.problem, batches=made.problem.batches[:1] * steps)
        return peak(lambda: unrolled(problem, made.theta, made.phi, optimizer, steps))

    def adjoint(steps):
        problem = replace(
            made.problem, batches=made.problem.batches[:1] * steps, rule=optimizer.rule()
        )
        ask = vfunc.Unrolled(steps, engine="reverse")
        return peak(lambda: ask(problem, made.theta, made.phi))

    adjoint(2)  # the first looks at the functions
    # bytes a further step
    assert naive(6) - naive(2) > 2.2 * (adjoint(6) - adjoint(2))
    assert naive(6) > naive(2) + 4 * 4 * size(made.theta)


def test_a_graph_that_is_kept_is_noticed(monkeypatch):
    """One designer's graph a step would show, small as it is."""
    made, rule = network(), RULES["adamw"]
    kept = []
    real = trajectory.construct_task

    def keeping(*args):
        kept.append(real(*args))
        return kept[-1]

    beyond(made, *rule, 2, engine="reverse")  # the first call of a function is watched with copies
    passed_on = beyond(made, *rule, 16, engine="reverse")
    monkeypatch.setattr(trajectory, "construct_task", keeping)
    assert beyond(made, *rule, 16, engine="reverse") > passed_on + 5


def test_the_counter_counts():
    with LiveBytes() as counter:
        a = torch.zeros(1000)
        b = a[:10].add(1.0)
        view = a.view(10, 100)
        del a, view
        c = torch.zeros(500)
    assert counter.peak == 8 * 1010
    assert counter.now == 8 * 510
    assert len(b) + len(c) == 510

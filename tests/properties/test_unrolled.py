"""The lookahead's adjoint: against the autograd loop, cut short, stored sparsely, in a subset."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import optimizers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.unrolled import unrolled

import vfunc
from vfunc.simulate import SGD, AdamW, UpdateRule

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)
SMALL = st.sampled_from(cases.SMALL)


def longer(made, steps=8):
    """The situation with more batches: its own, there and back."""
    there = made.problem.batches
    problem = replace(made.problem, batches=((*there, *reversed(there)) * steps)[:steps])
    return replace(made, problem=problem)


def same_bits(a, b):
    """Whether two estimates agree to the last bit."""
    return torch.equal(a.value, b.value) and all(torch.equal(a.grad[n], b.grad[n]) for n in a.grad)


@pytest.mark.parametrize("optimizer", list(optimizers.OPTIMIZERS))
@settings(max_examples=4)
@given(seed=SEEDS, case=SMALL, steps=st.integers(1, 8))
def test_any_number_of_steps_is_the_autograd_loop(optimizer, seed, case, steps):
    made = longer(cases.situation(case, seed, optimizer))
    estimate = vfunc.Unrolled(steps)(made.problem, made.theta, made.phi)
    value, grad = unrolled(made.problem, made.theta, made.phi, made.optimizer, steps)
    assert float(estimate.value) == pytest.approx(value, rel=1e-9, abs=1e-13)
    assert measures.apart(estimate.grad, grad) <= 1e-9
    assert estimate.approximations == ()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "clip adamw"])
@given(seed=SEEDS, case=SMALL, steps=st.integers(2, 8), data=st.data())
def test_truncation_is_the_loop_with_the_earlier_tasks_held(optimizer, seed, case, steps, data):
    made = longer(cases.situation(case, seed, optimizer))
    kept = data.draw(st.integers(1, steps - 1))
    estimate = vfunc.Unrolled(steps, truncate=kept)(made.problem, made.theta, made.phi)
    value, grad = unrolled(
        made.problem, made.theta, made.phi, made.optimizer, steps, first=steps - kept
    )
    assert float(estimate.value) == pytest.approx(value, rel=1e-9, abs=1e-13)
    assert measures.apart(estimate.grad, grad) <= 1e-9
    assert estimate.approximations == (
        f"the adjoint runs through the last {kept} of {steps} steps",
    )
    assert estimate.scale == pytest.approx(kept * made.optimizer.lr)


def test_the_earliest_step_that_is_differentiated_needs_no_hessian():
    """Not even where steps come before it: an engine that has none will do."""
    made = longer(cases.situation("mlp", 4, "adamw"))
    cut, linear = (
        vfunc.Unrolled(5, truncate=1, engine=engine)(made.problem, made.theta, made.phi)
        for engine in ("reverse", "linear")
    )
    assert measures.apart(linear.grad, cut.grad) <= 1e-12


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
@given(seed=SEEDS, case=SMALL)
def test_the_distance_to_the_exact_gradient_falls_as_the_truncation_grows(optimizer, seed, case):
    """On one batch with small steps the terms of the sum are nearly one another's equals."""
    made = cases.situation(case, seed, optimizer)
    gentle = replace(made.optimizer, lr=0.1 * made.optimizer.lr)
    problem = replace(made.problem, batches=made.problem.batches[:1] * 6, rule=gentle.rule())
    exact = vfunc.Unrolled(6)(problem, made.theta, made.phi)
    cut = [vfunc.Unrolled(6, truncate=k)(problem, made.theta, made.phi) for k in range(1, 7)]
    distances = [measures.apart(estimate.grad, exact.grad) for estimate in cut]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.3
    assert same_bits(cut[-1], exact)
    assert cut[-1].approximations == ()
    assert cut[-1].scale == exact.scale


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "accumulate", "adamw", "clip adamw"])
@given(seed=SEEDS, case=SMALL, steps=st.integers(2, 8), data=st.data())
def test_states_made_again_give_the_same_bits(optimizer, seed, case, steps, data):
    made = longer(cases.situation(case, seed, optimizer))
    kept = data.draw(st.integers(1, steps))
    every = data.draw(st.integers(1, kept))
    stored = vfunc.Unrolled(steps, truncate=kept)(made.problem, made.theta, made.phi)
    sparse = vfunc.Unrolled(steps, truncate=kept, checkpoint_every=every)(
        made.problem, made.theta, made.phi
    )
    assert same_bits(stored, sparse)
    if kept > 1:
        written = vfunc.Unrolled(steps, truncate=kept, checkpoint_every=every, states="disk")
        assert same_bits(stored, written(made.problem, made.theta, made.phi))


@given(seed=SEEDS, steps=st.integers(1, 4))
def test_a_subset_is_the_whole_with_frozen_steps_outside(seed, steps):
    """Over all parameters, the steps outside S frozen: w is zero there, and S decides alone."""
    module = cases.seeded(cases.NormedNetwork, seed)
    everything, part = vfunc.functional(module, "all"), vfunc.functional(module, "last:1")
    whole = cases._supervised(everything, measures.generator(seed), everything.theta, view=True)
    some = cases._supervised(part, measures.generator(seed), part.theta, view=True)
    moving, frozen = AdamW(0.02, eps=1e-2), SGD(0.0)
    rules = {n: moving if n in part.names else frozen for n in everything.names}
    ask = vfunc.Unrolled(steps)
    estimate = ask(replace(some.problem, rule=UpdateRule(moving)), some.theta, some.phi)
    wider = ask(replace(whole.problem, rule=UpdateRule(rules)), whole.theta, whole.phi)
    assert float(wider.value) == pytest.approx(float(estimate.value), rel=1e-11)
    assert measures.apart(wider.grad, estimate.grad) <= 1e-11


@given(seed=SEEDS, case=SMALL, steps=st.integers(1, 3))
def test_the_predicted_second_order_term_is_right_to_third_order(seed, case, steps):
    made = cases.situation(case, seed)
    etas, missing = [4e-3, 2e-3, 1e-3], []
    for eta in etas:
        problem = replace(made.problem, rule=UpdateRule(SGD(eta)))
        ask = vfunc.Unrolled(steps, series=True)
        notes = ask(problem, made.theta, made.phi).diagnostics
        missing.append(abs(notes["second_order_predicted"] - notes["second_order_actual"]))
        # the term itself is of second order: not a rounding of nothing
        assert abs(notes["second_order_actual"]) > 10 * missing[-1]
    assert missing[0] / missing[1] == pytest.approx(8, rel=0.2)
    assert missing[1] / missing[2] == pytest.approx(8, rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lookahead_steps": 0}, "lookahead_steps must be at least 1, not 0"),
        ({"lookahead_steps": 3, "truncate": 4}, "truncate must be from 1 to lookahead_steps, 3"),
        ({"lookahead_steps": 3, "truncate": 0}, "truncate must be at least 1, not 0"),
        ({"lookahead_steps": 3, "checkpoint_every": 4}, "from 1 to the 3 steps .* not 4"),
        (
            {"lookahead_steps": 3, "checkpoint_every": 0},
            "checkpoint_every must be at least 1, not 0",
        ),
        ({"lookahead_steps": 5, "truncate": 2, "checkpoint_every": 3}, "the 2 steps .* not 3"),
        ({"lookahead_steps": 1, "states": "disk"}, "disk does nothing where one step"),
        ({"lookahead_steps": 5, "truncate": 1, "states": "disk"}, "disk does nothing where one"),
    ],
)
def test_numbers_of_steps_that_make_no_sense_are_refused(options, message):
    with pytest.raises(vfunc.UserError, match=message):
        vfunc.Unrolled(**options)


def test_what_an_engine_says_of_its_passes_is_the_worst_over_the_steps():
    made = longer(cases.situation("mlp", 3))

    class Noting(type(vfunc.ENGINES["reverse"])):
        """Says a number of its own at every pass."""

        def __call__(self, *args, **kwargs):
            product = super().__call__(*args, **kwargs)
            return replace(product, diagnostics={"fd_disagreement": spoken.pop(0), "constant": 7.0})

    for said, worst in (([1.0, 3.0, 2.0], 3.0), ([1.0, float("nan"), 2.0], float("nan"))):
        spoken = list(said)
        notes = vfunc.Unrolled(3, engine=Noting())(made.problem, made.theta, made.phi).diagnostics
        assert notes["fd_disagreement"] == pytest.approx(worst, nan_ok=True)
        assert notes["constant"] == 7.0

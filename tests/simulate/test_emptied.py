"""A pullback that lets go of what it has read: the same numbers, from dicts that it may empty."""

from __future__ import annotations

import pytest
import torch

from vfunc.simulate import SGD, Adam, AdamW, Clip, TensorState, UpdateRule

RULES = {
    "momentum": SGD(0.1, 0.9),
    "adamw": AdamW(0.1),
    "amsgrad": Adam(0.1, weight_decay=0.1, amsgrad=True),
}
AROUND = {
    "alone": {},
    "clipped": {"clip": Clip(0.1)},
    "weighted": {"weight": 0.5},
    "accumulated": {"accumulated": {"a": torch.ones(2, 3), "held": torch.ones(4)}, "weight": 0.5},
    "clipped, accumulated": {"clip": Clip(0.1), "accumulated": {"b": torch.ones(3)}},
}
SHAPES = {"a": (2, 3), "b": (3,), "held": (4,)}
BUFFERS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")


def asked():
    """theta, state, g and the cotangents; `held` has no gradient of its own."""
    draw = torch.Generator().manual_seed(0)

    def drawn():
        return {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}

    theta, g, theta_bar = drawn(), drawn(), drawn()
    del g["held"]
    states = {name: TensorState(3, {}) for name in SHAPES}
    bars = {name: {} for name in SHAPES}
    for buffer in BUFFERS:
        values, cotangents = drawn(), drawn()
        for name in SHAPES:
            states[name].buffers[buffer] = values[name].abs()
            bars[name][buffer] = cotangents[name]
    return theta, states, g, theta_bar, bars


def keep(rule, question):
    """The question with the buffers that the rule has."""
    theta, states, g, theta_bar, bars = question
    _, moved = rule.step(theta, {n: TensorState(0, {}) for n in theta}, g | {"held": theta["held"]})
    own = {name: set(moved[name].buffers) for name in theta}
    states = {
        n: TensorState(s.step, {k: x for k, x in s.buffers.items() if k in own[n]})
        for n, s in states.items()
    }
    bars = {n: {k: x for k, x in b.items() if k in own[n]} for n, b in bars.items()}
    return theta, states, g, theta_bar, bars


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", RULES)
def test_the_numbers_are_the_same_to_the_last_bit(name, around):
    rule = UpdateRule(RULES[name], **AROUND[around])
    theta, states, g, theta_bar, bars = keep(UpdateRule(RULES[name]), asked())
    before = [dict(x) for x in (states, g, theta_bar, bars)]
    want = rule.vjp(theta, states, g, theta_bar, bars)
    for given, was in zip((states, g, theta_bar, bars), before, strict=True):
        assert given.keys() == was.keys() and all(given[n] is was[n] for n in was)
    got = rule.vjp(theta, states, g, theta_bar, bars, emptied=True)
    for ours, theirs in zip((got[0], got[2]), (want[0], want[2]), strict=True):
        assert list(ours) == list(theirs) == list(theta)
        assert all(torch.equal(ours[n], theirs[n]) for n in theirs)
    assert got[1].keys() == want[1].keys()
    for n, buffers in want[1].items():
        assert buffers.keys() == got[1][n].keys()
        assert all(torch.equal(got[1][n][k], x) for k, x in buffers.items())
    assert not {"a", "b"} & {*states, *theta_bar, *bars}
    # a window or clipping makes another dict of the gradient, or reads it once more
    assert set(g) == (set() if around == "alone" else {"a", "b"})

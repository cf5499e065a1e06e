"""A float64 transformer is only as exact as its own casts allow."""

from __future__ import annotations

import contextlib

import cases
import measures
import pytest
import torch
import torch.nn.functional as F

import vfunc
from vfunc.float64 import keep_float64

pytestmark = pytest.mark.usefixtures("float64")


def disagreement(around, attention):
    """Of a directional derivative of a float64 Qwen2's loss with finite differences, relative."""
    learner = vfunc.functional(cases.tiny_qwen2(1, attention), "all")
    tokens = torch.randint(0, cases.VOCABULARY, (2, 7), generator=measures.generator(1))

    def loss(theta):
        with around():
            logits = learner(theta, input_ids=tokens[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    theta = {n: x.requires_grad_() for n, x in learner.theta.items()}
    g = dict(zip(theta, torch.autograd.grad(loss(theta), list(theta.values())), strict=True))
    along = measures.direction(theta, 2)
    with torch.no_grad():
        fd = measures.slope(lambda h: float(loss(measures.moved(theta, h, along))))
    return abs(fd - measures.inner(g, along)) / measures.size(g)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_finite_differences_agree_with_it_and_not_without(attention):
    assert disagreement(keep_float64, attention) < 1e-8
    assert disagreement(contextlib.nullcontext, attention) > 1e-7


def test_only_float64_tensors_are_kept():
    with keep_float64():
        double, single = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float32)
        assert double.float().dtype == torch.float64
        assert double.to(torch.float32).dtype == torch.float64
        assert double.to(dtype=torch.float32).dtype == torch.float64
        assert F.softmax(double, -1, dtype=torch.float32).dtype == torch.float64
        assert double.sum(dtype=torch.float32).dtype == torch.float64
        assert double.to(torch.bfloat16).dtype == torch.bfloat16
        assert single.to(torch.bfloat16).float().dtype == torch.float32
        assert torch.arange(3).float().dtype == torch.float32
        assert torch.zeros(2, dtype=torch.float32).dtype == torch.float32
    assert double.float().dtype == torch.float32

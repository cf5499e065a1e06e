"""Soft cross-entropy: against torch's, its own plain form, and the one-hot baseline bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import vfunc.language.soft_targets.soft_loss as module
from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_targets.candidates import observe
from vfunc.language.soft_targets.soft_loss import (
    candidate_log_probs,
    position_weights,
    soft_cross_entropy,
)


def drawn(seed, b=2, t=5, v=11, k=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(b, t, v, generator=g, dtype=dtype)
    candidates = torch.stack([torch.randperm(v, generator=g)[:k] for _ in range(b * t)]).view(
        b, t, k
    )
    q = torch.rand(b, t, k, generator=g, dtype=dtype)
    predict = torch.rand(b, t, generator=g) > 0.3
    predict[0, 0] = True
    return logits, candidates, q / q.sum(-1, keepdim=True), predict


@given(st.integers(0, 10**6))
def test_equals_torch_cross_entropy_with_probabilities(seed):
    logits, candidates, q, predict = drawn(seed)
    full = torch.zeros_like(logits).scatter(-1, candidates, q)
    expected = torch.nn.functional.cross_entropy(logits[predict], full[predict])
    ours = soft_cross_entropy(logits, candidates, q, position_weights(predict).double())
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_written_gradient_equals_autograds_in_any_chunking(seed, elements):
    logits, candidates, q, predict = drawn(seed)
    weight = torch.rand(predict.shape, dtype=torch.float64) * predict
    plain = logits.clone().requires_grad_()
    loss = -(weight[..., None] * q * candidate_log_probs(plain, candidates, weight)).sum()
    (expected,) = torch.autograd.grad(2.5 * loss, plain)
    ours = logits.clone().requires_grad_()
    before, module.CPU_CHUNK_ELEMENTS = module.CPU_CHUNK_ELEMENTS, elements
    try:
        value = soft_cross_entropy(ours, candidates, q, weight)
        (gradient,) = torch.autograd.grad(2.5 * value, ours)
    finally:
        module.CPU_CHUNK_ELEMENTS = before
    torch.testing.assert_close(value, loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_mass_on_the_true_token_is_the_baseline_bit_for_bit(dtype):
    logits, candidates, q, predict = drawn(3, b=4, t=9, v=64, k=16, dtype=torch.float32)
    logits = logits.to(dtype)
    weight = position_weights(predict)
    one_hot = torch.zeros_like(q)
    one_hot[..., 0] = 1.0
    results = []
    for ids, target in ((candidates, one_hot), (candidates[..., :1], one_hot[..., :1])):
        x = logits.clone().requires_grad_()
        loss = soft_cross_entropy(x, ids, target, weight)
        loss.backward()
        results.append((loss.detach(), x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_low_precision_logits_are_reduced_in_float32():
    logits, candidates, q, predict = drawn(5, v=200, dtype=torch.float32)
    rounded = logits.bfloat16()
    weight = position_weights(predict)
    exact = soft_cross_entropy(rounded.double(), candidates, q.double(), weight)
    ours = soft_cross_entropy(rounded, candidates, q, weight)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_observe_has_seen_is_not_computed_again_and_is_the_same_bit_for_bit(dtype):
    logits, _, _, predict = drawn(4, b=3, t=9, v=300, k=8, dtype=torch.float32)
    batch = TokenBatch(torch.randint(0, 300, (3, 10)), predict, torch.zeros_like(predict))
    logits, weight = logits.to(dtype), position_weights(predict)
    seen = observe(logits, batch, 8)
    q = seen.log_probs.softmax(-1)
    results = []
    for known in (None, (seen.log_probs, seen.normaliser)):
        x = logits.clone().requires_grad_()
        loss = soft_cross_entropy(x, seen.candidates, q, weight, known)
        loss.backward()
        results.append((loss.detach(), x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    with _Calls() as calls:
        soft_cross_entropy(x, seen.candidates, q, weight, (seen.log_probs, seen.normaliser))
    assert "aten::logsumexp" not in calls.names


class _Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the operations that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


class _Sizes(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the largest float32 tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float32:
            self.largest = max(self.largest, out.numel())
        return out


def test_full_vocabulary_float32_never_exists(monkeypatch):
    b, t, v, k = 2, 32, 500, 4
    logits, candidates, q, predict = drawn(1, b, t, v, k, torch.float32)
    monkeypatch.setattr(module, "CPU_CHUNK_ELEMENTS", 4 * v)
    weight = position_weights(torch.ones_like(predict))
    x = logits.bfloat16().requires_grad_()
    with _Sizes() as sizes:
        soft_cross_entropy(x, candidates, q, weight).backward()
    assert sizes.largest <= 4 * v
    with _Sizes() as sizes:
        candidate_log_probs(x.detach(), candidates, weight)
    assert sizes.largest <= 4 * v


class Large(TorchDispatchMode):
    """Counts new tensors of at least so many entries."""

    def __init__(self, entries):
        super().__init__()
        self.entries, self.count = entries, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out._base is None and out.numel() >= self.entries:
            self.count += 1
        return out


@pytest.mark.parametrize("live", [slice(None), slice(0, None, 3), slice(9, 20)])
def test_chunks_do_not_each_have_a_gradient_of_all_logits(monkeypatch, live):
    b, t, v, k = 2, 16, 50, 3
    torch.manual_seed(0)
    logits = torch.randn(b, t, v, requires_grad=True)
    candidates = torch.randint(v, (b, t, k))
    weight = torch.zeros(b * t)
    weight[live] = 1.0
    weight, along = weight.view(b, t), torch.randn(b, t, k)
    found = {}
    for rows in (2, 5, b * t):  # a chunk
        monkeypatch.setattr(module, "CPU_CHUNK_ELEMENTS", rows * v)
        log_p = candidate_log_probs(logits, candidates, weight)
        with Large(logits.numel()) as large:
            (grad,) = torch.autograd.grad((log_p * along).sum(), logits)
        found[rows] = log_p.detach(), grad
        if rows < b * t:  # of one chunk, all its arithmetic is as large
            assert large.count <= 2
    for log_p, grad in found.values():
        assert torch.equal(log_p, found[2][0]) and torch.equal(grad, found[2][1])
    wanted = logits.log_softmax(-1).gather(-1, candidates) * (weight > 0).unsqueeze(-1)
    torch.testing.assert_close(found[2][0], wanted)


def test_targets_with_a_graph_are_refused():
    logits, candidates, q, predict = drawn(0)
    with pytest.raises(ValueError, match="detached"):
        soft_cross_entropy(
            logits, candidates, q.requires_grad_(), position_weights(predict).double()
        )


def test_nothing_predicted_is_a_zero_loss_without_a_gradient():
    logits, candidates, q, predict = drawn(0)
    weight = position_weights(torch.zeros_like(predict)).double()
    x = logits.requires_grad_()
    loss = soft_cross_entropy(x, candidates, q, weight)
    loss.backward()
    assert float(loss.detach()) == 0.0 and not bool(x.grad.any())
    assert not bool(candidate_log_probs(logits.detach(), candidates, weight).any())


@pytest.mark.parametrize("kept", ["all", "some", "few"])
def test_rows_that_are_read_in_place_are_left_as_they_are(kept, monkeypatch):
    """Side by side they are a view of the learner's own logits, apart a copy."""
    monkeypatch.setattr(module, "CPU_CHUNK_ELEMENTS", 3 * 50)  # three rows at a time
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 7, 50, generator=draw)
    predict = torch.ones(2, 7, dtype=torch.bool)
    if kept != "all":
        predict = torch.rand(2, 7, generator=draw) < (0.7 if kept == "some" else 0.2)
    tokens = torch.randint(50, (2, 8), generator=draw)
    batch = TokenBatch(tokens, predict, torch.zeros_like(predict))
    before = logits.clone()
    seen = observe(logits, batch, 5)
    assert torch.equal(logits, before)
    q = torch.rand(2, 7, 5, generator=draw)
    weight = position_weights(predict)
    live = logits.clone().requires_grad_()
    known = (seen.log_probs, seen.normaliser)
    loss = soft_cross_entropy(live, seen.candidates, q, weight, known)
    (found,) = torch.autograd.grad(loss, live)
    assert torch.equal(live.detach(), before)
    wide = logits.double().requires_grad_()
    log_p = wide.log_softmax(-1)
    picked = log_p.gather(-1, seen.candidates)
    exact = -(weight[..., None] * q * picked).sum()
    (wanted,) = torch.autograd.grad(exact, wide, retain_graph=True)
    assert torch.allclose(found.double(), wanted, atol=1e-7)
    entropy = torch.where(predict, -(log_p.exp() * log_p).sum(-1), 0.0)
    assert torch.allclose(seen.entropy.double(), entropy.detach(), atol=1e-5)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)

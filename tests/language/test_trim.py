"""Logits at predicted positions alone are rows of all logits, in everything that is made of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vfunc.language.data.examples import TokenBatch
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.evaluation.held_out import held_out_loss
from vfunc.language.loading import load_learner, with_lora
from vfunc.language.soft_targets.candidates import observe
from vfunc.language.soft_targets.soft_loss import (
    candidate_log_probs,
    next_token_loss,
    rows_of,
    soft_cross_entropy,
    weights_of,
)
from vfunc.language.trimmed.trim import WHOLE, Trim, logits_by_rows

TOKENS = 13


@pytest.fixture(scope="module")
def learner():
    return load_learner(str(EMBEDDED_LEARNER))[0].double()


def batch_of(seed, b=3, t=6, most=TOKENS):
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(most, (b, t + 1), generator=g)
    predict = torch.rand(b, t, generator=g) > 0.6
    return TokenBatch(tokens, predict, torch.zeros_like(predict))


@given(st.integers(0, 10**6))
def test_what_is_made_of_logits_needs_those_of_predicted_positions_alone(seed):
    batch, g = batch_of(seed), torch.Generator().manual_seed(seed)
    whole = torch.randn(3, 6, TOKENS, generator=g, dtype=torch.float64)
    some = whole.flatten(0, 1)[batch.predicted_rows]
    one, other = observe(whole, batch, 4), observe(some, batch, 4)
    for name, found in vars(one).items():
        assert (found is None) or torch.equal(found, getattr(other, name)), name
    weight = weights_of(batch)
    log_p = candidate_log_probs(whole, one.candidates, weight)
    assert torch.equal(log_p, candidate_log_probs(some, one.candidates, weight))
    q = torch.rand(log_p.shape, generator=g, dtype=torch.float64)
    for known in (None, (one.log_probs, one.normaliser)):
        grads = []
        for logits in (whole, some):
            x = logits.clone().requires_grad_()
            loss = soft_cross_entropy(x, one.candidates, q, weight, known)
            grads.append((loss.detach(), *torch.autograd.grad(loss, x)))
        assert torch.equal(grads[0][0], grads[1][0])
        assert torch.equal(grads[0][1].flatten(0, 1)[batch.predicted_rows], grads[1][1])


def test_logits_of_another_number_of_positions_are_refused():
    batch = batch_of(0)
    short = torch.zeros(len(batch.predicted_rows) - 1, TOKENS)
    for made in (lambda: observe(short, batch, 4), lambda: next_token_loss(short, batch)):
        with pytest.raises(ValueError, match="are predicted"):
            made()
    assert rows_of(torch.zeros(0, TOKENS), torch.zeros(0, dtype=torch.long))[0].shape == (0, TOKENS)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_learners_logits_at_rows(learner, adapted):
    module = with_lora(learner, 2, 4.0, 0.0) if adapted else learner
    assert logits_by_rows(module)
    batch = batch_of(1, most=300)
    trim, rows = Trim(rows=True), batch.predicted_rows
    whole = module(input_ids=batch.inputs).logits
    with trim.applied(module, rows):
        some = module(input_ids=batch.inputs).logits
    torch.testing.assert_close(some, whole.flatten(0, 1)[rows], rtol=1e-12, atol=1e-12)
    with WHOLE.applied(module, rows), trim.applied(module):
        assert torch.equal(module(input_ids=batch.inputs).logits, whole)
    assert torch.equal(module(input_ids=batch.inputs).logits, whole)  # and the module is as it was
    if adapted:
        module.unload()


class Behind(nn.Module):
    """A learner that does something to its logits behind the head."""

    def __init__(self, learner, then):
        super().__init__()
        self.learner, self.then = learner, then

    def get_output_embeddings(self):
        return self.learner.get_output_embeddings()

    def forward(self, **inputs):
        output = self.learner(**inputs)
        output.logits = self.then(output.logits)
        return output


@pytest.mark.parametrize(
    ("then", "by_rows"),
    [
        (lambda x: 30 * torch.tanh(x / 30), True),
        (lambda x: x - x.mean(1, keepdim=True), False),
        (lambda x: x - x.mean(0, keepdim=True), False),
        (lambda x: x.view(2, 3, -1), False),
        (lambda x: x[:, :, :378], False),
    ],
    ids=["capped", "over positions", "over texts", "a shape", "an index"],
)
def test_what_looks_at_all_logits_gets_all(learner, then, by_rows):
    assert logits_by_rows(Behind(learner, then)) is by_rows


def test_a_learner_without_a_head_is_left_whole():
    assert not logits_by_rows(nn.Linear(2, 2))


def test_held_out_losses_are_the_same(learner):
    batches = [batch_of(seed, most=300) for seed in (2, 3)]
    for batch in batches:
        batch.predict[:, -1] = True
    device = torch.device("cpu")
    masks = {"even": [batch.next_tokens % 2 == 0 for batch in batches]}
    whole = held_out_loss(learner, batches, device, None, masks)
    some = held_out_loss(learner, batches, device, None, masks, Trim(rows=True))
    assert whole.covered["even"].hits == some.covered["even"].hits
    assert whole.covered["even"].loss == pytest.approx(some.covered["even"].loss, rel=1e-9)
    assert whole.tokens == some.tokens
    assert whole.per_example == pytest.approx(some.per_example, rel=1e-9)

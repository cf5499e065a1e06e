"""Targets in closed form, and arms that step on labels: what designers are measured against."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from small_run import new_run

from vfunc import trees
from vfunc.language.data.examples import TokenBatch
from vfunc.language.data.sequences import MixedStream, TokenStream
from vfunc.language.data.tokenise import Encoded, EncodedSet
from vfunc.language.soft_targets.candidates import ObservedBatch, observe
from vfunc.language.soft_targets.oracle import candidate_values, oracle_targets, tilted_targets
from vfunc.language.soft_targets.soft_loss import weights_of
from vfunc.language.soft_targets.targets import TargetForm
from vfunc.problem import known_feedback
from vfunc.training.step import feedback_at

V, K = 11, 4


def seen(seed, b=2, t=5):
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (b, t + 1), generator=draw)
    predict = torch.rand(b, t, generator=draw) > 0.3
    predict[0, 0] = True
    batch = TokenBatch(tokens, predict, torch.zeros_like(predict))
    logits = 2 * torch.randn(b, t, V, generator=draw)
    observed = ObservedBatch(batch, observe(logits, batch, K))
    return observed, 3 * torch.randn(b, t, K, generator=draw)


def feasible(form, own, draw):
    """A random target of the form."""
    alpha = form.alpha_max * torch.rand(*own.shape[:-1], 1, generator=draw)
    alpha = alpha * (torch.rand(alpha.shape, generator=draw) > 0.3)
    if form.form == "gate":
        r = own
    elif form.form == "free":
        r = (4 * torch.randn(own.shape, generator=draw)).softmax(-1)
    else:
        shift = form.shift_bound * (2 * torch.rand(own.shape, generator=draw) - 1)
        sign = torch.rand(own.shape[:-1], generator=draw) > 0.5
        corner = form.shift_bound * shift.sign()
        r = (own.log() + torch.where(sign[..., None], corner, shift)).softmax(-1)
    truth = F.one_hot(torch.zeros(own.shape[:-1], dtype=torch.long), K).to(own)
    return (1 - alpha) * truth + alpha * r


@given(
    st.integers(0, 10**6),
    st.sampled_from(["gate", "bounded", "free"]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_no_feasible_target_is_worth_more(seed, name, alpha_max):
    form = TargetForm(name, alpha_max=alpha_max, shift_bound=1.0)
    observed, u = seen(seed)
    q, alpha = oracle_targets(form, observed, u)
    torch.testing.assert_close(q.sum(-1), torch.ones(q.shape[:-1]))
    assert bool(((alpha == 0) | (alpha == alpha_max)).all())
    best = (q * u).sum(-1)
    own = observed.observation.log_probs.softmax(-1)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(30):
        rival = (feasible(form, own, draw) * u).sum(-1)
        assert bool((rival <= best + 1e-5).all())


def test_the_oracle_is_itself_feasible():
    observed, u = seen(3)
    own = observed.observation.log_probs.softmax(-1)
    q, alpha = oracle_targets(TargetForm("bounded", alpha_max=1.0, shift_bound=0.7), observed, u)
    shift = q.clamp(min=1e-30).log() - own.log()
    spread = (shift - shift.amin(-1, keepdim=True))[alpha == 1]
    assert float(spread.amax()) == pytest.approx(1.4, abs=1e-4)  # from -0.7 to 0.7
    moved = oracle_targets(TargetForm("gate", alpha_max=0.5), observed, u)[0]
    truth = F.one_hot(torch.zeros(own.shape[:-1], dtype=torch.long), K).to(own)
    r = 2 * (moved - 0.5 * truth)
    opened = (own * u).sum(-1) > u[..., 0]
    torch.testing.assert_close(r[opened], own[opened])
    torch.testing.assert_close(moved[~opened], truth[~opened])


@given(st.integers(0, 10**6), st.sampled_from([0.05, 1.0, 5.0]))
def test_the_tilted_target_is_the_optimum_of_a_trust_region(seed, tilt):
    observed, u = seen(seed)
    q, off = tilted_targets(observed, u, tilt)
    own = observed.observation.log_probs.softmax(-1)
    price = u.abs()[observed.batch.predict].mean() / tilt

    def worth(q):
        return (q * u).sum(-1) - price * (q * (q / own).log()).sum(-1)

    draw = torch.Generator().manual_seed(seed)
    for _ in range(20):
        rival = (q.log() + 0.3 * torch.randn(q.shape, generator=draw)).softmax(-1)
        assert bool((worth(rival) <= worth(q) + 1e-4 * price).all())
    torch.testing.assert_close(off, 1 - q[..., 0])
    torch.testing.assert_close(tilted_targets(observed, u, 1e-6)[0], own, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("align", ["all", "last:1"])
def test_values_are_plain_derivatives_of_log_probabilities(align):
    run = new_run("oracle", align=align)
    workload, learner = run.workload, run.state.learner
    feedback = feedback_at(run, 0)
    known = known_feedback(feedback.downstream.loss, feedback.theta, workload.processes)
    forward = workload.forward(learner, workload.batch(0), observe=True, estimated=run.estimated)
    observed = forward.observed
    u = candidate_values(run.estimated, observed, known.gradient)
    leaves = run.state.functional.live
    logits = learner(input_ids=observed.batch.inputs).logits
    log_p = logits.log_softmax(-1).gather(-1, observed.observation.candidates)
    where = weights_of(observed.batch).nonzero()
    for row, t in where[:: max(1, len(where) // 4)].tolist():
        for k in (0, 2):
            grads = torch.autograd.grad(
                log_p[row, t, k], list(leaves.values()), retain_graph=True, allow_unused=True
            )
            single = -sum(
                float((g * known.gradient[name]).sum())
                for name, g in zip(leaves, grads, strict=True)
                if g is not None
            )
            assert float(u[row, t, k]) == pytest.approx(single, rel=2e-3, abs=2e-3)
    assert not bool(u[weights_of(observed.batch) == 0].any())
    assert trees.is_finite({"u": u})


def stream_of(first, count, seed):
    """A stream of sequences whose first token tells which one it is."""
    sequences = tuple(
        Encoded(torch.tensor([first + i, 1, 2], dtype=torch.int32), 1, torch.zeros(3).bool())
        for i in range(count)
    )
    return TokenStream(EncodedSet(sequences, {}, 0, 0), seed)


@pytest.mark.parametrize("share", [0.25, 1 / 3, 0.5, 0.9])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_mixed_stream_holds_its_share_in_every_stretch(share, size):
    stream, labelled = stream_of(100, 50, 3), stream_of(500, 20, 4)
    mixed = MixedStream(stream, labelled, share)
    batches = [mixed.batch(position, size).tokens[:, 0] for position in range(0, 48, size)]
    ids = torch.cat(batches).tolist()
    own = [i >= 500 for i in ids]
    for n in range(1, len(own) + 1):
        assert abs(sum(own[:n]) - share * n) < 1
    # each of the two in its own order, nothing left out and nothing twice
    for source, taken in ((stream, [i for i in ids if i < 500]), (labelled, ids)):
        taken = [i for i in taken if (i >= 500) == (source is labelled)]
        assert taken == source.batch(0, len(taken)).tokens[:, 0].tolist()


@pytest.mark.parametrize(
    ("arm", "share"), [("baseline", 0), ("oracle", 0), ("sft", 1), ("mixing", 0.5)]
)
def test_direct_arms_alone_read_feedback_as_text(arm, share):
    arms = tuple(dict.fromkeys(("vpretraining", "mixing", arm)))
    data = new_run(arm, mixing_share=0.5, arms=arms).workload.data
    labelled = {tuple(s.tokens.tolist()) for s in data.feedback.encoded.sequences}
    texts = data.stream.batch(0, 8).tokens
    found = sum(any(tuple(row[: len(x)].tolist()) == x for x in labelled) for row in texts)
    assert found / len(texts) == share

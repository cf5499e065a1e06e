"""Candidates, target forms, designers: what is always true of a soft target."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfunc import UserError
from vfunc.designer_file import save_designer
from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_targets.candidates import ObservedBatch, largest, observe
from vfunc.language.soft_targets.designer import DesignerConfig, TopKDesigner, load_designer
from vfunc.language.soft_targets.hand_made import HAND_MADE, hand_made_targets
from vfunc.language.soft_targets.soft_loss import (
    next_token_loss,
    one_hot,
    position_weights,
    soft_cross_entropy,
)
from vfunc.language.soft_targets.targets import TargetForm, gate, mix

V = 13


def observed(seed=0, k=5, b=3, t=6, scale=3.0):
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, V, (b, t + 1), generator=g)
    predict = torch.rand(b, t, generator=g) > 0.3
    predict[0, 0] = True
    wrong = (torch.rand(b, t, generator=g) > 0.7) & predict
    batch = TokenBatch(tokens, predict, wrong)
    logits = scale * torch.randn(b, t, V, generator=g)
    return logits, ObservedBatch(batch, observe(logits, batch, k))


@given(st.integers(0, 10**6), st.integers(1, V))
def test_candidates_hold_the_true_token_first_and_then_the_best_others(seed, k):
    logits, seen = observed(seed, k)
    batch, o = seen.batch, seen.observation
    log_p = logits.log_softmax(-1)
    for at in batch.predict.nonzero().tolist():
        i, j = at
        ids = o.candidates[i, j].tolist()
        truth = int(batch.next_tokens[i, j])
        others = [x for x in log_p[i, j].argsort(descending=True).tolist() if x != truth][: k - 1]
        assert ids == [truth, *others]
        torch.testing.assert_close(o.log_probs[i, j], log_p[i, j][ids])
        expected = -(log_p[i, j].exp() * log_p[i, j]).sum()
        torch.testing.assert_close(o.entropy[i, j], expected)


@given(st.integers(0, 10**6), st.sampled_from([1, 5, 64]), st.sampled_from([700, 4096, 5000]))
def test_the_largest_by_groups_are_topks(seed, k, v):
    """Whole numbers: many are equal, and values tell whether one is missing."""
    rows = torch.randint(-50, 50, (7, v), generator=torch.Generator().manual_seed(seed)).float()
    rows[0, :3] = rows[1, -3:] = 1000.0  # in the first group, and in what is left over
    at = largest(rows, k)
    assert torch.equal(rows.gather(-1, at), rows.topk(k, -1).values)
    assert all(len(set(row)) == k for row in at.tolist())


@pytest.mark.parametrize("odd", ["one value", "nan", "infinite", "fewer numbers than k"])
def test_odd_rows_have_the_largest_that_topk_finds(odd):
    rows = torch.randn(5, 4096, generator=torch.Generator().manual_seed(0))
    if odd == "one value":
        rows[2] = 1.0
    elif odd == "nan":
        rows[3, :5000:7] = torch.nan
    elif odd == "infinite":
        rows[1, 9], rows[1, 10:2000] = torch.inf, -torch.inf
    else:
        rows[4, 3:] = -torch.inf
    at = largest(rows, 8)
    found, right = rows.gather(-1, at), rows.topk(8, -1).values
    if odd == "nan":  # whose place among the largest nobody may rely on; the other rows stand
        found, right = found[[0, 1, 2, 4]], right[[0, 1, 2, 4]]
    assert torch.equal(found, right)
    assert all(len(set(row)) == 8 for row in at.tolist())


@pytest.mark.parametrize("k", [0, V + 1])
def test_a_candidate_set_that_does_not_fit_the_vocabulary_is_refused(k):
    with pytest.raises(UserError, match=f"--top-k {k} .* {V} tokens"):
        observed(k=k)


@given(
    st.sampled_from(["gate", "bounded", "free"]),
    st.floats(0, 1),
    st.booleans(),
    st.integers(0, 1000),
)
def test_targets_are_distributions_and_gates_stay_in_bounds(form, alpha_max, features, seed):
    torch.manual_seed(seed)
    config = DesignerConfig(V, TargetForm(form, alpha_max), 8, 1, 2, features)
    designer = TopKDesigner(config)
    with torch.no_grad():
        for p in designer.parameters():
            p.mul_(5)  # far from where it starts
    _, seen = observed(seed)
    r, alpha = designer(seen.batch, seen.observation)
    q = mix(alpha, r)
    assert bool((alpha >= 0).all()) and bool((alpha <= alpha_max + 1e-7).all())
    assert bool((q >= 0).all())
    torch.testing.assert_close(r.sum(-1), torch.ones_like(alpha))
    torch.testing.assert_close(q.sum(-1), torch.ones_like(alpha))


def test_the_gate_cannot_die():
    form = TargetForm("gate", alpha_max=1.0, gate_bound=4.0)
    for logit in (-1e6, 1e6):
        alpha = gate(form, torch.full((1, 1), logit))
        assert 0.01 < float(alpha) < 0.99
    x = torch.full((1, 1), -6.0, requires_grad=True)
    gate(form, x).sum().backward()
    assert float(x.grad) > 0


def test_a_bounded_shift_stays_within_its_bound():
    torch.manual_seed(0)
    bound = 0.7
    designer = TopKDesigner(DesignerConfig(V, TargetForm("bounded", 1.0, bound), 8, 1, 2))
    with torch.no_grad():
        for p in designer.parameters():
            p.mul_(20)
    _, seen = observed(2)
    r, _ = designer(seen.batch, seen.observation)
    own = seen.observation.log_probs.log_softmax(-1)
    ratio = (r.log() - own)[seen.batch.predict]
    spread = ratio.max(-1).values - ratio.min(-1).values
    assert float(spread.detach().max()) <= 2 * bound + 1e-5
    assert float(spread.detach().max()) > bound  # the option does something


def test_gate_r_is_the_learners_own_distribution():
    _, seen = observed(1)
    designer = TopKDesigner(DesignerConfig(V, TargetForm("gate"), 8, 1, 2))
    r, _ = designer(seen.batch, seen.observation)
    p = seen.observation.log_probs.exp()
    torch.testing.assert_close(r, p / p.sum(-1, keepdim=True))


def test_designer_is_causal_up_to_the_token_it_judges():
    torch.manual_seed(0)
    designer = TopKDesigner(DesignerConfig(V, TargetForm("free"), 8, 2, 2))
    _, seen = observed(4)
    r, alpha = designer(seen.batch, seen.observation)
    tokens = seen.batch.tokens.clone()
    tokens[:, 5:] = (tokens[:, 5:] + 1) % V  # later than position 3's next token, number 4
    r2, alpha2 = designer(
        TokenBatch(tokens, seen.batch.predict, seen.batch.wrong), seen.observation
    )
    torch.testing.assert_close(alpha[:, :4], alpha2[:, :4])
    torch.testing.assert_close(r[:, :4], r2[:, :4])
    assert not torch.allclose(alpha[:, 4:], alpha2[:, 4:])


def test_without_features_the_gate_does_not_see_the_learner():
    torch.manual_seed(0)
    for features in (False, True):
        designer = TopKDesigner(DesignerConfig(V, TargetForm("gate"), 8, 1, 2, features))
        _, a = observed(7, scale=1.0)
        _, b = observed(7, scale=5.0)
        same = torch.equal(designer(a.batch, a.observation)[1], designer(b.batch, b.observation)[1])
        assert same is not features


def test_alpha_zero_gives_the_baseline_loss_and_gradient_bit_for_bit():
    logits, seen = observed(3)
    designer = TopKDesigner(DesignerConfig(V, TargetForm("free", alpha_max=0.0), 8, 1, 2))
    with torch.no_grad():
        r, alpha = designer(seen.batch, seen.observation)
        q = mix(alpha, r)
    assert float(alpha.abs().max()) == 0.0
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    weight = position_weights(seen.batch.predict)
    soft = soft_cross_entropy(a, seen.observation.candidates, q, weight)
    plain = next_token_loss(b, seen.batch)
    soft.backward()
    plain.backward()
    assert torch.equal(soft, plain) and torch.equal(a.grad, b.grad)


def test_hand_made_targets():
    _, seen = observed(5)
    p = seen.observation.log_probs.exp()
    own = p / p.sum(-1, keepdim=True)
    truth = torch.zeros_like(own)
    truth[..., 0] = 1
    expected = {
        "uniform_smoothing": 0.7 * truth + 0.3 / own.shape[-1],
        "self_distillation": 0.7 * truth + 0.3 * own,
        "confidence_gate": p[..., :1] * truth + (1 - p[..., :1]) * own,
        "known_wrong": torch.where(seen.batch.wrong[..., None], own, truth),
    }
    assert set(expected) == set(HAND_MADE)
    for arm, q in expected.items():
        torch.testing.assert_close(hand_made_targets(arm, seen, 0.3)[0], q)
    with pytest.raises(UserError, match="uniform_smoothing"):
        hand_made_targets("baseline", seen, 0.3)


def test_designer_round_trips_through_its_file(tmp_path):
    torch.manual_seed(0)
    config = DesignerConfig(V, TargetForm("bounded", 0.4, 0.9), 8, 2, 2, features=False)
    designer = TopKDesigner(config)
    save_designer(designer, tmp_path / "d.safetensors")
    again = load_designer(tmp_path / "d.safetensors")
    assert again.config == config
    _, seen = observed(1)
    for x, y in zip(
        designer(seen.batch, seen.observation), again(seen.batch, seen.observation), strict=True
    ):
        assert torch.equal(x, y)
    (tmp_path / "d.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        load_designer(tmp_path / "d.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        load_designer(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"form": "soft"}, "gate, bounded, free"),
        ({"alpha_max": 1.5}, "alpha_max"),
        ({"shift_bound": 0.0}, "shift_bound"),
    ],
)
def test_impossible_forms_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        TargetForm(**wrong)


def test_heads_divide_the_width():
    with pytest.raises(UserError, match="divisible"):
        DesignerConfig(V, TargetForm(), 10, 1, 4)


def test_one_hot_is_all_mass_on_the_next_token():
    _, seen = observed(0)
    candidates, q = one_hot(seen.batch)
    assert torch.equal(candidates[..., 0], seen.batch.next_tokens)
    assert float(q.min()) == 1.0 and math.prod(q.shape) == candidates.numel()

"""The token value map's data: what a token's own, the designer's and the best target are worth."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_targets.candidates import ObservedBatch, observe
from vfunc.language.soft_targets.soft_loss import weights_of
from vfunc.language.soft_targets.targets import TargetForm
from vfunc.language.value_map import MAPPED_CANDIDATES, map_values

FORM = TargetForm("free", alpha_max=0.5)


class Numbers(PreTrainedTokenizerBase):
    """A tokenizer whose tokens are their numbers."""

    def __init__(self):
        pass

    def decode(self, ids):
        return f"<{ids[0]}>"


def mapped(k, vocabulary=30):
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (2, 7), generator=draw)
    predict = torch.tensor([[False, True, True, False, True, False]] * 2)
    wrong = torch.zeros_like(predict)
    batch = TokenBatch(tokens, predict, wrong)
    logits = 2 * torch.randn(2, 6, vocabulary, generator=draw)
    observed = ObservedBatch(batch, observe(logits, batch, k))
    q = torch.randn(2, 6, k, generator=draw).softmax(-1)
    u = torch.randn(2, 6, k, generator=draw)
    weight = weights_of(batch)
    task = {"q": q, "weight": weight, "candidates": observed.observation.candidates}
    cotangents = {name: {"q": by * weight.unsqueeze(-1)} for name, by in
                  {"dot": u, "deflated": -2 * u}.items()}  # fmt: skip
    fields = map_values(Numbers(), observed, FORM, task, cotangents)
    return fields, observed, q, u


def test_values_are_those_of_each_target():
    fields, observed, q, u = mapped(4)
    others = fields.pop("others")["deflated"]
    assert {name: [len(text) for text in of] for name, of in fields.items()} == {
        name: [5, 5] for name in ("tokens", "values", "gates", "wrong", "target_values",
                                  "oracle_values", "candidates")}  # fmt: skip
    for t in (0, 3):  # nothing is predicted there
        assert all(fields[n][0][t] is None for n in ("values", "target_values", "oracle_values",
                                                     "candidates"))  # fmt: skip
    for b, t in ((0, 1), (1, 2), (1, 4)):
        worth = float((q[b, t] * u[b, t]).sum())
        assert fields["values"][b][t] == pytest.approx(float(u[b, t, 0]))
        assert others["values"][b][t] == pytest.approx(-2 * float(u[b, t, 0]))
        assert others["target_values"][b][t] == pytest.approx(-2 * worth, rel=1e-5)
        # the best by another value is another target
        most = float(torch.stack([-u[b, t, 0], (-u[b, t, 0] + (-u[b, t]).max()) / 2]).max())
        assert others["oracle_values"][b][t] == pytest.approx(2 * most, rel=1e-5)
        assert fields["gates"][b][t] == pytest.approx(1 - float(q[b, t, 0]))
        assert fields["target_values"][b][t] == pytest.approx(worth, rel=1e-5)
        best = float(torch.stack([u[b, t, 0], (u[b, t, 0] + u[b, t].max()) / 2]).max())
        assert fields["oracle_values"][b][t] == pytest.approx(best, rel=1e-5)
        told = fields["candidates"][b][t]
        assert told[0][0] == fields["tokens"][b][t]  # the text's own comes first
        assert sum(c[2] * c[3] for c in told) == pytest.approx(worth, rel=1e-3)
        assert sum(c[2] * c[4] for c in told) == pytest.approx(best, rel=1e-3)
        assert all(c[5] == pytest.approx(-2 * c[2], rel=1e-3) for c in told)
        own = observed.observation.log_probs[b, t].exp()
        assert sorted(c[1] for c in told) == pytest.approx(sorted(own.tolist()), rel=1e-3)


def test_of_many_candidates_those_with_mass_are_kept():
    fields, observed, q, _ = mapped(20)
    told = fields["candidates"][0][1]
    assert len(told) == MAPPED_CANDIDATES
    own = observed.observation.log_probs[0, 1].exp()
    oracle = F.one_hot(torch.tensor([c[4] for c in told]).argmax(), len(told))
    assert oracle.sum() == 1  # the oracle's choice is among them
    order = torch.maximum(own, q[0, 1])[1:].argsort(descending=True)[:5] + 1
    kept = {c[0] for c in told}
    assert {f"<{int(observed.observation.candidates[0, 1, i])}>" for i in order} <= kept

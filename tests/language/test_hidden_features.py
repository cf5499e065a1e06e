"""A designer that sees the learner's hidden state: what it may see, its gradients, its place."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from vfunc.designer_file import save_designer
from vfunc.errors import UserError
from vfunc.language.data.examples import TokenBatch, take_rows
from vfunc.language.hidden_state import HiddenState, capture, edge_of, width_at
from vfunc.language.soft_targets.candidates import observe
from vfunc.language.soft_targets.designer import (
    PROJECTED,
    DesignerConfig,
    TopKDesigner,
    load_designer,
)
from vfunc.language.soft_targets.targets import TargetForm
from vfunc.learner import select

V, D, T = 30, 16, 9


def llama(layers=3):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def seen_by(learner, tokens, predict=None, block=1):
    """A batch as a learner sees it."""
    predict = torch.ones(tokens.shape[0], T, dtype=torch.bool) if predict is None else predict
    batch = TokenBatch(tokens, predict, torch.zeros_like(predict))
    with torch.no_grad(), capture(learner, block) as found:
        logits = learner(input_ids=batch.inputs, use_cache=False).logits
    return batch, dataclasses.replace(observe(logits, batch, 4), hidden=found[0])


def designer_of(form="free", width=8):
    torch.manual_seed(1)
    config = DesignerConfig(V, TargetForm(form), width, features="hidden", hidden=HiddenState(1, D))
    return TopKDesigner(config)


@pytest.mark.parametrize("form", ["gate", "bounded", "free"])
def test_a_target_depends_on_its_context_and_its_own_token_alone(form):
    """Through the learner, whose hidden state and log-probabilities are taken anew."""
    learner, designer = llama(), designer_of(form)
    tokens = torch.randint(V, (2, T + 1), generator=torch.Generator().manual_seed(2))
    for t in range(T - 1):
        other = tokens.clone()
        other[:, t + 2 :] = (other[:, t + 2 :] + 1) % V  # w_t is token t + 1
        (r, alpha), (r2, alpha2) = (designer(*seen_by(learner, x)) for x in (tokens, other))
        torch.testing.assert_close(alpha[:, : t + 1], alpha2[:, : t + 1])
        torch.testing.assert_close(r[:, : t + 1], r2[:, : t + 1])
        assert not torch.allclose(alpha[:, t + 1 :], alpha2[:, t + 1 :])


def test_it_sees_the_token_by_the_state_after_it():
    learner, designer = llama(), designer_of("gate")
    batch, seen = seen_by(learner, torch.arange(T + 1)[None] % V)
    moved = seen.hidden.clone()
    moved[:, 4] = torch.randn(D, generator=torch.Generator().manual_seed(0))
    one, two = (
        designer(batch, dataclasses.replace(seen, hidden=h))[1] for h in (seen.hidden, moved)
    )
    assert (one != two).nonzero()[:, 1].tolist() == [3, 4]  # after token 3, before token 4
    scaled = dataclasses.replace(seen, hidden=seen.hidden * 7 + 3)  # layer-normed
    torch.testing.assert_close(designer(batch, scaled)[1], one, rtol=1e-3, atol=1e-4)


def test_a_row_does_not_depend_on_the_batch_that_it_is_in():
    learner, designer = llama(), designer_of("gate")
    predict = torch.ones(2, T, dtype=torch.bool)
    predict[1, 5:] = False  # shorter, the rest is padding
    tokens = torch.randint(V, (2, T + 1), generator=torch.Generator().manual_seed(3))
    batch, seen = seen_by(learner, tokens, predict)
    alone = designer(*seen_by_rows(learner, tokens[1:, :6], predict[1:, :5]))[1]
    together = designer(batch, seen)[1][1:, :5]
    torch.testing.assert_close(alone, together)
    rows = torch.tensor([1])
    again = designer(take_rows(batch, rows), take_rows(seen, rows))[1]
    torch.testing.assert_close(again[:, :5], together)


def seen_by_rows(learner, tokens, predict):
    batch = TokenBatch(tokens, predict, torch.zeros_like(predict))
    with torch.no_grad(), capture(learner, 1) as found:
        logits = learner(input_ids=batch.inputs, use_cache=False).logits
    return batch, dataclasses.replace(observe(logits, batch, 4), hidden=found[0])


def test_it_is_small_and_the_log_probabilities_keep_their_size():
    gate = designer_of("gate", width=8)
    count = sum(p.numel() for p in gate.parameters())
    assert count == 2 * (D + 1) * PROJECTED + (2 * PROJECTED + 4 + 1) * 8 + 8 + 1
    batch, seen = seen_by(llama(), torch.arange(T + 1)[None] % V)
    entered = []
    gate.gate.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    gate(batch, seen)
    truth = seen.log_probs[..., 0]
    wanted = [truth, truth.exp(), seen.entropy, seen.log_probs.max(-1).values]
    assert torch.equal(entered[0][..., -4:], torch.stack(wanted, -1))
    assert "embedding.weight" in designer_of("free").state_dict()


@pytest.mark.parametrize("form", ["gate", "bounded"])
def test_gradients_by_finite_differences(form):
    designer = designer_of(form).double()
    batch, seen = seen_by(llama(), torch.arange(2 * (T + 1)).view(2, -1) % V)
    weights = torch.randn(2, T, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def objective(phi):
        r, alpha = torch.func.functional_call(designer, phi, (batch, seen))
        return (weights * (alpha + r[..., 1])).sum()

    phi = {n: p.detach().requires_grad_() for n, p in designer.named_parameters()}
    grads = dict(zip(phi, torch.autograd.grad(objective(phi), list(phi.values())), strict=True))
    for name, x in phi.items():
        along = torch.randn(
            x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(name))
        )
        ends = [objective(phi | {name: x.detach() + s * 1e-5 * along}) for s in (1, -1)]
        slope = float((ends[0] - ends[1]).detach()) / 2e-5
        assert slope == pytest.approx(float((grads[name] * along).sum()), rel=1e-5, abs=1e-9)


def tiny(kind):
    sizes = {"vocab_size": V}
    torch.manual_seed(0)
    made = {
        "llama": lambda: llama(),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**sizes, n_embd=D, n_layer=3, n_head=2)),
        "neox": lambda: GPTNeoXForCausalLM(
            GPTNeoXConfig(
                **sizes, hidden_size=D, intermediate_size=32, num_hidden_layers=3,
                num_attention_heads=2,
            )
        ),
        "opt, embeddings of another size": lambda: OPTForCausalLM(
            OPTConfig(
                **sizes, hidden_size=D, ffn_dim=32, num_hidden_layers=3, num_attention_heads=2,
                word_embed_proj_dim=8, max_position_embeddings=32,
            )
        ),
        "mamba": lambda: MambaForCausalLM(
            MambaConfig(**sizes, hidden_size=D, num_hidden_layers=3, state_size=4)
        ),
    }  # fmt: skip
    return made[kind]()


@pytest.mark.parametrize(
    "kind", ["llama", "gpt2", "neox", "opt, embeddings of another size", "mamba"]
)
def test_every_architecture_with_blocks_has_one(kind):
    learner = tiny(kind).train()
    drawn = torch.get_rng_state()
    assert edge_of(learner, select(learner, "last:1")) == HiddenState(2, D)
    assert edge_of(learner, select(learner, "all")) == HiddenState(1, D)  # halfway up
    assert edge_of(learner, ["lm_head.weight"]) == HiddenState(3, D)  # behind the last
    assert torch.equal(drawn, torch.get_rng_state()) and learner.training


def test_what_enters_is_what_the_block_before_gave():
    learner = llama()
    tokens = torch.arange(6)[None]
    with torch.no_grad(), capture(learner, 2) as found:
        out = learner(tokens, output_hidden_states=True)
    assert torch.equal(found[0], out.hidden_states[2])
    with torch.no_grad(), capture(learner, 3) as last:
        learner(tokens)
    assert last[0].shape == (1, 6, D)
    assert not learner.model.layers[2]._forward_pre_hooks


class Odd(nn.Module):
    """A learner whose blocks pass on something else."""

    def __init__(self, what):
        super().__init__()
        self.what, self.embedding = what, nn.Embedding(V, D)
        self.blocks = nn.ModuleList(nn.Linear(D, D) for _ in range(2))
        if what == "no stack":
            self.blocks, self.one = None, nn.Linear(D, D)

    def forward(self, input_ids, **_):
        h = self.embedding(input_ids)
        if self.what == "no stack":
            return self.one(h)
        if self.what == "twice":
            h = self.blocks[1](h)
        if self.what == "flat":
            h = h.flatten(0, 1)
        h = self.blocks[0](h)
        if self.what != "skipped":
            before = h
            h = self.blocks[1](h)
            if self.what == "in place":
                before.zero_()
        return SimpleNamespace(logits=h)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no stack", "has no stack of blocks"),
        ("twice", "calls it 2 times"),
        ("skipped", "calls it 0 times"),
        ("flat", r"is a shape \(2, 16\)"),
        ("in place", "write into theirs"),
    ],
)
def test_a_learner_without_one_is_refused_in_a_line(what, said):
    learner = Odd(what)
    names = [n for n, _ in learner.named_parameters() if "1" in n or what == "no stack"]
    with pytest.raises(UserError, match=f"--designer-features hidden .*{said}") as caught:
        edge_of(learner, names)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="number 7, and the learner has"):
        width_at(learner, 7)


def test_a_saved_one_is_itself(tmp_path):
    path = tmp_path / "designer.safetensors"
    designer = designer_of("bounded")
    save_designer(designer, path)
    again = load_designer(path)
    assert again.config == designer.config
    seen = seen_by(llama(), torch.arange(T + 1)[None] % V)
    assert all(torch.equal(a, b) for a, b in zip(designer(*seen), again(*seen), strict=True))


def test_without_a_state_it_says_so():
    batch, seen = seen_by(llama(), torch.arange(T + 1)[None] % V)
    with pytest.raises(UserError, match="and there is none"):
        designer_of()(batch, dataclasses.replace(seen, hidden=None))
    with pytest.raises(UserError, match="go together"):
        DesignerConfig(V, TargetForm("gate"), 8, features="hidden")

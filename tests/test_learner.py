"""Subsets by name, and a live module as a pure function."""

from __future__ import annotations

import re

import cases
import measures
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import vfunc
from vfunc.float64 import keep_float64
from vfunc.learner import RandomState, describe, mode, replay_random_state, select

QWEN2_LAST = {"model.layers.1.", "model.norm."}


@pytest.fixture(scope="module")
def qwen2():
    return cases.tiny_qwen2(0)


@pytest.fixture(scope="module")
def adapted():
    """A tiny Qwen2 with LoRA on two projections."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
        return get_peft_model(cases.tiny_qwen2(0), config)


@pytest.fixture(scope="module")
def vit():
    """A ViT of depth 2."""
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=2, num_classes=3
    )


def names_of(module):
    return [n for n, _ in module.named_parameters()]


def test_all_takes_every_parameter_once(qwen2):
    chosen = select(qwen2, "all")
    assert list(chosen) == names_of(qwen2)
    assert "lm_head.weight" not in chosen  # tied to the embedding


def test_last_takes_the_last_block_and_the_final_norm(qwen2, vit):
    want = [n for n in names_of(qwen2) if n.startswith(tuple(QWEN2_LAST))]
    assert list(select(qwen2, "last:1")) == want
    assert "model.norm.weight" in want
    assert any(n.startswith("model.layers.0.") for n in select(qwen2, "last:2"))
    vit_names = select(vit, "last:1")
    assert {n.rsplit(".", 1)[0] for n in vit_names} >= {
        "norm",
        "blocks.1.norm1",
        "blocks.1.mlp.fc2",
    }
    assert all(n.startswith(("blocks.1.", "norm.")) for n in vit_names)


def test_lora_takes_the_adapters(adapted):
    chosen = select(adapted, "lora")
    assert len(chosen) == 2 * 2 * 2
    assert all("lora_" in n for n in chosen)
    assert set(select(adapted, "all")) == set(chosen)  # peft freezes the rest
    last = select(adapted, "lora:last:1")
    assert set(last) == {n for n in chosen if ".layers.1." in n}
    assert set(select(adapted, "last:1")) == set(last)


def test_regular_expressions_and_callables(qwen2):
    assert all(".mlp." in n for n in select(qwen2, "re:mlp"))
    assert list(select(qwen2, r"re:layers\.0\..*norm")) == [
        n for n in names_of(qwen2) if re.search(r"layers\.0\..*norm", n)
    ]
    vectors = select(qwen2, lambda name, p: p.ndim == 1)
    assert set(vectors) == {n for n, p in qwen2.named_parameters() if p.ndim == 1}


def test_eleven_blocks_are_not_confused_with_one():
    module = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(1, 1) for _ in range(12)])})
    assert {n.split(".")[1] for n in select(module, "last:11")} == {str(i) for i in range(1, 12)}
    assert {n.split(".")[1] for n in select(module, "last:1")} == {"11"}


@pytest.mark.parametrize("subset", ["lora", "lora:last:1", "re:nothing_like_it"])
def test_an_empty_match_lists_what_there_is(qwen2, subset):
    with pytest.raises(vfunc.UserError, match="selects no trainable parameter") as raised:
        select(qwen2, subset)
    message = str(raised.value)
    assert repr(subset) in message
    assert "2 blocks (model.layers.0 to .1)" in message
    assert "no LoRA" in message
    assert "model.embed_tokens" in message


def test_an_empty_callable_is_an_error_too(qwen2):
    with pytest.raises(vfunc.UserError, match="selects no trainable parameter"):
        select(qwen2, lambda name, p: False)


@pytest.mark.parametrize("subset", ["last:0", "last:3", "last:", "last:two", "last:-1"])
def test_a_count_out_of_range_says_the_range(qwen2, subset):
    with pytest.raises(vfunc.UserError, match=r"needs N from 1 to 2; the learner has 2 blocks"):
        select(qwen2, subset)


@pytest.mark.parametrize("subset", ["alll", "first:2", "", "lora:first:1", "Last:1"])
def test_an_unknown_subset_is_spelled_out(qwen2, subset):
    with pytest.raises(vfunc.UserError, match="known: all, last:N, lora, lora:last:N, re:PATTERN"):
        select(qwen2, subset)


def test_a_broken_pattern_and_a_missing_stack(qwen2):
    with pytest.raises(vfunc.UserError, match="is not a regular expression"):
        select(qwen2, "re:(")
    with pytest.raises(vfunc.UserError, match="needs a stack of blocks"):
        select(nn.Linear(2, 2), "last:1")


def test_frozen_parameters_are_never_selected():
    module = cases.NormedNetwork()
    module.head.requires_grad_(False)
    assert not any(n.startswith("head") for n in select(module, "all"))
    with pytest.raises(vfunc.UserError, match="selects no trainable"):
        select(module, "re:head")


def test_description_of_adapters(adapted):
    assert "8 LoRA tensors" in describe(adapted)


@pytest.mark.usefixtures("float64")
def test_the_learner_is_a_pure_function_of_theta():
    module = cases.seeded(cases.NormedNetwork, 0)
    learner = vfunc.functional(module, "last:1")
    x = measures.normal(measures.generator(0), 4, cases.FEATURES)
    assert torch.equal(learner(learner.theta, x), module(x))
    theta = {n: p + 0.1 for n, p in learner.theta.items()}
    before = {n: p.clone() for n, p in module.named_parameters()}
    moved = learner(theta, x)
    assert not torch.allclose(moved, module(x))
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())
    with torch.no_grad():
        for name, p in learner.live.items():
            p.copy_(theta[name])
    assert torch.equal(module(x), moved)


def test_parameters_outside_the_subset_get_no_gradient():
    module = cases.NormedNetwork()
    learner = vfunc.functional(module, "re:head")
    learner(vfunc.trees.leaves(learner.theta), torch.ones(2, cases.FEATURES)).sum().backward()
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.usefixtures("float64")
def test_tied_weights_move_together(qwen2):
    learner = vfunc.functional(qwen2, "re:embed_tokens")
    tokens = torch.tensor([[1, 2, 3]])
    theta = {n: 2 * p for n, p in learner.theta.items()}
    h = learner(theta, input_ids=tokens, use_cache=False, output_hidden_states=True)
    logits = h.hidden_states[-1] @ (2 * qwen2.model.embed_tokens.weight).T
    torch.testing.assert_close(h.logits, logits)


class Twice(nn.Module):
    """One module registered under three names, a norm with buffers among them, and a tied weight."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.encoder = nn.Sequential(self.shared, nn.Tanh(), nn.BatchNorm1d(4))
        self.stack = nn.ModuleList([self.encoder[2], self.shared])
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.shared.weight

    def forward(self, x):
        return self.head(self.encoder(x) + self.stack[1](x))


@pytest.mark.usefixtures("float64")
def test_a_module_that_is_registered_twice_keeps_its_own_parameters():
    """Torch's tying would leave what it was called with in the live module (torch 2.14)."""
    module = cases.seeded(Twice, 0).eval()
    learner = vfunc.functional(module)
    before = {n: id(x) for n, x in [*module.named_parameters(), *module.named_buffers()]}
    x = measures.normal(measures.generator(0), 3, 4)
    out = module(x)
    theta = {n: 2 * p for n, p in learner.theta.items()}
    moved = learner(theta, x)
    assert {n: id(x) for n, x in [*module.named_parameters(), *module.named_buffers()]} == before
    assert torch.equal(module(x), out)
    with torch.no_grad():
        for name, p in learner.live.items():
            p.copy_(theta[name])
    assert torch.equal(module(x), moved)


def test_mode_puts_every_module_back_in_its_own():
    module = cases.NormedNetwork().train()
    module.blocks[0].eval()
    before = [m.training for m in module.modules()]
    with pytest.raises(RuntimeError), mode(module, training=False):
        assert not any(m.training for m in module.modules())
        raise RuntimeError
    assert [m.training for m in module.modules()] == before


def test_dropout_masks_are_repeated_and_the_random_state_kept():
    cpu = torch.device("cpu")
    state = RandomState.now(cpu)
    first = torch.rand(3)
    after = torch.get_rng_state()
    with replay_random_state(state, cpu):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), after)
    with replay_random_state(None, cpu):
        torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), after)


def checkpointed_qwen2():
    """A tiny Qwen2 and a loss of its output."""
    module = cases.tiny_qwen2(0)
    tokens = torch.tensor([[1, 5, 2, 7], [4, 9, 0, 6]])

    def loss(learner, theta, scale):
        with keep_float64():
            logits = learner(theta, input_ids=tokens, use_cache=False).logits
        return -(torch.log_softmax(logits, -1) * scale).mean()

    # its later name comes first: the earlier one warns
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next(getattr(module, name) for name in names if hasattr(module, name))

    def step():
        return module(input_ids=tokens, use_cache=False).logits.sum()

    return module, enable, module.model.layers[0].mlp, loss, step


def checkpointed_vit():
    """A small ViT and a loss of its output."""
    import timm

    sizes = {"img_size": 8, "patch_size": 4, "depth": 2, "embed_dim": 12, "num_heads": 2}
    module = cases.seeded(
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes), 0
    )
    x = measures.normal(measures.generator(0), 2, 3, 8, 8)

    def loss(learner, theta, scale):
        return (learner(theta, x) ** 2 * scale).mean()

    def step():
        return module(x).sum()

    return module, module.set_grad_checkpointing, module.blocks[0].mlp, loss, step


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("made", [checkpointed_qwen2, checkpointed_vit])
@pytest.mark.parametrize("engine", ["reverse", "forward", "finite_difference"])
def test_gradient_checkpointing_is_exact_in_every_engine(made, engine):
    """At a theta that is not the module's, in train mode, against the module without it."""
    module, switch_on, inner, loss, step = made()
    module.train()
    learner = vfunc.functional(module)
    theta = {n: 1.1 * p for n, p in learner.theta.items()}
    w = measures.direction(theta, 0)
    phi = {"scale": torch.tensor(0.7)}
    problem = vfunc.ValueProblem(
        lambda phi, batch: dict(phi),
        lambda theta, task: loss(learner, theta, task["scale"]),
        lambda theta: loss(learner, theta, torch.tensor(1.0)),
        (None,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )
    construction = vfunc.construct_task(problem, phi, None)

    def product():
        made = vfunc.pullback.mixed_product(problem, theta, construction, w, engine, hessian=True)
        return dict(made.task) | made.hessian

    plain, gradient = product(), vfunc.feedback_gradient(problem, theta)[1]
    switch_on()
    hooks = [dict(child._forward_hooks) for child in module.modules()]
    assert measures.apart(product(), plain) <= 1e-12
    assert measures.apart(vfunc.feedback_gradient(problem, theta)[1], gradient) <= 1e-12
    assert [dict(child._forward_hooks) for child in module.modules()] == hooks
    # the module's own steps go on recomputing: a forward, and one more in the backward
    calls = []
    inner.register_forward_pre_hook(lambda *_: calls.append(1))
    step().backward()
    assert len(calls) == 2


class Recomputing(nn.Module):
    """A learner with a checkpoint of its own, which no flag switches off."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = cases.NormedNetwork()

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


def test_a_checkpoint_without_a_switch_is_refused():
    learner = vfunc.functional(Recomputing())
    x = torch.randn(2, cases.FEATURES)
    with pytest.raises(vfunc.UserError, match=r"recomputes activations.*switch it off"):
        learner(vfunc.trees.leaves(learner.theta), x)
    with torch.no_grad():  # nothing is recomputed
        torch.testing.assert_close(learner(learner.theta, x), learner.module.inner(x))
    learner.module(x).sum().backward()  # the module itself goes on


def test_hooks_that_the_caller_has_set_around_a_call_stand():
    learner = vfunc.functional(cases.NormedNetwork())
    x = torch.randn(2, cases.FEATURES)
    with torch.autograd.graph.save_on_cpu():
        output = learner(vfunc.trees.leaves(learner.theta), x)
    torch.testing.assert_close(output, learner.module(x))

"""The learner cut at the lower edge of S: the same numbers as the whole, and no trace left."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import pytest
import torch
from torch import nn

import vfunc
from vfunc.float64 import keep_float64
from vfunc.learner import describe, mode
from vfunc.split import Split, Whole, split_at_edge

pytestmark = pytest.mark.usefixtures("float64")

TOKENS = torch.tensor([[1, 5, 2, 7, 3], [4, 4, 9, 0, 6]])
NOISE = 1e-14  # of rounding: the whole and the parts may use other kernels


class Returned(nn.Module):
    """A block in the older manner of transformers: the hidden state and what goes with it."""

    def __init__(self, rest: tuple) -> None:
        super().__init__()
        self.block, self.rest = cases.Block(), rest

    def forward(self, h, scale=1.0):
        return (self.block(h) * scale, *self.rest)


class Tuples(nn.Module):
    """A stack of blocks that return tuples."""

    def __init__(self, rest: tuple = (None,)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Returned(rest) for _ in range(3)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x, scale=0.9)[0]
        return x


class Bypassed(nn.Module):
    """The last block sees the first one's input too."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([cases.Block() for _ in range(3)])

    def forward(self, x):
        first = h = self.blocks[0](x)
        for block in list(self.blocks)[1:]:
            h = block(h)
        return h + first


class Gated(Bypassed):
    """The last block sees the first one's output too, through a gate that starts shut."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(cases.HIDDEN))

    def forward(self, x):
        first = h = self.blocks[0](x)
        for block in list(self.blocks)[1:]:
            h = block(h)
        return h + self.gate * first


class Overwritten(Bypassed):
    """What follows a block writes into its output."""

    def forward(self, x):
        for block in self.blocks:
            x = block(x).mul_(0.5)
        return x


class Uncalled(Bypassed):
    """The stack is there for its weights alone."""

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(x @ block.linear.weight)
        return x


class Leaving(cases.Block):
    """A block that leaves something for others."""

    def forward(self, h, left):
        left.setdefault("keys", self.norm(h))
        return super().forward(h)


class Shared(nn.Module):
    """The last block takes what the first one has left for it, as shared keys and values are."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Leaving() for _ in range(3)])

    def forward(self, x):
        left: dict[str, torch.Tensor] = {}
        h = self.blocks[1](self.blocks[0](x, left), left)
        return self.blocks[2](h + left["keys"], left)


class Noisy(Bypassed):
    """Dropout within the blocks' stack."""

    def forward(self, x):
        for block in self.blocks:
            x = nn.functional.dropout(block(x), 0.5, self.training)
        return x


def sequential():
    """A plain stack between an embedding and a head."""
    stack = nn.Sequential(*(cases.Block() for _ in range(3)))
    return nn.Sequential(nn.Linear(4, 4), stack, nn.Linear(4, 2))


def vit():
    """A ViT of depth 3 on images of 8 x 8."""
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=8,
        patch_size=4,
        depth=3,
        embed_dim=12,
        num_heads=2,
        num_classes=3,
    )


def adapted():
    """A tiny Qwen2 with LoRA that is not at its start."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    return get_peft_model(cases.tiny_qwen2(0), config)


def points():
    return measures.normal(measures.generator(1), 5, 4)


def images():
    return measures.normal(measures.generator(1), 2, 3, 8, 8)


TEXT = {"input_ids": TOKENS, "use_cache": False}
LEARNERS = {
    "qwen2": (lambda: cases.tiny_qwen2(0), "last:1", (), TEXT, 1),
    "qwen2 eager": (lambda: cases.tiny_qwen2(0, "eager"), "last:1", (), TEXT, 1),
    "qwen2 norm": (lambda: cases.tiny_qwen2(0), r"re:model\.norm", (), TEXT, 2),
    "peft": (lambda: cases.seeded(adapted, 0), "lora:last:1", (), TEXT, 1),
    "vit": (lambda: cases.seeded(vit, 0), "last:2", (images(),), {}, 1),
    "sequential": (lambda: cases.seeded(sequential, 0), "last:1", (points(),), {}, 2),
    "tuples": (lambda: cases.seeded(Tuples, 0), "last:1", (points(),), {}, 2),
}


def cut(name):
    """(learner, split, arguments)."""
    make, subset, args, kwargs, below = LEARNERS[name]
    learner = vfunc.functional(make().eval(), subset)
    with keep_float64():
        split = split_at_edge(learner, *args, **kwargs)
    assert isinstance(split, Split), split
    assert split.below == below
    return learner, split, args, kwargs


def tensor_of(output):
    return getattr(output, "logits", output)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_parts_are_the_whole_at_any_theta(name):
    learner, split, args, kwargs = cut(name)
    theta = {n: p + 0.1 for n, p in learner.theta.items()}
    with keep_float64():
        edge = split.prefix(learner, *args, **kwargs)
        got = tensor_of(split.suffix(learner, theta, edge, *args, **kwargs))
        want = tensor_of(learner(theta, *args, **kwargs))
        with split.capture(learner.module) as captured:
            learner.module(*args, **kwargs)
    assert float((got - want).norm() / want.norm()) <= NOISE
    assert float((captured[0] - edge).norm() / edge.norm()) <= NOISE
    assert not captured[0].requires_grad
    assert f"the lower {split.below} of {split.depth} blocks" in split.why


def test_the_blocks_below_are_not_run_again():
    learner, split, args, kwargs = cut("qwen2")
    edge = split.prefix(learner, *args, **kwargs)
    calls = []
    for block in learner.module.model.layers:
        block.mlp.register_forward_hook(lambda *_, block=block: calls.append(block))
    split.suffix(learner, learner.theta, edge, *args, **kwargs)
    assert calls == [learner.module.model.layers[1]]
    calls.clear()
    split.prefix(learner, *args, **kwargs)
    assert calls == [learner.module.model.layers[0]]


def state_of(module):
    """Every attribute of every submodule, by identity or by value."""
    return [
        {k: dict(v) if isinstance(v, dict) else v for k, v in child.__dict__.items()}
        for child in module.modules()
    ]


@pytest.mark.parametrize("name", LEARNERS)
def test_no_trace_is_left_even_after_an_error(name):
    learner, split, args, kwargs = cut(name)
    before, drawn = state_of(learner.module), torch.get_rng_state()
    edge = split.prefix(learner, *args, **kwargs)
    split.suffix(learner, learner.theta, edge, *args, **kwargs)
    with split.capture(learner.module):
        learner.module(*args, **kwargs)
    # an edge that nothing above it can take, and an input that nothing below it can
    with pytest.raises((RuntimeError, AttributeError, TypeError)):
        split.suffix(learner, learner.theta, "edge", *args, **kwargs)
    with pytest.raises((RuntimeError, AttributeError, TypeError, ValueError)):
        split.prefix(learner, "inputs")
    assert state_of(learner.module) == before
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_forward_of_the_instance_itself_comes_back():
    learner, split, args, kwargs = cut("sequential")
    block = learner.module[1][0]
    own = block.forward = lambda h, real=block.forward: real(h)
    edge = split.prefix(learner, *args, **kwargs)
    got = split.suffix(learner, learner.theta, edge, *args, **kwargs)
    assert block.__dict__["forward"] is own
    torch.testing.assert_close(got, learner.module(*args))


def test_the_prefix_carries_a_gradient_to_its_input():
    """Where phi acts on the input: a plain backward pass through the layers below S."""
    learner, split, (x,), _ = cut("vit")
    theta = vfunc.trees.leaves(learner.theta)
    x = x.requires_grad_()
    whole = torch.autograd.grad(learner(theta, x).square().sum(), x)[0]
    edge = split.prefix(learner, x)
    h = edge.detach().requires_grad_()
    above = split.suffix(learner, theta, h, x.detach()).square().sum()
    below = torch.autograd.grad(edge, x, torch.autograd.grad(above, h)[0])[0]
    assert float((below - whole).norm() / whole.norm()) <= NOISE


@pytest.mark.parametrize(
    ("make", "subset", "training", "why"),
    [
        (sequential, "all", False, "S takes in the first block"),
        (sequential, r"re:^0\.|^1\.2", False, "0.weight is in S and used below its first block"),
        (lambda: nn.Linear(4, 4), "all", False, "no stack of blocks"),
        (Noisy, "last:1", True, "draws random numbers, such as dropout's in train mode"),
        (Bypassed, "last:1", False, "something passes by the edge"),
        (Overwritten, "last:1", False, "writes into the hidden state"),
        (Shared, "last:1", False, "asks more of what is below (KeyError: 'keys')"),
        (Uncalled, "last:1", False, "does not call the blocks of its stack"),
        (lambda: Tuples((torch.ones(1),)), "last:1", False, "more than a hidden state"),
    ],
    ids=lambda x: x.replace(" ", "-") if isinstance(x, str) else None,
)
def test_where_it_cannot_be_cut_it_says_why(make, subset, training, why):
    module = cases.seeded(make, 0).train(training)
    learner = vfunc.functional(module, subset)
    before, drawn = state_of(module), torch.get_rng_state()
    found = split_at_edge(learner, points())
    assert isinstance(found, Whole), found
    assert why in found.why
    assert state_of(module) == before
    assert torch.equal(torch.get_rng_state(), drawn)


def gated(opening):
    """A learned skip connection past the edge, so far open."""
    module = cases.seeded(Gated, 0)
    nn.init.constant_(module.gate, opening)
    return module


@pytest.mark.parametrize("subset", ["last:1", r"re:blocks\.2|gate"])
def test_a_skip_connection_that_is_not_open_yet_is_not_cut(subset):
    """The cut is kept for life, and the gate's gradient is wrong from the first step on."""
    module = gated(0.0)
    found = split_at_edge(vfunc.functional(module, subset), points())
    assert isinstance(found, Whole) and "something passes by the edge" in found.why
    assert not module.gate.any()


@pytest.mark.parametrize("way", ["bfloat16", "float16", "autocast"])
def test_half_precision_hides_no_skip_connection_and_refuses_no_cut(way):
    half = {"float16": torch.float16}.get(way, torch.bfloat16)
    x = points().float() if way == "autocast" else points().to(half)

    def tried(module):
        module = module.float() if way == "autocast" else module.to(half)
        learner = vfunc.functional(module.eval(), "last:1")
        with torch.autocast("cpu", half, enabled=way == "autocast"):
            return split_at_edge(learner, x)

    assert "something passes by the edge" in tried(gated(0.03)).why
    assert tried(cases.seeded(sequential, 0)).below == 2


def test_a_copy_that_does_not_fit_leaves_the_learner_whole(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("full")

    learner, x = vfunc.functional(cases.seeded(sequential, 0), "last:1"), points()
    monkeypatch.setattr(torch, "randn", full)
    found = split_at_edge(learner, x)
    assert isinstance(found, Whole) and "no room to try" in found.why


def test_dropout_matters_in_train_mode_alone():
    learner = vfunc.functional(cases.seeded(Noisy, 0).eval(), "last:1")
    assert isinstance(split_at_edge(learner, points()), Split)


def test_tied_weights_in_s_are_not_cut():
    learner = vfunc.functional(cases.tiny_qwen2(0), r"re:embed|layers\.1")
    found = split_at_edge(learner, **TEXT)
    assert found == Whole("model.embed_tokens.weight is in S and used below its first block")


def situation(name, on):
    """A problem whose task carries the edge, or not: soft targets, nonlinear in them."""
    learner, split, args, kwargs = cut(name)
    draw = measures.generator(3)
    with keep_float64():
        shape = tensor_of(learner(learner.theta, *args, **kwargs)).shape
        edge = split.prefix(learner, *args, **kwargs).detach()
    base = measures.normal(draw, *shape)
    phi = {"shift": measures.normal(draw, shape[-1])}

    def construct(phi, batch):
        task = {"q": torch.softmax(base + phi["shift"], -1)}
        return task | {"edge": edge} if on else task

    def coefficients(theta, task):
        with keep_float64():
            if "edge" in task:
                out = split.suffix(learner, theta, task["edge"], *args, **kwargs)
            else:
                out = learner(theta, *args, **kwargs)
        return -torch.log_softmax(tensor_of(out), -1) / shape[0]

    def pretrain_loss(theta, task):
        return (task["q"] * coefficients(theta, task)).sum()

    def feedback_loss(theta):
        with keep_float64():
            return tensor_of(learner(theta, *args, **kwargs)).square().mean()

    problem = vfunc.ValueProblem(
        construct,
        pretrain_loss,
        feedback_loss,
        (None, None),
        vfunc.UpdateRule(vfunc.SGD(0.05)),
        linear=vfunc.LinearForm("q", coefficients),
    )
    return problem, learner.theta, phi


QUICK = [vfunc.FirstOrder("dot"), vfunc.Unrolled(2)]
ESTIMATORS = [
    *QUICK,
    vfunc.FirstOrder("cosine"),
    vfunc.FirstOrder("preconditioned"),
    vfunc.Implicit(damping=30.0, solver_tolerance=1e-9),
]


@pytest.mark.parametrize(
    ("name", "estimators"),
    [("qwen2", QUICK), ("vit", QUICK[:1]), ("peft", QUICK[:1]), ("sequential", ESTIMATORS)],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_every_estimator_and_engine_is_the_same_cut_or_whole(name, estimators):
    """And each gradient is the slope of its objective."""
    (problem, theta, phi), (whole, _, _) = situation(name, True), situation(name, False)
    along = measures.direction(phi, 0)
    for estimator in estimators:
        steps = getattr(estimator, "lookahead_steps", 1)
        several = steps > 1 or isinstance(estimator, vfunc.Implicit)
        slope = measures.slope(
            lambda h, ask=estimator: float(
                ask(problem, theta, measures.moved(phi, h, along)).objective
            )
        )
        for engine in vfunc.ENGINES:
            if engine == "linear" and steps > 1:
                continue
            asked = replace(estimator, engine=engine)
            got, want = asked(problem, theta, phi), asked(whole, theta, phi)
            differences = engine == "finite_difference"
            # differences and solvers magnify what kernels differ by in the last place
            noise = 1e-7 if differences else 1e-10 if several else 10 * NOISE
            assert measures.apart(got.grad, want.grad) <= noise, (estimator, engine)
            assert abs(float(got.value - want.value)) <= 1e-12
            error = abs(measures.inner(got.grad, along) - slope)
            bound = 1e-5 if differences else 1e-6
            assert error <= bound * measures.size(got.grad), (estimator, engine)


def test_transforms_see_the_layers_above_the_edge_alone():
    """With a hidden state that ignores its input below, an edge of another's is what counts."""
    learner, split, args, kwargs = cut("qwen2")
    with mode(learner.module, training=False):
        edge = split.prefix(learner, *args, **kwargs)
        moved = split.suffix(learner, learner.theta, edge + 0.1, *args, **kwargs).logits
        whole = learner(learner.theta, *args, **kwargs).logits
    assert float((moved - whole).norm()) > 1e-3


def test_a_learner_that_is_its_own_stack_is_cut():
    stack = nn.Sequential(*(cases.Block() for _ in range(3)))
    assert "3 blocks (0 to .2)" in describe(stack)
    learner = vfunc.functional(stack, "last:1")
    assert {name.split(".")[0] for name in learner.names} == {"2"}
    x = torch.randn(2, cases.HIDDEN)
    split = split_at_edge(learner, x)
    assert isinstance(split, Split) and (split.below, split.depth) == (2, 3)
    edge = split.prefix(learner, x)
    assert torch.equal(split.suffix(learner, learner.theta, edge, x), stack(x))

"""Small smooth value problems, shared by the tests of the mathematical core."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from measures import generator, normal
from optimizers import PLAIN, Optimizer, with_state
from torch import Tensor, nn

import vfunc
from vfunc.float64 import keep_float64

BATCHES = 4
FEATURES, HIDDEN, CLASSES = 3, 4, 3


@dataclass(frozen=True)
class Situation:
    """A problem with the point it is asked at."""

    problem: vfunc.ValueProblem
    theta: dict[str, Tensor]
    phi: dict[str, Tensor]
    optimizer: Optimizer

    def under(self, optimizer: Optimizer) -> Situation:
        """The same question for another optimizer."""
        problem = replace(self.problem, rule=optimizer.rule(), state=optimizer.state())
        return replace(self, problem=problem, optimizer=optimizer)


class Cube(torch.autograd.Function):
    """x**3 without a tangent: it can be differentiated twice by reverse alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


def chosen(draw: torch.Generator, names: list[str]) -> list[str]:
    """A random non-empty subset."""
    keep = [n for n in names if float(torch.rand((), generator=draw)) < 0.7]
    return keep or names[-1:]


def _soft_target(phi: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """(1 - alpha) onehot + alpha r."""
    r = F.softmax(torch.tanh(x) @ phi["r"].T + phi["bias"], -1)
    alpha = 0.5 * torch.sigmoid(phi["gate"])
    return (1 - alpha) * F.one_hot(y, CLASSES).to(r) + alpha * r


def _view(phi: dict[str, Tensor], x: Tensor) -> Tensor:
    """mask * x + (1 - mask) * mean(x)."""
    mask = torch.sigmoid(x @ phi["mask"].T + phi["shift"])
    return mask * x + (1 - mask) * x.mean(-1, keepdim=True)


def _supervised(
    logits: Callable[[dict[str, Tensor], Tensor], Tensor],
    draw: torch.Generator,
    theta: dict[str, Tensor],
    *,
    view: bool,
) -> Situation:
    """Classification of random points, with soft targets, and a learned view of the input."""

    def batch(size: int) -> tuple[Tensor, Tensor]:
        return normal(draw, size, FEATURES), torch.randint(0, CLASSES, (size,), generator=draw)

    phi = {
        "r": normal(draw, CLASSES, FEATURES),
        "bias": normal(draw, CLASSES),
        "gate": normal(draw),
    }
    if view:
        phi |= {"mask": normal(draw, FEATURES, FEATURES), "shift": normal(draw, FEATURES)}

    def construct(phi, batch):
        x, y = batch
        return {"x": _view(phi, x) if view else x, "q": _soft_target(phi, x, y)}

    def coefficients(theta, task):
        return -F.log_softmax(logits(theta, task["x"]), -1) / len(task["x"])

    composite = vfunc.CompositeForm(
        lambda theta, task: logits(theta, task["x"]),
        lambda z, task: -(task["q"] * F.log_softmax(z, -1)).sum() / len(task["x"]),
    )

    def pretrain_loss(theta, task):
        return (task["q"] * coefficients(theta, task)).sum()

    fx, fy = batch(6)

    def feedback_loss(theta):
        return F.cross_entropy(logits(theta, fx), fy)

    problem = vfunc.ValueProblem(
        construct,
        pretrain_loss,
        feedback_loss,
        tuple(batch(5) for _ in range(BATCHES)),
        PLAIN.rule(),
        linear=None if view else vfunc.LinearForm("q", coefficients),
        composite=composite,
        seed=int(torch.randint(0, 1000, (), generator=draw)),
    )
    return Situation(problem, theta, phi, PLAIN)


def mlp(seed: int, *, view: bool) -> Situation:
    """A tanh network as a plain function; S a random subset of its four tensors."""
    draw = generator(seed)
    every = {
        "w1": normal(draw, HIDDEN, FEATURES),
        "b1": normal(draw, HIDDEN),
        "w2": normal(draw, CLASSES, HIDDEN) / math.sqrt(HIDDEN),
        "b2": normal(draw, CLASSES),
    }

    def logits(theta, x):
        p = every | theta
        return torch.tanh(x @ p["w1"].T + p["b1"]) @ p["w2"].T + p["b2"]

    theta = {n: every[n] for n in chosen(draw, list(every))}
    return _supervised(logits, draw, theta, view=view)


# LayerNorm's epsilon is of its input's size: four features can otherwise have next to no
# variance, and the curvature of a million that comes of it says nothing about the estimators.


class Block(nn.Module):
    """A residual block with LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN, eps=0.1)
        self.linear = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, h: Tensor) -> Tensor:
        return h + torch.tanh(self.linear(self.norm(h)))


class NormedNetwork(nn.Module):
    """Two residual blocks, a final norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, HIDDEN)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(HIDDEN, eps=0.1)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A float64 module, its norms moved off their symmetric start; the global state is kept."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make().double()
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.1 * torch.randn(p.shape, dtype=torch.float64))
    return module


def layernorm(seed: int, *, view: bool) -> Situation:
    """A live module with LayerNorm; S by name."""
    draw = generator(seed)
    module = seeded(NormedNetwork, seed)
    subset = ("all", "last:1", "re:norm|head")[seed % 3]
    learner = vfunc.functional(module, subset)
    return _supervised(learner, draw, learner.theta, view=view)


VOCABULARY = 11


@functools.cache
def _qwen2_config():
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    )


def tiny_qwen2(seed: int, attention: str = "sdpa") -> nn.Module:
    """A two-layer float64 Qwen2 with random weights, tied embeddings."""
    from transformers import Qwen2ForCausalLM

    def make() -> nn.Module:
        model = Qwen2ForCausalLM(_qwen2_config())
        model.set_attn_implementation(attention)
        return model

    return seeded(make, seed).eval()


def qwen2(seed: int) -> Situation:
    """A tiny Qwen2 in float64 with soft next-token targets; S by name."""
    draw = generator(seed)
    module = tiny_qwen2(seed, ("sdpa", "eager")[seed % 2])
    learner = vfunc.functional(module, ("last:1", "re:mlp|norm", "all")[seed % 3])

    def logits(theta, tokens):
        with keep_float64():
            return learner(theta, input_ids=tokens[:, :-1], use_cache=False).logits

    def log_p(theta, tokens):
        return F.log_softmax(logits(theta, tokens), -1)

    def construct(phi, tokens):
        r = F.softmax(phi["table"][tokens[:, :-1]], -1)
        alpha = 0.5 * torch.sigmoid(phi["gate"])
        return {
            "tokens": tokens,
            "q": (1 - alpha) * F.one_hot(tokens[:, 1:], VOCABULARY).to(r) + alpha * r,
        }

    def coefficients(theta, task):
        return -log_p(theta, task["tokens"]) / task["tokens"][:, 1:].numel()

    def pretrain_loss(theta, task):
        return (task["q"] * coefficients(theta, task)).sum()

    composite = vfunc.CompositeForm(
        lambda theta, task: logits(theta, task["tokens"]),
        lambda z, task: -(task["q"] * F.log_softmax(z, -1)).sum() / task["tokens"][:, 1:].numel(),
    )

    def tokens() -> Tensor:
        return torch.randint(0, VOCABULARY, (2, 6), generator=draw)

    feedback = tokens()

    def feedback_loss(theta):
        return F.nll_loss(log_p(theta, feedback).flatten(0, 1), feedback[:, 1:].flatten())

    phi = {"table": normal(draw, VOCABULARY, VOCABULARY), "gate": normal(draw)}
    problem = vfunc.ValueProblem(
        construct,
        pretrain_loss,
        feedback_loss,
        tuple(tokens() for _ in range(BATCHES)),
        PLAIN.rule(),
        linear=vfunc.LinearForm("q", coefficients),
        composite=composite,
        seed=seed,
    )
    return Situation(problem, learner.theta, phi, PLAIN)


CASES: dict[str, Callable[[int], Situation]] = {
    "mlp": functools.partial(mlp, view=False),
    "mlp view": functools.partial(mlp, view=True),
    "layernorm": functools.partial(layernorm, view=False),
    "layernorm view": functools.partial(layernorm, view=True),
    "qwen2": qwen2,
}

SMALL = tuple(name for name in CASES if name != "qwen2")


def situation(case: str, seed: int, optimizer: str = "sgd") -> Situation:
    """The case at that seed, under the named optimizer somewhere in its run."""
    made = CASES[case](seed)
    return made.under(with_state(optimizer, made.theta, seed))


def with_means(made: Situation, count: int = 1) -> Situation:
    """The same with means of the stream's gradients: those of single batches after the first."""
    tasks = [made.problem.construct(made.phi, batch) for batch in made.problem.batches[1:]]
    means = tuple(
        vfunc.pretrain_gradient(made.problem, made.theta, {n: x.detach() for n, x in task.items()})
        for task in tasks[:count]
    )
    return replace(made, problem=replace(made.problem, means=means))


def engines(made: Situation, *, hessian: bool) -> list[str]:
    """The exact engines that apply."""
    linear = made.problem.linear is not None and not hessian
    return ["reverse", "forward", *(["linear"] if linear else [])]

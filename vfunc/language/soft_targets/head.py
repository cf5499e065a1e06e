"""Differentiates candidates' log-probabilities along a direction, chunk by chunk through the head.

The vocabulary's layer is most of a small learner's arithmetic, and its output the largest tensor
there is. torch's forward mode makes that output and its tangent whole, and multiplies the zero
tangent of a frozen weight: three products where two suffice. Here the body alone is differentiated,
and the head is plain arithmetic on chunks of positions,

    z = W h,   dz = W dh + dW h,   d log p_k = dz_k - <p, dz>.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vfunc.language.soft_targets.soft_loss import rows_a_chunk
from vfunc.learner import FunctionalLearner
from vfunc.trees import Params, tangent_along


@dataclass(frozen=True)
class Head:
    """The last layer of a learner whose logits are that layer's output as it is.

    Attributes:
        module: its name.
        weight: name of its weight, among the learner's parameters (tied ones appear once).
        bias: name of its bias, or None.
    """

    module: str
    weight: str
    bias: str | None

    @contextlib.contextmanager
    def left_out(self, learner: nn.Module) -> Iterator[None]:
        """Let the learner give what enters its head in place of logits."""
        with _forward_of(learner.get_submodule(self.module), lambda hidden: hidden):
            yield


def find_head(functional: FunctionalLearner, forward: Callable[[], Tensor]) -> Head | None:
    """The learner's head, where its logits are a plain linear layer's and nothing else.

    Args:
        functional: the learner.
        forward: a call of the live learner, as estimates make it, that returns its logits.

    Returns:
        The head; None where there is none that is understood: another kind of layer (with an
        adapter, quantised), hooks on it, or logits that are capped or scaled behind it.
    """
    learner = functional.module
    asked = getattr(learner, "get_output_embeddings", None)
    layer = asked() if callable(asked) else None
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    names = {id(p): name for name, p in learner.named_parameters()}
    module = next((name for name, child in learner.named_modules() if child is layer), None)
    if module is None or id(layer.weight) not in names:
        return None
    bias = None if layer.bias is None else names[id(layer.bias)]
    seen: list[Tensor] = []

    def other(hidden: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        shape = (*hidden.shape[:-1], layer.out_features)
        seen.append(10 * torch.randn(shape, generator=draw).to(hidden))
        return seen[-1]

    with torch.no_grad(), _forward_of(layer, other):
        logits = forward()
    if len(seen) != 1 or logits.shape != seen[0].shape or not torch.equal(logits, seen[0]):
        return None
    return Head(module, names[id(layer.weight)], bias)


def log_probs_along(
    head: Head,
    functional: FunctionalLearner,
    hidden: Callable[[Params], Tensor],
    theta: Params,
    w: Params,
    candidates: Int[Tensor, "B T K"],
    weight: Float[Tensor, "B T"],
) -> Float[Tensor, "B T K"]:
    """The derivative of the candidates' log-probabilities along w; zero in rows of weight zero.

    Args:
        head: the learner's head.
        functional: the learner.
        hidden: theta -> the learner's output, differentiable in forward mode; the head is left
            out of it, so that it is what enters the head (B, T, D).
        theta: the point.
        w: the direction, shaped like theta.
        candidates: token ids.
        weight: each position's weight; only where it is zero matters here.

    Returns:
        The tangent, in float32 at least.
    """
    with head.left_out(functional.module):
        h, dh = tangent_along(hidden, theta, w)
    h, dh = h.detach().flatten(0, 1), dh.detach().flatten(0, 1)
    own = dict(functional.module.named_parameters())

    def now(name: str | None) -> tuple[Tensor | None, Tensor | None]:
        if name is None:
            return None, None
        moved = name in theta
        return (theta[name] if moved else own[name]).detach(), w[name] if moved else None

    (W, dW), (b, db) = now(head.weight), now(head.bias)
    assert W is not None
    ids = candidates.flatten(0, 1)
    rows = weight.flatten().nonzero().squeeze(-1)
    dtype = torch.promote_types(h.dtype, torch.float32)
    tangent = torch.zeros(ids.shape, dtype=dtype, device=ids.device)
    for part in rows.split(rows_a_chunk(W.t())):
        z = F.linear(h[part], W, b).to(dtype)
        dz = F.linear(dh[part], W, db).to(dtype)
        if dW is not None:
            dz += F.linear(h[part], dW).to(dtype)
        mean = torch.linalg.vecdot(z.softmax(-1), dz)
        tangent[part] = dz.gather(-1, ids[part]) - mean[:, None]
    return tangent.view(candidates.shape)


@contextlib.contextmanager
def _forward_of(layer: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Have a layer compute something else within the context."""
    had = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        if had is None:
            del layer.forward
        else:
            layer.forward = had

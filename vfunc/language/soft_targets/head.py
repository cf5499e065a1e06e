"""Differentiates candidates' log-probabilities along a direction, block by block of the head.

The vocabulary's layer is most of a small learner's arithmetic, and its output the largest tensor
there is. torch's forward mode makes that output and its tangent whole, and multiplies the zero
tangent of a frozen weight: three products where two suffice. Here the body alone is differentiated,
and the head is plain arithmetic,

    z = W h,   p = softmax(z),   d log p_k = <W_k, dh> + <dW_k, h> - <p W, dh> - <p dW, h>,

in which no tangent of the size of the vocabulary occurs. It is taken for many positions and a part
of the vocabulary at a time, with a running maximum for the softmax, as attention kernels go over
their keys (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135):
weights are read once for all of these positions, and no block leaves the cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vfunc.language.soft_targets.soft_loss import chunk_elements
from vfunc.learner import FunctionalLearner
from vfunc.trees import Params, tangent_along

POSITIONS = 256
"""Positions of a block on a CPU: its 1,024 tokens of the vocabulary stay in the cache, too."""

DEVICE_POSITIONS = 4096
"""The same on a device, with as many tokens."""


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
    layer = _layer(head, functional, theta, w)
    ids = candidates.flatten(0, 1)
    rows = weight.flatten().nonzero().squeeze(-1)
    dtype = torch.promote_types(h.dtype, torch.float32)
    tangent = torch.zeros(ids.shape, dtype=dtype, device=ids.device)
    for part in rows.split(POSITIONS if h.device.type == "cpu" else DEVICE_POSITIONS):
        mean = layer.mean_along(h[part], dh[part], dtype)
        tangent[part] = layer.along(h[part], dh[part], ids[part], dtype) - mean[:, None]
    return tangent.view(candidates.shape)


@dataclass(frozen=True)
class _Layer:
    """The head's weights and their tangents; of a frozen weight, and of no bias, there is none."""

    W: Tensor
    dW: Tensor | None
    b: Tensor | None
    db: Tensor | None

    def mean_along(self, h: Tensor, dh: Tensor, dtype: torch.dtype) -> Tensor:
        """<p, dz> of each position: the derivative of its logsumexp."""
        top = h.new_full((len(h), 1), -torch.inf, dtype=dtype)
        total = torch.zeros_like(top)
        of_W = torch.zeros(h.shape, dtype=dtype, device=h.device)
        of_dW, of_db = torch.zeros_like(of_W), torch.zeros_like(top)
        for block in torch.arange(len(self.W), device=h.device).split(self._block(h)):
            at = slice(int(block[0]), int(block[-1]) + 1)
            own = self.W[at]
            z = F.linear(h, own, None if self.b is None else self.b[at]).to(dtype)
            higher = torch.maximum(top, z.amax(-1, keepdim=True))
            kept, top = (top - higher).exp(), higher
            share = z.sub_(top).exp_()
            total = total * kept + share.sum(-1, keepdim=True)
            if self.db is not None:
                of_db = of_db * kept + (share @ self.db[at].to(dtype))[:, None]
            share = share.to(own.dtype)
            of_W = of_W * kept + share @ own
            if self.dW is not None:
                of_dW = of_dW * kept + share @ self.dW[at]
        mean = torch.linalg.vecdot(of_W, dh.to(dtype)) + of_db.squeeze(-1)
        if self.dW is not None:
            mean += torch.linalg.vecdot(of_dW, h.to(dtype))
        return mean / total.squeeze(-1)

    def along(self, h: Tensor, dh: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """dz of the candidates."""
        found = []
        some = max(1, chunk_elements(h) // (ids.shape[-1] * h.shape[-1]))
        for own, x, dx in zip(ids.split(some), h.split(some), dh.split(some), strict=True):
            dz = torch.bmm(self.W[own], dx.unsqueeze(-1).to(self.W.dtype)).squeeze(-1).to(dtype)
            if self.dW is not None:
                dz += torch.bmm(self.dW[own], x.unsqueeze(-1).to(self.dW.dtype)).squeeze(-1)
            if self.db is not None:
                dz += self.db[own]
            found.append(dz)
        return torch.cat(found) if found else h.new_zeros(ids.shape, dtype=dtype)

    def _block(self, h: Tensor) -> int:
        return max(1, chunk_elements(h) // max(1, len(h)))


def _layer(head: Head, functional: FunctionalLearner, theta: Params, w: Params) -> _Layer:
    own = dict(functional.module.named_parameters())

    def now(name: str | None) -> tuple[Tensor | None, Tensor | None]:
        if name is None:
            return None, None
        moved = name in theta
        return (theta[name] if moved else own[name]).detach(), w[name] if moved else None

    W, dW = now(head.weight)
    assert W is not None
    return _Layer(W, dW, *now(head.bias))


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

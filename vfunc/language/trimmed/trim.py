"""Leaves out of a learner's forward logits that nobody asks for, and frozen blocks that are known.

A vocabulary's head is a good part of a small learner's arithmetic, and prompts and padding are a
good part of most batches. Both are left out in the live module, for the length of a call, so that
the module stays what outside tools know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vfunc.learner import RandomState, mode
from vfunc.split import Split


@dataclass(frozen=True)
class Trim:
    """What a learner's forward can do without.

    Attributes:
        rows: whether its logits can be had at some positions alone.
        frozen: where its frozen lower blocks end; None where none are, or they cannot be left out.
    """

    rows: bool = False
    frozen: Split | None = None

    @contextlib.contextmanager
    def applied(
        self,
        learner: nn.Module,
        rows: Int[Tensor, "N"] | None = None,
        below: Float[Tensor, "B T D"] | None = None,
    ) -> Iterator[None]:
        """Within the context the learner's forward leaves out what it may.

        Args:
            learner: the live module.
            rows: numbers of the positions (of B T) whose logits are asked for: they come as
                (N, V), in this order. None, or where `rows` of the trim says no, asks for all.
            below: what the frozen blocks make of the inputs; None has them run.
        """
        with contextlib.ExitStack() as held:
            if rows is not None and self.rows:
                held.enter_context(_head_at(learner, rows))
            if below is not None and self.frozen is not None:
                held.enter_context(self.frozen.handing_on(learner, below))
            yield


WHOLE = Trim()
"""Nothing is left out."""


def logits_by_rows(learner: nn.Module) -> bool:
    """Whether a causal language model's logits at some positions are rows of all its logits.

    Tried on a few tokens: what is done to logits behind the head may look at all of them.

    Args:
        learner: a causal language model of transformers, or one with adapters; left as it was.
    """
    if _output_layer(learner) is None:
        return False
    device = next(learner.parameters()).device
    tokens = torch.arange(6, device=device).view(2, 3)  # texts that differ
    rows = torch.tensor([1, 2, 4], device=device)
    before = RandomState.now(device)
    try:
        with torch.no_grad(), mode(learner, training=False):
            whole = learner(input_ids=tokens, use_cache=False).logits
            with _head_at(learner, rows):
                some = learner(input_ids=tokens, use_cache=False).logits
    except (RuntimeError, ValueError, IndexError):  # code behind the head that wants (B, T, V)
        return False
    finally:
        before.restore(device)
    wanted = whole.flatten(0, 1)[rows]
    return some.shape == wanted.shape and torch.allclose(some, wanted, rtol=1e-3, atol=1e-4)


def _output_layer(learner: nn.Module) -> nn.Module | None:
    asked = getattr(learner, "get_output_embeddings", None)
    layer: Any = asked() if callable(asked) else None
    return layer


@contextlib.contextmanager
def _head_at(learner: nn.Module, rows: Tensor) -> Iterator[None]:
    layer = _output_layer(learner)
    assert layer is not None
    had, own = vars(layer).get("forward"), layer.forward
    layer.forward = lambda hidden: own(hidden.flatten(0, 1).index_select(0, rows))
    try:
        yield
    finally:
        if had is None:
            del layer.forward
        else:
            layer.forward = had

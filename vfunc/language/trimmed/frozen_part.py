"""The frozen lower blocks of a learner: what they make of a text is a constant of the data.

It is computed text by text and without padding, so that it does not depend on what a text shares
a batch with: a matrix product's rounding changes with its shape. Kept and computed anew are the
same numbers, then, bit for bit, on one machine with one number of threads.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.language.data.examples import TokenBatch
from vfunc.language.trimmed.edge_store import EdgeStore
from vfunc.learner import FunctionalLearner, as_estimated, functional
from vfunc.split import Split, Whole, split_at_edge
from vfunc.storage.digests import digest_of_tensors


@dataclass(frozen=True)
class FrozenPart:
    """The frozen blocks below the lowest one that is trained.

    Attributes:
        split: where they end.
        learner: the learner, as a function of the parameters that are trained.
        autocast: the dtype that matrix products of these blocks run in, or None.
        store: what keeps their output; None computes it at every use.
    """

    split: Split
    learner: FunctionalLearner
    autocast: torch.dtype | None = None
    store: EdgeStore | None = None

    def attached(self, batch: TokenBatch) -> TokenBatch:
        """The batch with what the frozen blocks make of it; zeros where there is padding.

        Args:
            batch: on the learner's device.
        """
        lengths = batch.lengths
        inputs = batch.inputs.cpu()
        made = [
            self.edge(row[:length])[None]
            for row, length in zip(inputs, lengths.tolist(), strict=True)
        ]
        below = torch.zeros(*batch.inputs.shape, made[0].shape[-1], dtype=made[0].dtype)
        for row, edge in zip(below, made, strict=True):
            row[: edge.shape[1]] = edge[0]
        return replace(batch, below=below.to(batch.tokens.device))

    def edge(self, inputs: Int[Tensor, "T"]) -> Float[Tensor, "T D"]:
        """What the frozen blocks make of one text, on the CPU, as the trained ones take it."""
        found = None if self.store is None else self.store.read(inputs)
        if found is None:
            found = self._computed(inputs)
            if self.store is not None:
                found = self.store.write(inputs, found)
        return found.to(self._dtype)

    def missing(self, texts: Iterable[Int[Tensor, "_"]]) -> list[Int[Tensor, "_"]]:
        """Those of the texts that are not kept yet, each once; none where nothing is kept."""
        if self.store is None:
            return []
        apart = {text.numpy().tobytes(): text for text in texts}
        return [text for text in apart.values() if not self.store.holds(text)]

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.learner.theta.values())).dtype

    def _computed(self, inputs: Tensor) -> Tensor:
        module = self.learner.module
        tokens = inputs[None].to(next(module.parameters()).device)
        with torch.no_grad(), as_estimated(module, self.autocast):
            edge = self.split.prefix(self.learner, input_ids=tokens, use_cache=False)
        return edge[0].cpu()


def frozen_part(
    module: nn.Module,
    text: Int[Tensor, "T"],
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> FrozenPart | Whole:
    """The learner's frozen part, tried on a text; or why there is none to be had.

    Args:
        module: the start learner, of which what is trained requires a gradient. It is not changed;
            on another device than its own it is copied.
        text: token ids.
        device: where it runs.
        autocast: the dtype that matrix products run in, or None.
    """
    own = next(module.parameters()).device
    placed = module if own == device else copy.deepcopy(module).to(device)
    learner = functional(placed, "all")
    with as_estimated(placed, None):
        split = split_at_edge(learner, input_ids=text[None].to(device), use_cache=False)
    return split if isinstance(split, Whole) else FrozenPart(split, learner, autocast)


def digest_of_frozen(part: FrozenPart) -> str:
    """What the output of the frozen blocks depends on beside the text, as one digest.

    Weights and buffers of all that is frozen, the configuration, where the blocks end, precision.
    """
    module, trained = part.learner.module, set(part.learner.names)
    tensors = {name: x for name, x in module.state_dict().items() if name not in trained}
    # an adapter that adds nothing yet, B being zero, is drawn by the seed
    idle = {
        n.partition(".lora_B.")[0] for n, x in tensors.items() if ".lora_B." in n and not x.any()
    }
    tensors = {n: x for n, x in tensors.items() if n.partition(".lora_")[0] not in idle}
    configuration = getattr(module, "config", None)
    said = configuration.to_json_string() if configuration is not None else type(module).__name__
    told = [digest_of_tensors(tensors), said, part.split.below, str(part.autocast)]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def require_frozen_blocks(found: FrozenPart | Whole, flag: str) -> FrozenPart:
    """The frozen part, where an option needs one.

    Raises:
        UserError: there is none; the reason is told.
    """
    if isinstance(found, Whole):
        raise UserError(f"{flag}: no blocks are frozen whose output could be kept: {found.why}")
    return found


def texts_of(batches: Sequence[TokenBatch]) -> list[Int[Tensor, "_"]]:
    """The inputs of each text of some batches, without padding."""
    return [
        row[:length]
        for batch in batches
        for row, length in zip(batch.inputs, batch.lengths.tolist(), strict=True)
    ]

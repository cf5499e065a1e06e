"""A causal language model as estimates see it: a pure function of theta_S, cut below S."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.forward_pass import autocast
from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_targets.candidates import ObservedBatch
from vfunc.language.soft_targets.head import Head, find_head, log_probs_along
from vfunc.language.soft_targets.soft_loss import next_token_loss
from vfunc.language.trimmed.trim import WHOLE, Trim
from vfunc.learner import FunctionalLearner, RandomState, as_estimated
from vfunc.processes import Processes
from vfunc.sharding import ShardedLearner
from vfunc.split import UNCUT, Split, Whole, split_at_edge
from vfunc.trees import Params, Scalar


@dataclass(frozen=True)
class LanguageLearner:
    """A causal language model as a pure function theta_S -> logits.

    Attributes:
        functional: the model and the subset S.
        autocast: the dtype that matrix products run in, or None for the parameters' own.
        dropout: the random state whose dropout masks are repeated; None evaluates without
            dropout.
        split: where it is cut at the lower edge of S, so that estimates compute what is below
            once; or `Whole` and why it is not. Not together with `dropout`: masks would not be
            the same.
        head: its last layer, where that is understood; estimates go through it chunk by chunk.
        trim: what its forwards can do without.
        live: the module that trains, where the blocks below S are shards and `functional` is of
            its twin (see `vfunc.sharding`); None is that of `functional`.
    """

    functional: FunctionalLearner
    autocast: torch.dtype | None = None
    dropout: RandomState | None = None
    split: Split | Whole = UNCUT
    head: Head | None = None
    trim: Trim = WHOLE
    live: nn.Module | None = None

    def __post_init__(self) -> None:
        if self.dropout is not None and isinstance(self.split, Split):
            raise UserError("a learner whose dropout is repeated cannot be split: give one of both")

    @property
    def module(self) -> nn.Module:
        """The module that trains."""
        return self.functional.module if self.live is None else self.live

    def in_shards(self, sharded: ShardedLearner) -> LanguageLearner:
        """The learner after its blocks below S have been spread; it was cut before that.

        Raises:
            UserError: it cannot be cut, so that estimates would need all of it.
        """
        if not isinstance(self.split, Split):
            raise UserError(
                "--shard-learner: estimates would need the whole learner, which cannot be cut "
                f"below S: {self.split.why}"
            )
        trim = replace(self.trim, frozen=self.split)
        return replace(self, functional=sharded.seen, live=sharded.live, trim=trim)

    def repeating(self, dropout: RandomState) -> LanguageLearner:
        """The learner with the dropout of its own step, which runs through every block."""
        why = "estimates repeat the dropout of the learner's step in every block"
        return replace(self, dropout=dropout, split=Whole(why))

    def cut(self, batch: TokenBatch) -> LanguageLearner:
        """The learner cut where S allows it, tried on these sequences; see `split_at_edge`."""
        module = self.functional.module
        with as_estimated(module, self.autocast):
            split = split_at_edge(self.functional, input_ids=batch.inputs, use_cache=False)
            call = {"input_ids": batch.inputs, "use_cache": False}
            head = find_head(self.functional, lambda: module(**call).logits)
        return replace(self, split=split, head=head)

    def logits(
        self,
        theta: Params,
        inputs: Tensor,
        *,
        dropout: bool,
        edge: Tensor | None = None,
        below: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V); with `dropout`, the learner's own step's masks if it has any.

        Args:
            theta: theta_S.
            inputs: token ids (B, T).
            dropout: whether the step's own masks are repeated.
            edge: what the blocks below S give (B, T, D), which then do not run.
            below: the same of frozen blocks, where there is no edge.
            rows: the positions whose logits are asked for, which then come as (N, V) if the
                learner can do so.
        """
        arguments: dict[str, Any] = {"input_ids": inputs, "use_cache": False}
        masks, module = self.dropout if dropout else None, self.functional.module
        known = below if edge is None else None
        whole = rows is None and known is None
        left_out = contextlib.nullcontext() if whole else self.trim.applied(module, rows, known)
        with as_estimated(module, self.autocast, masks), left_out:
            if edge is None:
                return self.functional(theta, **arguments).logits
            assert isinstance(self.split, Split)
            return self.split.suffix(self.functional, theta, edge, **arguments).logits

    def log_probs_along(
        self,
        theta: Params,
        w: Params,
        inputs: Tensor,
        candidates: Tensor,
        weight: Tensor,
        *,
        edge: Tensor | None = None,
        below: Tensor | None = None,
    ) -> Tensor:
        """The derivative along w of the candidates' log-probabilities (B, T, K), with `logits`'.

        It needs a `head`.
        """
        assert self.head is not None
        module = self.functional.module

        def hidden(at: Params) -> Tensor:
            return self.logits(at, inputs, dropout=True, edge=edge, below=below)

        device = next(module.parameters()).device
        # the head's own arithmetic is in the same precision
        with autocast(device, self.autocast):
            return log_probs_along(self.head, self.functional, hidden, theta, w, candidates, weight)

    def live_logits(
        self, batch: TokenBatch, through: nn.Module | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The live module's logits, in its own mode, and the edge that estimates would compute.

        Logits are those of the predicted positions (N, V), if the learner can do so.

        The edge is None where there is none, or where it is another: estimates run without
        dropout, and so may not take what came out of it.

        Args:
            batch: token sequences.
            through: a wrapper of the module to call in its place, that of several processes.
        """
        module, device = self.module, batch.tokens.device
        split = self.split if isinstance(self.split, Split) else None
        before = None if split is None else RandomState.now(device)
        capture = contextlib.nullcontext([]) if split is None else split.capture(module)
        with (
            capture as edges,
            autocast(device, self.autocast),
            self.trim.applied(module, batch.predicted_rows, batch.below),
        ):
            logits = (through or module)(input_ids=batch.inputs, use_cache=False).logits
        same = before is not None and before.same_as(RandomState.now(device))
        return logits, edges[0] if same else None

    def at_edge(self, observed: ObservedBatch) -> ObservedBatch:
        """The batch with its edge, computed now unless it is known; without one if not split."""
        if not isinstance(self.split, Split):
            return replace(observed, edge=None)
        if observed.edge is not None:
            return observed
        if self.live is not None:
            return replace(observed, edge=self._edge_of(observed.batch.inputs))
        batch, module = observed.batch, self.functional.module
        known = batch.below
        left_out = (
            contextlib.nullcontext() if known is None else self.trim.applied(module, below=known)
        )
        with torch.no_grad(), as_estimated(module, self.autocast), left_out:
            edge = self.split.prefix(self.functional, input_ids=batch.inputs, use_cache=False)
        return replace(observed, edge=edge)

    def known_below(
        self, batches: Sequence[TokenBatch], processes: Processes
    ) -> tuple[TokenBatch, ...]:
        """Batches with what the blocks below S make of them, where these are shards.

        No loss gathers anything, then: transforms meet no collective operation.

        Args:
            batches: this process's, on its device; the others may have more of them, or fewer.
            processes: all of which have to ask.
        """
        if self.live is None:
            return tuple(batches)
        known = []
        for k in range(processes.any(len(batches)) or 0):
            # every process takes part in what another gathers
            inputs = batches[k].inputs if k < len(batches) else self._nothing()
            edge = self._edge_of(inputs if inputs.numel() else self._nothing())
            if k < len(batches):
                below = edge if inputs.numel() else edge.new_zeros(*inputs.shape, edge.shape[-1])
                known.append(replace(batches[k], below=below))
        return tuple(known)

    def _nothing(self) -> Tensor:
        return torch.zeros(1, 1, dtype=torch.long, device=next(self.module.parameters()).device)

    def _edge_of(self, inputs: Tensor) -> Tensor:
        """The edge, by the module in shards."""
        assert self.live is not None and isinstance(self.split, Split)
        first = torch.zeros(1, dtype=torch.long, device=inputs.device)  # of the logits, nobody asks
        with as_estimated(self.live, self.autocast), self.trim.applied(self.live, first):
            return self.split.computed(self.live, input_ids=inputs, use_cache=False)

    def worked_loss(self, batch: TokenBatch) -> Callable[[Params], Scalar]:
        """L_down on worked solutions: theta_S -> `next_token_loss`, without dropout."""

        def loss(theta: Params) -> Scalar:
            return next_token_loss(self.logits_at(theta, batch), batch)

        return loss

    def logits_at(self, theta: Params, batch: TokenBatch) -> Tensor:
        """Logits at a batch's predicted positions (N, V), without dropout; at all, if they must."""
        rows, below = batch.predicted_rows, batch.below
        return self.logits(theta, batch.inputs, dropout=False, below=below, rows=rows)

    @property
    def no_second_order(self) -> str | None:
        """Why its attention can be differentiated once alone, or None: see `ValueProblem`."""
        config = getattr(self.functional.module, "config", None)
        attention = getattr(config, "_attn_implementation", None)
        if attention in (None, "eager", "sdpa"):
            return None
        return f"{attention} attention has neither a forward mode nor a double backward"

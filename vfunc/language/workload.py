"""The language modality as the training loop sees it (`vfunc.workload.Workload`)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedTokenizerBase

from vfunc.arms import ARMS
from vfunc.errors import UserError
from vfunc.forward_pass import autocast
from vfunc.language.data.examples import TokenBatch, first_rows
from vfunc.language.data.reading import LanguageData
from vfunc.language.data.sequences import MixedStream, by_length, tokens_in
from vfunc.language.evaluation.evaluating import AtEnd, Forwards, evaluated
from vfunc.language.feedback_options import DirectOptions
from vfunc.language.feedback_tasks import (
    FeedbackBatch,
    FeedbackTasks,
    Measured,
    matched_domains,
    measure,
    measure_bank,
)
from vfunc.language.hidden_state import capture
from vfunc.language.learner import LanguageLearner
from vfunc.language.rewards import PromptStream
from vfunc.language.soft_targets.candidates import ObservedBatch, observe
from vfunc.language.soft_targets.designer import DesignerConfig, TopKDesigner, load_designer
from vfunc.language.soft_targets.gates import gate_notes
from vfunc.language.soft_targets.hand_made import hand_made_targets
from vfunc.language.soft_targets.oracle import (
    candidate_values,
    oracle_targets,
    tilted_targets,
)
from vfunc.language.soft_targets.soft_loss import one_hot, soft_cross_entropy, weights_of
from vfunc.language.soft_targets.targets import mix
from vfunc.language.trimmed.frozen_part import FrozenPart
from vfunc.language.trimmed.trim import WHOLE, Trim
from vfunc.language.value_map import map_values
from vfunc.language.value_problem import language_problem
from vfunc.learner import FunctionalLearner, RandomState, mode
from vfunc.problem import InParts, KnownFeedback, Task, ValueProblem
from vfunc.problem.gains import Gains
from vfunc.processes import ALONE, Processes
from vfunc.sharding import ShardedLearner
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.trees import Params, Scalar
from vfunc.workload import BuiltTask, Downstream, Evaluation, Forward, Half, Halves

HALF = 8
"""Feedback batches in one of two draws that are compared, at most."""


OfTexts = TypeVar("OfTexts", TokenBatch, ObservedBatch)


@dataclass(frozen=True)
class LanguageWorkload:
    """Soft next-token targets for a causal language model.

    Attributes:
        data: the data of the run.
        tokenizer: the learner's; None where nothing is generated or drawn.
        designer: the designer's size and target form.
        start_designer: a saved designer to start from, or None.
        top_k: K.
        batch_size: sequences in a micro-batch of the stream.
        meta_batch_size: how many of these an estimate takes, the first.
        meta_seq_len: how many tokens of each, the first; None takes all.
        feedback_batch_size: sequences in a feedback batch.
        fixed_alpha: the gate of `uniform_smoothing` and `self_distillation`.
        device: the learner's device.
        dtype: dtype of mixed precision, or None.
        seed: seed of the designer's initial parameters.
        sources: names of the stream's sources, by their sequences' domain, whose gates are told
            apart; empty where there is one, or where a domain is no source.
        tasks: the feedback's tasks.
        tilt: how far `tilted_oracle` goes from the learner, in nats of a typical value.
        mixing_share: share of labelled texts in the stream of `mixing`.
        direct: options of the arms that TRL trains.
        trim: what the learner's forwards can do without.
        frozen: the learner's frozen lower blocks, where there are any; batches carry their output.
        processes: the processes that each hold a share of every batch.
        at_end: what is evaluated at the start and the end, beside the held-out data.
        through: a wrapper of the learner that its own forwards go through, in another's loop; None
            calls the learner.
        unit: the unit of budgets.
    """

    data: LanguageData
    tokenizer: PreTrainedTokenizerBase | None
    designer: DesignerConfig
    start_designer: str | None
    top_k: int
    batch_size: int
    meta_batch_size: int
    feedback_batch_size: int
    fixed_alpha: float
    device: torch.device
    dtype: torch.dtype | None
    seed: int
    sources: tuple[str, ...] = ()
    tasks: FeedbackTasks = field(default_factory=FeedbackTasks)
    tilt: float = 0.1
    mixing_share: float = 0.25
    meta_seq_len: int | None = None
    direct: DirectOptions = field(default_factory=DirectOptions)
    trim: Trim = WHOLE
    frozen: FrozenPart | None = None
    processes: Processes = ALONE
    at_end: AtEnd = field(default_factory=AtEnd)
    through: nn.Module | None = None
    unit: str = "tokens"

    def smaller(self, examples: int) -> LanguageWorkload:
        """See `Workload.smaller`."""
        return replace(
            self,
            batch_size=min(examples, self.batch_size),
            meta_batch_size=min(examples, self.meta_batch_size),
            feedback_batch_size=min(examples, self.feedback_batch_size),
            processes=ALONE,
        )

    def among(self, processes: Processes) -> LanguageWorkload:
        """See `Workload.among`.

        Raises:
            UserError: domains are matched, of which a process's share of a batch may hold none.
        """
        if self.tasks.combine == "matched" and not processes.alone:
            raise UserError("--feedback-combine matched is for one process; give sum, or one")
        return replace(self, processes=processes)

    def batch(self, position: int) -> TokenBatch:
        """See `Workload.batch`."""
        return self._placed(self._own(position).among(self.processes))

    def _own(self, position: int) -> TokenBatch:
        """This process's share of a micro-batch, as it is read."""
        size = self.batch_size
        return self.data.stream.batch(self._at(position) * size, size)

    def _placed(self, batch: TokenBatch) -> TokenBatch:
        """The batch on the device, with what the frozen blocks make of it."""
        batch = batch.to(self.device)
        return batch if self.frozen is None else self.frozen.attached(batch)

    def _at(self, index: int) -> int:
        """Where this process's share of a batch of all is, counted in shares."""
        return index * self.processes.size + self.processes.rank

    def feedback(self, index: int) -> FeedbackBatch:
        """See `Workload.feedback`."""
        size = self.feedback_batch_size
        batch = self.data.feedback.batch(self._at(index) * size, size)
        return self._placed(batch) if isinstance(batch, TokenBatch) else batch

    def estimated(
        self, functional: FunctionalLearner, sharded: ShardedLearner | None = None
    ) -> LanguageLearner:
        """See `Workload.estimated`: the cut is tried on one sequence."""
        if sharded is None:
            first = self.smaller(1).batch(0)
            return LanguageLearner(functional, self.dtype, trim=self.trim).cut(first)
        first = replace(self, device=torch.device("cpu")).smaller(1).batch(0)
        whole = LanguageLearner(sharded.start, self.dtype, trim=self.trim)
        return whole.cut(first).in_shards(sharded)

    def forward(
        self,
        learner: nn.Module,
        batch: TokenBatch,
        *,
        observe: bool,
        estimated: LanguageLearner | None = None,
    ) -> Forward:
        """See `Workload.forward`; units are input tokens, without padding."""
        logits, edge, hidden = self._logits(
            learner, batch, estimated, observe=observe, through=self.through
        )
        observed = self._observed(logits, batch, edge, hidden) if observe else None
        return Forward(batch, tokens_in(batch), logits, observed)

    def look_ahead(
        self, learner: nn.Module, batch: TokenBatch, *, estimated: LanguageLearner | None = None
    ) -> ObservedBatch:
        """See `Workload.look_ahead`."""
        batch = self._part(batch)
        with torch.no_grad(), mode(learner, training=False):
            logits, edge, hidden = self._logits(learner, batch, estimated)
        return self._observed(logits, batch, edge, hidden)

    def _part(self, batch: OfTexts) -> OfTexts:
        """What an estimate takes of a batch."""
        fewer, length = self.meta_batch_size < self.batch_size, self.meta_seq_len
        held = batch.batch if isinstance(batch, ObservedBatch) else batch
        part = first_rows(batch, self.meta_batch_size) if fewer else batch
        if length is not None and held.tokens.shape[1] > length:
            part = part.first_tokens(length)
        elif not fewer and (length is None or self.processes.alone):
            return batch
        # counted by all processes or by none: of the texts of some there may be nothing to cut
        if isinstance(part, ObservedBatch):
            return replace(part, batch=part.batch.among(self.processes))
        return part.among(self.processes)

    def of_arm(self, arm: str, followed: Sequence[Mapping[str, Any]] = ()) -> LanguageWorkload:
        """See `Workload.of_arm`."""
        stream, labelled = self.data.stream, self.data.feedback
        if not ARMS[arm].direct or (ARMS[arm].phases and isinstance(labelled, PromptStream)):
            return self
        assert not isinstance(stream, MixedStream) and not isinstance(labelled, PromptStream)
        mixed = MixedStream(stream, labelled, self.mixing_share) if arm == "mixing" else labelled
        return replace(self, data=replace(self.data, stream=mixed))

    def build_task(
        self,
        learner: nn.Module,
        arm: str,
        forward: Forward,
        designer: nn.Module | None,
        *,
        estimated: LanguageLearner | None = None,
        g_down: Params | None = None,
    ) -> BuiltTask:
        """See `Workload.build_task`. Candidates and q; the baseline's is the true token alone."""
        valued = ARMS[arm].valued
        if arm == "baseline" or ARMS[arm].direct or (valued and g_down is None):
            return BuiltTask(one_hot(forward.batch), {})
        observed = forward.observed
        assert isinstance(observed, ObservedBatch)
        if valued:
            assert estimated is not None and g_down is not None
            u = candidate_values(estimated, observed, g_down)
            q, alpha = (
                oracle_targets(self.designer.target, observed, u)
                if arm == "oracle"
                else tilted_targets(observed, u, self.tilt)
            )
        elif designer is None:
            q, alpha = hand_made_targets(arm, observed, self.fixed_alpha)
        else:
            with torch.no_grad():
                r, alpha = designer(observed.batch, observed.observation)
                q = mix(alpha, r)
        means, counts = gate_notes(alpha, q, forward.batch, self.sources, self.processes)
        return BuiltTask((observed.observation.candidates, q), means, counts=counts)

    def loss(self, learner: nn.Module, forward: Forward, task: BuiltTask) -> Tensor:
        """See `Workload.loss`."""
        assert forward.output is not None
        candidates, q = task.task
        weight = weights_of(forward.batch)
        known = None
        if isinstance(forward.observed, ObservedBatch):
            seen = forward.observed.observation
            if candidates is seen.candidates:  # a baseline's are its own
                known = (seen.log_probs, seen.normaliser)
        return soft_cross_entropy(forward.output, candidates, q, weight, known)

    def stepped(
        self, learner: nn.Module, carried: Sequence[Mapping[str, Tensor]], fraction: float
    ) -> None:
        """See `Workload.stepped`: a language model keeps no books."""

    def new_designer(self) -> TopKDesigner:
        """See `Workload.new_designer`."""
        if self.start_designer is not None:
            return load_designer(self.start_designer).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return TopKDesigner(self.designer).to(self.device)

    def regularisers(
        self, designer: nn.Module, phi: Params, observed: ObservedBatch
    ) -> Mapping[str, Scalar]:
        """See `Workload.regularisers`: means over predicted positions.

        `gate` is the gate's (sparsity); `moved` the target mass that is off the true token, which
        a gate towards a learner that agrees with the text leaves alone.
        """
        observed = self._part(observed)
        r, alpha = functional_call(designer, phi, (observed.batch, observed.observation))
        weight = weights_of(observed.batch)
        moved = 1 - mix(alpha, r)[..., 0]
        return {"gate": (alpha * weight).sum(), "moved": (moved * weight).sum()}

    def bank(self, index: int, count: int) -> tuple[TokenBatch, ...]:
        """This process's share of a bank of so many feedback examples, in batches by length.

        Args:
            index: the bank's number; one follows the other in the feedback's order.
            count: examples in it, of all processes.
        """
        size, share = self.feedback_batch_size, self.processes.share(count)
        found = (
            self.data.feedback.batch(index * count + at, min(size, share.stop - at))
            for at in share[::size]
        )
        held = [batch for batch in found if isinstance(batch, TokenBatch)]
        return tuple(map(self._placed, by_length(held, size)))

    def downstream(
        self,
        estimated: LanguageLearner,
        index: int,
        *,
        dropout: RandomState | None,
        seed: int,
        bank: int | None = None,
    ) -> Measured:
        """See `Workload.downstream`; rewards are drawn here."""
        learner = estimated if dropout is None else estimated.repeating(dropout)
        if bank is not None:
            parts = learner.known_below(self.bank(index, bank), self.processes)
            return measure_bank(self.tasks, learner, parts, self.processes)
        feedback = self.feedback(index)
        if learner.live is not None and isinstance(feedback, TokenBatch):
            (feedback,) = learner.known_below([feedback], self.processes)
        return measure(
            self.tasks,
            learner,
            _generating(learner.module),
            self.tokenizer,
            feedback,
            seed,
            self.processes,
        )

    def problem(
        self,
        estimated: LanguageLearner,
        designer: nn.Module,
        observed: tuple[ObservedBatch, ...],
        downstream: Downstream,
        rule: UpdateRule,
        state: OptimizerState,
        *,
        dropout: RandomState | None,
        seed: int,
        known: KnownFeedback | None = None,
        gains: Gains | None = None,
    ) -> ValueProblem:
        """See `Workload.problem`."""
        learner = estimated if dropout is None else estimated.repeating(dropout)
        parts = tuple(map(self._part, observed))
        # cut before every completion, no text has a token whose task could matter
        cut_short = self.meta_seq_len is not None and not any(map(_predicts, parts))
        problem = language_problem(
            learner,
            designer,
            parts,
            downstream.loss,
            rule,
            state,
            seed=seed,
            silent=downstream.constant or cut_short,
            notes=downstream.notes,
            known=known,
            gains=gains,
            processes=self.processes,
        )
        if self.tasks.combine != "matched":
            return problem
        assert isinstance(downstream, Measured)
        return matched_domains(self.tasks, problem, downstream, learner.functional.theta)

    def stream_loss(self, estimated: LanguageLearner, positions: range) -> InParts:
        """See `Workload.stream_loss`: a mean over all predicted tokens, in batches by length."""
        own = [self._own(at) for at in positions]
        (count,) = self.processes.totals(sum(int(batch.predict.sum()) for batch in own))

        def part(theta: Params, batch: TokenBatch) -> Scalar:  # it is placed when its turn comes
            placed = replace(self._placed(batch), count=int(count))
            return estimated.worked_loss(placed)(theta)

        parts = by_length(own, self.batch_size)
        if estimated.live is not None:
            parts = estimated.known_below([self._placed(batch) for batch in parts], self.processes)
        return InParts(tuple(partial(part, batch=batch) for batch in parts))

    def held_out(self, estimated: LanguageLearner, index: int) -> Callable[[Params], Scalar]:
        """See `Workload.held_out`."""
        size = self.feedback_batch_size
        batch = self.data.held_out.batch(self._at(index) * size, size)
        placed = self._placed(batch.among(self.processes))
        (placed,) = estimated.known_below([placed], self.processes)
        return estimated.worked_loss(placed)

    def feedback_batches(self) -> int:
        """See `Workload.feedback_batches`."""
        return self.data.feedback.distinct // (self.feedback_batch_size * self.processes.size)

    def halves(self, estimated: LanguageLearner) -> Halves | None:
        """See `Workload.halves`: batches, the first for one half and the next for the other."""
        share = self.feedback_batch_size * self.processes.size
        there = min(self.data.feedback.distinct, self.data.held_out.distinct) // share
        each = min(HALF, there // 2)
        if not each:
            return None
        first, second = range(each), range(each, 2 * each)

        def feedback(k: int) -> Callable[[Params], Scalar]:
            return self.downstream(estimated, k, dropout=None, seed=self.seed + k).loss

        def half(one: Callable[[int], Callable[[Params], Scalar]], at: range) -> Half:
            return Half(tuple(map(one, at)), each * share)

        def held_out(k: int) -> Callable[[Params], Scalar]:
            return self.held_out(estimated, k)

        return (
            (half(feedback, first), half(feedback, second)),
            (half(held_out, first), half(held_out, second)),
        )

    def known_tasks(
        self, estimated: LanguageLearner, position: int, batch: ObservedBatch, task: Task
    ) -> Mapping[str, Task]:
        """See `Workload.known_tasks`: `known_wrong`, where tokens are known to be mistaken."""
        found = self.known_wrong(batch, task)
        if found is None:
            return {}
        q, _ = hand_made_targets("known_wrong", batch, self.fixed_alpha)
        return {"baseline": found[0], "known_wrong": {**task, "q": q}}

    def known_wrong(self, batch: ObservedBatch, task: Task) -> tuple[Task, Tensor, Tensor] | None:
        """See `Workload.known_wrong`: all mass on the true token, which is the first candidate."""
        texts = batch.batch
        # one answer for all processes, which go on to sum what follows from it
        if not self.processes.any(int((texts.wrong & texts.predict).any())):
            return None
        plain = torch.zeros_like(task["q"])
        plain[..., 0] = 1.0
        return {**task, "q": plain}, texts.predict, texts.wrong

    def values_in_bounds(
        self,
        estimated: LanguageLearner,
        designer: nn.Module,
        observed: ObservedBatch,
        g_down: Params,
    ) -> Mapping[str, float]:
        """See `Workload.values_in_bounds`: <q, u>, of this process's examples."""
        u = candidate_values(estimated, observed, g_down)
        weight = weights_of(observed.batch)
        with torch.no_grad():
            r, alpha = designer(observed.batch, observed.observation)
        best, _ = oracle_targets(self.designer.target, observed, u)
        text = mix(torch.zeros_like(alpha), r)
        tasks = {"text": text, "designer": mix(alpha, r), "oracle": best}
        return {
            name: float((weight * (q.to(u.dtype) * u).sum(-1)).sum()) for name, q in tasks.items()
        }

    def value_map(
        self,
        estimated: LanguageLearner,
        designer: nn.Module,
        observed: ObservedBatch,
        task: Task,
        cotangents: Mapping[str, Mapping[str, Tensor]],
    ) -> dict[str, Any]:
        """See `Workload.value_map`: a few texts, by token."""
        assert self.tokenizer is not None
        return map_values(self.tokenizer, observed, self.designer.target, task, cotangents)

    def evaluate(self, learner: nn.Module, *, final: bool) -> Evaluation:
        """See `Workload.evaluate`."""
        assert self.tokenizer is not None
        return evaluated(
            learner,
            _generating(learner),
            self.tokenizer,
            self.data,
            map(self._placed, self.data.evaluation),
            Forwards(self.device, self.dtype, self.trim),
            self.at_end,
            final=final,
        )

    def _logits(
        self,
        learner: nn.Module,
        batch: TokenBatch,
        estimated: LanguageLearner | None,
        *,
        observe: bool = True,
        through: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The learner's logits, at predicted positions alone if it can.

        And the edge that an estimate would compute, if it is the same; and the hidden state that
        the designer looks at, if it does.
        """
        at = self.designer.hidden if observe else None
        looking = contextlib.nullcontext([]) if at is None else capture(learner, at.block)
        with looking as seen:
            if estimated is not None:
                logits, edge = estimated.live_logits(batch, through)
            else:
                rows, below = batch.predicted_rows, batch.below
                with (
                    autocast(self.device, self.dtype),
                    self.trim.applied(learner, rows, below),
                ):
                    called = through or learner
                    logits = called(input_ids=batch.inputs, use_cache=False).logits
                edge = None
        return logits, edge, seen[0] if seen else None

    def _observed(
        self, logits: Tensor, batch: TokenBatch, edge: Tensor | None, hidden: Tensor | None
    ) -> ObservedBatch:
        observation = replace(observe(logits, batch, self.top_k), hidden=hidden)
        return ObservedBatch(batch, observation, edge)


def _predicts(observed: ObservedBatch) -> bool:
    """Whether any token is predicted, of all processes."""
    count = observed.batch.count
    return bool(observed.batch.predict.any() if count is None else count)


def _generating(learner: nn.Module) -> Any:
    """The model that generates: adapters are layers of the base model."""
    peft: Any = sys.modules.get("peft")  # where nobody has imported it there are no adapters
    own: Any = learner
    return own.get_base_model() if peft is not None and isinstance(own, peft.PeftModel) else own

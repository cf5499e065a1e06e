"""The language modality as the training loop sees it (`vfunc.workload.Workload`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedTokenizerBase

from vfunc.language.candidates import ObservedBatch, observe, one_hot
from vfunc.language.data.examples import TokenBatch
from vfunc.language.data.reading import LanguageData
from vfunc.language.data.sequences import tokens_in
from vfunc.language.designer import DesignerConfig, TopKDesigner
from vfunc.language.designer_file import load_designer, save_designer
from vfunc.language.evaluation.held_out import held_out_loss
from vfunc.language.evaluation.solving import pass_at_1
from vfunc.language.feedback_tasks import (
    FeedbackBatch,
    FeedbackTasks,
    matched_domains,
    measure,
    total_loss,
)
from vfunc.language.hand_made import hand_made_targets
from vfunc.language.loading import quiet
from vfunc.language.soft_loss import position_weights, soft_cross_entropy
from vfunc.language.targets import mix
from vfunc.language.value_problem import (
    LanguageLearner,
    designed_targets,
    language_problem,
    worked_loss,
)
from vfunc.learner import FunctionalLearner, RandomState, mode
from vfunc.precision import autocast
from vfunc.problem import Task, ValueProblem
from vfunc.report.token_map import token_map
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.split import Split, Splits, Whole
from vfunc.trees import Params, Scalar
from vfunc.workload import BuiltTask, Evaluation, Forward, Metric

METRICS = (
    Metric("loss", "held-out\nloss", "nat", outcomes="loss"),
    Metric(
        "pass_at_1",
        "Pass@1\n%",
        "%",
        higher_is_better=True,
        outcomes="pass_at_1",
        scale=100.0,
        digits=1,
    ),
)

MAPPED_TEXTS = 3
"""Texts in a token value map; those with known mistakes first."""


@dataclass(frozen=True)
class LanguageWorkload:
    """Soft next-token targets for a causal language model.

    Attributes:
        data: what is read.
        tokenizer: the learner's.
        designer: the designer's size and target form.
        start_designer: a saved designer to start from, or None.
        top_k: K.
        batch_size: sequences in a micro-batch of the stream.
        feedback_batch_size: sequences in a feedback batch.
        fixed_alpha: the gate of `uniform_smoothing` and `self_distillation`.
        device: where the learner is.
        dtype: of mixed precision, or None.
        seed: of the designer's first parameters.
        tasks: what the feedback measures.
        metrics: see `Workload.metrics`.
        splits: where each arm's learner is cut at the lower edge of S.
    """

    data: LanguageData
    tokenizer: PreTrainedTokenizerBase
    designer: DesignerConfig
    start_designer: str | None
    top_k: int
    batch_size: int
    feedback_batch_size: int
    fixed_alpha: float
    device: torch.device
    dtype: torch.dtype | None
    seed: int
    tasks: FeedbackTasks = field(default_factory=FeedbackTasks)
    unit: str = "tokens"
    metrics: tuple[Metric, ...] = METRICS
    splits: Splits = field(default_factory=Splits, repr=False, compare=False)

    def smaller(self, examples: int) -> LanguageWorkload:
        """See `Workload.smaller`."""
        return replace(
            self,
            batch_size=min(examples, self.batch_size),
            feedback_batch_size=min(examples, self.feedback_batch_size),
        )

    def batch(self, position: int) -> TokenBatch:
        """See `Workload.batch`."""
        return self.data.stream.batch(position * self.batch_size, self.batch_size).to(self.device)

    def feedback(self, index: int) -> FeedbackBatch:
        """See `Workload.feedback`."""
        size = self.feedback_batch_size
        batch = self.data.feedback.batch(index * size, size)
        return batch.to(self.device) if isinstance(batch, TokenBatch) else batch

    def count(self, batch: TokenBatch) -> int:
        """See `Workload.count`: input tokens, without padding."""
        return tokens_in(batch)

    def forward(
        self,
        learner: nn.Module,
        batch: TokenBatch,
        *,
        observe: bool,
        estimated: FunctionalLearner | None = None,
    ) -> Forward:
        """See `Workload.forward`."""
        logits, edge = self._logits(learner, batch, estimated)
        return Forward(batch, logits, self._observe(logits, batch, edge) if observe else None)

    def look_ahead(
        self, learner: nn.Module, batch: TokenBatch, *, estimated: FunctionalLearner | None = None
    ) -> ObservedBatch:
        """See `Workload.look_ahead`."""
        with torch.no_grad(), mode(learner, training=False):
            logits, edge = self._logits(learner, batch, estimated)
        return self._observe(logits, batch, edge)

    def build_task(
        self, learner: nn.Module, arm: str, forward: Forward, designer: nn.Module | None
    ) -> BuiltTask:
        """See `Workload.build_task`. Candidates and q; the baseline's is the true token alone."""
        if arm == "baseline":
            return BuiltTask(one_hot(forward.batch), {})
        observed = forward.observed
        assert isinstance(observed, ObservedBatch)
        if designer is None:
            q, alpha = hand_made_targets(arm, observed, self.fixed_alpha)
        else:
            q, alpha = designed_targets(designer, observed)
        return BuiltTask((observed.observation.candidates, q), _gate_notes(alpha, q, forward.batch))

    def loss(self, learner: nn.Module, forward: Forward, task: BuiltTask) -> Tensor:
        """See `Workload.loss`."""
        assert forward.output is not None
        candidates, q = task.task
        weight = position_weights(forward.batch.predict)
        return soft_cross_entropy(forward.output, candidates, q, weight)

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
        r, alpha = functional_call(designer, phi, (observed.batch, observed.observation))
        weight = position_weights(observed.batch.predict)
        moved = 1 - mix(alpha, r)[..., 0]
        return {"gate": (alpha * weight).sum(), "moved": (moved * weight).sum()}

    def problem(
        self,
        functional: FunctionalLearner,
        designer: nn.Module,
        observed: tuple[ObservedBatch, ...],
        feedback: FeedbackBatch,
        rule: UpdateRule,
        state: OptimizerState,
        *,
        dropout: RandomState | None,
        seed: int,
    ) -> ValueProblem:
        """See `Workload.problem`."""
        learner = LanguageLearner(functional, self.dtype, dropout)
        split = self._split(learner, observed[0].batch)
        learner = replace(learner, split=split if isinstance(split, Split) else None)
        tasks = self.tasks
        measured = measure(
            tasks, learner, _generating(functional.module), self.tokenizer, feedback, seed
        )
        theta = functional.theta
        loss = total_loss(tasks, measured, theta)
        problem = language_problem(learner, designer, observed, loss, rule, state, seed=seed)
        domains = matched_domains(tasks, problem, measured, theta)
        # a domain that either the text or the feedback lacks says nothing here
        heard = set(domains if tasks.combine == "matched" else measured.losses)
        silent = heard <= measured.silent
        return replace(
            problem, domains=domains, silent=silent, notes=measured.notes, split=split.why
        )

    def held_out(self, functional: FunctionalLearner, index: int) -> Callable[[Params], Scalar]:
        """See `Workload.held_out`."""
        size = self.feedback_batch_size
        batch = self.data.held_out.batch(index * size, size).to(self.device)
        return worked_loss(LanguageLearner(functional, self.dtype), batch)

    def value_map(
        self,
        functional: FunctionalLearner,
        designer: nn.Module,
        observed: ObservedBatch,
        task: Task,
        cotangent: Mapping[str, Tensor],
    ) -> dict[str, Any]:
        """See `Workload.value_map`: for a few texts, u of the true token and the gate beside it.

        u is the value of a unit of target mass on the true token, had its position weight 1; what
        is drawn as the gate is the mass that the target moves off the true token.
        """
        batch = observed.batch
        with_mistakes = batch.wrong.any(-1).nonzero().squeeze(-1).tolist()
        rows = (with_mistakes or list(range(len(batch.tokens))))[:MAPPED_TEXTS]
        fields: dict[str, Any] = {"tokens": [], "values": [], "gates": [], "wrong": []}
        u = cotangent["q"][..., 0] / task["weight"].clamp(min=1e-12)
        moved = 1 - task["q"][..., 0]
        for row in rows:
            predict = batch.predict[row].tolist()
            length = max(i for i, p in enumerate(predict) if p) + 1
            ids = batch.next_tokens[row, :length].tolist()
            fields["tokens"].append([self.tokenizer.decode([i]) for i in ids])
            for name, x in (("values", u), ("gates", moved)):
                known = x[row, :length].clamp(0, 1) if name == "gates" else x[row, :length]
                pairs = zip(known.tolist(), predict, strict=False)
                fields[name].append([value if p else None for value, p in pairs])
            fields["wrong"].append(batch.wrong[row, :length].tolist())
        return fields

    def draw_map(self, fields: Mapping[str, Any], path: Path) -> None:
        """See `Workload.draw_map`."""
        token_map(fields["tokens"], fields["values"], fields["gates"], fields["wrong"], path)

    def describe(self) -> Sequence[str]:
        """See `Workload.describe`: sequences by role, and what became of the others."""
        lines = []
        for role, counts in self.data.summary.items():
            assert isinstance(counts, Mapping)
            dropped = ", ".join(f"{n} dropped ({why})" for why, n in counts["dropped"].items())
            cut = f"{counts['truncated']:,} truncated" if counts["truncated"] else ""
            notes = ", ".join(note for note in (dropped, cut) if note)
            lines.append(
                f"{role:9} {counts['sequences']:,} sequences" + (f", {notes}" if notes else "")
            )
        return lines

    def summary(self) -> Mapping[str, Any]:
        """See `Workload.summary`."""
        return dict(self.data.summary)

    def save_learner(self, learner: nn.Module, path: Path) -> None:
        """See `Workload.save_learner`: `save_pretrained`, the tokenizer beside it."""
        with quiet():
            learner.save_pretrained(path)  # type: ignore[operator]
            self.tokenizer.save_pretrained(path)

    def save_designer(self, designer: nn.Module, path: Path) -> None:
        """See `Workload.save_designer`."""
        assert isinstance(designer, TopKDesigner)
        save_designer(designer, path)

    def evaluate(self, learner: nn.Module, *, final: bool) -> Evaluation:
        """See `Workload.evaluate`: the held-out loss, and at the end greedy Pass@1."""
        held_out = held_out_loss(learner, self.data.evaluation, self.device, self.dtype)
        metrics: dict[str, float] = {"loss": held_out.loss, "loss_examples": len(held_out.tokens)}
        outcomes = {"loss": held_out.per_example}
        if final and self.data.problems:
            with autocast(self.device, self.dtype):
                solved = pass_at_1(
                    _generating(learner),
                    self.tokenizer,
                    self.data.problems,
                    max_new_tokens=self.data.max_new_tokens,
                )
            metrics |= {
                "pass_at_1": solved.mean,
                "pass_at_1_standard_error": solved.standard_error,
                "pass_at_1_examples": solved.count,
            }
            outcomes["pass_at_1"] = tuple(float(x) for x in solved.outcomes)
        return Evaluation(metrics, outcomes)

    def autocast(self) -> torch.dtype | None:
        """See `Workload.autocast`."""
        return self.dtype

    def _logits(
        self, learner: nn.Module, batch: TokenBatch, estimated: FunctionalLearner | None
    ) -> tuple[Tensor, Tensor | None]:
        """The learner's logits; and the edge that an estimate would compute, if it is the same."""
        split = estimated and self._split(LanguageLearner(estimated, self.dtype), batch)
        capture = split.capture(learner) if isinstance(split, Split) else nullcontext([])
        before = RandomState.now(self.device)
        with capture as edges, autocast(self.device, self.dtype):
            logits = learner(input_ids=batch.inputs, use_cache=False).logits
        # estimates run without dropout, and so may not take what came out of it
        same = before.same_as(RandomState.now(self.device))
        return logits, edges[0] if edges and same else None

    def _split(self, learner: LanguageLearner, batch: TokenBatch) -> Split | Whole:
        if learner.dropout is not None:
            return learner.split_for(batch.inputs)
        return self.splits.of(learner.functional, lambda: learner.split_for(batch.inputs[:1]))

    def _observe(self, logits: Tensor, batch: TokenBatch, edge: Tensor | None) -> ObservedBatch:
        return ObservedBatch(batch, observe(logits, batch, self.top_k), edge)


def _generating(learner: nn.Module) -> Any:
    """The model that generates: adapters are layers of the base model."""
    return learner.get_base_model() if isinstance(learner, PeftModel) else learner


def _gate_notes(alpha: Tensor, q: Tensor, batch: TokenBatch) -> dict[str, float]:
    """Means over predicted positions; apart on mistaken tokens, where the data know of any."""
    predict = batch.predict
    notes: dict[str, Any] = {"gate": alpha[predict].mean(), "moved": 1 - q[..., 0][predict].mean()}
    if bool(batch.wrong.any()):
        notes["gate_on_wrong"] = alpha[predict & batch.wrong].mean()
        notes["gate_on_right"] = alpha[predict & ~batch.wrong].mean()
    return {name: float(x) for name, x in notes.items()}

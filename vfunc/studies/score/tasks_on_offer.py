"""Draws candidate tasks of language: feasible soft targets at several distances from the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from vfunc import trees
from vfunc.arms import ARMS
from vfunc.language.data.examples import TokenBatch
from vfunc.language.learner import LanguageLearner
from vfunc.language.soft_targets.candidates import Observation, ObservedBatch
from vfunc.language.soft_targets.hand_made import hand_made_targets
from vfunc.language.soft_targets.oracle import candidate_values, oracle_targets, tilted_targets
from vfunc.language.soft_targets.targets import Form, TargetForm, mix
from vfunc.language.workload import LanguageWorkload
from vfunc.problem import KnownFeedback, Task, ValueProblem
from vfunc.studies.score.asking import Offer
from vfunc.studies.score.families import Family, drawn_anew, in_turn, varied
from vfunc.training.arm_run import ArmRun
from vfunc.trees import Params

Targets = Callable[[ObservedBatch], Tensor]
"""Of an observed batch, a number for each candidate of each position: targets, or values."""
TILTS = (1.0, -1.0, 0.3, -0.3, 3.0, -3.0)
"""Nats by which a candidate of typical value becomes more probable."""


@dataclass(frozen=True)
class Candidate:
    """A task: a rule that makes targets of any batch, and how much of it is mixed in.

    Attributes:
        kind: of what family.
        number: which of the family.
        share: from 0, the text as it is, to 1.
        targets: the rule, of an observed batch.
    """

    kind: str
    number: int
    share: float
    targets: Targets

    def moves(self, observed: ObservedBatch) -> Tensor:
        """What the task changes of the text's one-hot targets."""
        q = self.targets(observed)
        text = torch.zeros_like(q)
        text[..., 0] = 1.0
        return self.share * (q - text)

    def at(self, share: float) -> Candidate:
        """The same at another distance."""
        return replace(self, share=share)

    def doing(self, work: ArmRun) -> ArmRun:
        """The arm whose targets the task makes; its state is that of `work`, changed."""
        work.state.designer = CandidateDesigner(self)
        return replace(work, arm=ARMS["vpretraining"])


class CandidateDesigner(nn.Module):
    """A candidate task in a designer's place: (r, alpha) = (its targets, its share)."""

    def __init__(self, candidate: Candidate) -> None:
        super().__init__()
        self.candidate = candidate

    def forward(self, batch: TokenBatch, observation: Observation) -> tuple[Tensor, Tensor]:
        """(r, alpha) of each position."""
        with torch.no_grad():
            q = self.candidate.targets(ObservedBatch(batch, observation))
        return q, torch.full_like(q[..., 0], self.candidate.share)


class TokenValues:
    """The value of a unit of target mass on each candidate, at the state, by the feedback used.

    The learner is held at the state, whatever batch is asked about, and whoever observed it.
    """

    def __init__(self, learner: LanguageLearner, g_down: Params) -> None:
        self._learner, self._g_down = learner, g_down
        self._last: tuple[Observation, Tensor] | None = None

    def __call__(self, observed: ObservedBatch) -> Tensor:
        """(B, T, K) values; 0 where nothing is predicted."""
        if self._last is None or self._last[0] is not observed.observation:
            with torch.enable_grad():
                u = candidate_values(self._learner, observed, self._g_down)
            self._last = (observed.observation, u)
        return self._last[1]


def drawn(
    count: int,
    values: Targets,
    designers: Sequence[nn.Module],
    *,
    vocabulary: int,
    fixed_alpha: float,
    knows_wrong: bool,
    seed: int,
) -> list[Candidate]:
    """Candidate tasks of all families in turn, each family's at all distances in turn.

    Args:
        count: how many.
        values: what the oracles and the tilted learners go by.
        designers: the arm's own designer at points of its training, the latest first.
        vocabulary: number of the learner's tokens.
        fixed_alpha: gate of uniform smoothing, and of random candidates.
        knows_wrong: whether the stream knows of mistaken tokens.
        seed: of what is drawn.
    """
    families: list[Family[Candidate]] = [
        *([_varied("known_wrong", _by_hand("known_wrong", 1.0))] if knows_wrong else []),
        *([_varied("designer", *map(_designed, designers))] if designers else []),
        _random("random_gate", lambda source: _random_gate(source, vocabulary), seed),
        _varied("oracle", _oracle(values, "free")),
        _varied("tilted", *(_tilted(values, nats) for nats in TILTS)),
        _varied("confidence_gate", _by_hand("confidence_gate", 1.0)),
        _random("random_candidates", lambda s: _random_r(s, vocabulary, fixed_alpha), seed + 1),
        _varied("oracle_gate", _oracle(values, "gate")),
        _varied("worst_gate", _oracle(values, "gate", -1.0)),
        _varied("self_distillation", _by_hand("self_distillation", 1.0)),
        _varied("uniform_smoothing", _by_hand("uniform_smoothing", fixed_alpha)),
    ]
    return in_turn(count, families)


def texts_on_offer(
    run: ArmRun,
    problem: ValueProblem,
    known: KnownFeedback,
    designers: Sequence[nn.Module],
    count: int,
    seed: int,
) -> tuple[list[Candidate], list[Offer]]:
    """Draw tasks, and put them on offer on the problem's batches.

    Args:
        run: the arm at the state; it is not changed.
        problem: a question about the next batches.
        known: L_down and its gradient there, which oracles go by.
        designers: see `drawn`.
        count: how many tasks.
        seed: of what is drawn.
    """
    workload = run.workload
    assert isinstance(workload, LanguageWorkload)
    assert run.estimated is not None
    candidates = drawn(
        count,
        TokenValues(run.estimated, known.gradient),
        designers,
        vocabulary=workload.designer.vocabulary,
        fixed_alpha=workload.fixed_alpha,
        knows_wrong=any(bool(one.batch.wrong.any()) for one in problem.batches),
        seed=seed,
    )
    offers = []
    for one in problem.batches:
        text = _text(problem, one)
        moves = torch.stack([candidate.moves(one) for candidate in candidates])
        offers.append(Offer(text, moves.to(text["q"].dtype)))
    return candidates, offers


def feedback_there(workload: LanguageWorkload) -> tuple[int, int]:
    """How many feedback examples there are, and how many a batch has."""
    return workload.data.feedback.distinct, workload.feedback_batch_size


def _text(problem: ValueProblem, observed: ObservedBatch) -> Task:
    """The task of the text as it is, in a designer's form."""
    task = trees.detach(problem.construct({}, observed))
    text = torch.zeros_like(task["q"])
    text[..., 0] = 1.0
    return {**task, "q": text}


_varied, _random = partial(varied, Candidate), partial(drawn_anew, Candidate)


def _by_hand(arm: str, alpha: float) -> Targets:
    return lambda observed: hand_made_targets(arm, observed, alpha)[0]


def _designed(designer: nn.Module) -> Targets:
    def targets(observed: ObservedBatch) -> Tensor:
        with torch.no_grad():
            r, alpha = designer(observed.batch, observed.observation)
        return mix(alpha, r)

    return targets


def _random_gate(source: torch.Generator, vocabulary: int) -> Targets:
    """A gate that is a random function of the two tokens and of the learner's doubt."""
    by_token = torch.randn(2, vocabulary, generator=source)
    by_doubt = torch.randn(3, generator=source)
    start = float(torch.randn((), generator=source))

    def targets(observed: ObservedBatch) -> Tensor:
        log_p, seen = observed.observation.log_probs, observed.batch
        device = log_p.device
        own = log_p.softmax(-1)
        doubt = torch.stack([own[..., 0] - 0.5, log_p[..., 0].clamp(min=-5) / 5, own.amax(-1)], -1)
        logit = start + doubt @ by_doubt.to(doubt) * 2
        logit = (
            logit + by_token[0].to(device)[seen.inputs] + by_token[1].to(device)[seen.next_tokens]
        )
        return mix(torch.sigmoid(2 * logit).to(own.dtype), own)

    return targets


def _random_r(source: torch.Generator, vocabulary: int, alpha: float) -> Targets:
    """A fixed gate towards a distribution over candidates by random scores of tokens."""
    scores = 2 * torch.randn(vocabulary, generator=source)

    def targets(observed: ObservedBatch) -> Tensor:
        log_p = observed.observation.log_probs
        r = scores.to(log_p)[observed.observation.candidates].softmax(-1)
        return mix(torch.full_like(log_p[..., 0], alpha), r)

    return targets


def _oracle(values: Targets, form: Form, sign: float = 1.0) -> Targets:
    """The targets of the highest value in a form, to first order: or of the lowest."""
    widest = TargetForm(form, alpha_max=1.0)
    return lambda observed: oracle_targets(widest, observed, sign * values(observed))[0]


def _tilted(values: Targets, nats: float) -> Targets:
    """The learner's own distribution, tilted by value: a trust region's optimum (theory/06)."""
    return lambda observed: tilted_targets(observed, values(observed), nats)[0]

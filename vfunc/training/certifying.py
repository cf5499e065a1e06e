"""Certifies a run's own estimator once, at its start, on a small slice of its own data."""

from __future__ import annotations

from dataclasses import replace

import torch

from vfunc import trees
from vfunc.arms import ARMS, Arm
from vfunc.certification import Certification, certify
from vfunc.errors import CertificationError, VfuncError
from vfunc.estimators import Estimator
from vfunc.feedback import DomainMatched
from vfunc.learner import RandomState
from vfunc.problem import ValueProblem, construct_task, pretrain_gradient
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import Assembled
from vfunc.training.start import start_arm
from vfunc.training.step import FeedbackNow, batches_ahead, feedback_at, value_problem
from vfunc.trees import Params

EXAMPLES = 2
"""Of a batch and of the feedback: enough for every operation of the learner to run."""

PASSES = 100
"""Learner passes of an estimate above which the start of a run does not ask for a dozen of them."""


class Costly(Exception):
    """An estimate takes too much for a check at the start of a run; the message says of what."""


def certified_arm(assembled: Assembled) -> Arm | None:
    """The arm whose estimator is certified: the first that trains a designer, feedback first."""
    config = assembled.config
    if not config.run.certify or config.designer.freeze_designer:
        return None
    designed = [ARMS[name] for name in config.run.arms if ARMS[name].designed]
    return min(designed, key=lambda arm: arm.random, default=None)


def certify_start(arm: Arm, assembled: Assembled) -> Certification | None:
    """Hold the arm's first estimate against finite differences of its objective.

    The learner, the designer and the optimizer are the arm's own at its start, copied; the batches
    are the run's first, a few examples of each. Nothing that the arms use changes.

    Args:
        arm: an arm whose designer is trained.
        assembled: what every arm shares.

    Returns:
        The verdicts, or None where this little feedback says nothing (rewards that do not differ).

    Raises:
        CertificationError: the gradient is wrong; the message says how to go on without.
        Costly: the check would take longer than a start should.
    """
    if assembled.config.learner_in_shards and assembled.device.type == "cuda":
        raise Costly("the learner is in shards, and no device may hold it whole")
    with torch.random.fork_rng(
        devices=[assembled.device] if assembled.device.type == "cuda" else []
    ):
        run = start_arm(arm, assembled, workload=assembled.workload.smaller(EXAMPLES))
        if run.options.look_ahead > 1:  # two of a window's micro-batches stand for all
            fewer = replace(run.options, accumulate=min(run.options.accumulate, 2))
            run = replace(run, options=fewer)
        state, workload, options = run.state, run.workload, run.options
        dropout = RandomState.now(assembled.device) if options.train_mode else None
        observed = tuple(
            workload.look_ahead(state.learner, workload.batch(k)) for k in range(batches_ahead(run))
        )
        feedback = feedback_at(run, 0, dropout)
        problem = value_problem(run, observed, feedback)
        assert state.designer is not None and run.estimator is not None
        phi = trees.detach(dict(state.designer.named_parameters()))
        if problem.silent:
            return None
        # no step has been taken that there could be a mean of
        problem = problem.with_means(_gradients_ahead(run, feedback, phi))
        estimator = DomainMatched(run.estimator) if problem.domains else run.estimator
        if getattr(run.estimator, "max_iterations", None):  # it goes on until it has converged
            _require_cheap(estimator, problem, state.functional.theta, phi)
        theta = state.functional.theta
        try:
            return certify(problem, theta, phi, estimator, directions=1, quiet=True)
        except CertificationError as error:
            message = f"{error} (at the run's start; --no-certify goes on without this check)"
            raise CertificationError(message, error.certification) from error


def _gradients_ahead(run: ArmRun, feedback: FeedbackNow, phi: Params) -> tuple[Params, ...]:
    """Gradients of later batches, as many as the arm keeps means."""
    state, workload = run.state, run.workload
    count = 0 if state.running is None else len(state.running.decays)
    count += run.options.mean_bank is not None

    def gradient(k: int) -> Params:
        observed = workload.look_ahead(state.learner, workload.batch(k))
        problem = value_problem(run, (observed,), feedback)
        task = construct_task(problem, phi, problem.batches[0]).task
        return pretrain_gradient(problem, state.functional.theta, task)

    return tuple(gradient(1 + k) for k in range(count))


def _require_cheap(estimator: Estimator, problem: ValueProblem, theta: Params, phi: Params) -> None:
    """Ask once, in the learner's own precision, and count: a check asks a dozen times."""
    try:
        diagnostics = estimator(problem, theta, phi).diagnostics
    except VfuncError:
        return  # the check itself tells what is wrong, or the run's first estimate does
    kinds = ("forwards", "backwards", "tangents")
    spent = sum(count for kind in kinds if isinstance(count := diagnostics.get(kind), int))
    if spent > PASSES:
        raise Costly(f"one estimate takes {spent} learner passes, over {PASSES}")

"""Certify a run's own estimator once, at its start, on a small slice of its own data."""

from __future__ import annotations

import torch

from vfunc import trees
from vfunc.certification import Certification, certify
from vfunc.errors import CertificationError, VfuncError
from vfunc.estimators import Estimator
from vfunc.feedback import DomainMatched
from vfunc.learner import RandomState
from vfunc.problem import ValueProblem
from vfunc.training.arms import ARMS, Arm, estimator_of
from vfunc.training.assemble import Assembled, step_options
from vfunc.training.state import new_arm_state
from vfunc.training.step import value_problem
from vfunc.trees import Params

EXAMPLES = 2
"""Of a batch and of the feedback: enough for every operation of the learner to run."""

PASSES = 100
"""Learner passes of an estimate above which the start of a run does not ask for a dozen of them."""


class Costly(Exception):
    """An estimate takes too many passes for a check at the start of a run; the message counts."""


def certified_arm(parts: Assembled) -> Arm | None:
    """The arm whose estimator is certified: the first that trains a designer, feedback first."""
    config = parts.config
    if not config.run.certify or config.designer.freeze_designer:
        return None
    designed = [ARMS[name] for name in config.run.arms if ARMS[name].designed]
    return min(designed, key=lambda arm: arm.random, default=None)


def certify_start(arm: Arm, parts: Assembled) -> Certification | None:
    """Hold the arm's first estimate against finite differences of its objective.

    The learner, the designer and the optimizer are the arm's own at its start, copied; the batches
    are the run's first, a few examples of each. Nothing that the arms use changes.

    Args:
        arm: with a designer that is trained.
        parts: what every arm shares.

    Returns:
        The verdicts, or None where this little feedback says nothing (rewards that do not differ).

    Raises:
        CertificationError: the gradient is wrong; the message says how to go on without.
        Costly: the check would take longer than a start should.
    """
    config, options = parts.config, step_options(parts.config)
    workload = parts.workload.smaller(EXAMPLES)
    estimator = estimator_of(arm, config)
    assert estimator is not None
    with torch.random.fork_rng(devices=[parts.device] if parts.device.type == "cuda" else []):
        torch.manual_seed(config.run.seed)
        state = new_arm_state(
            parts.learner,
            config.estimator.align,
            config.optimizer,
            workload.new_designer(),
            config.designer.designer_lr,
            parts.device,
        )
        drawn = RandomState.now(parts.device) if options.train_mode else None
        observed = tuple(
            workload.look_ahead(state.learner, workload.batch(k)) for k in range(options.look_ahead)
        )
        problem = value_problem(state, workload, options, observed, workload.feedback(0), drawn)
        assert state.designer is not None
        phi = trees.detach(dict(state.designer.named_parameters()))
        if problem.silent:
            return None
        asked = DomainMatched(estimator) if problem.domains else estimator
        if getattr(estimator, "max_iterations", None):  # it goes on until it has converged
            _require_cheap(asked, problem, state.functional.theta, phi)
        try:
            return certify(problem, state.functional.theta, phi, asked, directions=1, quiet=True)
        except CertificationError as error:
            said = f"{error} (at the run's start; --no-certify goes on without this check)"
            raise CertificationError(said, error.certification) from error


def _require_cheap(estimator: Estimator, problem: ValueProblem, theta: Params, phi: Params) -> None:
    """Ask once, in the learner's own precision, and count: a check asks a dozen times."""
    try:
        said = estimator(problem, theta, phi).diagnostics
    except VfuncError:
        return  # the check itself tells what is wrong, or the run's first estimate does
    kinds = ("forwards", "backwards", "tangents")
    spent = sum(count for kind in kinds if isinstance(count := said.get(kind), int))
    if spent > PASSES:
        raise Costly(f"one estimate takes {spent} learner passes, over {PASSES}")

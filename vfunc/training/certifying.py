"""Certify a run's own estimator once, at its start, on a small slice of its own data."""

from __future__ import annotations

import torch

from vfunc import trees
from vfunc.certification import Certification, certify
from vfunc.errors import CertificationError
from vfunc.feedback import DomainMatched
from vfunc.learner import RandomState
from vfunc.training.arms import ARMS, Arm, estimator_of
from vfunc.training.assemble import Assembled, step_options
from vfunc.training.resolve import estimator_options
from vfunc.training.state import new_arm_state
from vfunc.training.step import value_problem

EXAMPLES = 2
"""Of a batch and of the feedback: enough for every operation of the learner to run."""


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
    """
    config, options = parts.config, step_options(parts.config)
    workload = parts.workload.smaller(EXAMPLES)
    estimator = estimator_of(arm, config.estimator.estimator, estimator_options(config))
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
        try:
            return certify(problem, state.functional.theta, phi, asked, directions=1, quiet=True)
        except CertificationError as error:
            said = f"{error} (at the run's start; --no-certify goes on without this check)"
            raise CertificationError(said, error.certification) from error

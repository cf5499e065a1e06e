"""The estimator that trains the designer of each arm."""

from __future__ import annotations

from vfunc.arms import ARMS, Arm
from vfunc.config.build import built
from vfunc.estimators import Estimator, RandomDirection
from vfunc.training.options import RunConfig

__all__ = ["ARMS", "Arm", "estimator_of"]


def estimator_of(arm: Arm, config: RunConfig) -> Estimator | None:
    """The estimator that trains the arm's designer, or None without a designer.

    Args:
        arm: the arm.
        config: of the run; of its estimator's options a random direction takes the engine alone.
    """
    if not arm.designed:
        return None
    if arm.random:
        given = {k: v for k, v in config.options.items() if v is not None}
        return built(RandomDirection, given)
    return config.estimator.estimator

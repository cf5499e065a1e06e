"""A whole configuration, as far as both modalities have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from rich.console import Console
from torch import nn

from vfunc.config.declared import Options
from vfunc.modality import Modality
from vfunc.training.options.command_options import CommandOptions
from vfunc.training.options.designer_options import DesignerOptions
from vfunc.training.options.estimator_options import EstimatorOptions
from vfunc.training.options.optimizer_options import LearnerOptions, OptimizerOptions
from vfunc.training.options.run_options import RunOptions


def stem(source: str) -> str:
    """A file's, folder's or data set's name without its path and endings."""
    return source.rstrip("/").rsplit("/", 1)[-1].split(":")[0].split(".")[0]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A complete configuration, as far as both modalities have it; each adds groups of its own.

    Fields that do nothing in a combination (`optimizer.momentum` with adamw) hold their defaults;
    so do the size and targets of a designer that is loaded, which come from its file instead.

    Attributes:
        options: every option by its name; the estimator's own where they were given, else None.
        command: this command.
        run: what to compare, for how long.
        learner: the model that is trained.
        optimizer: how it takes its steps.
        designer: how the designer is trained.
        estimator: how values are estimated.
    """

    options: Mapping[str, Any] = field(hash=False, repr=False)
    command: CommandOptions
    run: RunOptions
    learner: LearnerOptions
    optimizer: OptimizerOptions
    designer: DesignerOptions
    estimator: EstimatorOptions

    unit: ClassVar[str]
    """What a budget counts beside steps and seconds: tokens or images."""

    @property
    def subject(self) -> str:
        """The data and what is learned of them, for the name of a run."""
        raise NotImplementedError

    @property
    def penalties(self) -> Mapping[str, float]:
        """The weights of the terms of R(phi) that the run's designer has, by their names."""
        raise NotImplementedError

    @property
    def penalties_in_values(self) -> Mapping[str, float]:
        """The same in units of the typical value of a task's element, of those that have such."""
        return {}

    @property
    def learner_in_shards(self) -> bool:
        """Whether the learner's blocks below S are spread over the run's processes."""
        return False

    def assembled(
        self, device: torch.device, check: Callable[[nn.Module], None]
    ) -> tuple[nn.Module, Modality]:
        """The start learner, on the CPU, and the modality.

        Args:
            device: where everything runs.
            check: refuses learners that do not suit the run.

        Raises:
            UserError: something is missing or does not fit together.
        """
        raise NotImplementedError

    def described(self, console: Console) -> bool:
        """Say what a run would be, for `--dry-run`, without loading all of it.

        Returns:
            Whether it has been said: False leaves it to the assembled run.
        """
        return False

    @staticmethod
    def check(given: Options, options: Options) -> None:
        """Refuse options that contradict each other or need one that is missing.

        Args:
            given: what was given.
            options: the same with every default.

        Raises:
            UserError: the first contradiction, and how to resolve it.
        """
        raise NotImplementedError

    def changed(self, **command: Any) -> RunConfig:
        """The same run by a command with these options changed."""
        return replace(
            self,
            options={**self.options, **command},
            command=replace(self.command, **command),
        )

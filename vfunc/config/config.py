"""The configuration of a run: every option's name, type, meaning, bounds and default, once.

A `RunConfig` is complete: `vfunc.config.resolve.resolve` makes it from the options that were
given, and fills in the rest. The command line and TOML files take the fields of its groups by
their bare names, so no two groups share one. A default that depends on the problem or the learner
has no value in its group but a description; `vfunc.config.defaults` has the values.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_type_hints

from vfunc.config.method_options import (
    DesignerOptions,
    EstimatorOptions,
    LearnerOptions,
    OptimizerOptions,
)
from vfunc.config.run_options import CommandOptions, DataOptions, RunOptions
from vfunc.config.vision_options import VisionFeedbackOptions, VisionTaskOptions


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A complete configuration: what `resolve` returns.

    Fields that do nothing in a combination (`optimizer.momentum` with adamw) hold their defaults;
    so do the size and targets of a designer that is loaded, which come from its file instead.
    Fields of the embedded problem are None with data of one's own, and the reverse; and so are the
    other modality's, where they have no fixed default. The estimator's own options are None unless
    they were given.
    """

    command: CommandOptions
    run: RunOptions
    data: DataOptions
    learner: LearnerOptions
    optimizer: OptimizerOptions
    designer: DesignerOptions
    estimator: EstimatorOptions
    views: VisionTaskOptions
    dense: VisionFeedbackOptions

    def flat(self) -> dict[str, Any]:
        """Every option by its name."""
        groups = (getattr(self, group.name) for group in dataclasses.fields(self))
        return {
            f.name: getattr(group, f.name) for group in groups for f in dataclasses.fields(group)
        }


GROUPS: dict[str, type] = get_type_hints(RunConfig)
FIELDS: dict[str, dataclasses.Field] = {
    field.name: field for group in GROUPS.values() for field in dataclasses.fields(group)
}
TYPES: dict[str, Any] = {
    name: hint for group in GROUPS.values() for name, hint in get_type_hints(group).items()
}
COMMAND = tuple(field.name for field in dataclasses.fields(CommandOptions))

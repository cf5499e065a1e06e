"""The configuration of a language run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from rich.console import Console
from torch import nn

from vfunc.language.benchmarks.benchmark_options import BenchmarkOptions
from vfunc.language.contradictions import check_language
from vfunc.language.feedback_options import DirectOptions
from vfunc.language.learner_options import AdapterOptions, TrainedOptions
from vfunc.language.options import DataOptions, TargetOptions
from vfunc.modality import Modality
from vfunc.training.options.run_config import RunConfig, stem


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(RunConfig):
    """A complete configuration of a run on text.

    Attributes:
        data: options of the data.
        trained: which of the learner's parameters are.
        adapters: LoRA adapters.
        targets: the soft targets.
        direct: the arms that TRL trains.
        evaluation: what is evaluated at the end, beside the held-out data.
    """

    data: DataOptions
    trained: TrainedOptions
    adapters: AdapterOptions
    targets: TargetOptions
    direct: DirectOptions
    evaluation: BenchmarkOptions

    unit: ClassVar[str] = "tokens"
    check = staticmethod(check_language)

    @property
    def penalties(self) -> Mapping[str, float]:
        """See `RunConfig.penalties`."""
        gate = self.targets.gate_penalty_absolute or 0.0
        return {"gate": gate, "moved": self.targets.moved_penalty}

    @property
    def penalties_in_values(self) -> Mapping[str, float]:
        """See `RunConfig.penalties_in_values`."""
        return {"gate": self.targets.gate_penalty}

    @property
    def learner_in_shards(self) -> bool:
        """See `RunConfig.learner_in_shards`."""
        return self.trained.shard_learner

    def assembled(
        self, device: torch.device, check: Callable[[nn.Module], None]
    ) -> tuple[nn.Module, Modality]:
        """See `RunConfig.assembled`."""
        # imported here: options alone do without transformers
        from vfunc.training.build.language_assembly import language_parts

        return language_parts(self, device, check)

    def described(self, console: Console) -> bool:
        """See `RunConfig.described`: what is not here is built without numbers."""
        from vfunc.training.build.language_dry_run import is_all_here, language_dry_run

        if is_all_here(self):
            return False
        language_dry_run(self, console)
        return True

    @property
    def subject(self) -> str:
        """See `RunConfig.subject`."""
        return stem(self.data.problem or (self.data.stream or ("",))[0])

"""The configuration of a vision run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console
from torch import nn

from vfunc.config.declared import Options
from vfunc.modality import Modality
from vfunc.training.options.run_config import RunConfig, stem
from vfunc.vision.conditions import PUBLIC
from vfunc.vision.contradictions import check_vision
from vfunc.vision.options import DataOptions, DenseOptions, ViewOptions


@dataclass(frozen=True, kw_only=True)
class VisionConfig(RunConfig):
    """A complete configuration of a run on pictures.

    Attributes:
        data: options of the data.
        views: the self-supervised task, and its views.
        dense: dense feedback and evaluation.
    """

    data: DataOptions
    views: ViewOptions
    dense: DenseOptions

    unit: ClassVar[str] = "images"

    @property
    def augmentor(self) -> str:
        """The designer's kind; that of a saved one is in its file."""
        from vfunc.vision.designers.view_designer import load_view_designer

        saved = self.designer.designer
        if saved is None:
            return str(self.views.design["kind"])
        return load_view_designer(Path(saved)).config.kind

    @property
    def penalties(self) -> Mapping[str, float]:
        """See `RunConfig.penalties`."""
        if self.augmentor == "photometric":
            return {"strength": self.views.strength_penalty}
        return {"sparsity": self.views.sparsity_penalty, "tv": self.views.tv_penalty}

    def assembled(
        self, device: torch.device, check: Callable[[nn.Module], None]
    ) -> tuple[nn.Module, Modality]:
        """See `RunConfig.assembled`."""
        # imported here: options alone do without timm
        from vfunc.training.build.vision_assembly import vision_parts

        learner, modality = vision_parts(self, device)
        check(learner)
        return learner, modality

    def described(self, console: Console) -> bool:
        """See `RunConfig.described`: the whole architecture, and one tiny step."""
        from vfunc.training.build.vision_dry_run import vision_dry_run

        vision_dry_run(self, console)
        return True

    @property
    def subject(self) -> str:
        """See `RunConfig.subject`."""
        source = (self.data.feedback or ("scenes",))[0]
        public = PUBLIC.fullmatch(source)
        return f"{public.group(1) if public else stem(source)}-{self.options['objective']}"

    @staticmethod
    def check(given: Options, options: Options) -> None:
        """See `RunConfig.check`."""
        check_vision(options)

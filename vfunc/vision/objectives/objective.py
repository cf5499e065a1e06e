"""Protocol of a self-supervised objective on views.

A learner here is one live `nn.Module` that holds the student (encoder and head or predictor), and,
frozen, the teacher that its targets come from. `module(method, *args)` calls its methods by name,
so that `functional_call`, and with it every estimator, reaches all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vfunc.vision.data.batches import UnlabeledBatch

if TYPE_CHECKING:  # it brings timm, which options alone do without
    from vfunc.vision.encoder.encoder import Encoder

Call = tuple[object, ...]
"""Arguments of the module: a method's name, then the method's own; the images are the second."""


def encoder_of(learner: nn.Module) -> Encoder:
    """The encoder of a learner that an objective made (`Objective.learner`)."""
    return cast("Encoder", learner.encoder)


@runtime_checkable
class Objective(Protocol):
    """A self-supervised objective. Pure but for `stepped`; options are its dataclass's fields."""

    name: ClassVar[str]
    """As `--objective` spells it."""

    def learner(self, encoder: Encoder, seed: int) -> nn.Module:
        """The live learner around an encoder, its attribute `encoder`; the seed draws the rest.

        The student is registered before the teacher; the teacher requires no gradient.
        """
        ...

    def batch(self, images: Sequence[Tensor], generator: torch.Generator) -> UnlabeledBatch:
        """Crops (and blocks) of uint8 pictures (3, h, w) of any size, random by the generator."""
        ...

    def view_masks(
        self, masks: Sequence[Tensor], generator: torch.Generator
    ) -> Float[Tensor, "g b 1 h w"]:
        """Masks of the pictures, uint8 (1, h, w), cut as `batch` cuts its views.

        The generator is as it stood before `batch`. For arms that are told masks alone.
        """
        ...

    def targets(
        self, learner: nn.Module, batch: UnlabeledBatch, views: Float[Tensor, "g b 3 h w"]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The teacher's targets, with a graph to `views` where the teacher sees them.

        Also what `stepped` needs of them, detached. The teacher's parameters and its centre are
        constants; nothing changes.
        """
        ...

    def calls(self, batch: UnlabeledBatch, views: Float[Tensor, "g b 3 h w"]) -> Mapping[str, Call]:
        """The student's calls by name; "views" is the only one that sees `views`."""
        ...

    def parts(
        self, outputs: Mapping[str, Tensor], targets: Tensor, batch: UnlabeledBatch
    ) -> Float[Tensor, " b"]:
        """The terms of L_pre, one a picture, from the outputs of the calls.

        Convex in the outputs. Differentiable in outputs and targets.
        """
        ...

    def stepped(
        self, learner: nn.Module, carried: Sequence[Mapping[str, Tensor]], fraction: float
    ) -> None:
        """Move teacher (and centre) after an optimizer step, in place.

        Args:
            learner: the learner, whose teacher changes.
            carried: the second result of `targets` for each micro-batch of the window.
            fraction: share of the budget spent, for the momentum's schedule.
        """
        ...

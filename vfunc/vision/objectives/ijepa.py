"""I-JEPA: predict features of hidden blocks from those of a context (Assran et al. 2023).

    L_pre = mean over pictures, target blocks, patches and channels of s(predicted - target)
    s(d) = d^2 / 2 where |d| < 1, else |d| - 1/2

arXiv 2301.08243. The target is the teacher's feature of that patch in the whole picture,
layer-normalised without weights. A learned view reaches the context encoder alone: targets are of
the picture as it is, and hold no graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vfunc.config.declared import option, same
from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.batches import UnlabeledBatch
from vfunc.vision.objectives.block_masks import BlockMasks
from vfunc.vision.objectives.dino import Dino
from vfunc.vision.objectives.moving_average import (
    TaughtLearner,
    follow,
    frozen_copy,
    linear_momentum,
)
from vfunc.vision.objectives.objective import Call, Objective
from vfunc.vision.objectives.recipes import Recipe
from vfunc.vision.seeded import seeded_module

if TYPE_CHECKING:  # these bring timm, which options alone do without
    from vfunc.vision.encoder.encoder import Encoder
    from vfunc.vision.objectives.predictor import Predictor


class IJepaLearner(TaughtLearner):
    """Student (encoder and predictor) and teacher (encoder)."""

    def __init__(self, encoder: Encoder, predictor: Predictor) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.teacher_encoder = frozen_copy(encoder)

    def predict(
        self,
        images: Float[Tensor, "b 3 h w"],
        context: Int[Tensor, "b c"],
        targets: Int[Tensor, "b m t"],
    ) -> Float[Tensor, "b m t d"]:
        """Features of the target patches, from the context patches alone.

        An encoder's class token and registers see the context too, and the predictor sees them, so
        that they are trained; the paper's encoders have none.
        """
        grid = self.encoder.grid(*images.shape[-2:])
        tokens = self.encoder.embed(images)
        patches = tokens[:, self.encoder.prefix_tokens :]
        seen = patches.gather(1, context[..., None].expand(-1, -1, patches.shape[-1]))
        tokens = torch.cat([tokens[:, : self.encoder.prefix_tokens], seen], 1)
        tokens = self.encoder.encode(tokens, kept=context, grid=grid)
        return self.predictor(tokens, grid, context, targets)

    def teacher_features(
        self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b m t"]
    ) -> Float[Tensor, "b m t d"]:
        """The teacher's features of the target patches, layer-normalised."""
        encoder = self.teacher_encoder
        tokens = encoder.tokens(images)
        patches = tokens[:, encoder.prefix_tokens :]
        normed = F.layer_norm(patches, patches.shape[-1:])
        flat = targets.flatten(1)[..., None].expand(-1, -1, normed.shape[-1])
        return normed.gather(1, flat).unflatten(1, targets.shape[1:])

    def dense(self, images: Float[Tensor, "n 3 h w"], layers: int) -> Any:
        """The student's features; see `Encoder.dense`."""
        return self.encoder.dense(images, layers)


@dataclass(frozen=True)
class IJepa:
    """I-JEPA. Defaults are the paper's.

    Attributes:
        patch: side of the encoder's patches, in pixels.
        image_size: side of the pictures, in pixels.
        scale: range of a picture's share of the original's area.
        masks: distribution of the blocks.
        teacher_momentum: momentum at the start; it rises to 1 along a line over the budget.
        predictor_width: width of the predictor; None is half the encoder's, at most 384, in whole
            heads.
        predictor_depth: number of its blocks; None is half the encoder's, at most 12.
    """

    name: ClassVar[str] = "ijepa"
    patch: int = option(default=16, hidden=True)
    image_size: int = same(Dino, "image_size")
    scale: tuple[float, float] = option(default=(0.3, 1.0), hidden=True)
    masks: BlockMasks = option(default=BlockMasks(), hidden=True)
    teacher_momentum: float = same(Dino, "teacher_momentum")
    predictor_width: int | None = option(default=None, hidden=True)
    predictor_depth: int | None = option(default=None, hidden=True)

    def __post_init__(self) -> None:
        if self.patch < 1 or self.image_size % self.patch:
            raise UserError(
                f"pictures of {self.image_size} pixels are no multiple of the learner's patches of "
                f"{self.patch} pixels"
            )
        if not 0 <= self.teacher_momentum <= 1:
            raise UserError("I-JEPA's teacher momentum must be between 0 and 1")
        # a grid that is too small is refused now, not at the first batch
        self.masks.sample(1, self._grid, torch.Generator())
        self._recipe()

    def learner(self, encoder: Encoder, seed: int) -> IJepaLearner:
        """See `Objective.learner`.

        Raises:
            UserError: the encoder's patches are others than these; the predictor has more
                blocks than the encoder.
        """
        if encoder.patch != self.patch:
            raise UserError(
                f"I-JEPA's blocks are drawn for patches of {self.patch} pixels, and the learner's "
                f"are of {encoder.patch}: give IJepa(patch={encoder.patch})"
            )
        from vfunc.vision.objectives.predictor import HEAD, Predictor

        depth, width = self.predictor_depth, self.predictor_width
        if depth is None:
            depth = max(1, min(12, encoder.depth // 2))
        if not 1 <= depth <= encoder.depth:
            raise UserError(
                f"I-JEPA's predictor must have 1 to {encoder.depth} blocks, as many as the "
                f"encoder at most, not {depth}"
            )
        if width is None:
            width = max(HEAD, min(384, encoder.width // 2) // HEAD * HEAD)
        like = next(encoder.parameters())
        predictor = seeded_module(lambda: Predictor(encoder.width, width, depth), seed, like)
        return IJepaLearner(encoder, predictor)

    def batch(self, images: Sequence[Tensor], generator: torch.Generator) -> UnlabeledBatch:
        """See `Objective.batch`."""
        from vfunc.vision.objectives.crops import cut  # it brings torchvision

        views = cut(images, [self._recipe()], generator)
        blocks = self.masks.sample(len(images), self._grid, generator)
        side = self.image_size
        return UnlabeledBatch(views, views.new_zeros(0, len(images), 3, side, side), blocks)

    def view_masks(self, masks: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """See `Objective.view_masks`."""
        from vfunc.vision.objectives.crops import cut_masks  # it brings torchvision

        return cut_masks(masks, [self._recipe()], generator)

    @typed
    def targets(
        self, learner: nn.Module, batch: UnlabeledBatch, views: Float[Tensor, "g b 3 h w"]
    ) -> tuple[Float[Tensor, "b m t d"], dict[str, Tensor]]:
        """See `Objective.targets`: of `batch.views`, whatever `views` are, without a graph."""
        with torch.no_grad():
            targets = learner("teacher_features", batch.views[0], _blocks(batch).targets)
            return targets.to(torch.promote_types(targets.dtype, torch.float32)), {}

    def calls(self, batch: UnlabeledBatch, views: Float[Tensor, "g b 3 h w"]) -> dict[str, Call]:
        """See `Objective.calls`."""
        blocks = _blocks(batch)
        return {"views": ("predict", views.flatten(0, 1), blocks.context, blocks.targets)}

    @typed
    def parts(
        self,
        outputs: Mapping[str, Float[Tensor, "b m t d"]],
        targets: Float[Tensor, "b m t d"],
        batch: UnlabeledBatch,
    ) -> Float[Tensor, " b"]:
        """See `Objective.parts`."""
        return smooth_l1(outputs["views"] - targets).mean((1, 2, 3)) / len(targets)

    @torch.no_grad()
    def stepped(
        self, learner: nn.Module, carried: Sequence[Mapping[str, Tensor]], fraction: float
    ) -> None:
        """See `Objective.stepped`."""
        assert isinstance(learner, IJepaLearner)
        momentum = linear_momentum(self.teacher_momentum, fraction)
        follow(learner.teacher_encoder, learner.encoder, momentum)

    @property
    def _grid(self) -> tuple[int, int]:
        return self.image_size // self.patch, self.image_size // self.patch

    def _recipe(self) -> Recipe:
        return Recipe(self.image_size, self.scale)


_: type[Objective] = IJepa  # the type checker compares the two


@typed
def smooth_l1(difference: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """d^2 / 2 where |d| < 1, else |d| - 1/2: Huber's with beta 1, elementwise.

    Every derivative of it is exact, in every mode; `F.huber_loss` has no forward-over-reverse
    (`F.smooth_l1_loss` of torch 2.15 has, and agrees).
    """
    size = difference.abs()
    return torch.where(size < 1, difference * difference / 2, size - 0.5)


def _blocks(batch: UnlabeledBatch) -> Any:
    if batch.blocks is None:
        raise ValueError("I-JEPA needs a batch with blocks: draw it with IJepa.batch")
    return batch.blocks

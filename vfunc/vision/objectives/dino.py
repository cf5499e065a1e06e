"""DINO: self-distillation across crops (Caron et al. 2021, arXiv 2104.14294).

    L_pre = mean over (i, j), j != i, and over pictures, of H(q_i, p_j)
    q_i = softmax((teacher(view_i) - centre) / T_teacher)          global crops alone
    p_j = softmax(student(crop_j) / T_student)                     all crops

lightly 1.6's DINOLoss is not used: it writes its centre at every call, so that an estimate would
move it; where `torch.func.grad` sees the teacher's logits, the centre ends as a tensor of that
transform, and the next call crashes the process (torch 2.15). For its head see `DinoHead`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vfunc.conditions import EMBEDDED_LEARNER, SHORTCUT
from vfunc.config.declared import Cases, Need, option
from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.conditions import EMBEDDED_SCENES
from vfunc.vision.data.batches import UnlabeledBatch
from vfunc.vision.objectives.dino_head import DinoHead, head_sizes
from vfunc.vision.objectives.moving_average import (
    TaughtLearner,
    cosine_momentum,
    follow,
    frozen_copy,
)
from vfunc.vision.objectives.objective import Call, Objective
from vfunc.vision.objectives.recipes import Recipe, dino_recipes
from vfunc.vision.seeded import seeded_module

if TYPE_CHECKING:  # the encoder brings timm, which options alone do without
    from vfunc.vision.encoder.encoder import Encoder


class DinoLearner(TaughtLearner):
    """Student and teacher: an encoder and a head each, and the centre of the teacher's logits."""

    centre: Tensor

    def __init__(self, encoder: Encoder, head: DinoHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.teacher_encoder = frozen_copy(encoder)
        self.teacher_head = frozen_copy(head)
        outputs = head.last.direction[:, 0]
        self.register_buffer("centre", torch.zeros_like(outputs, requires_grad=False))

    def logits(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n o"]:
        """The student's logits."""
        return self.head(self.encoder.pooled(self.encoder.tokens(images)))

    def teacher_logits(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n o"]:
        """The teacher's logits, not centred."""
        encoder = self.teacher_encoder
        return self.teacher_head(encoder.pooled(encoder.tokens(images)))

    def dense(self, images: Float[Tensor, "n 3 h w"], layers: int) -> Any:
        """The student's features; see `Encoder.dense`."""
        return self.encoder.dense(images, layers)


@dataclass(frozen=True)
class Dino:
    """DINO. Defaults are the paper's.

    Attributes:
        image_size: side of global crops, in pixels.
        local_size: side of local crops.
        global_crops: number of global crops, g.
        local_crops: number of local crops, l; may be 0.
        output_dim: output dimension of the head.
        student_temperature: T_student.
        teacher_temperature: T_teacher.
        teacher_momentum: momentum at the start; it rises to 1 along a cosine over the budget.
        centre_momentum: momentum of the centre's moving average.
        head_width: width of the head's hidden layers; None: see `head_sizes`.
        bottleneck: width of the head's bottleneck; likewise.
        global_scale: range of a global crop's share of the picture's area.
        local_scale: range of a local crop's share.
        colour: strength of the colour jitter; 0 is none, 1 the paper's.
    """

    name: ClassVar[str] = "dino"
    image_size: int = option(
        "Side of the global crops, or of I-JEPA's pictures, in pixels; a multiple of the learner's "
        "patch.",
        default=Cases(((EMBEDDED_LEARNER, 64),), 224),
        least=1,
    )
    local_size: int = option(
        "Side of DINO's local crops, in pixels.",
        default=Cases(((EMBEDDED_LEARNER, 32),), 96),
        least=1,
        needs=(
            Need(
                lambda options: options["local_crops"] > 0 or options["objective"] != "dino",
                "there are no local crops",
            ),
        ),
    )
    global_crops: int = option(default=2, hidden=True)
    local_crops: int = option(
        "DINO's local crops of each picture, beside its 2 global ones; 0 makes none.",
        default=Cases(((SHORTCUT, 0),), 6),
        least=0,
    )
    output_dim: int = option(
        "Outputs of DINO's head.", default=Cases(((EMBEDDED_LEARNER, 64),), 8192), least=2
    )
    student_temperature: float = option("Temperature of DINO's student.", default=0.1, above=0)
    teacher_temperature: float = option("Temperature of DINO's teacher.", default=0.04, above=0)
    teacher_momentum: float = option(
        "Share of itself that the teacher keeps at each step, at the start; it rises to 1.",
        default=Cases(((EMBEDDED_LEARNER, 0.95),), 0.996),
        least=0,
        most=1,
    )
    centre_momentum: float = option(
        "Share of itself that the centre of DINO's teacher keeps at each step.",
        default=0.9,
        least=0,
        most=1,
    )
    head_width: int | None = option(default=None, hidden=True)
    bottleneck: int | None = option(default=None, hidden=True)
    global_scale: tuple[float, float] = option(default=(0.4, 1.0), hidden=True)
    local_scale: tuple[float, float] = option(default=(0.05, 0.4), hidden=True)
    colour: float = option(
        "Strength of the colour jitter of DINO's crops; 1 is that of its authors, 0 none.",
        default=Cases(((EMBEDDED_SCENES, 0.4),), 1.0),
        least=0,
    )

    def __post_init__(self) -> None:
        if self.global_crops < 1 or self.local_crops < 0:
            raise UserError("DINO needs at least one global crop, and no fewer than 0 local ones")
        if self.global_crops + self.local_crops < 2:
            raise UserError("DINO compares crops: give a second global crop, or a local one")
        if min(self.student_temperature, self.teacher_temperature) <= 0:
            raise UserError("DINO's temperatures must be positive")
        if not (0 <= self.teacher_momentum <= 1 and 0 <= self.centre_momentum <= 1):
            raise UserError("DINO's momenta (teacher, centre) must be between 0 and 1")
        if self.output_dim < 2:
            raise UserError(f"DINO's output dimension must be at least 2, not {self.output_dim}")
        self._recipes()

    def learner(self, encoder: Encoder, seed: int) -> DinoLearner:
        """See `Objective.learner`.

        Raises:
            UserError: crops that patches do not fill.
        """
        sizes = {"global": self.image_size} | (
            {"local": self.local_size} if self.local_crops else {}
        )
        for kind, size in sizes.items():
            if size % encoder.patch:
                raise UserError(
                    f"{kind} crops of {size} pixels are no multiple of the learner's patches of "
                    f"{encoder.patch} pixels"
                )
        hidden, bottleneck = head_sizes(encoder.width, self.head_width, self.bottleneck)
        like = next(encoder.parameters())
        head = seeded_module(
            lambda: DinoHead(encoder.width, hidden, bottleneck, self.output_dim), seed, like
        )
        return DinoLearner(encoder, head)

    def batch(self, images: Sequence[Tensor], generator: torch.Generator) -> UnlabeledBatch:
        """See `Objective.batch`."""
        from vfunc.vision.objectives.crops import cut  # it brings torchvision

        global_recipes, local_recipes = self._recipes()
        views = cut(images, global_recipes, generator)
        if not local_recipes:
            empty = views.new_zeros(0, len(images), 3, self.local_size, self.local_size)
            return UnlabeledBatch(views, empty)
        return UnlabeledBatch(views, cut(images, local_recipes, generator))

    def view_masks(self, masks: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """See `Objective.view_masks`."""
        from vfunc.vision.objectives.crops import cut_masks  # it brings torchvision

        return cut_masks(masks, self._recipes()[0], generator)

    @typed
    def targets(
        self, learner: nn.Module, batch: UnlabeledBatch, views: Float[Tensor, "g b 3 h w"]
    ) -> tuple[Float[Tensor, "g b o"], dict[str, Tensor]]:
        """See `Objective.targets`: q, and the mean of the teacher's logits."""
        logits = learner("teacher_logits", views.flatten(0, 1))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        q = ((logits - learner.centre) / self.teacher_temperature).softmax(-1)
        return q.unflatten(0, views.shape[:2]), {"centre": logits.detach().mean(0)}

    def calls(self, batch: UnlabeledBatch, views: Float[Tensor, "g b 3 h w"]) -> dict[str, Call]:
        """See `Objective.calls`."""
        calls: dict[str, Call] = {"views": ("logits", views.flatten(0, 1))}
        if len(batch.locals):
            calls["locals"] = ("logits", batch.locals.flatten(0, 1))
        return calls

    @typed
    def parts(
        self,
        outputs: Mapping[str, Float[Tensor, "_ o"]],
        targets: Float[Tensor, "g b o"],
        batch: UnlabeledBatch,
    ) -> Float[Tensor, " b"]:
        """See `Objective.parts`."""
        g, b = targets.shape[:2]
        q = targets.sum(0)
        # a crop is compared with the targets of all the others
        loss = -((q - targets) * self._log_p(outputs["views"], b)).sum(-1).sum(0)
        crops = g
        if "locals" in outputs:
            log_p = self._log_p(outputs["locals"], b)
            loss = loss - (q * log_p.sum(0)).sum(-1)
            crops += len(log_p)
        return loss / (g * (crops - 1) * b)

    @torch.no_grad()
    def stepped(
        self, learner: nn.Module, carried: Sequence[Mapping[str, Tensor]], fraction: float
    ) -> None:
        """See `Objective.stepped`; the centre moves to the mean over the window."""
        assert isinstance(learner, DinoLearner)
        momentum = cosine_momentum(self.teacher_momentum, fraction)
        follow(learner.teacher_encoder, learner.encoder, momentum)
        follow(learner.teacher_head, learner.head, momentum)
        if carried:
            seen = torch.stack([found["centre"] for found in carried]).mean(0)
            learner.centre.lerp_(seen.to(learner.centre.dtype), 1 - self.centre_momentum)

    def _log_p(self, logits: Tensor, pictures: int) -> Tensor:
        """log p of crops by picture, in float32 at least: (crops, pictures, outputs)."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return (wide / self.student_temperature).log_softmax(-1).unflatten(0, (-1, pictures))

    def _recipes(self) -> tuple[tuple[Recipe, ...], tuple[Recipe, ...]]:
        return dino_recipes(
            (self.global_crops, self.image_size, self.global_scale),
            (self.local_crops, self.local_size, self.local_scale),
            self.colour,
        )


_: type[Objective] = Dino  # the type checker compares the two

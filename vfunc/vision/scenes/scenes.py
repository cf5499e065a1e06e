"""The embedded vision problem: scenes with exact labels, made from a seed; nothing is downloaded.

The stream has something in it that a learned view can take away: in a share of its scenes the
background is one patch repeated all over, which tells any two crops of a scene that they belong
together, at no need to look at the digits. Feedback and evaluation have none of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from vfunc.errors import UserError
from vfunc.vision.data.vision_data import Example, VisionData
from vfunc.vision.scenes.scene_drawing import GROUPS, Scene, draw_scene
from vfunc.vision.scenes.scene_layers import SIDE
from vfunc.vision.scenes.scene_material import SHARES, material

CLASSES = ("background", *GROUPS)
REPETITIVE = 0.5
"""Share of the stream's scenes with a repetitive background."""


@dataclass(frozen=True, eq=False)
class Scenes:
    """Labelled scenes of a split. Scene i depends on the seed, the split and i alone.

    Scenes are drawn on demand and kept; they must not be changed in place.

    Attributes:
        split: a key of `scene_material.SHARES`, which decides digits and photographs.
        seed: seed of the scenes, not negative.
        count: number of scenes; the first of a larger count are those of a smaller one.
        repetitive: share of the scenes whose background is one patch repeated all over.
    """

    split: str
    seed: int
    count: int
    repetitive: float = 0.0
    _kept: dict[int, Example] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.split, self.seed, self.count, self.repetitive)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        _within(index, self.count)
        if index not in self._kept:
            scene = _scene(self.split, self.seed, index, self.repetitive)
            self._kept[index] = Example(
                _channels_first(scene),
                segmentation=torch.from_numpy(scene.segmentation),
                depth=torch.from_numpy(scene.depth),
                label=scene.digit,
                name=f"{self.split} scene {index}",
            )
        return self._kept[index]


@dataclass(frozen=True, eq=False)
class SceneImages:
    """The pictures of `Scenes` without their labels, for a stream. See there."""

    split: str
    seed: int
    count: int
    repetitive: float = 0.0
    _kept: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.split, self.seed, self.count, self.repetitive)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        _within(index, self.count)
        if index not in self._kept:
            scene = _scene(self.split, self.seed, index, self.repetitive)
            self._kept[index] = _channels_first(scene)
        return self._kept[index]


def embedded_scenes(
    seed: int,
    *,
    stream: int,
    heads: int,
    feedback: int,
    evaluation_fit: int,
    evaluation: int,
    split: str,
    held_out: int = 256,
    repetitive: float = REPETITIVE,
) -> VisionData:
    """The embedded problem: an unlabeled stream, labelled feedback, evaluation.

    Args:
        seed: seed of the stream, of the heads' pictures and of the feedback. Evaluation scenes are
            the same for all seeds.
        stream: number of scenes in the stream.
        heads: number of scenes that the heads of the feedback are fitted on.
        feedback: number of scenes that g_down is taken on.
        evaluation_fit: number of scenes that the probes are trained on.
        evaluation: number of scenes that they are measured on.
        split: `validation` or `test`.
        held_out: number of scenes for the one-step probe.
        repetitive: share of the stream's scenes with a repetitive background.

    Raises:
        UserError: another split, a count below 1, a negative seed, a share beyond 0 to 1.
    """
    if split not in ("validation", "test"):
        raise UserError(f"split {split!r}; the splits are validation and test")
    data = {
        "heads": Scenes("heads", seed, heads),
        "feedback": Scenes("feedback", seed, feedback),
        "held_out": Scenes("held_out", 0, held_out),
        "fit": Scenes("fit", 0, evaluation_fit),
        "test": Scenes(split, 0, evaluation),
    }
    pictures = SceneImages("stream", seed, stream, repetitive)
    return VisionData(
        stream=pictures,
        **data,
        tasks=("segmentation", "depth", "classification"),
        classes={"segmentation": len(CLASSES), "classification": 10},
        image_size=(SIDE, SIDE),
        summary={
            "source": "embedded scenes",
            "split": split,
            "pictures": {"stream": stream} | {split: len(scenes) for split, scenes in data.items()},
            "stream": {"repetitive": repetitive},
        },
        names={"segmentation": CLASSES, "classification": tuple("0123456789")},
    )


def _scene(split: str, seed: int, index: int, repetitive: float) -> Scene:
    draws = np.random.default_rng([seed, list(SHARES).index(split), index])
    return draw_scene(draws, material(split), repetitive)


def _channels_first(scene: Scene) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))


def _check(split: str, seed: int, count: int, repetitive: float) -> None:
    material(split)
    if seed < 0:
        raise UserError(f"seed {seed}: a seed cannot be negative")
    if count < 1:
        raise UserError(f"{count} {split} scenes were asked for; ask for at least 1")
    if not 0 <= repetitive <= 1:
        raise UserError(f"repetitive={repetitive} is not a share; give a number from 0 to 1")


def _within(index: int, count: int) -> None:
    # An IndexError ends a plain loop over the scenes.
    if not 0 <= index < count:
        raise IndexError(f"scene {index} of {count}")

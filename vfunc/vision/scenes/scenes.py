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
from vfunc.vision.data.examples import Example, VisionData
from vfunc.vision.scenes.scene_drawing import GROUPS, Scene, draw_scene
from vfunc.vision.scenes.scene_layers import SIDE
from vfunc.vision.scenes.scene_material import SHARES, material

CLASSES = ("background", *GROUPS)
REPETITIVE = 0.5
"""Share of the stream's scenes with a repetitive background."""


@dataclass(frozen=True, eq=False)
class Scenes:
    """Labelled scenes of a role. Scene i depends on the seed, the role and i alone.

    Scenes are drawn when asked for and kept; what is handed out must not be changed in place.

    Attributes:
        role: a key of `scene_material.SHARES`; it says which digits and photographs are used.
        seed: of everything that is drawn, not negative.
        count: how many; the first of a larger count are those of a smaller one.
        repetitive: share of the scenes whose background is one patch repeated all over.
    """

    role: str
    seed: int
    count: int
    repetitive: float = 0.0
    _kept: dict[int, Example] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.role, self.seed, self.count, self.repetitive)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        _within(index, self.count)
        if index not in self._kept:
            scene = _scene(self.role, self.seed, index, self.repetitive)
            self._kept[index] = Example(
                _channels_first(scene),
                segmentation=torch.from_numpy(scene.segmentation),
                depth=torch.from_numpy(scene.depth),
                label=scene.digit,
                name=f"{self.role} scene {index}",
            )
        return self._kept[index]


@dataclass(frozen=True, eq=False)
class SceneImages:
    """The pictures of `Scenes` without their labels, for a stream. See there."""

    role: str
    seed: int
    count: int
    repetitive: float = 0.0
    _kept: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.role, self.seed, self.count, self.repetitive)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        _within(index, self.count)
        if index not in self._kept:
            scene = _scene(self.role, self.seed, index, self.repetitive)
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
        seed: of the stream, of the heads' pictures and of the feedback. What a run is judged on is
            fixed, so that runs with several seeds are judged on the same scenes.
        stream: scenes in the stream.
        heads: scenes that the heads of the feedback are fitted on.
        feedback: scenes that g_down is taken on.
        evaluation_fit: scenes that the probes are trained on.
        evaluation: scenes that they are measured on.
        split: `validation` or `test`.
        held_out: scenes for the one-step probe.
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
            "pictures": {"stream": stream} | {role: len(scenes) for role, scenes in data.items()},
            "stream": {"repetitive": repetitive},
        },
        names={"segmentation": CLASSES, "classification": tuple("0123456789")},
    )


def _scene(role: str, seed: int, index: int, repetitive: float) -> Scene:
    draws = np.random.default_rng([seed, list(SHARES).index(role), index])
    return draw_scene(draws, material(role), repetitive)


def _channels_first(scene: Scene) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))


def _check(role: str, seed: int, count: int, repetitive: float) -> None:
    material(role)
    if seed < 0:
        raise UserError(f"seed {seed}: a seed cannot be negative")
    if count < 1:
        raise UserError(f"{count} {role} scenes were asked for; ask for at least 1")
    if not 0 <= repetitive <= 1:
        raise UserError(f"repetitive={repetitive} is not a share; give a number from 0 to 1")


def _within(index: int, count: int) -> None:
    # An IndexError ends a plain loop over the scenes.
    if not 0 <= index < count:
        raise IndexError(f"scene {index} of {count}")

"""The embedded vision problems: scenes with exact labels, made from a seed; nothing is downloaded.

The stream has something in it that a learned view can take away, and that tells any two crops of a
scene that they belong together, at no need to look at the digits. Feedback and evaluation have none
of it. In `shortcut` each picture carries a signature of its own over its background; `clean` is the
same without; in `repetitive`, an earlier problem, the background of a share of the stream's scenes
is one patch repeated all over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from vfunc.errors import UserError
from vfunc.vision.data.vision_data import Example, VisionData
from vfunc.vision.scenes.scene_drawing import GROUPS, Scene, draw_scene
from vfunc.vision.scenes.scene_layers import SIDE
from vfunc.vision.scenes.scene_look import PLAIN, TEXTURE, Look, Signature
from vfunc.vision.scenes.scene_material import SHARES, material
from vfunc.vision.scenes.scene_roles import ROLES, Problem

CLASSES = ("background", *GROUPS)
REPETITIVE = 0.5
"""Share of the stream's scenes with a repetitive background, in `repetitive`."""


def looks_of(
    problem: Problem,
    *,
    signature: Signature | None = None,
    signed: tuple[str, ...] = ("stream",),
    texture: float | None = None,
) -> dict[str, Look]:
    """The look of an embedded problem's scenes, by role.

    Args:
        problem: its name.
        signature: what the scenes of `signed` carry in `shortcut`; None is the usual one.
        signed: roles whose scenes carry it.
        texture: amplitude of the digits' texture in `shortcut` and `clean`; None is the usual one.

    Raises:
        UserError: there is no such role.
    """
    looks: dict[str, Look]
    if problem == "repetitive":
        looks = dict.fromkeys(ROLES, PLAIN)
        return looks | {"stream": Look(repetitive=REPETITIVE)}
    clean = Look(
        texture=TEXTURE if texture is None else texture,
        shared_photographs=True,
    )
    looks = dict.fromkeys(ROLES, clean)
    if problem == "clean":
        return looks
    unknown = [role for role in signed if role not in ROLES]
    if unknown:
        raise UserError(f"no scenes are for {unknown[0]!r}; the roles are {', '.join(ROLES)}")
    return looks | {role: replace(clean, signature=signature or Signature()) for role in signed}


@dataclass(frozen=True, eq=False)
class Scenes:
    """Labelled scenes of a split. Scene i depends on the seed, the split, the look and i alone.

    Scenes are drawn on demand and kept; they must not be changed in place.

    Attributes:
        split: a key of `scene_material.SHARES`, which decides digits and photographs.
        seed: seed of the scenes, not negative.
        count: number of scenes; the first of a larger count are those of a smaller one.
        look: what they look like.
    """

    split: str
    seed: int
    count: int
    look: Look = PLAIN
    _kept: dict[int, Example] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.split, self.seed, self.count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        _within(index, self.count)
        if index not in self._kept:
            scene = _scene(self.split, self.seed, index, self.look)
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
    """The pictures of `Scenes` without their labels, for a stream. See there.

    Where their objects are, an arm that is told alone asks (`objects`).
    """

    split: str
    seed: int
    count: int
    look: Look = PLAIN
    _kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.split, self.seed, self.count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        return self._drawn(index)[0]

    def objects(self, index: int) -> UInt8[Tensor, "1 h w"]:
        """255 where a digit is to be seen, in part or wholly, and 0 elsewhere."""
        return self._drawn(index)[1]

    def _drawn(self, index: int) -> tuple[Tensor, Tensor]:
        _within(index, self.count)
        if index not in self._kept:
            scene = _scene(self.split, self.seed, index, self.look)
            objects = torch.from_numpy(scene.segmentation != 0)[None].to(torch.uint8) * 255
            self._kept[index] = _channels_first(scene), objects
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
    looks: Mapping[str, Look],
    held_out: int = 256,
) -> VisionData:
    """An embedded problem: an unlabeled stream, labelled feedback, evaluation.

    Args:
        seed: seed of the stream, of the heads' pictures and of the feedback. Evaluation scenes are
            the same for all seeds.
        stream: number of scenes in the stream.
        heads: number of scenes that the heads of the feedback are fitted on.
        feedback: number of scenes that g_down is taken on.
        evaluation_fit: number of scenes that the probes are trained on.
        evaluation: number of scenes that they are measured on.
        split: `validation` or `test`.
        looks: what scenes look like, by role (see `looks_of`).
        held_out: number of scenes for the one-step probe.

    Raises:
        UserError: another split, a count below 1, a negative seed.
    """
    if split not in ("validation", "test"):
        raise UserError(f"split {split!r}; the splits are validation and test")
    data: dict[str, Any] = {  # a role each, of fields that have other types beside them
        "heads": Scenes("heads", seed, heads, looks["heads"]),
        "feedback": Scenes("feedback", seed, feedback, looks["feedback"]),
        "held_out": Scenes("held_out", 0, held_out, looks["held_out"]),
        "fit": Scenes("fit", 0, evaluation_fit, looks["fit"]),
        "test": Scenes(split, 0, evaluation, looks["test"]),
    }
    return VisionData(
        stream=SceneImages("stream", seed, stream, looks["stream"]),
        **data,
        tasks=("segmentation", "depth", "classification"),
        classes={"segmentation": len(CLASSES), "classification": 10},
        image_size=(SIDE, SIDE),
        summary={
            "source": "embedded scenes",
            "split": split,
            "pictures": {"stream": stream} | {split: len(scenes) for split, scenes in data.items()},
            **_told(looks),
        },
        names={"segmentation": CLASSES, "classification": tuple("0123456789")},
    )


def _told(looks: Mapping[str, Look]) -> dict[str, object]:
    """What is in the scenes that a view can take away, for a summary."""
    told: dict[str, object] = {}
    if looks["stream"].repetitive:
        told["stream"] = {"repetitive": looks["stream"].repetitive}
    signatures = {role: look.signature for role, look in looks.items() if look.signature}
    for role, signature in signatures.items():
        period = list(signature.period)
        told[role] = {"signature": {"amplitude": signature.amplitude, "period": period}}
    return told


def _scene(split: str, seed: int, index: int, look: Look) -> Scene:
    draws = np.random.default_rng([seed, list(SHARES).index(split), index])
    return draw_scene(draws, material(split, look.shared_photographs), look)


def _channels_first(scene: Scene) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))


def _check(split: str, seed: int, count: int) -> None:
    material(split)
    if seed < 0:
        raise UserError(f"seed {seed}: a seed cannot be negative")
    if count < 1:
        raise UserError(f"{count} {split} scenes were asked for; ask for at least 1")


def _within(index: int, count: int) -> None:
    # An IndexError ends a plain loop over the scenes.
    if not 0 <= index < count:
        raise IndexError(f"scene {index} of {count}")

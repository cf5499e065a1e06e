"""Makes noise in place of pictures, for a dry run without the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.errors import UserError
from vfunc.vision.data.public import parse_public
from vfunc.vision.data.vision_data import Example, VisionData

HELD = {
    "ade20k": ("segmentation", 150),
    "nyuv2": ("depth", 1),
    "imagenet": ("classification", 1000),
}
"""What each public set is labelled with, and the number of classes."""


def noise(height: int, width: int, seed: int) -> Tensor:
    """A picture of independent bytes."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=draw)


def noise_data(name: str, image_size: tuple[int, int], stream_size: int) -> VisionData:
    """Noise of a public set's sizes, labels and classes.

    Args:
        name: the name in `--feedback`.
        image_size: height and width of labelled pictures.
        stream_size: side of unlabeled ones.

    Raises:
        UserError: it is a folder.
    """
    public = parse_public(name)
    if public is None:
        raise UserError(f"--dry-run: {name} is read with the other sources, which are not there")
    task, classes = HELD[public[0]]
    held = _Noise(task, classes, image_size)
    return VisionData(
        stream=_NoisePictures((stream_size, stream_size)),
        heads=held,
        feedback=held,
        held_out=held,
        fit=held,
        test=held,
        tasks=(task,),
        classes={} if task == "depth" else {task: classes},
        image_size=image_size,
        summary={"source": "noise", "split": "test", "pictures": {}},
    )


@dataclass(frozen=True)
class _Noise:
    task: str
    classes: int
    size: tuple[int, int]
    count: int = 64

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        image = noise(*self.size, index)
        coarse = image[0] // 32
        return Example(
            image,
            segmentation=coarse.long() % self.classes if self.task == "segmentation" else None,
            depth=0.5 + coarse.float() if self.task == "depth" else None,
            label=index % self.classes if self.task == "classification" else None,
            name=f"noise {index}",
        )


@dataclass(frozen=True)
class _NoisePictures:
    size: tuple[int, int]
    count: int = 64

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return noise(*self.size, index)

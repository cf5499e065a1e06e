"""Deals out the material of the embedded scenes, digits and pieces of photographs, to splits.

scikit-learn brings both along: 1,797 digits of 8x8 pixels (Alpaydin and Kaynak, UCI, 1998) and
two photographs of 427x640. No digit belongs to two splits, so that no object that a learner or its
feedback has seen comes back in the test. The digits are shared out picture by picture, not writer
by writer: who wrote one is not known. Pieces of photographs are dealt out too, or else all splits
have all of them: over pieces of its own a split's gradient mostly tells these pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from sklearn.datasets import load_digits, load_sample_images

from vfunc.errors import UserError
from vfunc.typecheck import typed

SHARES: dict[str, int] = {
    "stream": 8,
    "heads": 2,
    "feedback": 3,
    "held_out": 2,
    "fit": 4,
    "validation": 2,
    "test": 3,
}
"""Shares of each split in every 24 digits of a class and in a photograph's 24 pieces."""

REGION = 106
"""Side of a piece of a photograph, in pixels: 4 x 6 of them in each."""

MARGIN = 1
"""Empty cells around a digit, so that enlarging it never cuts it off."""


@dataclass(frozen=True, eq=False)
class Material:
    """The material of one split's scenes.

    Attributes:
        glyphs: ink of its digits, in [0, 1], with an empty margin.
        digits: the digit of each glyph.
        regions: its pieces of photographs, sRGB in [0, 1].
    """

    glyphs: Float32[np.ndarray, "g 10 10"]
    digits: Int64[np.ndarray, " g"]
    regions: Float32[np.ndarray, "r 106 106 3"]


@lru_cache(maxsize=2 * len(SHARES))
@typed
def material(split: str, shared_photographs: bool = False) -> Material:
    """The digits and pieces of photographs of a split; they do not depend on any seed.

    Args:
        split: a key of `SHARES`.
        shared_photographs: every piece of the photographs, and not the split's own alone.

    Raises:
        UserError: there is no such split; the message lists those there are.
    """
    if split not in SHARES:
        raise UserError(
            f"split {split!r} of the embedded scenes; the splits are {', '.join(SHARES)}"
        )
    digits: Any = load_digits()  # a Bunch: sklearn annotates it as a pair too
    mine = np.concatenate(
        [_dealt(_shuffled(np.flatnonzero(digits.target == d), d), split) for d in range(10)]
    )
    glyphs = digits.images[mine] / digits.images[mine].max(axis=(1, 2), keepdims=True)
    edges = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN))
    return Material(
        np.pad(glyphs, edges).astype(np.float32),
        digits.target[mine].astype(np.int64),
        _regions(None if shared_photographs else split),
    )


@lru_cache(maxsize=1 + len(SHARES))
def _regions(split: str | None) -> Float32[np.ndarray, "r 106 106 3"]:
    """The pieces of photographs of a split, or all of them."""
    photographs: Any = load_sample_images()
    pieces = [piece for photo in photographs.images for piece in _pieces(photo, split)]
    return (np.stack(pieces) / 255).astype(np.float32)


def _pieces(photo: np.ndarray, split: str | None) -> np.ndarray:
    rows, columns = (side // REGION for side in photo.shape[:2])
    whole = photo[: rows * REGION, : columns * REGION]
    pieces = whole.reshape(rows, REGION, columns, REGION, 3).swapaxes(1, 2)
    pieces = pieces.reshape(-1, REGION, REGION, 3)
    if split is None:
        return pieces
    # By contrast, so that each split gets some of the sky and some of the leaves.
    by_contrast = np.argsort(pieces.std(axis=(1, 2)).mean(axis=1), kind="stable")
    return pieces[_dealt(by_contrast, split)]


def _shuffled(indices: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(indices)


def _dealt(items: np.ndarray, split: str) -> np.ndarray:
    turns = _turns()
    return items[[turns[at % len(turns)] == split for at in range(len(items))]]


@lru_cache(maxsize=1)
def _turns() -> tuple[str, ...]:
    """The split of each of 24 items in turn: every split's turns spread evenly."""
    total, turns = sum(SHARES.values()), []
    for at in range(1, total + 1):
        due = {split: share * at / total - turns.count(split) for split, share in SHARES.items()}
        turns.append(max(due, key=due.__getitem__))
    return tuple(turns)

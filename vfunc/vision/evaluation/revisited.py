"""Reads the revisited Oxford and Paris benchmarks, and evaluates a descriptor on them.

A folder is as revisitop's downloads make it: `jpg/` with the pictures (or the pictures themselves)
and one `gnd_*.pkl`, a pickled dict of `imlist`, `qimlist` and `gnd`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy._core import multiarray as _multiarray
from numpy._core import numeric as _numeric
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from vfunc.errors import UserError
from vfunc.vision.evaluation.retrieval import (
    Relevant,
    RetrievalScores,
    cosine_similarity,
    mean_average_precision,
)

Box = tuple[float, float, float, float]
Describe = Callable[[Float[Tensor, "1 3 h w"]], Float[Tensor, "1 d"]]


@dataclass(frozen=True)
class Revisited:
    """A benchmark; `load_revisited` reads it.

    Attributes:
        database: pictures of the database.
        queries: pictures of the queries.
        boxes: boxes of the queries' objects, in pixels: left, top, right, bottom.
        truth: relevant pictures of each query.
    """

    database: tuple[Path, ...]
    queries: tuple[Path, ...]
    boxes: tuple[Box, ...]
    truth: tuple[Relevant, ...]

    def query(self, index: int) -> Image.Image:
        """A query's picture, cropped first of all, as the protocol demands."""
        picture, box = _read(self.queries[index]), self.boxes[index]
        left, top, right, bottom = (round(x) for x in box)
        if left >= right or top >= bottom or left >= picture.width or top >= picture.height:
            raise UserError(f"query {index}: nothing of {self.queries[index]} lies in {box}")
        return picture.crop((left, top, right, bottom))

    def picture(self, index: int) -> Image.Image:
        """A picture of the database."""
        return _read(self.database[index])


def load_revisited(folder: Path | str) -> Revisited:
    """Read the ground truth of a folder; pictures are opened on demand.

    The pickle may hold containers, numbers, strings and numpy arrays: nothing it names is run.

    Raises:
        UserError: no ground truth or several, one that is not revisitop's, or pictures that are
            not there.
    """
    folder = Path(folder)
    found = sorted(folder.glob("gnd_*.pkl"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"the folder {str(folder)!r} must hold one gnd_*.pkl; it holds {names}")
    pictures = folder / "jpg" if (folder / "jpg").is_dir() else folder
    known = _unpickled(found[0])
    try:
        database, queries = (
            tuple(pictures / f"{name}.jpg" for name in known[key]) for key in ("imlist", "qimlist")
        )
        boxes = tuple(_box(entry["bbx"]) for entry in known["gnd"])
        truth = tuple(
            Relevant(*(_indices(entry[kind]) for kind in ("easy", "hard", "junk")))
            for entry in known["gnd"]
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{str(found[0])!r} is no ground truth of revisitop: {type(error).__name__}: {error}"
        ) from error
    if len(queries) != len(truth):
        raise UserError(f"{str(found[0])!r} has {len(queries)} queries and {len(truth)} truths")
    missing = [path for path in (*database, *queries) if not path.is_file()]
    if missing:
        raise UserError(f"{len(missing)} pictures are missing, such as {str(missing[0])!r}")
    return Revisited(database, queries, boxes, truth)


def evaluate_revisited(
    describe: Describe,
    benchmark: Revisited,
    *,
    size: int,
    patch: int,
    device: torch.device | str = "cpu",
) -> RetrievalScores:
    """mAP of a descriptor by cosine similarity, one picture and one scale at a time.

    A picture keeps its proportions: its longer side is brought down to `size` (never up), and both
    to multiples of `patch`.

    Args:
        describe: sRGB in [0, 1] to a descriptor, such as an encoder's pooled features.
        benchmark: the benchmark.
        size: largest length of the longer side, in pixels.
        patch: side of a patch (`Encoder.patch`).
        device: device of `describe`.

    Raises:
        UserError: a picture cannot be read.
    """

    def described(read: Callable[[int], Image.Image], count: int) -> Tensor:
        rows = [describe(as_tensor(read(i), size, patch).to(device)).cpu() for i in range(count)]
        return torch.cat(rows)

    with torch.no_grad():
        queries = described(benchmark.query, len(benchmark.queries))
        database = described(benchmark.picture, len(benchmark.database))
    return mean_average_precision(cosine_similarity(queries, database), benchmark.truth)


def as_tensor(picture: Image.Image, size: int, patch: int) -> Float[Tensor, "1 3 h w"]:
    """A picture in [0, 1], its longer side at most `size`, both multiples of `patch`."""
    scale = min(1.0, size / max(picture.size))
    width, height = (max(round(side * scale / patch), 1) * patch for side in picture.size)
    resized = picture.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255


class _Plain(pickle.Unpickler):
    """An unpickler of containers, numbers, strings and numpy arrays alone."""

    def find_class(self, module: str, name: str) -> Any:
        # pickles of numpy before 2 say numpy.core, which now warns; those of Python 2, __builtin__
        module = module.replace("numpy.core.", "numpy._core.").replace("__builtin__", "builtins")
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def _encoded(text: str, codec: str) -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it names the codec {codec}")
    return text.encode("latin1")


_KNOWN = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): _multiarray._reconstruct,
    ("numpy._core.multiarray", "scalar"): _multiarray.scalar,
    ("numpy._core.numeric", "_frombuffer"): _numeric._frombuffer,  # pyright: ignore[reportAttributeAccessIssue]  not in its stub
    ("_codecs", "encode"): _encoded,
    ("builtins", "bytes"): bytes,
}
"""Objects that a pickle may name: those of numpy arrays, and of bytes in old protocols."""


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            known = _Plain(file, encoding="latin1").load()
    except Exception as error:
        # a damaged pickle raises whatever its last opcode happens to
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{str(path)!r} cannot be read: {reason}") from error
    if not isinstance(known, dict):
        raise UserError(f"{str(path)!r} holds a {type(known).__name__}, not a dict")
    return known


def _indices(values: Any) -> tuple[int, ...]:
    array = np.asarray(values)
    if array.size == 0:
        return ()
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"indices of type {array.dtype}, in {array.ndim} dimensions")
    return tuple(map(int, array))


def _box(values: Any) -> Box:
    left, top, right, bottom = (float(x) for x in np.asarray(values, dtype=float).reshape(-1))
    return left, top, right, bottom


def _read(path: Path) -> Image.Image:
    """A picture; a truncated one as far as it goes, as in revisitop's `pil_loader`."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"the picture {str(path)!r} cannot be read: {error}") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before

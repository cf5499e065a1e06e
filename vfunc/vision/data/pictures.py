"""Reads a picture, a label map or a depth map from a file.

What cannot be read is a `UserError` of one line that names the file; Pillow's warnings do not
leak. A file may also be given as its bytes (`vfunc.vision.data.decoding.Encoded`).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.batches import IGNORE
from vfunc.vision.data.decoding import File, RefusedError, decode, is_array, load_array

WHITE = (255, 255, 255, 255)
ORIENTATION = 0x0112
"""EXIF's tag of how a picture is to be turned."""
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I")


@typed
def read_image(file: File, side: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Read a picture as sRGB, turned as its EXIF orientation says.

    Grey becomes three equal channels; 16-bit grey is scaled by 255/65535, never by its own range,
    so that one exposure stays one; palettes and CMYK are converted; transparency is laid over
    white.

    Args:
        file: a file of any format that Pillow reads, with one picture; of a camera's MPO, a JPEG
            with previews or a second view behind it, the first is taken.
        side: brings its shorter side to so many pixels, if it is longer, by bilinear interpolation
            with antialiasing; a JPEG is decoded at a fraction of its size where that is enough.

    Raises:
        UserError: missing, empty, truncated, corrupt, several pages, or floating-point pixels.
    """
    if side is None:
        return torch.from_numpy(decode(file, rgb))
    return torch.from_numpy(decode(file, partial(_shrunk, side=side)))


@typed
def read_labels(
    file: File, void: int | None = None, *, binary: bool | None = None
) -> Int[Tensor, "h w"]:
    """Read a label map: one class index a pixel.

    Grey and palette pictures (PNG, BMP, TIFF) hold the index itself; so may a whole-number `.npy`
    array. A binary map, of the values 0 and 255 alone, stands for classes 0 and 1.

    Args:
        file: the label map.
        void: value of pixels without a class, which become `IGNORE`.
        binary: whether 255 stands for class 1. None: where the map holds 255 and, void apart,
            nothing else but 0. Of a set of maps all have to agree, which only the set can tell.

    Returns:
        int64 class indices. All of them may be `IGNORE`.

    Raises:
        UserError: unreadable; lossy; colours in place of indices; a negative index; a value
            besides 0 and 255 where the map is said to be binary.
    """
    if str(file).lower().endswith((".jpg", ".jpeg", ".webp")):
        raise UserError(f"{file}: a label map in a lossy format; store class indices as PNG")
    labels = load_array(file) if is_array(file) else decode(file, _indices)
    if labels.dtype.kind not in "iu":
        raise UserError(f"{file}: label maps hold whole numbers, not {labels.dtype}")
    labels = labels.astype(np.int64)
    ignored = labels == IGNORE if void is None else (labels == void) | (labels == IGNORE)
    known = labels[~ignored]
    if known.size and known.min() < 0:
        raise UserError(f"{file}: class {known.min()} is negative; say --void-label {known.min()}")
    if binary is not False:
        other = known[(known != 0) & (known != 255)]
        if binary and other.size:
            raise UserError(f"{file}: value {other[0]} in a binary label map of values 0 and 255")
        if not other.size:
            labels = labels // 255
    return torch.from_numpy(np.where(ignored, IGNORE, labels))


@typed
def read_depth(file: File, scale: float = 0.001) -> Float[Tensor, "h w"]:
    """Read a depth map in metres, 0 where it is unknown.

    Args:
        file: a 16-bit picture or a whole-number `.npy` array, in units of `scale`; or a
            floating-point `.npy` or TIFF, in metres as it stands.
        scale: metres a unit.

    Returns:
        float32 metres. Unknown are 0, negative and non-finite depths, and a saturated 16-bit
        65535, which is how 7-Scenes marks what its sensor missed.

    Raises:
        UserError: unreadable; 8-bit or colour, which is no measured depth; a scale that is not
            positive.
    """
    if not 0 < scale < float("inf"):
        raise UserError(f"--depth-scale {scale}: has to be positive, in metres a unit")
    depth = load_array(file) if is_array(file) else decode(file, _measured)
    if depth.dtype.kind in "iu":
        saturated = depth == 65535
        depth = np.where(saturated, 0, depth).astype(np.float64) * scale
    elif depth.dtype.kind != "f":
        raise UserError(f"{file}: depth has to be numbers, not {depth.dtype}")
    known = np.isfinite(depth) & (depth > 0)
    return torch.from_numpy(np.where(known, depth, 0).astype(np.float32))


@typed
def picture_size(file: File) -> tuple[int, int]:
    """Height and width as the readers give them, from the file's head alone.

    Raises:
        UserError: not a picture or an array.
    """
    if is_array(file):
        height, width = load_array(file, mapped=True).shape
        return height, width
    return decode(file, _size)


def _size(picture: Image.Image) -> tuple[int, int]:
    # looking for EXIF, Pillow decodes the whole of a PNG that has none
    bare = picture.format == "PNG" and "exif" not in picture.info
    turned = not bare and picture.getexif().get(ORIENTATION, 1) >= 5  # these swap the sides
    width, height = picture.size
    if isinstance(picture, TiffImageFile):  # its size may be that of the turned picture already
        width, height = picture.tag_v2[IMAGEWIDTH], picture.tag_v2[IMAGELENGTH]
    return (width, height) if turned else (height, width)


def rgb(picture: Image.Image) -> np.ndarray:
    """The pixels of an open picture, as `read_image` gives them.

    Raises:
        RefusedError: several pages, or values of no known range.
    """
    pages = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    if pages > 1:
        raise RefusedError(f"holds {pages} pages; save each as a file of its own")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in SIXTEEN_BIT:
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise RefusedError("its grey values are not 16-bit; convert it to 8 or 16 bits")
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[None], 3, 0)
    if picture.mode == "F":
        raise RefusedError("floating-point pixels have no range of their own; convert it to 8 bits")
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, WHITE), picture)
    return np.array(np.asarray(picture.convert("RGB")).transpose(2, 0, 1), order="C")


def _shrunk(picture: Image.Image, side: int) -> np.ndarray:
    shorter = min(picture.size)
    if shorter > side:
        # the least of 1/2, 1/4, 1/8 that leaves both sides as long as they will be
        width, height = (-(-side * length // shorter) for length in picture.size)
        picture.draft(None, (width, height))
    pixels = rgb(picture)
    shorter = min(pixels.shape[1:])
    if shorter <= side:
        return pixels
    height, width = (max(side, round(side * length / shorter)) for length in pixels.shape[1:])
    found = torch.from_numpy(pixels)
    return tv.resize(found, [height, width], InterpolationMode.BILINEAR, antialias=True).numpy()


def _indices(picture: Image.Image) -> np.ndarray:
    picture = _as_shown(picture)
    mode, values = picture.mode, np.asarray(picture)
    if mode in ("1", "L", "P", *SIXTEEN_BIT):
        return values.astype(np.int64)
    if mode in ("LA", "PA"):
        return values[..., 0]
    colours = mode in ("RGB", "RGBA")
    if colours and (values[..., :1] == values[..., :3]).all():
        return values[..., 0]
    if colours:
        raise RefusedError("its classes are coded as colours; store one class index a pixel")
    raise RefusedError(f"a label map cannot be of mode {mode}; store one class index a pixel")


def _measured(picture: Image.Image) -> np.ndarray:
    if picture.mode not in (*SIXTEEN_BIT, "F"):
        raise RefusedError(
            f"depth of mode {picture.mode} is not measured depth; store it as 16-bit PNG or .npy"
        )
    return np.asarray(_as_shown(picture))


def _as_shown(picture: Image.Image) -> Image.Image:
    """A map turned as its own EXIF says, which few have."""
    bare = picture.format == "PNG" and "exif" not in picture.info
    return picture if bare else ImageOps.exif_transpose(picture)

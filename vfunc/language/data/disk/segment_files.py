"""Writes and reads segments: files of token sequences, read where they lie.

A segment is two files. `000001.safetensors` holds the tokens of its sequences behind each other;
`000001.json`, which is written last, how many there are, what stands before them, where reading and
encoding go on, and a checksum. Files get their names when they are whole; a segment without the
second is not there. What makes a segment depends on the one before alone, so that one that is
damaged is made anew, and two processes that make it at once write the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vfunc.errors import UserError
from vfunc.language.data.tokenise import Encoded

_READ = 2**20


@dataclass(frozen=True, eq=False)
class Segment:
    """The sequences of a segment.

    Attributes:
        tokens: all tokens behind each other: a tensor, or a slice of a file, read when asked.
        wrong: which of them are known to be mistaken, likewise; None where none is.
        starts: where each sequence begins, and the end.
        predict_from: see `Encoded`.
    """

    tokens: Any
    wrong: Any
    starts: Int[Tensor, "S_plus_1"]
    predict_from: Int[Tensor, "S"]

    def sequence(self, row: int, domain: int) -> Encoded:
        """One sequence, copied out of the file."""
        start, end = int(self.starts[row]), int(self.starts[row + 1])
        tokens = self.tokens[start:end].clone()
        if self.wrong is None:
            wrong: Bool[Tensor, "L"] = torch.zeros(end - start, dtype=torch.bool)
        else:
            wrong = self.wrong[start:end].clone()
        return Encoded(tokens, int(self.predict_from[row]), wrong, domain)


def columns_of(sequences: Sequence[Encoded]) -> dict[str, Tensor]:
    """The tensors of a segment's file; none of mistakes where there are none."""
    lengths = torch.tensor([0] + [len(s.tokens) for s in sequences], dtype=torch.int64)
    empty = torch.zeros(0, dtype=torch.int32)
    columns = {
        "tokens": torch.cat([empty, *(s.tokens for s in sequences)]),
        "starts": lengths.cumsum(0),
        "predict_from": torch.tensor([s.predict_from for s in sequences], dtype=torch.int32),
    }
    if any(bool(s.wrong.any()) for s in sequences):
        columns["wrong"] = torch.cat([s.wrong for s in sequences])
    return columns


def in_memory(columns: Mapping[str, Tensor]) -> Segment:
    """A segment that is kept in no file."""
    tokens, wrong = columns["tokens"], columns.get("wrong")
    return Segment(tokens, wrong, columns["starts"], columns["predict_from"])


def write_segment(
    folder: Path, number: int, columns: Mapping[str, Tensor], told: Mapping[str, Any]
) -> None:
    """Write a segment, whole or not at all.

    Args:
        folder: where to.
        number: the segment's number, from 0.
        columns: its tensors.
        told: what there is to say of it: plain data.

    Raises:
        UserError: it cannot be written.
    """
    data = save(dict(columns))
    said = {**told, "bytes": len(data), "crc32": zlib.crc32(data)}
    try:
        _write(_file(folder, number), data)
        _write(_told(folder, number), json.dumps(said).encode())
    except OSError as error:
        raise UserError(
            f"the tokenised text cannot be kept in {folder}: {error.strerror or error}; give "
            "--data-cache a folder with room, or no"
        ) from error


def told_of(folder: Path, number: int) -> dict[str, Any] | None:
    """What there is to say of a segment; None where it is not there, or cut off."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        said = json.loads(_told(folder, number).read_bytes())
        if _file(folder, number).stat().st_size == said["bytes"]:
            return said
    return None


def read_segment(folder: Path, number: int, told: Mapping[str, Any]) -> Segment | None:
    """A segment, its tokens left in the file; None where the file is damaged or gone."""
    path, checksum = _file(folder, number), 0
    try:
        with path.open("rb") as file:  # read, not mapped: its pages are not the process's own
            while data := file.read(_READ):
                checksum = zlib.crc32(data, checksum)
        if checksum != told["crc32"]:
            return None
        with safe_open(path, framework="pt") as opened:
            names = set(opened.keys())
            return Segment(
                opened.get_slice("tokens"),
                opened.get_slice("wrong") if "wrong" in names else None,
                opened.get_tensor("starts").clone(),
                opened.get_tensor("predict_from").clone(),
            )
    except (OSError, SafetensorError):
        return None


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.safetensors"


def _told(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.json"


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

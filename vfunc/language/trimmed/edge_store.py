"""Keeps on disk what frozen blocks make of texts, a file a text, shared by all runs that can.

A file is named by the digest of its text's token ids, in a folder that is named by the digest of
everything else that it depends on, so that arms, seeds, runs and processes may share a store at
the same time. A file appears whole or not at all, and holds the digest of its numbers: safetensors
does not look at what it reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vfunc.errors import UserError
from vfunc.storage.digests import digest_of_tensors

NAME = "edge"
"""The tensor in a file."""
DIGEST = "sha256"
"""Its digest, among the file's metadata."""


@dataclass(frozen=True)
class EdgeStore:
    """A folder of hidden states, one file a text.

    Attributes:
        folder: where the files are; made when the first is written.
        dtype: in which they are kept.
    """

    folder: Path
    dtype: torch.dtype

    def holds(self, inputs: Int[Tensor, "T"]) -> bool:
        """Whether there is a file of this text."""
        return self._file(inputs).is_file()

    def read(self, inputs: Int[Tensor, "T"]) -> Float[Tensor, "T D"] | None:
        """What is kept of a text; None where nothing is, or what is there is damaged."""
        with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError):
            with safe_open(self._file(inputs), "pt") as file:
                edge: Tensor = file.get_tensor(NAME)
                digest = (file.metadata() or {}).get(DIGEST)
            if edge.ndim == 2 and len(edge) == len(inputs) and edge.dtype == self.dtype:
                return edge if digest == _digest(edge) else None
        return None

    def write(self, inputs: Int[Tensor, "T"], edge: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """Keep what the frozen blocks make of a text.

        Returns:
            What will be read: in the store's dtype.

        Raises:
            UserError: it cannot be written.
        """
        kept = edge.to(self.dtype).contiguous()
        file = self._file(inputs)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
            os.close(handle)
            try:
                save_file({NAME: kept}, name, {DIGEST: _digest(kept)})
                os.replace(name, file)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the frozen blocks' output cannot be kept in {self.folder}: {error}; give "
                "--edge-dir a folder with room, or --cache-edge no"
            ) from error
        return kept

    def _file(self, inputs: Tensor) -> Path:
        name = hashlib.sha256(inputs.to(torch.int64).numpy().tobytes()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"


def _digest(edge: Tensor) -> str:
    return digest_of_tensors({NAME: edge})

"""Names what tokenised text depends on: tokenizer, source and settings, by a digest."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.language.data.record_files import require_file
from vfunc.storage.digests import digest_of_file, digest_of_json

FORMAT = 1
"""Of the files; another one is another digest."""
WHOLE = 2**28
"""Bytes of a file up to which all of it counts."""
SAMPLES, SAMPLE = 64, 2**16
"""Places of a larger file that count, evenly spread, and bytes of each."""


def key_of(source: Any, tokenizer: PreTrainedTokenizerBase, settings: Any) -> str:
    """The digest of everything that tokenised text depends on.

    Args:
        source: what tells its contents: plain data.
        tokenizer: the learner's.
        settings: how it is read and cut: plain data.
    """
    return digest_of_json([FORMAT, source, _tokenizer(tokenizer), settings])[:40]


def source_of_file(path: Path) -> dict[str, Any]:
    """What tells a file's contents: its digest; of a large one size, time of change and samples.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    require_file(path)
    try:
        state = path.stat()
        # how a file is read depends on its endings too
        said: dict[str, Any] = {"endings": path.suffixes, "bytes": state.st_size}
        if state.st_size <= WHOLE:
            return said | {"sha256": digest_of_file(path)}
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for n in range(SAMPLES):
                file.seek((state.st_size - SAMPLE) * n // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
        return said | {"changed": state.st_mtime_ns, "samples": digest.hexdigest()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    backend = cast("Any", getattr(tokenizer, "backend_tokenizer", None))
    if backend is not None:
        backend.no_padding()  # as every call here sets them
        backend.no_truncation()
        said: Any = backend.to_str()
    else:
        said = [type(tokenizer).__name__, tokenizer.get_vocab(), repr(tokenizer.init_kwargs)]
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer("")["input_ids"]]
    versions = [metadata.version(name) for name in ("tokenizers", "transformers")]
    return [said, ends, tokenizer.chat_template, versions]

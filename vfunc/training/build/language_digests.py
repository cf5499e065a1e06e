"""Digests of the examples of a language run that come from no file: embedded, or of the Hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from vfunc.language.data.examples import Example
from vfunc.language.data.mixture import without_weight
from vfunc.language.data.reading import RawData
from vfunc.language.options import DataOptions


def digests_of_examples(
    options: DataOptions, raw: RawData, stream: str | None = None
) -> dict[str, str]:
    """The digest of each split's examples, where a name of its sources is no file.

    Args:
        options: the sources' names.
        raw: what was read.
        stream: the digest of the stream, where it is not among the raw data.
    """
    names = {
        "stream": tuple(map(without_weight, options.stream or ("",))),
        "feedback": options.feedback or ("",),
        "evaluation": (options.eval or "",),
    }
    return {
        f"the {split} examples": stream
        if split == "stream" and stream is not None
        else _digest(getattr(raw, split))
        for split, sources in names.items()
        if not all(name and Path(name).exists() for name in sources)
    }


def _digest(examples: Iterable[Example]) -> str:
    digest = hashlib.sha256()
    for e in examples:
        said = [e.prompt, e.completion, e.answer, e.domain, e.wrong]
        digest.update(json.dumps(said).encode())
    return digest.hexdigest()

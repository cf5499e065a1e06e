"""Writes records to a .jsonl file, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.typecheck import typed


@typed
def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a file of one record a line.

    Raises:
        UserError: it cannot be written.
    """
    half = path.with_name(path.name + ".part")
    try:
        with half.open("w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        os.replace(half, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a name that is too long cannot be removed, either
            half.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error

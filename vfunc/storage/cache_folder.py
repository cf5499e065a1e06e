"""The folder for what can be made again: downloaded learners, activations of frozen blocks."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "VFUNC_CACHE"


def cache_folder() -> Path:
    """`$VFUNC_CACHE`, or `vfunc` in the user's cache folder (XDG Base Directory Specification)."""
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "vfunc"

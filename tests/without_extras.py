"""Carry out jobs, each with some packages hidden: `python without_extras.py JOBS`, JSON to JSON.

A job hides modules, then gives a command to the console or, with `readme`, runs the README's example
of the core. Each runs in a fork, so that what they all need is imported once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from hidden_modules import hide

import vfunc
from vfunc.console import main
from vfunc.extras import EXTRAS

PARTS = ("language", "vision", "training")


def outcome(job: dict[str, Any]) -> dict[str, Any]:
    hide(*job["hide"])
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        if job.get("readme"):
            text = Path(vfunc.__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
            exec(re.search(r"^```python\n(.*?)^```", text, re.M | re.S).group(1), {})
            code = 0
        else:
            code = main(job["command"])
    loaded = sorted({name for names in EXTRAS.values() for name in names} & set(sys.modules))
    parts = {part: tried(part) for part in job.get("parts", PARTS)}
    return {"code": code, "stderr": said.getvalue(), "loaded": loaded, "parts": parts}


def tried(part: str) -> str:
    """The error of importing a part of the package."""
    try:
        import_module(f"vfunc.{part}")
    except ImportError as error:
        return str(error)
    return ""


def forked(job: dict[str, Any], file: Path) -> dict[str, Any]:
    child = os.fork()
    if not child:
        try:
            file.write_text(json.dumps(outcome(job)), encoding="utf-8")
        except BaseException:
            said = {"code": 1, "stderr": traceback.format_exc(), "parts": {}}
            file.write_text(json.dumps(said), encoding="utf-8")
        os._exit(0)
    os.waitpid(child, 0)
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(json.dumps([forked(job, Path("outcome.json")) for job in json.loads(sys.argv[1])]))

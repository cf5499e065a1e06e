"""Carry out golden cases in this one process: `python golden_run.py OUTPUT CASE...`.

It writes OUTPUT/<case>.json, the record of what the case's commands wrote, or OUTPUT/<case>.error,
what went wrong. `carry_out` starts such a process with an environment in which floats are the same
on any x86 machine, as far as libraries allow.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import platform
import runpy
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from platform import machine, python_version_tuple, system
from typing import Any
from unittest.mock import patch

from golden_cases import CASES, Command
from golden_contents import contents, written
from golden_inputs import write_inputs

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
}
LIBRARIES = ("torch", "numpy", "scipy", "transformers", "tokenizers", "timm", "torchvision",
             "kornia", "scikit-learn", "pillow", "peft")  # fmt: skip


def fingerprint() -> dict[str, str]:
    """What decides over the last bit of a float: libraries, Python, system and processor."""
    python = ".".join(python_version_tuple()[:2])
    found = {name: version(name) for name in LIBRARIES}
    return found | {
        "python": python,
        "machine": f"{system()} {machine()}",
        "processor": processor(),
    }


def processor() -> str:
    """The kind of processor: libraries choose their loops by its maker and what it can do.

    `SETTINGS` does not reach all of them: two kinds of x86 gave other last bits.
    """
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return platform.processor()
    found = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in found.items()}
    flags = " ".join(sorted(found.get("flags", "").split()))
    shown = [found.get(key, "") for key in ("vendor_id", "cpu family", "model")]
    return " ".join([*shown, hashlib.sha256(flags.encode()).hexdigest()[:8]])


def carry_out(names: Sequence[str], output: Path) -> None:
    """Carry out cases in a process of their own; it leaves a file for each in `output`."""
    environment = os.environ | SETTINGS
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, str(output), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"golden_run.py died with {done.returncode}:\n{done.stderr[-4000:]}")


def main(output: Path, names: Sequence[str]) -> None:
    import matplotlib.figure

    # drawing is tested elsewhere; here it would take a third of the time
    matplotlib.figure.Figure.savefig = lambda self, path, **_: Path(path).touch()
    # a shell that starts the tests in the background has Ctrl-C ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in names:
        folder = output / "folders" / name
        folder.mkdir(parents=True)
        write_inputs(folder)
        os.chdir(folder)
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                for command in CASES[name]:
                    execute(command)
            record: dict[str, Any] = {"recorded_with": fingerprint()} | contents(folder / "runs")
            (output / f"{name}.json").write_text(written(record), encoding="utf-8")
        except Exception:
            error = f"{said.getvalue()[-3000:]}\n{traceback.format_exc()}"
            (output / f"{name}.error").write_text(error, encoding="utf-8")
        os.chdir(output)
        shutil.rmtree(folder)


def execute(command: Command) -> None:
    """Run a script as `python experiments/SCRIPT WORDS...` does, and check its exit code."""
    sys.argv = [f"experiments/{command.script}", *command.words]
    code: Any = 0
    with interrupted(command.interrupt_after):
        try:
            runpy.run_path(str(ROOT / "experiments" / command.script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    if code != command.code:
        raise AssertionError(f"exit code {code}, not {command.code}: {' '.join(sys.argv)}")


@contextlib.contextmanager
def interrupted(after: int | None) -> Any:
    """Ctrl-C after so many steps of any optimizer of torch's."""
    if after is None:
        yield
        return
    from torch.optim import Optimizer

    from vfunc.training import start

    taken = 0

    def count(_: Any) -> None:  # what torch calls after every step, for profilers: no hook
        nonlocal taken
        taken += 1
        if taken == after:
            os.kill(os.getpid(), signal.SIGINT)

    unchecked = patch.object(start, "check_step")  # a copy's step is none of training
    with patch.object(Optimizer, "_optimizer_step_code", count), unchecked:
        yield


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])

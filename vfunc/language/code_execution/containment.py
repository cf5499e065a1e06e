"""Starts a part of a program's evaluation in a jail, and ends it with all that it started."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import platform
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.language.code_execution.system_calls import MACHINES, filter_program

OPTION = "--allow-code-execution"
SETTING_UP = 30.0
"""Seconds that a jail may take until it is shut."""
ENDING = 10.0
"""Seconds that the end of one is waited for."""
_HERE = Path(__file__).parent
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store")


@dataclass(frozen=True)
class Limits:
    """What a program may take.

    Attributes:
        seconds: by the wall's clock; of the processor it may have one second more.
        memory: bytes of address space.
        disk: bytes of files, all together.
        processes: threads.
    """

    seconds: float = 10.0
    memory: int = 2**30
    disk: int = 2**26
    processes: int = 32


class ContainmentError(UserError):
    """A jail cannot be had on this machine."""


@dataclass(frozen=True)
class Jail:
    """A part that runs in a jail.

    Attributes:
        outer: the process that was started, which waits for the one within.
        inner: a handle of the one within; None where it had ended at once.
    """

    outer: subprocess.Popen[bytes]
    inner: int | None

    def end(self) -> None:
        """Kill it: the process within is number 1 of its namespace, and takes all others along."""
        if self.inner is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.inner, signal.SIGKILL)
            select.select([self.inner], [], [], ENDING)  # until all within have ended
            os.close(self.inner)
        self.outer.kill()
        self.outer.wait()


def start(
    part: str,
    given: Mapping[str, Any],
    limits: Limits,
    fds: Mapping[str, int],
    *,
    filtered: bool = True,
) -> Jail:
    """Start a part in a jail, and wait until it is shut.

    Args:
        part: `candidate` or `examiner`.
        given: what the part is given.
        limits: what it may take.
        fds: what it reads and writes, by its names for them; nothing else is open in it.
        filtered: whether its system calls are filtered; tests hold the other layers alone.

    Raises:
        ContainmentError: a layer cannot be had; the message names it.
    """
    there, status = os.pipe()
    try:
        outer = subprocess.Popen(
            [sys.executable, "-S", "-s", "-P", "-B", str(_HERE / "jail.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0"},  # the order of sets is no draw of chance
            cwd="/",
            pass_fds=[*fds.values(), status],
            start_new_session=True,
        )
    except OSError as error:
        os.close(there)
        raise ContainmentError(_unavailable(f"no process: {error.strerror}")) from error
    finally:
        os.close(status)
    inner: int | None = None
    try:
        assert outer.stdin is not None
        with contextlib.suppress(BrokenPipeError), outer.stdin as stdin:
            stdin.write(_asked(part, given, limits, {**fds, "status": status}, filtered).encode())
        ready = False
        for line in _lines(there, SETTING_UP):
            kind, _, rest = line.partition(" ")
            if kind == "pid":
                with contextlib.suppress(ProcessLookupError):
                    inner = os.pidfd_open(int(rest))
            elif kind == "refused":
                raise ContainmentError(_unavailable(rest))
            ready |= kind == "ready"
        if not ready:
            raise ContainmentError(_unavailable("it ended while it was set up"))
    except BaseException:
        Jail(outer, inner).end()
        raise
    finally:
        os.close(there)
    return Jail(outer, inner)


def require_machine() -> None:
    """Refuse where there can be no jail.

    Raises:
        ContainmentError: another system than Linux, or an architecture without a filter.
    """
    if sys.platform != "linux":
        raise ContainmentError(_unavailable("it needs Linux; run this in a container or elsewhere"))
    if platform.machine() not in MACHINES:
        known = " and ".join(MACHINES)
        raise ContainmentError(_unavailable(f"{platform.machine()} has no filter; {known} have"))


def read_until(fd: int, seconds: float, most: int = 2**16) -> bytes | None:
    """All that is written to a pipe until it is closed; None where that takes longer."""
    deadline, parts, size = time.monotonic() + seconds, [], 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return None
        part = os.read(fd, 2**16)
        if not part:
            return b"".join(parts)
        size += len(part)
        if size <= most:
            parts.append(part)


def _unavailable(why: str) -> str:
    return f"{OPTION}: a learner's programs cannot be contained here ({why})"


def _lines(fd: int, seconds: float) -> Iterator[str]:
    """The lines that come through a pipe until it is closed."""
    said = read_until(fd, seconds)
    if said is None:
        raise ContainmentError(_unavailable(f"it was not set up in {seconds:g} s"))
    yield from said.decode(errors="replace").splitlines()


def _asked(
    part: str,
    given: Mapping[str, Any],
    limits: Limits,
    fds: Mapping[str, int],
    filtered: bool,
) -> str:
    binds, links = _interpreter()
    return json.dumps(
        {
            "part": part,
            "given": given,
            "fds": fds,
            "root": _root(),
            "binds": binds,
            "links": links,
            "hidden": _hidden(),
            "filter": filter_program(platform.machine()).hex() if filtered else "",
            "limits": {
                "seconds": math.ceil(limits.seconds) + 1,
                "memory": limits.memory,
                "disk": limits.disk,
                "processes": limits.processes,
            },
            "modules": _texts(part),
        }
    )


def _texts(part: str) -> dict[str, str]:
    names = ("wire", part)
    package = __name__.rpartition(".")[0]
    return {f"{package}.{name}": (_HERE / f"{name}.py").read_text("utf-8") for name in names}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vfunc-jail-")


def _root() -> str:
    """An empty folder that every jail mounts its own root on, in a namespace of its own."""
    return _folder().name


@functools.cache
def _interpreter() -> tuple[list[str], dict[str, str]]:
    """What the interpreter needs: folders to bind, and links to make."""
    paths = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix})
    asked = [*_LIBRARIES, paths["stdlib"], paths["platstdlib"]]
    own = sysconfig.get_config_var("LIBDIR")
    shared: list[Path] = []
    if own and os.access(own, os.R_OK | os.X_OK):
        shared = sorted(Path(own).glob("libpython*"))
    links = {p: os.readlink(p) for p in asked if os.path.islink(p)}
    folders = sorted({os.path.realpath(p) for p in asked if os.path.isdir(p)} - set(links))
    kept = [p for p in folders if not any(_below(p, other) for other in folders if other != p)]
    files = sorted({str(p.resolve()) for p in shared if not any(_below(str(p), k) for k in kept)})
    return [*kept, *files], links


def _hidden() -> Sequence[str]:
    """Folders of installed packages, which no program needs."""
    paths = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix})
    stdlib = os.path.realpath(paths["stdlib"])
    names = ("site-packages", "dist-packages")
    beside = [f"{os.path.dirname(stdlib)}/python3/dist-packages"]
    return [*(f"{stdlib}/{name}" for name in names), *beside]


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")

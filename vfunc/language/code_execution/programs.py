"""Judges programs that a learner wrote: whether each passes the tests of its problem."""

from __future__ import annotations

import functools
import json
import os
import socket
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vfunc.language.code_execution.containment import (
    OPTION,
    ContainmentError,
    Jail,
    Limits,
    read_until,
    require_machine,
    start,
)
from vfunc.typecheck import typed


@dataclass(frozen=True)
class Program:
    """A program and its tests.

    Attributes:
        source: the program, which nobody vouches for.
        tests: pieces of Python, executed in order; the first that raises fails the program.
        asked: the program's names that the tests use.
        before: pieces of Python executed on the tests' side before them: imports, helpers.
    """

    source: str
    tests: tuple[str, ...]
    asked: tuple[str, ...]
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed, and why not."""

    passed: bool
    why: str = ""


@typed
def judged(program: Program, limits: Limits, *, filtered: bool = True) -> Verdict:
    """Run one program in a jail, its tests in another, and kill both.

    Args:
        program: the program.
        limits: what each of the two may take.
        filtered: see `start`.

    Raises:
        ContainmentError: there can be no jail here.
    """
    fds: list[int] = []

    def pipe() -> tuple[int, int]:
        ends = os.pipe()
        fds.extend(ends)
        return ends

    jails: list[Jail] = []
    try:
        (asks, asked), (answers, answered), (heard, said) = pipe(), pipe(), pipe()
        given = {"source": program.source}
        line = {"read": asks, "write": answered}
        jails.append(start("candidate", given, limits, line, filtered=filtered))
        tests = {
            "before": list(program.before),
            "asked": list(program.asked),
            "tests": list(program.tests),
        }
        line = {"read": answers, "write": asked, "verdict": said}
        jails.append(start("examiner", tests, limits, line, filtered=filtered))
        for fd in (asks, asked, answers, answered, said):
            os.close(fd)
            fds.remove(fd)
        verdict = read_until(heard, limits.seconds)
    finally:
        for jail in jails:
            jail.end()
        for fd in fds:
            os.close(fd)
    if verdict is None:
        return Verdict(False, f"it took longer than {limits.seconds:g} s")
    if not verdict:
        return Verdict(False, "the tests were ended")
    found = json.loads(verdict)
    return Verdict(found["passed"] is True, found["why"])


@typed
def all_judged(programs: Sequence[Program], limits: Limits) -> list[Verdict]:
    """Judge programs, as many at a time as there are processors.

    Args:
        programs: the programs.
        limits: what each may take.

    Raises:
        ContainmentError: there can be no jail here.
    """
    require_containment()
    if not programs:
        return []
    at_once = max(1, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda program: judged(program, limits), programs))


@functools.cache
def require_containment() -> None:
    """Try every layer by a program that attacks it, once a process.

    Raises:
        ContainmentError: there can be no jail here, or one that a program gets out of.
    """
    require_machine()
    with (
        tempfile.TemporaryDirectory(prefix="vfunc-secret-") as folder,
        socket.socket() as listening,
    ):
        secret = Path(folder) / "secret"
        secret.write_text("secret", encoding="utf-8")
        secret.chmod(0o644)
        os.chmod(folder, 0o755)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        probe = Program(
            _PROBE,
            (f"assert escapes({str(secret)!r}, {port}, {os.getpid()}) == []",),
            ("escapes",),
        )
        for filtered in (True, False):  # the other layers hold by themselves
            found = judged(probe, Limits(), filtered=filtered)
            if not found.passed:
                raise ContainmentError(
                    f"{OPTION}: a learner's programs cannot be contained here: a program that "
                    f"tries to get out was not stopped ({found.why or 'no reason is known'})"
                )


_PROBE = """
import os, resource, socket

def escapes(secret, port, parent):
    found = []
    def tried(name, what):
        try:
            what()
        except (OSError, MemoryError, ValueError):
            return
        found.append(name)
    tried("file", lambda: open(secret).read())
    tried("processes", lambda: os.listdir("/proc"))
    tried("network", lambda: socket.create_connection(("127.0.0.1", port), 1))
    tried("writing", lambda: open("/lib/x", "w"))
    tried("root", lambda: os.setuid(0))
    tried("parent", lambda: os.kill(parent, 0))
    tried("memory", lambda: bytearray(2**31))
    tried("limits", lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
    if found:
        raise SystemError(" ".join(found))
    return found
"""

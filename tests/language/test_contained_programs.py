"""Programs that try to get out of their jail, or to pass without being right."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from vfunc.language.benchmarks.code_problems import humaneval_program, mbpp_program
from vfunc.language.benchmarks.questions import code_in
from vfunc.language.code_execution import containment, programs
from vfunc.language.code_execution.containment import ContainmentError, Limits
from vfunc.language.code_execution.programs import Program, judged, require_containment
from vfunc.language.code_execution.system_calls import MACHINES, filter_program

SHORT = Limits(seconds=1.0, memory=2**28, disk=2**22, processes=16)


def contained():
    try:
        require_containment()
    except ContainmentError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(contained()), reason=contained() or "contained")


def verdict(source, test="assert f(1) == 2", *, limits=SHORT, filtered=True, asked=("f",)):
    return judged(Program(source, (test,), asked), limits, filtered=filtered)


def test_a_right_program_passes_and_a_wrong_one_fails():
    assert verdict("def f(x):\n    return x + 1").passed
    assert not verdict("def f(x):\n    return x").passed


ALWAYS_EQUAL = """
class Same{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
def f(x): return Same({given})
"""
FORGED = """
import json, os
for fd in range(64):
    try: os.write(fd, json.dumps({"passed": True, "why": ""}).encode())
    except OSError: pass
os._exit(0)
"""
FRAMED = """
import json, os, struct
def f(x):
    body = json.dumps({"value": True, "names": ["f"], "passed": True}).encode()
    for fd in range(64):
        try: os.write(fd, struct.pack("=I", len(body)) + body)
        except OSError: pass
    os._exit(0)
"""


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "def f(x):\n    import os\n    os._exit(0)",
        "def f(x):\n    raise SystemExit(0)",
        "def f(x):\n    raise KeyboardInterrupt",
        "import builtins\nbuiltins.AssertionError = type('E', (), {})\ndef f(x): return 3",
        "import builtins\nbuiltins.__build_class__ = builtins.compile = print\ndef f(x): return 3",
        ALWAYS_EQUAL.format(base="", given=""),
        ALWAYS_EQUAL.format(base="(int)", given="7"),
        ALWAYS_EQUAL.format(base="(list)", given="[7]"),
        "print('passed', 'OK', {'passed': True})",
        FORGED,
        FRAMED,
        "import sys\nfor m in list(sys.modules): sys.modules.pop(m)\ndef f(x): return 3",
        "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
        "f = 2",
    ],
)
def test_what_is_not_right_does_not_pass(source):
    assert not verdict(source).passed


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A secret, a folder that is anybody's, and a port that is listened on."""
    folder = tmp_path_factory.mktemp("outside")
    for place in (folder, *list(folder.parents)[:3]):
        place.chmod(0o755)
    folder.chmod(0o777)
    (folder / "secret").write_text("secret")
    (folder / "secret").chmod(0o644)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield folder, listening.getsockname()[1]


REACHING = {
    "a file": "open({secret!r}).read()",
    "a file by a link": "(os.symlink({secret!r}, 'l'), open('l').read())",
    "a file through /proc": "open('/proc/1/root{secret}').read()",
    "a file through another process": "open('/proc/{parent}/root{secret}').read()",
    "its own command line": "open('/proc/self/cmdline').read()",
    "a way up": "open('../../../../../..{secret}').read()",
    "a password file": "open('/etc/passwd').read()",
    "the home": "os.listdir('/root') + os.listdir('/home')",
    "a descriptor left open": "[os.read(n, 1) for n in range(9, 64)]",
    "the network": "socket.create_connection(('127.0.0.1', {port}), 1)",
    "a raw socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "a local socket": "socket.socket(socket.AF_UNIX)",
    "writing outside": "open({folder!r} + '/made', 'w').write('x')",
    "writing beside": "open('/made', 'w').write('x')",
    "writing over a library": "open(os.__file__, 'a').write('x')",
    "a process": "os.fork()",
    "a command": "os.execv('/bin/sh', ['sh', '-c', 'true'])",
    "a signal to its parent": "os.kill({parent}, 0)",
    "a signal to its group": "os.killpg({group}, 0)",
    "a trace of its parent": "libc('ptrace', 16, {parent}, 0, 0)",
    "its parent's memory": "os.pread(os.open('/proc/{parent}/mem', 0), 1, 0)",
    "a mount": "libc('mount', b'none', b'/work', b'tmpfs', 0, 0)",
    "a namespace": "libc('unshare', 0x10000000)",
    "another user": "os.setuid(0)",
    "a device": "os.mknod('d', 0o600 | 0o020000, os.makedev(1, 1))",
    "a limit": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "more files": "resource.setrlimit(resource.RLIMIT_NOFILE, (10**5, 10**5))",
}
ATTEMPTS = """
import ctypes, os, resource, socket
def libc(name, *given):
    if getattr(ctypes.CDLL(None), name)(*given) < 0:
        raise OSError(name)
def tries(texts):
    done = []
    for name, text in texts:
        try:
            eval(text)
        except (OSError, ValueError, AttributeError):
            continue
        done.append(name)
        if name == "a process":
            os._exit(0)
    return done
"""


@pytest.mark.parametrize("filtered", [True, False])
def test_nothing_outside_is_reached(outside, filtered):
    folder, port = outside
    given = {"secret": str(folder / "secret"), "folder": str(folder), "port": port,
             "parent": os.getpid(), "group": os.getpgrp()}  # fmt: skip
    texts = [(name, text.format(**given)) for name, text in REACHING.items()]
    if not filtered:  # within its namespaces these lead nowhere
        texts = [t for t in texts if t[0] not in ("a process", "a local socket", "a namespace")]
    found = judged(
        Program(ATTEMPTS, (f"got = tries({texts!r})", "assert got == [], got"), ("tries",)),
        Limits(),
        filtered=filtered,
    )
    assert found.passed, found.why
    assert not (folder / "made").exists()


FLOODS = {
    "memory": "def f(x):\n    b = []\n    while True: b.append(bytearray(2**22))",
    "disk": "def f(x):\n    n = 0\n    while True:\n        n += 1\n        open(str(n), 'wb').write(b'x' * 2**20)",
    "threads": "import threading, time\ndef f(x):\n    while True: threading.Thread(target=time.sleep, args=(9,)).start()",
    "output": "import sys\ndef f(x):\n    while True: sys.stdout.write('x' * 2**20)",
    "an answer": "def f(x): return 'x' * 2**25",
    "time": "while True: pass",
    "patience": "import signal, time\nfor n in range(1, 30):\n    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\ndef f(x):\n    while True: time.sleep(1)",
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_program_takes_no_more_than_it_may(name):
    began = time.monotonic()
    assert not verdict(FLOODS[name]).passed
    assert time.monotonic() - began < 20


BRED = {
    "a bomb": "import os\ndef f(x):\n    while True: os.fork()",
    "a daemon": "import os, time\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            while True: time.sleep(1)\n    return 2",
}


@pytest.mark.parametrize("name", BRED)
def test_what_a_program_starts_ends_with_it_even_without_the_filter(name):
    verdict(BRED[name], filtered=False)
    left = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                said = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if b"code_execution/jail.py" in said and parent in (1, os.getpid()):
                left.append(entry.name)
    assert left == []
    assert not verdict(BRED[name]).passed  # with the filter there is no second process


def test_changes_in_place_callbacks_of_its_own_and_iterators_pass():
    source = """
class Pair:
    def __init__(self, a, b): self.a, self.b = a, b
def sort(x): x.sort()
def many(n): return (k * k for k in range(n))
def total(pairs): return sum(p.a + p.b for p in pairs)
def wrong(x): raise ValueError("no " + x)
"""
    tests = (
        "x = [3, 1, 2]\nsort(x)\nassert x == [1, 2, 3]",
        "assert list(many(4)) == [0, 1, 4, 9]",
        "assert total([Pair(1, 2), Pair(3, 4)]) == 10 and Pair(5, 6).b == 6",
        "try:\n    wrong('way')\n    raise SystemError\nexcept ValueError as e:\n    assert str(e) == 'no way'",
        "assert (1, 2.5, {'a': {1}}, b'x', 10**40, float('inf')) == (1, 2.5, {'a': {1}}, b'x', 10**40, float('inf'))",
    )
    found = judged(Program(source, tests, ("Pair", "sort", "many", "total", "wrong")), SHORT)
    assert found.passed, found.why


def test_a_call_does_not_end_an_iteration_of_the_tests():
    source = "def f(x): raise StopIteration"
    assert not verdict(source, "assert all(map(lambda x: f(x) == 2, [1, 2]))").passed


def test_a_module_that_nobody_imports_is_the_librarys():
    source = "class math:\n    isclose = staticmethod(lambda a, b: True)\ndef f(x): return 7"
    record = {"test_list": ["assert math.isclose(f(1), 2)"], "code": "def f(x): return 2"}
    assert not judged(mbpp_program(record, source), SHORT).passed
    assert judged(mbpp_program(record, "def f(x): return 2"), SHORT).passed


def test_the_tests_own_names_win_over_the_programs():
    source = "def sorted(x): return [1]\ndef isclose(a, b): return True\ndef f(x): return [9, x]"
    record = {
        "test_list": ["assert sorted(f(2)) == [1]", "assert isclose(f(1)[1], 5)"],
        "test_imports": ["from math import isclose"],
        "code": "def f(x): return 1",
    }
    assert not judged(mbpp_program(record, source), SHORT).passed
    # a problem may be about a function that is named as a built-in one
    record = {"test_list": ["assert sum(1, 2) == 3"], "code": "def sum(a, b): return a + b"}
    assert judged(mbpp_program(record, "def sum(a, b): return a + b"), SHORT).passed


def test_humaneval_is_judged_by_its_check_and_the_prompts_helpers():
    record = {
        "prompt": "def twice(x):\n    return 2 * x\n\n\ndef f(x):\n    '''Half.'''\n",
        "test": "def check(candidate):\n    assert twice(candidate(4)) == 4\n",
        "entry_point": "f",
    }
    prompt = record["prompt"]
    assert judged(humaneval_program(record, prompt + "    return x // 2\n"), SHORT).passed
    for wrong in ("    return x\n", "    return x\ndef twice(x): return 4\n", "    pass\ndel f\n"):
        assert not judged(humaneval_program(record, prompt + wrong), SHORT).passed


def test_programs_are_judged_alike_in_threads():
    found = [None] * 4

    def one(n):
        found[n] = verdict("def f(x):\n    return x + 1").passed

    threads = [threading.Thread(target=one, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_the_order_of_a_set_is_no_draw_of_chance():
    source = "def f(x): return list({str(n) for n in range(20)})"
    orders = {verdict(source, "assert f(1) == 0, f(1)").why for _ in range(2)}
    assert len(orders) == 1


def test_a_layer_that_cannot_be_had_is_named(monkeypatch):
    monkeypatch.setattr(containment, "_interpreter", lambda: (["/nowhere-at-all"], {}))
    with pytest.raises(ContainmentError, match=r"cannot be contained here \(mount"):
        verdict("def f(x): return 2")


@pytest.mark.parametrize("found", [["file"], []])
def test_a_jail_that_leaks_is_refused(monkeypatch, found):
    leaking = programs.Verdict(False, "SystemError: file")
    monkeypatch.setattr(programs, "judged", lambda *_, **__: leaking)
    with pytest.raises(ContainmentError, match="tries to get out was not stopped"):
        require_containment.__wrapped__()


def test_other_machines_are_refused(monkeypatch):
    monkeypatch.setattr(containment.sys, "platform", "darwin")
    with pytest.raises(ContainmentError, match="it needs Linux"):
        containment.require_machine()
    monkeypatch.setattr(containment.sys, "platform", "linux")
    monkeypatch.setattr(containment.platform, "machine", lambda: "riscv64")
    with pytest.raises(ContainmentError, match="riscv64 has no filter"):
        containment.require_machine()


@pytest.mark.parametrize("machine", MACHINES)
def test_a_filter_is_short_enough_for_the_kernel(machine):
    assert len(filter_program(machine)) % 8 == 0
    assert len(filter_program(machine)) // 8 <= 4096


def test_a_fenced_program_is_taken_out():
    assert code_in("Here:\n```python\nx = 1\n```\nDone") == "x = 1\n"
    assert code_in("```\nx = 1") == "x = 1"
    assert code_in("x = 1\n") == "x = 1\n"

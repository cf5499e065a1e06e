"""`--help` without torch is `--help` with it, to the last byte, and where it cannot be, it is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from vfunc.config import stand_in
from vfunc.config.stand_in import StandInError

ASK = """
import sys
from vfunc.console import call
command, *words = sys.argv[1:]
code = call(command, words, f"{command}.py")
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


def asked(program, *words, columns="80"):
    environment = os.environ | {"COLUMNS": columns}
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env=environment
    )


LINES = [
    ("80", "run", "--help"),
    ("133", "run", "--modality", "vision", "-h"),
    ("80", "compare", "--help"),
    ("61", "bench", "--help"),
    ("80", "score", "--help"),
]
WITH_TORCH = """
import os, sys
import torch
from vfunc.console import call

for line in sys.argv[1:]:
    os.environ["COLUMNS"], command, *words = line.split()
    assert call(command, words, f"{command}.py") == 0
    print("END")
"""


@pytest.fixture(scope="module")
def with_torch():
    found = asked(WITH_TORCH, *(" ".join(line) for line in LINES))
    assert (found.returncode, found.stderr) == (0, "")
    return dict(zip(LINES, found.stdout.split("END\n"), strict=False))


@pytest.mark.parametrize("line", LINES)
def test_the_text_is_that_with_torch(line, with_torch):
    columns, *words = line
    without = asked(ASK, *words, columns=columns)
    assert (without.returncode, without.stderr) == (0, "False\n")
    assert without.stdout == with_torch[line] and without.stdout.startswith(f"usage: {words[0]}.py")


FALLS_BACK = """
import sys
from vfunc.config.stand_in import told_without_torch

def told(tell, *words):
    print(told_without_torch(words or ("--help",), tell), flush=True)

def takes_a_number():
    print("begun")
    import torch
    print(f"{torch.get_num_threads()} threads")
    return 0

def leaves():
    print("begun")
    raise SystemExit(0)

def well():
    import torch
    from torch import nn

    class Learner(nn.Module):
        pass

    print("help")
    print("said beside it", file=sys.stderr)
    return 0

told(takes_a_number)
told(lambda: print("begun") or 2)
told(lambda: 1 / 0)
told(leaves)
told(lambda: 0, "--help", "--estimator", "own.module:Name")
told(lambda: 0, "--config", "x.toml", "-h")
told(lambda: 0, "--seed", "1")
told(well)
told(well, "-h", "--modality", "vision")
assert "torch" not in sys.modules
sys.modules["torch"] = sys  # it is there: nothing is to be gained
told(well)
"""


def test_what_needs_torch_or_ends_otherwise_is_left_to_it():
    found = asked(FALLS_BACK)
    assert found.returncode == 0
    assert found.stdout == "False\n" * 7 + "help\nTrue\n" * 2 + "False\n"
    assert found.stderr == "said beside it\n" * 2


def test_nothing_that_could_be_shown_is_made_of_it():
    torch = stand_in._Module("torch")
    module = torch.nn.Module
    for ask in (
        str, repr, bool, len, list, int, float,
        lambda x: f"{x}", lambda x: x < 1, lambda x: x + 1, lambda x: 1 in x, lambda x: -x,
    ):  # fmt: skip
        with pytest.raises((StandInError, TypeError)):
            ask(torch.get_num_threads())
    with pytest.raises(StandInError):
        bool(torch.cuda.is_available)  # it might be a number
    with pytest.raises(AttributeError):
        _ = torch.__version__

    class Learner(module):
        def __init__(self, width):
            self.width = width

    def plain():
        """A function."""

    assert Learner(3).width == 3 and isinstance(Learner(3), module)
    assert torch.no_grad()(plain) is plain and torch.compile(plain) is plain
    assert bool(module) and issubclass(torch.OutOfMemoryError, Exception)
    assert (torch.Tensor | None) is not None


def test_a_held_stream_is_the_real_one_to_who_asks():
    leader, follower = os.openpty()
    with open(leader), open(follower, "w", encoding="latin-1") as real:
        held = stand_in._Held(real)
        held.write("a\r\nb\n")
        assert held.getvalue() == "a\r\nb\n"
        assert (held.isatty(), held.fileno(), held.encoding) == (True, follower, "latin-1")


def test_it_takes_less_than_importing_torch():
    spent = {}
    for name, words in (("help", (ASK, "run", "--help")), ("torch", ("import torch",))):
        start = time.perf_counter()
        assert asked(*words).returncode == 0
        spent[name] = time.perf_counter() - start
    assert spent["help"] < spent["torch"]

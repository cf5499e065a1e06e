"""docs/dino_loop.md runs as it is printed there, and is the plain loop without its designer."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

DOCUMENT = Path(__file__).parents[2] / "docs" / "dino_loop.md"

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="there is no docs/ beside the tests")


def executed(*code):
    """The names that the blocks leave."""
    names = {"__name__": "dino_loop"}
    for block in code:
        exec(compile(block, str(DOCUMENT), "exec", dont_inherit=True), names)
    return names


def test_the_loop_with_a_designer_is_the_plain_one_but_for_the_designer_s_steps(capsys):
    text = DOCUMENT.read_text(encoding="utf-8")
    made, plain, added, designed = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len((made + plain).splitlines()) < 65
    without = executed(made, plain)["student"].state_dict()
    found = executed(made, added, designed)
    assert len(found["values"]) == 3 and all(map(math.isfinite, found["values"]))
    assert any(found["values"])
    assert bool(found["designer"].mask.weight.any())
    student = found["student"].state_dict()
    assert not all(torch.equal(x, without[name]) for name, x in student.items())
    step = "    designer_optimizer.step()\n"
    assert added.count(step) == 1
    held = executed(made, added.replace(step, ""), designed)["student"].state_dict()
    assert all(torch.equal(x, without[name]) for name, x in held.items())
    capsys.readouterr()

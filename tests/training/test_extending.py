"""docs/extending.md runs as it is printed there: a script, and a module that it saves."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

import vfunc

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCK = re.compile(r"""^```python(?: title="(?P<file>[^"]+)")?\n(?P<code>.*?)^```""", re.M | re.S)

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="there is no docs/ beside the tests")


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A folder of the user's own, with the registry and the modules put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(vfunc.ESTIMATORS)
    yield tmp_path
    vfunc.ESTIMATORS.clear()
    vfunc.ESTIMATORS.update(before)
    sys.modules.pop("my_values", None)


def run(folder):
    """Execute the document's blocks in order; returns the names they define."""
    names = {"__name__": "extending"}
    for block in BLOCK.finditer(DOCUMENT.read_text(encoding="utf-8")):
        if block["file"]:
            (folder / block["file"]).write_text(block["code"], encoding="utf-8")
        else:
            exec(compile(block["code"], str(DOCUMENT), "exec"), names)
    return names


def test_the_script_runs_and_its_designer_helps(own_folder, capsys):
    names = run(own_folder)
    printed = capsys.readouterr().out
    assert "first_order" in printed and "unrolled" in printed  # what certify says
    assert "sparse" in vfunc.ESTIMATORS
    hidden = names["construct"](names["designer"].theta, names["stream"])["hidden"].mean(0)
    assert float(hidden[:6].mean() - hidden[6:].mean()) > 0.1
    # its value is first order's where nothing is left out
    problem, theta, phi = names["problem"], names["f"].theta, names["phi"]
    all_of_it = names["my_values"].Sparse(share=1.0)(problem, theta, phi)
    torch.testing.assert_close(all_of_it.value, vfunc.FirstOrder()(problem, theta, phi).value)


def test_the_estimator_of_the_document_is_found_on_the_command_line(own_folder, command):
    run(own_folder)
    sys.modules.pop("my_values")
    vfunc.ESTIMATORS.pop("sparse")
    assert command(arms="vpretraining", estimator="my_values:Sparse", budget="2steps") == 0

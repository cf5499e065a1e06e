"""docs/extending.md runs as it is printed there: a script, and a module that it saves."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import vfunc
from vfunc.report.events import read_events

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


def run(folder, script=True):
    """Execute the document's blocks in order, or only save its module; returns the names."""
    names = {"__name__": "extending"}
    for block in BLOCK.finditer(DOCUMENT.read_text(encoding="utf-8")):
        if block["file"]:
            (folder / block["file"]).write_text(block["code"], encoding="utf-8")
        elif script:
            exec(compile(block["code"], str(DOCUMENT), "exec", dont_inherit=True), names)
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


def test_the_estimator_of_the_document_and_its_option_are_found_on_the_command_line(
    own_folder, command, capsys
):
    run(own_folder, script=False)
    assert "sparse" not in vfunc.ESTIMATORS  # the module is found by its name alone
    own = {"arms": "vpretraining", "estimator": "my_values:Sparse", "budget": "2steps"}
    assert command(**own, share=0.2, name="a") == 0
    written = tomllib.loads((own_folder / "runs" / "a" / "config.toml").read_text())
    assert (written["estimator"], written["share"]) == ("my_values:Sparse", 0.2)
    kept = [
        e["estimate"]["kept"]
        for e in read_events(own_folder / "runs/a/events.jsonl")
        if "estimate" in e
    ]
    assert kept and set(kept) == {0.2}
    capsys.readouterr()
    assert command(**own, share=2.0) == 2
    assert capsys.readouterr().err == "error: --share must be above 0 and at most 1, not 2.0\n"
    command("--help", **own)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Share of the entries of g_down that are kept. (default: 0.1)" in shown

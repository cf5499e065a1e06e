"""docs/trainer.md runs as it is printed there, at a small size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from small_run import new_run, shallow, shallow_learner  # noqa: F401  a fixture
from small_trainer import rows

DOCUMENT = Path(__file__).parents[2] / "docs" / "trainer.md"

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="there is no docs/ beside the tests")


# the page has no CPU in mind
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
@pytest.mark.usefixtures("shallow")
def test_the_page_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example, helper = re.findall(
        r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S
    )
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    text = [{"question": f"What is {n} + 1?", "answer": f"It is {n + 1}."} for n in range(12)]
    (tmp_path / "few.jsonl").write_text("\n".join(map(json.dumps, text)), encoding="utf-8")
    stream = rows(new_run().workload.data.stream.sequences(0, 8))
    names = {"NAME": shallow_learner(), "STEPS": 2, "FEEDBACK": "few.jsonl", "stream": stream}
    names["tokenizer"] = new_run().workload.tokenizer
    for block in (helper, example):
        exec(compile(block, str(DOCUMENT), "exec", dont_inherit=True), names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 2
    assert (tmp_path / "out" / "checkpoint-2" / "designer.safetensors").is_file()

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from vfunc.language.data.reading import Source, file_data, tokenised
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.reporting import language_reporting

QUESTION = "Tom has 5 apples."


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED_LEARNER)


def data(tmp_path, tokenizer, completions, prompts=None, **options):
    """A run's data with these evaluation solutions."""
    prompts = prompts or [f"{QUESTION} {n}" for n in range(len(completions))]
    sets = {"stream": [("a", "b")], "feedback": [("c", "so 3\n#### 3")]}
    sets["eval"] = list(zip(prompts, completions, strict=True))
    for split, rows in sets.items():
        records = [{"prompt": p, "completion": c} for p, c in rows]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{split}.jsonl").write_text(text)
    stream, feedback, evaluation = (Source(str(tmp_path / f"{split}.jsonl")) for split in sets)
    return tokenised(file_data([stream], [feedback], evaluation, 0), tokenizer, 32, 0, **options)


def test_pass_at_1_says_what_it_leaves_out(tmp_path, tokenizer):
    completions = ["#### 72 apples", "#### €72", "#### −5\r\n", "so 7", "#### 8"]
    prompts = [f"{QUESTION} {n}" for n in range(4)] + [QUESTION * 20]
    found = data(tmp_path, tokenizer, completions, prompts)
    assert [example.answer for example in found.problems] == ["72 apples", "€72", "−5"]
    reasons = {"no answer that can be read": 1, "a prompt longer than --seq-len": 1}
    assert found.unmeasured == reasons
    assert found.summary["Pass@1"] == {"sequences": 3, "dropped": reasons, "truncated": 0}
    line = language_reporting(found).lines[-1]
    assert line.startswith("Pass@1 ") and "3 problems, " in line
    assert all(f"1 dropped ({reason})" in line for reason in reasons)


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, tokenizer):
    found = data(tmp_path, tokenizer, ["#### 1", "#### 2"])
    assert len(found.problems) == 2
    assert "Pass@1" not in found.summary and not found.unmeasured

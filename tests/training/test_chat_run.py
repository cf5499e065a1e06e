"""A run on conversations: the learner's own chat template writes them, and Pass@1 asks by it."""

from __future__ import annotations

import json

import pytest
from small_run import SMALL
from transformers import AutoTokenizer, PreTrainedModel

from vfunc.config.layers import Layer
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.evaluation import solving
from vfunc.language.workload import LanguageWorkload
from vfunc.training.assemble import assemble
from vfunc.training.build.configuration import resolve

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture
def options(tmp_path):
    learner = tmp_path / "learner"
    learner.mkdir()
    for file in EMBEDDED_LEARNER.iterdir():
        (learner / file.name).symlink_to(file)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_LEARNER)
    tokenizer.chat_template = TEMPLATE
    (learner / "tokenizer_config.json").unlink()
    (learner / "tokenizer.json").unlink()
    tokenizer.save_pretrained(learner)
    files = {}
    for number, name in enumerate(("stream", "feedback", "eval")):
        rows = [
            {"messages": [{"role": "user", "content": f"Tom has {k} pens and buys {number}."},
                          {"role": "assistant", "content": f"{k}+{number}\n#### {k + number}"}]}
            for k in range(8)
        ]  # fmt: skip
        files[name] = str(tmp_path / f"{name}.jsonl")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    used = {name: value for name, value in SMALL.items() if name != "stream_size"}
    return used | {"learner": str(learner), "seq_len": 64} | files


def test_the_learner_s_template_writes_what_a_run_reads(options, monkeypatch):
    assembled = assemble(resolve(Layer(options)))
    chat = [line for line in assembled.modality.reporting.lines if line.startswith("chat")]
    assert chat == ["chat      by the tokenizer's chat template"]
    learner, workload = assembled.learner, assembled.workload
    assert isinstance(learner, PreTrainedModel) and isinstance(workload, LanguageWorkload)
    data = workload.data
    assert {e.answer for e in data.problems} <= {str(k + 2) for k in range(8)}
    assert data.problems[0].prompt.startswith("user: Tom has ")
    assert data.problems[0].prompt.endswith("buys 2.\nassistant: ")
    asked = []

    def solved(_, __, prompts, **___):
        asked.extend(prompts)
        return [[f"#### {int(p.split()[3]) + 2} pens\n"] for p in prompts]

    monkeypatch.setattr(solving, "generate", solved)
    problems = data.problems
    found = solving.pass_at_1(learner, workload.tokenizer, problems, max_new_tokens=8)
    assert found.mean == 1 and asked == [e.prompt for e in problems]

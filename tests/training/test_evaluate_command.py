"""The command `evaluate`, and a run that asks benchmarks at its start and end."""

from __future__ import annotations

import json

import pytest
from small_run import small

from vfunc.evaluation.pass_at_k import pass_at_k
from vfunc.language.benchmarks import questions
from vfunc.language.code_execution.containment import ContainmentError
from vfunc.language.evaluation.solving import pass_at_1
from vfunc.training.assemble import assemble
from vfunc.training.evaluating.evaluate_command import main, options_of

ROWS = [
    {"subject": f"s{n % 2}", "question": f"{n}?", "choices": ["a", "b"], "answer": n % 2}
    for n in range(6)
]


@pytest.fixture
def mmlu(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return f"mmlu:{path}"


def test_a_learner_is_evaluated_without_training(mmlu, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    kept = tmp_path / "out.json"
    words = ["--benchmarks", mmlu, "--shots", "0", "--device", "cpu", "--output", str(kept)]
    assert main(words) == 0
    found = json.loads(kept.read_text(encoding="utf-8"))
    assert len(found["outcomes"]["mmlu"]) == 6
    assert found["metrics"]["mmlu"] == sum(found["outcomes"]["mmlu"]) / 6
    shown = capsys.readouterr().out
    assert f"{100 * found['metrics']['mmlu']:.1f}" in shown and "mmlu macro" in shown
    first = kept.read_bytes()
    assert main(words) == 0 and kept.read_bytes() == first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is nothing to evaluate on; give --benchmarks or --lm-eval"),
        (["--benchmarks", "mmlu:nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
        (["--benchmarks", "mmlu:x", "--pass-at", "1"], "no answer is written"),
        (["--benchmarks", "mbpp:x"], "give --allow-code-execution"),
        (["--benchmarks", "mmlu:x", "--code-seconds", "3"], "no program is run"),
        (["--benchmarks", "mmlu:x", "--output", "/nowhere/x.json"], "in a folder that is there"),
        (["--benchmarks", "mmlu:x", "--lr", "3"], "--lr is no option"),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_programs_are_refused_before_anything_is_read(capsys, monkeypatch):
    def refused():
        raise ContainmentError("--allow-code-execution: cannot be contained here (mount)")

    monkeypatch.setattr(questions, "require_containment", refused)
    assert main(["--benchmarks", "mbpp:nowhere", "--allow-code-execution"]) == 2
    assert "cannot be contained here (mount)" in capsys.readouterr().err


def test_options_are_those_of_a_run(mmlu):
    command, asked = options_of(["--benchmarks", mmlu, "--seed", "3"], "evaluate")
    assert command.seed == 3 and command.learner == "embedded"
    assert asked == small(benchmarks=(mmlu,)).evaluation


def test_a_run_asks_at_its_start_and_end(command, mmlu, tmp_path):
    options = {"arms": "baseline,random_feedback", "budget": "1steps", "solve_size": 2,
               "pass_at": (1, 2), "samples": 3, "benchmarks": mmlu, "shots": 0,
               "name": "r"}  # fmt: skip
    assert command(**options) == 0
    metrics = json.loads((tmp_path / "runs/r/metrics.json").read_text(encoding="utf-8"))
    names = [metric["name"] for metric in metrics["metrics"]]
    assert names[1:5] == ["mmlu", "mmlu_macro", "sampled_pass_at_1", "sampled_pass_at_2"]
    assert names[-1] == "pass_at_1"  # what a comparison is about stays
    for figures in (metrics["start"], *(arm["metrics"] for arm in metrics["arms"].values())):
        assert figures["mmlu_examples"] == 6 and figures["sampled_pass_at_2_examples"] == 2
        assert figures["mmlu_standard_error"] is not None
    compared = metrics["against_baseline"]["random_feedback"]
    assert {"mmlu", "sampled_pass_at_2", "pass_at_1"} <= compared.keys()
    table = (tmp_path / "runs/r/table.md").read_text(encoding="utf-8")
    assert "| metric | start | baseline | random_feedback |" in table and "mmlu % ↑" in table
    assert "mmlu" in (tmp_path / "runs/r/report.html").read_text(encoding="utf-8")
    manifest = (tmp_path / "runs/r/manifest.json").read_text(encoding="utf-8")
    assert "--benchmarks" in manifest  # questions that change are noticed when it is resumed


def test_samples_are_the_same_whoever_draws_them():
    parts = assemble(small(pass_at=(2,), samples=3, solve_size=2, temperature=1.0))
    first, again = (parts.workload.evaluate(parts.learner, final=True) for _ in range(2))
    assert first == again
    early = parts.workload.evaluate(parts.learner, final=False)
    assert set(early.outcomes) == {"loss"}
    data = parts.workload.data
    drawn = pass_at_1(
        parts.learner,
        parts.workload.tokenizer,
        data.problems,
        max_new_tokens=data.max_new_tokens,
        temperature=1.0,
        samples=3,
    )
    expected = tuple(pass_at_k(3, count, 2) for count in drawn.correct)
    assert first.outcomes["sampled_pass_at_2"] == expected

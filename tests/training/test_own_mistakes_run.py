"""A run on records that tell their mistakes, with result tokens measured apart."""

from __future__ import annotations

import json

import pytest
from small_run import same, train

from vfunc.report.events import read_events
from vfunc.studies.finished_runs import read_run
from vfunc.training.build.language_assembly import told_apart
from vfunc.training.run_directory import RunDirectory

OPTIONS = {
    "arms": "baseline,vpretraining,known_wrong",
    "stream_size": None,
    "feedback_size": 8,
    "seq_len": 64,
    "targets": "gate",
    "top_k": 4,
}


def records(path, count, wrong):
    lines = []
    for n in range(count):
        said = f"{n} + 2 = {n if wrong and n % 2 else n + 2}"
        record = {"question": f"What is {n} plus 2?", "answer": f"{said}\n#### {n + 2}"}
        at = said.index("= ") + 2
        lines.append(record | ({"wrong": [[at, len(said)]] if n % 2 else []} if wrong else {}))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def files(tmp_path):
    return {
        "stream": (records(tmp_path / "stream.jsonl", 12, wrong=True),),
        "feedback": (records(tmp_path / "feedback.jsonl", 8, wrong=False),),
        "eval": records(tmp_path / "eval.jsonl", 5, wrong=True),
        "eval_fields": "prompt=question,completion=answer",
    }


@pytest.mark.usefixtures("shallow")
def test_mistakes_and_measured_tokens_go_through_a_run(command, files, tmp_path, capsys):
    # feedback and evaluation share questions: other ones are held out
    held = [
        {"question": f"And {n} less 1?", "answer": f"{n} - 1 = {n - 1}\n#### {n - 1}"}
        for n in (7, 8, 90)
    ]
    held.append({"question": "A word?", "answer": "It is so."})
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(r) + "\n" for r in held))
    measure = ("results", "less=- (\\d+)")
    assert command("--name", "a", measure_tokens=measure, probe_batches=1, **OPTIONS, **files) == 0
    shown = capsys.readouterr().out
    assert "results: " in shown and "held-out tokens" in shown
    run = RunDirectory(tmp_path / "runs" / "a")
    written = json.loads(run.metrics.read_text())
    names = ["loss", "loss_results", "accuracy_results", "loss_less", "accuracy_less", "pass_at_1"]
    assert [m["name"] for m in written["metrics"]] == names
    for arm in ("baseline", "vpretraining", "known_wrong"):
        found = written["arms"][arm]["metrics"]
        assert found.keys() >= {*names, "loss_results_tokens"}
        assert 0 <= found["accuracy_results"] <= 1 and found["loss_results"] > 0
    compared = written["against_baseline"]["known_wrong"]
    assert {"loss_results", "accuracy_results", "loss_less"} <= compared.keys()
    assert "loss of results" in (run.path / "table.md").read_text()
    assert (run.path / "plots" / "learning_curves.png").exists()
    events = read_events(run.events)
    steps = [e for e in events if e["kind"] == "step" and e["arm"] == "known_wrong"]
    assert any(e.get("gate_on_wrong") == 1 for e in steps)
    assert any("loss_results" in e for e in events if e["kind"] == "evaluation")
    assert any("auc_dot" in e for e in events if e["kind"] == "signal")
    assert [m.name for m in read_run(run.path).measures.metrics] == names


@pytest.mark.usefixtures("shallow")
def test_gates_are_told_by_source(command, files, tmp_path):
    """A stream of two files: a column of the log, a row of the tables for each."""
    other = tmp_path / "other.jsonl"
    other.write_text((tmp_path / "stream.jsonl").read_text().replace("What", "So what"))
    both = files | {"stream": (*files["stream"], str(other))}
    assert command("--name", "a", **OPTIONS, **both) == 0
    run = RunDirectory(tmp_path / "runs" / "a")
    steps = [e for e in read_events(run.events) if e["kind"] == "step"]
    of = {e["arm"]: {n for n in e if n.startswith("gate_of/")} for e in steps}
    assert of["baseline"] == set()
    assert of["vpretraining"] <= {"gate_of/stream", "gate_of/other"} and of["vpretraining"]
    written = json.loads(run.metrics.read_text())["gates"]
    assert set(written) == {"vpretraining", "known_wrong"}
    assert written["known_wrong"]["gate_on_wrong"] == 1
    assert written["known_wrong"]["gate_on_right"] == 0
    table = (run.path / "table.md").read_text()
    assert "### where the gate opens" in table and "| known to be mistaken | " in table
    assert "where the gate opens" in (run.path / "report.html").read_text()


def test_domains_that_number_tasks_are_no_sources():
    several = ("a/b.jsonl:2", "c/b.jsonl:1")
    assert told_apart(None, None) == ("textbook", "forum")
    assert told_apart(("a/b.jsonl",), None) == ()
    assert told_apart(several, None) == ("b", "b-2")
    assert told_apart(several, ("x", "none")) == ()


def test_known_wrong_needs_spans(command, files, tmp_path, capsys):
    files["stream"] = files["feedback"]
    assert command("--name", "a", **OPTIONS, **files) == 2
    said = capsys.readouterr().err
    assert "the arm known_wrong has to be told" in said and "field 'wrong'" in said
    assert not (tmp_path / "runs" / "a" / "learners").exists()


@pytest.mark.usefixtures("shallow")
def test_a_problem_without_mistakes_knows_that_it_has_none():
    """Of the embedded problem: the arm is the baseline, bit for bit."""
    told, baseline = (
        train(arm, problem="style_shift", budget="2steps") for arm in ("known_wrong", "baseline")
    )
    assert same(told.theta, baseline.theta)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a", "--measure-tokens (a: is no regular expression"),
        ("zzz", "--measure-tokens zzz: matches no held-out token"),
    ],
)
def test_patterns_are_refused(command, pattern, why, capsys):
    assert command("--name", "a", measure_tokens=(pattern,)) == 2
    assert why in capsys.readouterr().err

"""Curves of finished runs: tokens and Pass@k, end to end, and what they refuse."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import pass_at_k
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.evaluation.solving import pass_at_1
from vfunc.report.events import read_events
from vfunc.studies.curves import curve_command, sampled_solutions
from vfunc.studies.curves.curve_command import KINDS, asked_of
from vfunc.studies.curves.curve_files import new_console
from vfunc.studies.curves.pass_statistics import Sampled
from vfunc.studies.curves.sampled_solutions import recorded, solutions_of
from vfunc.studies.curves.token_reach import first_reach
from vfunc.studies.finished_runs import read_run
from vfunc.training.assemble import assemble
from vfunc.training.run_command_line import parse


def read(kind, folder):
    """What a command has written: JSON, rows of CSV; the figure is a picture."""
    content = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader((folder / f"{kind}.csv").read_text(encoding="utf-8").splitlines()))
    assert (folder / f"{kind}.png").read_bytes()[:4] == b"\x89PNG"
    return content, rows


# --- the command


def test_it_says_its_kinds(curve, capsys):
    assert curve("--help") == 0 and curve() == 0
    shown = capsys.readouterr().out
    assert all(shown.count(f"\n  {name} ") == 2 for name in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_s_help_fits_the_terminal(curve, capsys, monkeypatch, kind):
    monkeypatch.setenv("COLUMNS", "100")
    assert curve(kind, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100 and not any("%(" in line for line in lines)
    assert lines[lines.index("Examples:") + 1].startswith(f"  vfunc curve {kind} --")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prob", "vfunc curve has no 'prob'; did you mean probe?"),
        ("tokens", "say which runs: --from DIR ..."),
        ("tokens --from x --metrc loss", "--metrc is no option; did you mean --metric?"),
        ("tokens --from nowhere", "--from nowhere: there is no run"),
        ("pass-at-k --from x --k 8 --samples 4", "--samples 4 are fewer than --k 8"),
        ("pass-at-k --from x --k 0", "--k must be at least 1"),
        ("probe --from x --arm baseline", "--arm baseline: no such arm with a designer"),
        ("probe --from x --batches 2", "--batches must be at least 5"),
        ("trade-off --weights 1:8", "--weights wants two values or more"),
        ("trade-off --weights 1:8 1.0:8", "--weights wants at least one value, and none twice"),
        ("trade-off --modality language --weights 1:8 8:1", "--segmentation-weight does nothing"),
        ("feedback-size --sizes 4 4", "none twice"),
        ("feedback-size --sizes 4 8 --seeds 0 0", "--seeds wants at least one value"),
        ("feedback-size --sizes 4 8 --seed 1", "--seed: every run has its own; give --seeds"),
        ("feedback-size --sizes 4 8 --feedback-size 4", "--feedback-size is given and varied"),
        ("feedback-size --sizes 4 8 --arms baseline", "none of them sees feedback"),
        ("feedback-size --sizes 4 8 --budgt 3steps", "did you mean --budget?"),
        ("feedback-size --sizes 4 8 --jobs 2 --budget 3s", "--jobs 2: with a budget of time"),
    ],
)
def test_a_mistake_is_one_line(refused, line, said):
    assert said in refused(*line.split())
    assert not list(Path().iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_h_is_help(kind, capsys):
    shown = []
    for word in ("-h", "--help"):
        with pytest.raises(SystemExit):
            asked_of([kind, word])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and f"usage: vfunc curve {kind} " in shown[0]


def test_curves_are_of_one_process(refused, monkeypatch):
    def alone(command):
        raise UserError(f"{command} alone")

    monkeypatch.setattr(curve_command, "require_alone", alone)
    assert "curve alone" in refused("tokens", "--from", "x")


def test_a_sweep_s_own_options_and_a_run_s_are_told_apart():
    line = "feedback-size --lr 1e-3 --sizes 2 4 --arms baseline,vpretraining --jobs=2 --no-certify"
    options, rest, _ = asked_of(line.split())
    assert (options.sizes, options.jobs, options.seeds) == ((2, 4), 2, (0, 1, 2, 3, 4))
    assert rest == ["--lr", "1e-3", "--arms", "baseline,vpretraining", "--no-certify"]


def test_pass_at_1_may_be_followed_against_tokens(curve, run_of_its_own, tmp_path):
    """As the paper's figure has it; samples of Pass@k are left for the end."""
    options = {"solve_size": 3, "solve_on_the_way": True, "budget": "2steps", "eval_every": 0.5}
    run_of_its_own(tmp_path / "s0", pass_at=2, samples=2, **options)
    events = [e for e in read_events(tmp_path / "s0/events.jsonl") if e["kind"] == "evaluation"]
    assert all(e["pass_at_1_examples"] == 3 for e in events)
    sampled = [any(name.startswith("sampled_pass_at") for name in e) for e in events]
    assert sampled == [e["final"] for e in events] and len(set(sampled)) == 2
    assert curve("tokens", "--from", tmp_path / "s0", "--metric", "pass_at_1") == 0
    content, _ = read("tokens", tmp_path / "s0-curves")
    assert content["metric"]["name"] == "pass_at_1"


# --- tokens


def test_a_metric_against_tokens(curve, saved, capsys):
    assert curve("tokens", "--from", saved, "--output", "out") == 0
    content, rows = read("tokens", Path("out"))
    logged = [read_events(saved / name / "events.jsonl") for name in ("s0", "s1")]
    measured = {
        arm: [
            [(e["tokens"], e["heldout_loss"]) for e in events
             if e["kind"] == "evaluation" and e["arm"] == arm]
            for events in logged
        ]
        for arm in ("baseline", "vpretraining")
    }  # fmt: skip
    assert content["metric"]["name"] == "loss" and content["seeds"] == [0, 1]
    points = {(p["arm"], p["place"]): p for p in content["points"]}
    assert len(points) == len(rows) == 10
    for (arm, place), point in points.items():
        assert point["tokens"] == [of[place][0] for of in measured[arm]]
        assert point["values"] == [of[place][1] for of in measured[arm]]
        assert point["mean"] == statistics.fmean(point["values"])
    assert (
        "baseline_needs" not in points["baseline", 2]
        and "baseline_needs" not in points["vpretraining", 0]
    )
    needs = points["vpretraining", 4]["baseline_needs"]
    for seed, needed in enumerate(needs["needed"]):
        units, values = zip(*measured["baseline"][seed], strict=True)
        level = measured["vpretraining"][seed][4][1]
        assert needed == first_reach(units, values, level, higher_is_better=False)
    shown = capsys.readouterr().out
    assert "held-out loss, nats per token" in shown and "95 %" not in content["command"]
    assert content["command"].startswith("vfunc curve tokens --from ")
    assert [run["config"]["seed"] for run in content["runs"]] == [0, 1]


def test_of_one_run_there_is_no_interval_and_it_says_so(curve, saved, capsys):
    assert curve("tokens", "--from", saved / "s1", "--skip", "1", "--arms", "vpretraining") == 0
    content, rows = read("tokens", saved / "s1-curves")
    assert all(point["interval"] is None for point in content["points"]) and len(rows) == 4
    assert content["notes"][0] == "One seed: no interval over seeds."
    shown = capsys.readouterr().out
    assert "One seed: no interval over seeds." in shown and "Without the arm baseline" in shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--metric pass_at_1", "--metric pass_at_1: it is not measured in the course of training"),
        ("--skip 4", "--skip 4 leaves 1 of 5 evaluations, and a curve needs two"),
        ("--arms sft", "--arms sft: {saved}/s0 has no such arm; all have baseline, vpretraining"),
    ],
)
def test_what_the_runs_do_not_hold_is_refused(refused, saved, line, said):
    found = refused("tokens", "--from", saved, *line.split(), "--output", "out")
    assert said.replace("{saved}", str(saved)) in found
    assert not Path("out").exists()


def altered(saved, place, *names, **config):
    """A copy of a run with events left out, or other options."""
    shutil.copytree(saved / "s0", place)
    (place / "manifest.json").unlink()
    if names:
        lines = (place / "events.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line).get("step") not in names]
        (place / "events.jsonl").write_text("".join(kept))
    content = json.loads((place / "metrics.json").read_text())
    content["config"] |= config
    (place / "metrics.json").write_text(json.dumps(content))


def test_a_run_that_was_not_evaluated_on_the_way_says_what_to_do(refused, saved):
    altered(saved, Path("r"), 1, 2, 3)
    found = refused("tokens", "--from", "r")
    assert "r: the arm baseline was evaluated at its start and end alone (--eval-every 0)" in found
    assert "run it again with --eval-every 0.1" in found


def test_an_evaluation_that_does_not_tell_its_place_is_one_line(refused, saved):
    altered(saved, Path("r"))
    log = Path("r/events.jsonl")
    log.write_text(log.read_text().replace('"tokens":', '"words":'))
    found = refused("tokens", "--from", "r")
    assert "r: an evaluation of baseline in events.jsonl does not tell its tokens" in found


def test_a_log_that_lost_its_last_line_is_no_shorter_curve(refused, saved):
    altered(saved, Path("r"))
    log = Path("r/events.jsonl")
    lines = log.read_text().splitlines(keepends=True)
    last = max(k for k, line in enumerate(lines) if json.loads(line)["kind"] == "evaluation")
    log.write_text("".join(lines[:last]) + lines[last][:-9])  # torn
    arm = json.loads(lines[last])["arm"]
    found = refused("tokens", "--from", "r")
    assert f"r: events.jsonl has lost the last evaluation of {arm}, at " in found


def test_runs_of_two_settings_or_budgets_are_no_curve(refused, saved):
    altered(saved, Path("r/a"), seed=7, lr=0.5)
    found = refused("tokens", "--from", "r", saved / "s1")
    assert "runs of one setting make a curve, and these differ (lr=" in found
    altered(saved, Path("q/a"), 3, seed=7)
    assert "evaluated 4 and 5 times in these runs" in refused("tokens", "--from", "q", saved / "s1")


def test_an_unfinished_run_is_refused(refused, interrupted):
    for kind in ("tokens", "pass-at-k"):
        assert f"not finished: {interrupted}" in refused(kind, "--from", interrupted)


# --- Pass@k


SHARES = {"baseline": [0.0, 1 / 3, 2 / 3, 0.0], "vpretraining": [1 / 3, 1 / 3, 1.0, 0.0]}
"""Of four problems, the share of three samples that is right."""


@pytest.fixture
def sampling(saved, tmp_path):
    """Copies of the runs that say that they have sampled three solutions of each problem."""
    for name in ("s0", "s1"):
        place = tmp_path / "sampled" / name
        altered(saved, place, pass_at=[1, 2], samples=3, temperature=1.0, seed=int(name[1]))
        for arm, shares in SHARES.items():
            result = json.loads((place / f"arms/{arm}.json").read_text())
            result["outcomes"]["sampled_pass_at_1"] = shares if name == "s0" else shares[::-1]
            (place / f"arms/{arm}.json").write_text(json.dumps(result))
    return tmp_path / "sampled"


def of_pass(*words):
    return asked_of(["pass-at-k", "--from", "x", "--device", "cpu", *words])[0]


def test_pass_at_k_of_what_a_run_has_sampled(curve, sampling, monkeypatch, capsys):
    monkeypatch.setattr(sampled_solutions, "_sampled", None)  # nothing is sampled
    words = ["--k", "3", "--temperature", "1.0", "--output", "out"]
    assert curve("pass-at-k", "--from", sampling / "s0", *words) == 0
    content, rows = read("pass-at-k", Path("out"))
    assert content["intervals_over"] == "problems" and len(rows) == 6
    (told,) = content["solutions"]["vpretraining"]
    assert (told["samples"], told["correct"]) == (3, [1, 1, 3, 0])
    for k in (1, 2, 3):
        point = content["points"][3 + k - 1]
        assert (point["arm"], point["k"]) == ("vpretraining", k)
        assert point["mean"] == statistics.fmean(pass_at_k(3, c, k) for c in (1, 1, 3, 0))
        assert float(rows[3 + k - 1]["mean"]) == point["mean"]
    shown = capsys.readouterr().out
    assert "3 samples of the run's own" in shown and "One seed:" in shown
    assert "4 problems, 3 samples of each at temperature 1; intervals are over problems" in shown


def test_of_several_runs_pass_at_k_is_over_seeds_and_of_the_arms_asked_for(
    curve, sampling, monkeypatch
):
    monkeypatch.setattr(sampled_solutions, "_sampled", None)
    words = ["--k", "3", "--temperature", "1.0", "--output", "out"]
    words += ["--arms", "vpretraining,baseline,vpretraining"]
    assert curve("pass-at-k", "--from", sampling / "s1", sampling / "s0", *words) == 0
    content, rows = read("pass-at-k", Path("out"))
    assert content["intervals_over"] == "seeds" and content["seeds"] == [0, 1]
    assert [row["arm"] for row in rows] == ["vpretraining"] * 3 + ["baseline"] * 3
    told = content["solutions"]["vpretraining"]
    assert [(one["seed"], one["correct"]) for one in told] == [(0, [1, 1, 3, 0]), (1, [0, 3, 1, 1])]


def asked(sampling, *words):
    """What is taken of a run that has sampled three solutions of each problem itself."""
    options = of_pass("--temperature", "1.0", *words)
    return recorded(read_run(sampling / "s0"), "vpretraining", options)


def test_a_run_s_own_samples_are_taken_where_they_are_as_many_as_asked_for(sampling):
    assert asked(sampling, "--k", "3") == Sampled(3, (1, 1, 3, 0))  # K are enough
    assert asked(sampling, "--k", "2", "--samples", "3") == Sampled(3, (1, 1, 3, 0))
    assert asked(sampling, "--k", "2", "--samples", "4") is None
    assert asked(sampling, "--k", "3", "--solve-size", "2") == Sampled(3, (1, 1))


def test_what_was_sampled_is_kept_for_each_question(saved, tmp_path, monkeypatch):
    made = []

    def sampled(directory, arm, options):
        made.append(options)
        return Sampled(len(made), (0, 1))

    monkeypatch.setattr(sampled_solutions, "_sampled", sampled)
    run = tmp_path / "r"
    shutil.copytree(saved / "s0", run)
    lines = ["--k 2", "--k 2 --samples 6", "--k 2 --temperature 0.9", "--k 2 --solve-size 3"]

    def found(line):
        options = of_pass(*line.split())
        return solutions_of(read_run(run), "baseline", options, tmp_path / "o", new_console())

    first = [found(line) for line in lines]
    assert [one.samples for one in first] == [1, 2, 3, 4]
    assert [found(line) for line in reversed(lines)] == first[::-1] and len(made) == 4
    assert found("--k 3 --samples 4") == first[0]  # as many samples, whatever K
    # counts that cannot be are sampled anew
    for damaged in ([0, 9], [0, -1], [0, "1"], []):
        kept = max((tmp_path / "o").rglob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        content = json.loads(kept.read_text())
        kept.write_text(json.dumps(content | {"correct": damaged}))
        before, samples = len(made), content["asked"]["options"]["samples"]
        asked = (
            f"--k 2 --samples {samples} --temperature {content['asked']['options']['temperature']}"
        )
        size = content["asked"]["options"]["solve_size"]
        assert found(asked + (f" --solve-size {size}" if size else "")).correct == (0, 1)
        assert len(made) == before + 1
    (run / "learners/baseline/model.safetensors").write_bytes(b"another")
    before = len(made)
    assert found("--k 2").samples == before + 1


def test_solutions_are_sampled_as_a_run_samples_them_and_kept(
    sampling, tmp_path, monkeypatch, capsys
):
    place = sampling / "s1"
    shutil.rmtree(place / "learners/baseline")
    shutil.copytree(EMBEDDED_LEARNER, place / "learners/baseline")
    config = (place / "config.toml").read_text().replace("solve_size = 0", "solve_size = 4")
    config = config.replace("seed = 0", "seed = 1")
    (place / "config.toml").write_text(config)
    options, console = (
        of_pass("--k", "2", "--solve-size", "3", "--temperature", "0.9"),
        new_console(),
    )
    looked = []
    monkeypatch.setattr(
        sampled_solutions, "require_same_data", lambda directory, _: looked.append(directory.path)
    )
    warmth = []
    monkeypatch.setattr(
        sampled_solutions, "pass_at_1", lambda *a, **k: warmth.append(k["temperature"]) or pass_at_1(*a, **k)
    )  # fmt: skip
    found = solutions_of(read_run(place), "baseline", options, tmp_path / "out", console)
    assert "s1, baseline: 4 samples a problem" in capsys.readouterr().out
    data = assemble(parse(["--config", str(place / "config.toml")])).workload.data
    drawn = pass_at_1(
        AutoModelForCausalLM.from_pretrained(EMBEDDED_LEARNER),
        AutoTokenizer.from_pretrained(EMBEDDED_LEARNER),
        data.problems[:3],
        max_new_tokens=data.max_new_tokens,
        temperature=0.9,
        samples=4,
        seed=1,
    )
    assert looked == [place] and warmth == [0.9]
    assert found == Sampled(4, drawn.correct) and 0 < sum(drawn.correct) < 12
    with monkeypatch.context() as patch:
        patch.setattr(sampled_solutions, "_sampled", None)
        again = solutions_of(read_run(place), "baseline", options, tmp_path / "out", console)
    assert again == found and "sampled already" in capsys.readouterr().out
    monkeypatch.setattr(sampled_solutions, "_sampled", lambda *_: Sampled(4, (4, 4, 4)))
    warmer = of_pass("--k", "2", "--solve-size", "3", "--temperature", "1.1")
    assert solutions_of(read_run(place), "baseline", warmer, tmp_path / "out", console) != found


@pytest.mark.parametrize(
    ("words", "ks"),
    [("--k 3", [1]), ("--k 4 --temperature 1.0", [1]), ("--k 3 --temperature 1.0", [2])],
)
def test_samples_of_another_kind_or_too_few_are_not_taken(sampling, words, ks):
    run = read_run(sampling / "s0")
    run.content["config"]["pass_at"] = ks
    assert recorded(run, "baseline", of_pass(*words.split())) is None
    enough = of_pass("--k", "3", "--temperature", "1.0")
    assert (recorded(run, "baseline", enough) is None) == (ks == [2])


def test_a_learner_that_is_gone_or_changed_is_refused(refused, saved):
    shutil.copytree(saved / "s0", "r")
    weights = Path("r/learners/baseline/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert "is not as the run wrote it" in refused("pass-at-k", "--from", "r", "--k", "4")
    shutil.rmtree("r/learners/baseline")
    assert "is gone, which the run left" in refused("pass-at-k", "--from", "r", "--k", "4")

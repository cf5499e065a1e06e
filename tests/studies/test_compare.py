from __future__ import annotations

import json
from pathlib import Path

import pytest

from vfunc.errors import UserError
from vfunc.studies import compare_command, comparison
from vfunc.studies.comparison_files import primary_of
from vfunc.studies.finished_runs import find_runs, read_run
from vfunc.studies.repetition import plan, settings_of
from vfunc.training.build.configuration import resolve, to_toml
from vfunc.training.run_command_line import PRESETS, parse
from vfunc.training.run_directory import RunDirectory


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """The command's module, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return compare_command


def write_run(path: Path, config, *, solves: bool = True, **changes) -> None:
    """A run's directory as a finished run leaves it, with figures that depend on the seed."""
    arms = {}
    for index, arm in enumerate(config.run.arms):
        metrics = {"loss": 0.5 - 0.1 * index + 0.01 * (config.run.seed % 3) * (1 + index)}
        if solves:
            metrics["pass_at_1"] = 0.3 + 0.1 * index + 0.01 * (config.run.seed % 3) * (1 + index)
        arms[arm] = {"tokens": 1000, "seconds": 1.0 + index, "metrics": metrics}
    options = {
        name: value if value is None or isinstance(value, int | float | str) else str(value)
        for name, value in config.options.items()
    }
    content = {
        "config": options,
        "arms": arms,
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "device": "cpu",
        "threads": 1,
        "git_commit": "abc123",
    }
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.toml").write_text(to_toml(config))
    (path / "metrics.json").write_text(json.dumps(content | changes))


@pytest.fixture
def fake_run(compare, monkeypatch):
    """In place of training: note the configuration, and leave a finished run behind."""
    made = []

    def run(config, **how) -> None:
        made.append(config)
        write_run(Path(config.command.runs_dir) / config.command.name, config, **how)

    monkeypatch.setattr(comparison, "run", run)
    run.made = made
    return run


def places(made) -> list[str]:
    return [f"{config.command.runs_dir}/{config.command.name}" for config in made]


def error_of(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


# --- settings


def test_settings_are_the_cartesian_product():
    settings = settings_of(["estimator=zero,random", "--lr=1e-3, 2e-3"])
    assert [one.label for one in settings] == [
        "estimator=zero, lr=1e-3",
        "estimator=zero, lr=2e-3",
        "estimator=random, lr=1e-3",
        "estimator=random, lr=2e-3",
    ]
    assert settings[1].arguments == ("--estimator", "zero", "--lr", "2e-3")
    assert settings[1].varied == ("estimator", "lr")


def test_without_anything_varied_there_is_one_setting():
    assert [(one.label, one.arguments) for one in settings_of([])] == [("", ())]


def test_values_become_arguments_as_their_type_wants():
    assert [one.arguments for one in settings_of(["designer-features=true,false"])] == [
        ("--designer-features", "true"),
        ("--designer-features", "false"),
    ]
    assert settings_of(["betas=0.9 0.99"])[0].arguments == ("--betas", "0.9", "0.99")
    assert settings_of(["stream=a.txt b.txt"])[0].arguments == ("--stream", "a.txt", "b.txt")
    assert settings_of(["stream='a b.txt'"])[0].arguments == ("--stream", "a b.txt")
    assert settings_of(["learner=a b"])[0].arguments == ("--learner", "a b")


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (["valu=dot"], "no such option; did you mean value"),
        (["value"], "write OPTION=VALUE,VALUE"),
        (["stream='a b.txt"], "a quote is not closed"),
        (["value=dot,"], "write OPTION=VALUE,VALUE"),
        (["value=dot,dot"], "is there twice"),
        (["value=dot", "value=cosine"], "is there twice"),
        (["seed=0,1"], "give --seeds"),
        (["arms=baseline"], "compared in every run"),
        (["runs_dir=a,b"], "runs_dir cannot vary"),
        (["freeze_designer=yes"], "write true or false"),
    ],
)
def test_what_cannot_vary_is_refused(vary, message):
    with pytest.raises(UserError, match=message):
        settings_of(vary)


# --- the plan


def test_every_run_is_what_run_py_would_make_of_its_options(tmp_path):
    rest = ["--preset", "quick", "--runs-dir", str(tmp_path), "--name", "mine"]
    folder, planned = plan([3, 5], ["value=dot,cosine", "lr=1e-3"], rest)
    assert folder == tmp_path / "mine"
    made = [(one.setting, one.config.run.seed, one.directory.path) for one in planned]
    settings = {value: f"value={value}, lr=1e-3" for value in ("dot", "cosine")}
    assert made == [
        (settings[value], seed, folder / settings[value].replace(", ", ",") / f"seed{seed}")
        for seed in (3, 5)
        for value in ("dot", "cosine")
    ]
    single = parse(["--preset", "quick", "--value", "cosine", "--lr", "1e-3", "--seed", "5"])
    assert to_toml(planned[-1].config) == to_toml(single)


def test_a_name_is_made_from_what_is_compared(tmp_path):
    assert plan([0], [], [])[0] == Path("runs/compare-careless_everywhere-first_order")
    folder, planned = plan([4], ["lr=1e-3,2e-3"], ["--problem", "style_shift"])
    assert folder == Path("runs/compare-style_shift-first_order-lr")
    assert planned[0].directory.path == folder / "lr=1e-3" / "seed4"


def test_a_preset_can_vary():
    _, planned = plan([0], ["preset=quick,style_shift"], [])
    assert [one.config.data.problem for one in planned] == ["careless_everywhere", "style_shift"]


@pytest.mark.parametrize(
    ("vary", "rest", "message"),
    [
        ([], ["--seed", "1"], "give --seeds"),
        ([], ["--resume", "x"], "given again"),
        (["value=dot"], ["--value", "dot"], "given and varied as well"),
        (["estimator=first_order,unrolled"], ["--value", "dot"], "^estimator=unrolled: .*--value"),
        (["lr=1e-3,0"], [], "^lr=0: --lr must be above 0"),
        ([], ["--lookahead-steps", "2"], "^--lookahead-steps does nothing here: the estimator"),
        (["learner=a/b,a_b"], [], "the same directory"),
    ],
)
def test_settings_are_refused_as_a_whole(vary, rest, message):
    with pytest.raises(UserError, match=message):
        plan([0, 1], vary, rest)


# --- the command


def test_runs_are_made_and_compared(compare, fake_run, capsys):
    line = "--preset quick --seeds 1 0 --name c --vary value=dot,cosine --primary loss"
    assert compare.main(line.split()) == 0
    assert places(fake_run.made) == [
        f"runs/c/value={value}/seed{seed}" for seed in (1, 0) for value in ("dot", "cosine")
    ]
    content = json.loads(Path("runs/c/comparison.json").read_text())
    assert content["primary"] == "loss"
    assert content["command"] == f"vfunc compare {line}"
    assert [(arm["setting"], arm["arm"], arm["seeds"]) for arm in content["arms"]] == [
        (f"value={value}", arm, [0, 1])
        for value in ("dot", "cosine")
        for arm in ("baseline", "vpretraining")
    ]
    loss = content["arms"][1]["metrics"]["loss"]
    assert loss["values"] == pytest.approx([0.4, 0.42])
    assert loss["difference"]["mean"] == pytest.approx(-0.095)
    assert content["arms"][1]["speed"]["values"] == [0.5, 0.5]
    assert [one["config"]["seed"] for one in content["runs"]] == [1, 1, 0, 0]
    page = Path("runs/c/comparison.md").read_text()
    assert page.index("held-out loss") < page.index("Pass@1")
    for part in (content["command"], "commit abc123", "torch 2.15.0", "cpu, 1 threads", "| 2/2 |"):
        assert part in page
    assert "](comparison.png)" in page
    assert Path("runs/c/comparison.png").read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr().out
    assert "held-out loss, nats per token (primary, 2 seeds)" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_seeds_default_to_five(compare, fake_run):
    assert compare.main(["--name", "c"]) == 0
    assert places(fake_run.made) == [f"runs/c/seed{seed}" for seed in range(5)]


def test_varied_options_may_follow_one_flag_or_several(compare):
    options, rest = compare.options_of(["--vary", "a=1", "b=2", "--lr", "3", "--vary", "c=3"])
    assert [text for group in options.vary for text in group] == ["a=1", "b=2", "c=3"]
    assert rest == ["--lr", "3"]


def test_finished_runs_are_not_repeated(compare, fake_run, capsys):
    assert compare.main(["--seeds", "0", "1", "--name", "c"]) == 0
    before = Path("runs/c/seed0/metrics.json").stat().st_mtime_ns
    assert compare.main(["--seeds", "0", "1", "2", "--name", "c"]) == 0
    assert places(fake_run.made) == [f"runs/c/seed{seed}" for seed in (0, 1, 2)]
    assert Path("runs/c/seed0/metrics.json").stat().st_mtime_ns == before
    assert compare.main(["--seeds", "0", "--name", "c", "--overwrite"]) == 0
    assert places(fake_run.made)[3:] == ["runs/c/seed0"]
    assert fake_run.made[3].command.overwrite


def test_an_interrupted_run_is_resumed(compare, fake_run, monkeypatch, capsys):
    def stopped(config):
        path = Path(config.command.runs_dir) / config.command.name
        if config.run.seed == 1:
            path.mkdir(parents=True)
            (path / "config.toml").write_text(to_toml(config))
            raise KeyboardInterrupt
        fake_run(config)

    line = ["--seeds", "0", "1", "2", "--name", "c"]
    monkeypatch.setattr(comparison, "run", stopped)
    assert compare.main(line) == 130
    captured = capsys.readouterr()
    assert "the same command goes on from here" in captured.out
    assert captured.err == "error: interrupted\n"
    monkeypatch.setattr(comparison, "run", fake_run)
    assert compare.main(line) == 0
    assert [config.run.seed for config in fake_run.made] == [0, 1, 2]
    resumed = [config.command.resume for config in fake_run.made]
    assert resumed == [None, "runs/c/seed1", None]


def test_a_run_of_other_options_is_left_alone(compare, fake_run, capsys):
    assert compare.main(["--seeds", "1", "--name", "c"]) == 0
    capsys.readouterr()
    assert compare.main(["--seeds", "0", "1", "--name", "c", "--lr", "0.5"]) == 2
    error = error_of(capsys)
    assert "runs/c/seed1 was run with other options (lr 0.001 there, 0.5 here)" in error
    assert len(fake_run.made) == 1
    # what a machine is made of may change
    assert compare.main(["--seeds", "1", "--name", "c", "--threads", "1", "--device", "cpu"]) == 0
    assert len(fake_run.made) == 1


def test_a_folder_that_is_no_run_is_left_alone(compare, fake_run, capsys):
    Path("runs/c/seed0").mkdir(parents=True)
    Path("runs/c/seed0/thesis.txt").write_text("x")
    assert compare.main(["--seeds", "0", "--name", "c"]) == 2
    assert "runs/c/seed0 is there and not a run" in error_of(capsys)


def test_all_settings_are_checked_before_the_first_run(compare, fake_run, capsys):
    line = ["--preset", "quick", "--seeds", "0", "--vary", "align=all,last:99", "--name", "c"]
    assert compare.main(line) == 2
    assert error_of(capsys).startswith("error: align=last:99: 'last:99'")
    assert fake_run.made == []
    assert not Path("runs").exists()


def test_a_dry_run_tells_what_there_is_to_do(compare, fake_run, capsys):
    assert compare.main(["--preset", "quick", "--seeds", "0", "--name", "c"]) == 0
    capsys.readouterr()
    assert compare.main(["--preset", "quick", "--seeds", "0", "1", "--name", "c", "--dry-run"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [["finished", "runs/c/seed0"], ["to", "do", "runs/c/seed1"]]
    assert len(fake_run.made) == 1


def test_an_unmeasured_primary_is_refused_after_the_first_run(
    compare, fake_run, monkeypatch, capsys
):
    monkeypatch.setattr(comparison, "run", lambda config: fake_run(config, solves=False))
    assert compare.main(["--seeds", "0", "1", "--name", "c", "--primary", "pass_at_1"]) == 2
    assert "--primary pass_at_1: not every arm has it" in error_of(capsys)
    assert len(fake_run.made) == 1
    assert compare.main(["--seeds", "0", "1", "--name", "c"]) == 0
    assert json.loads(Path("runs/c/comparison.json").read_text())["primary"] == "loss"


def test_measured_tokens_are_metrics_to_compare_in(compare, fake_run, capsys):
    asked = ["--seeds", "0", "--name", "c", "--primary", "accuracy_results"]
    assert compare.main(asked) == 2
    assert "--primary accuracy_results: there is no such metric" in error_of(capsys)
    assert fake_run.made == []
    compare.main([*asked, "--measure-tokens", "results"])  # which the stand-in does not measure
    assert len(fake_run.made) == 1


@pytest.mark.parametrize("line", ["--from", "--vary", "--vary lr=1 --vary", "--seeds"])
def test_an_option_without_its_value_is_refused(compare, fake_run, capsys, line):
    assert compare.main(line.split()) == 2
    assert f"error: {line.split()[-1]} wants" in error_of(capsys)
    assert fake_run.made == []


def test_errors_have_a_traceback_only_on_request(compare, capsys):
    assert compare.main(["--seeds", "0", "0"]) == 2
    assert error_of(capsys) == "error: --seeds wants at least one seed, and none twice"
    assert compare.main(["--seeds", "0", "0", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["--primary accuracy", "--foo 3", "--vary value=dott"])
def test_usage_errors_exit_with_2(compare, capsys, line):
    assert compare.main(line.split()) == 2


def test_help_tells_every_option_and_where_the_others_are(compare, capsys):
    assert compare.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("--seeds", "--primary", "--vary", "--from", "--output", "vfunc run --help"):
        assert word in shown


# --- runs that are there


def config_of(**given):
    return resolve({"preset": "quick"} | given)


def test_existing_runs_are_grouped_by_their_options(compare, fake_run, capsys):
    for seed in (0, 1):
        write_run(Path(f"a/s{seed}"), config_of(seed=seed))
        write_run(Path(f"b/deep/s{seed}"), config_of(seed=seed, estimator="zero", threads=2))
    found = find_runs([Path("a"), Path("b")])
    assert [(one.setting, one.seed_run.seed) for one in found] == [
        ("estimator=first_order", 0),
        ("estimator=first_order", 1),
        ("estimator=zero", 0),
        ("estimator=zero", 1),
    ]
    assert compare.main(["--from", "a", "b/deep", "--output", "out"]) == 0
    content = json.loads(Path("out/comparison.json").read_text())
    assert [arm["setting"] for arm in content["arms"]][::2] == [
        "estimator=first_order",
        "estimator=zero",
    ]
    assert fake_run.made == []


def test_the_machine_and_what_is_kept_on_it_make_no_setting(tmp_path):
    pictures = {"modality": "vision", "feedback": (str(tmp_path),)}
    write_run(tmp_path / "a", resolve(pictures))
    there = {"seed": 1, "loader_workers": 0, "in_memory": 0.5, "threads": 3}
    write_run(tmp_path / "b", resolve(pictures | there))
    cut = {"train": "last:1", "cache_edge": "float32"}
    write_run(tmp_path / "c" / "d", config_of(**cut, edge_dir=str(tmp_path)))
    write_run(tmp_path / "c" / "e", config_of(**cut, edge_dir="elsewhere", seed=1))
    for folders in ([tmp_path / "a", tmp_path / "b"], [tmp_path / "c"]):
        assert [one.setting for one in find_runs(folders)] == ["", ""]


def test_options_that_were_not_given_are_called_default(tmp_path):
    write_run(tmp_path / "a", config_of())
    write_run(tmp_path / "b", config_of(value="cosine"))
    assert [one.setting for one in find_runs([tmp_path])] == ["value=default", "value=cosine"]


def test_the_comparison_lies_in_the_common_folder(compare):
    for seed in (0, 1):
        write_run(Path(f"x/s{seed}"), config_of(seed=seed))
    assert compare.main(["--from", "x/s0", "x/s1"]) == 0
    assert Path("x/comparison.md").exists()


def test_the_folder_that_is_given_is_searched_as_deep_as_a_comparison_writes(compare):
    for seed in (0, 1):
        write_run(Path(f"f/two/lr=1e-3/dot/seed{seed}"), config_of(seed=seed))
    assert compare.main(["--from", "f/two"]) == 0
    assert Path("f/two/comparison.md").exists()


def test_runs_from_different_commits_are_told_apart(compare, capsys):
    write_run(Path("x/s0"), config_of(seed=0))
    write_run(Path("x/s1"), config_of(seed=1), git_commit="def456")
    assert compare.main(["--from", "x"]) == 0
    told = "The runs differ in what made them: git_commit."
    assert told in capsys.readouterr().out
    page = Path("x/comparison.md").read_text()
    assert told in page
    assert "commit abc123" in page
    assert "commit def456" in page


def spoil(path: Path, **changes) -> None:
    """Change what a finished run's metrics.json says."""
    content = json.loads((path / "metrics.json").read_text())
    (path / "metrics.json").write_text(json.dumps(content | changes))


def without(path: Path, arm: str, metric: str) -> None:
    """Make one figure null."""
    arms = json.loads((path / "metrics.json").read_text())["arms"]
    arms[arm]["metrics"][metric] = None
    spoil(path, arms=arms)


def test_a_metric_that_one_arm_lacks_is_told(compare, capsys):
    for seed in (0, 1, 2):
        write_run(Path(f"x/s{seed}"), config_of(seed=seed, arms=("baseline", "vpretraining")))
    without(Path("x/s1"), "vpretraining", "pass_at_1")
    assert compare.main(["--from", "x"]) == 0
    content = json.loads(Path("x/comparison.json").read_text())
    assert [metric["name"] for metric in content["metrics"]] == ["loss"]
    (note,) = content["notes"]
    told = "(x/s1, arm vpretraining)"
    assert note == f"pass_at_1 is not compared: not every arm has it {told}."
    assert compare.main(["--from", "x", "--primary", "pass_at_1"]) == 2
    assert told in error_of(capsys)
    without(Path("x/s2"), "baseline", "loss")
    without(Path("x/s2"), "vpretraining", "loss")
    assert compare.main(["--from", "x"]) == 2
    assert "no loss in x/s2, arm baseline, and 1 more" in error_of(capsys)
    assert compare.main(["--from", "x", "--primary", "loss"]) == 2
    assert "(x/s2, arm baseline, and 1 more)" in error_of(capsys)
    write_run(Path("y/s0"), config_of(), solves=False)  # measured nowhere: no word of it
    assert compare.main(["--from", "y"]) == 0
    assert json.loads(Path("y/comparison.json").read_text())["notes"] == []


LOSS = {"name": "loss", "title": "loss"}


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": {}},
        {"arms": "x"},
        {"arms": {"baseline": []}},
        {"config": {"seed": "0"}},
        {"config": []},
        {"unit": "tokens", "metrics": [{"name": 5}]},
        {"unit": "tokens", "metrics": [{"name": 5, "title": "x"}]},
        {"unit": "tokens", "metrics": [LOSS | {"scale": "x"}]},
        {"unit": "tokens", "metrics": [LOSS | {"name": "other"}]},
        {"unit": {}, "metrics": [LOSS]},
        {"unit": "tokens", "metrics": "loss"},
    ],
)
def test_a_damaged_run_is_told_in_a_line(compare, capsys, changes):
    write_run(Path("x/s0"), config_of())
    spoil(Path("x/s0"), **changes)
    assert compare.main(["--from", "x"]) == 2
    assert "x/s0/metrics.json is not that of a run" in error_of(capsys)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--from nowhere", "--from nowhere: there is no run"),
        ("--from x --lr 3", "--lr would do nothing"),
        ("--from x --output x/s0/config.toml", "config.toml is a file; give a folder"),
        ("--from x --output x/s0/config.toml/y", "config.toml is a file; give a folder"),
        ("--from x --output /proc/y", "--output /proc/y: nothing can be written in /proc ("),
        ("--from x --seeds 1", "--seeds would do nothing"),
        ("--from x --vary lr=1", "--vary would do nothing"),
        ("--from x y", "x/s0 and y repeat each other: both have seed 0"),
        ("--from x z", "not finished: z"),
        ("--from w", "w/metrics.json is not that of a run"),
        ("--from v", "v/metrics.json cannot be read"),
        ("--from u", "u/metrics.json is not that of a run (ValueError('loss is nan'))"),
    ],
)
def test_what_cannot_be_compared_is_refused(compare, capsys, line, message):
    for name in ("x/s0", "y", "z", "w", "v", "u"):
        write_run(Path(name), config_of())
    changed = json.loads(Path("u/metrics.json").read_text())
    next(iter(changed["arms"].values()))["metrics"]["loss"] = float("nan")
    Path("u/metrics.json").write_text(json.dumps(changed))
    Path("z/metrics.json").unlink()
    Path("w/metrics.json").write_text('{"config": {"seed": 0}}')
    Path("v/metrics.json").write_text("{")
    assert compare.main(line.split()) == 2
    assert message in error_of(capsys)


def test_the_primary_metric_is_pass_at_1_where_it_is_measured(tmp_path):
    write_run(tmp_path / "a", config_of())
    write_run(tmp_path / "b", config_of(seed=1), solves=False)
    both = [read_run(tmp_path / name) for name in "ab"]
    assert primary_of(None, both[:1]) == "pass_at_1"
    assert primary_of("loss", both[:1]) == "loss"
    assert primary_of(None, both) == "loss"


IMAGES = [
    {"name": "loss", "title": "held-out\nloss", "higher_is_better": False},
    {"name": "rmse", "title": "RMSE\nm", "unit": "m", "higher_is_better": False, "digits": 3},
    {"name": "miou", "title": "mIoU\n%", "unit": "%", "higher_is_better": True, "scale": 100.0},
]


def write_vision_run(path: Path, seed: int, metrics=IMAGES, **figures) -> None:
    found = {"loss": 1.0 + seed / 10, "rmse": 0.5 + seed / 100, "miou": 0.4 + seed / 50} | figures
    arms = {
        arm: {
            "images": 512,
            "seconds": 1.0 + n,
            "metrics": {
                name: value and value * (1 + n * (seed + 1) / 10) for name, value in found.items()
            },
        }
        for n, arm in enumerate(("baseline", "vpretraining"))
    }
    write_run(path, config_of(seed=seed), unit="images", metrics=metrics, arms=arms)


def test_runs_of_vision_are_compared_in_their_own_metrics(compare, capsys):
    for seed in (0, 1, 2):
        write_vision_run(Path(f"v/s{seed}"), seed)
    assert compare.main(["--from", "v"]) == 0
    content = json.loads(Path("v/comparison.json").read_text())
    assert (content["primary"], content["unit"]) == ("miou", "images")
    assert [metric["name"] for metric in content["metrics"]] == ["miou", "rmse", "loss"]
    value = content["arms"][1]
    better = {name: m["difference"]["better"] for name, m in value["metrics"].items()}
    assert better == {"miou": 3, "rmse": 0, "loss": 0}
    assert value["speed"]["values"] == [0.5] * 3
    page = Path("v/comparison.md").read_text()
    assert page.index("mIoU, % (primary") < page.index("RMSE, m (secondary")
    assert "images/s ratio" in page and "token" not in page
    assert compare.main(["--from", "v", "--primary", "rmse"]) == 0
    assert json.loads(Path("v/comparison.json").read_text())["primary"] == "rmse"
    capsys.readouterr()
    assert compare.main(["--from", "v", "--primary", "pass_at_1"]) == 2
    assert "--primary pass_at_1: not every arm has it" in error_of(capsys)


def test_the_primary_metric_of_vision_is_its_last_where_it_is_measured(tmp_path):
    write_vision_run(tmp_path / "a", 0)
    write_vision_run(tmp_path / "b", 1, miou=None)
    write_vision_run(tmp_path / "c", 2, metrics=IMAGES[:2])
    write_vision_run(tmp_path / "d", 3, metrics=[IMAGES[i] for i in (0, 2, 1)])
    a, b, c, d = (read_run(tmp_path / name) for name in "abcd")
    assert [primary_of(None, runs) for runs in ([a], [a, b], [c], [a, c], [a, d])] == [
        "miou",
        "loss",
        "rmse",
        "loss",
        "loss",  # both are measured, and the two runs do not agree which is the primary one
    ]


def test_runs_of_two_modalities_are_refused(compare, capsys):
    write_run(Path("x/a"), config_of(seed=0))
    write_vision_run(Path("x/b"), 1)
    assert compare.main(["--from", "x"]) == 2
    assert "x/a counts tokens and x/b images" in error_of(capsys)
    other = [IMAGES[0], IMAGES[1] | {"higher_is_better": True}]
    write_vision_run(Path("y/a"), 0)
    write_vision_run(Path("y/b"), 1, metrics=other)
    assert compare.main(["--from", "y"]) == 2
    assert "y/a and y/b mean different things by rmse" in error_of(capsys)
    write_vision_run(Path("z/a"), 0, metrics=[{"name": "loss"}])
    assert compare.main(["--from", "z"]) == 2
    assert "z/a/metrics.json is not that of a run" in error_of(capsys)


def test_runs_from_before_there_were_two_modalities_are_of_language(tmp_path):
    write_run(tmp_path / "a", config_of(seed=0))
    write_run(tmp_path / "b", config_of(seed=1))
    content = json.loads((tmp_path / "b/metrics.json").read_text())
    content["config"].pop("modality")
    (tmp_path / "b/metrics.json").write_text(json.dumps(content))
    assert [one.setting for one in find_runs([tmp_path])] == ["", ""]


def test_modalities_do_not_vary():
    with pytest.raises(UserError, match="runs of two modalities are not compared"):
        plan([0], ["modality=language,vision"], [])


def test_a_primary_metric_that_there_is_not_is_refused_before_the_first_run(
    compare, fake_run, capsys
):
    line = ["--preset", "quick", "--seeds", "0", "--name", "c", "--primary"]
    assert compare.main([*line, "accuracy"]) == 2
    assert error_of(capsys) == (
        "error: --primary accuracy: there is no such metric; give loss or pass_at_1"
    )
    assert fake_run.made == []
    assert compare.main([*line, "loss"]) == 0


# --- for real


def test_two_seeds_from_end_to_end(compare, capsys):
    line = [
        "--preset",
        "quick",
        "--budget",
        "4steps",
        "--seeds",
        "0",
        "1",
        "--name",
        "c",
        "--threads",
        "1",
    ]
    line += ["--eval-size", "4", "--probe-batches", "0", "--arms", "baseline,vpretraining"]
    line += ["--batch-size", "4", "--stream-size", "64", "--feedback-size", "32"]
    assert compare.main(line) == 0
    first = json.loads(Path("runs/c/comparison.json").read_text())
    value = first["arms"][1]
    assert (value["arm"], value["seeds"]) == ("vpretraining", [0, 1])
    assert value["metrics"]["loss"]["values"][0] != value["metrics"]["loss"]["values"][1]
    assert value["metrics"]["loss"]["difference"]["seeds"] == 2
    # a run that stopped before its last arm was done: that arm alone is trained again
    directory = RunDirectory(Path("runs/c/seed1"))
    directory.metrics.unlink()
    directory.result("vpretraining").unlink()
    others = [directory.result("baseline"), RunDirectory(Path("runs/c/seed0")).metrics]
    before = [path.stat().st_mtime_ns for path in others]
    assert compare.main(line) == 0
    assert [path.stat().st_mtime_ns for path in others] == before
    again = json.loads(Path("runs/c/comparison.json").read_text())
    assert again["arms"][1]["metrics"] == value["metrics"]


def test_the_presets_are_those_of_run(compare):
    assert compare.PRESETS == PRESETS


def test_a_comparison_names_the_script_where_that_was_called(compare):
    write_run(Path("x/s0"), config_of())
    write_run(Path("x/s1"), config_of(seed=1))
    assert compare.main(["--from", "x"], "compare.py") == 0
    command = json.loads(Path("x/comparison.json").read_text())["command"]
    assert command == "python experiments/compare.py --from x"

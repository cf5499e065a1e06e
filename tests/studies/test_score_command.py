"""The command `score`: its files, resuming, presets and refusals."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from small_run import SMALL, words

from vfunc.designer_file import save_designer
from vfunc.errors import UserError
from vfunc.studies import score_command
from vfunc.studies.score import study
from vfunc.studies.score.rows import LOOKAHEADS, ROWS
from vfunc.studies.score.score_plan import asked_file, identity_of, settings_for
from vfunc.studies.score_command import QUICK_RUN, SCORE_PRESETS, ScoreOptions, options_of
from vfunc.training.run_command_line import PRESETS
from vfunc.vision.designers.view_designer import ViewDesigner, ViewDesignerConfig

SCRIPT = Path(__file__).parents[2] / "experiments" / "score.py"
RUN = {k: v for k, v in SMALL.items() if k not in ("eval_every", "probe_batches", "certify")}
TINY = [*words(RUN), "--name", "x", "--tasks", "3"]
TINY += ["--horizons", "2", "1", "--states", "0.3", "--directions", "1", "--resamples", "20"]


@pytest.fixture
def here(monkeypatch, tmp_path):
    """An empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch, *argv):
    """The real script."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *argv])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code


@pytest.mark.usefixtures("shallow")
def test_the_script_scores_goes_on_and_refuses_another_question(monkeypatch, here, capsys):
    line = [*TINY, "--only", "first_order value=dot", "--sweep", "feedback_batch_size", "2", "4"]
    assert call(monkeypatch, *line) == 0, capsys.readouterr().err
    folder = Path("runs/x")
    found = json.loads((folder / "score.json").read_text())
    assert [one["setting"] for one in found["settings"]] == [
        "feedback_batch_size=2",
        "feedback_batch_size=4",
    ]
    assert found["command"].startswith("python experiments/score.py --stream-size")
    rows = {(s["row"], s["horizon"], s["measure"]) for s in found["settings"][0]["scores"]}
    assert ("first_order value=dot", 2, "test") in rows and ("zero", 2, "test") not in rows
    text = (folder / "score.md").read_text()
    shown = capsys.readouterr().out
    for piece in ("| `first_order value=dot` | value |", "effect on other feedback", "H = 2"):
        assert piece in text and piece in shown
    assert "metasmoothness" in text and (folder / "score.png").stat().st_size > 1000
    # what is there is left alone, and what is missing is made the same
    states = sorted(folder.glob("*/state-0.3.json"))
    before = [json.loads(path.read_text()) for path in states]
    states[1].unlink()
    kept = states[0].stat().st_mtime_ns
    assert call(monkeypatch, *line) == 0
    assert "1 of 1 states measured: 0.3 feedback_batch_size=4" in capsys.readouterr().err
    assert states[0].stat().st_mtime_ns == kept
    again = json.loads(states[1].read_text())
    for part in ("losses", "predicted", "smoothness", "tasks"):
        assert again[part] == before[1][part]
    # another question does not go into the same folder
    other = ["5" if w == "3" and line[k - 1] == "--tasks" else w for k, w in enumerate(line)]
    assert call(monkeypatch, *other) == 2
    err = capsys.readouterr().err
    assert "is of another question (tasks 3 there, 5 here)" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--modality", "vision", "--augmentor", "photometric"],
            "the score of pictures is of masks, and --augmentor photometric makes none",
        ),
        (
            ["--modality", "vision"],
            "512 feedback examples are no two times 512, and effects are measured on other "
            "feedback too; give a smaller --feedback-bank",
        ),
        (["--budget", "20s"], "a state by wall-clock would be another one each time"),
        (["--arms", "baseline"], "--arms does nothing here: one arm reaches the states"),
        (["--no-certify"], "--certify does nothing here"),
        (["--resume", "x"], "--resume does nothing here: the same command given again goes on"),
        (["--states", "0.5", "1.0"], "--states wants fractions of the budget from 0 to below 1"),
        (["--horizons", "4", "4"], "--horizons wants numbers of steps of at least 1, none twice"),
        (["--horizons", "0"], "--horizons wants numbers of steps of at least 1"),
        (["--tasks", "2"], "--tasks must be at least 3"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--only", "third_order"], "--only 'third_order' matches no estimator"),
        (["--sweep", "lr", "1e-3"], "--sweep wants an option of a run and two values or more"),
        (["--sweep", "lrr", "1", "2"], "--sweep lrr=1,2: no such option; did you mean lr?"),
        (["--lr", "1e-3", "--sweep", "lr", "1", "2"], "--lr is given and swept as well"),
        (["--also", "nowhere:X"], "the estimator 'nowhere:X' cannot be imported"),
        (["--preset", "nothing"], "unknown preset 'nothing'"),
        (["--preset", "quick", "--preset", "full"], "--preset is given 2 times; give one"),
        (["--sweep", "seed", "0", "1"], "--sweep seed: a score is of one run; give --seed and"),
        (["--sweep", "arms", "baseline", "oracle"], "--sweep arms: it does nothing here: one arm"),
    ],
)
def test_mistakes_are_one_line(here, capsys, argv, said):
    assert score_command.main(argv) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and "--vary" not in err
    assert not Path("runs").exists()


@pytest.mark.usefixtures("here")
def test_a_saved_designer_without_masks_has_no_score(capsys):
    save_designer(ViewDesigner(ViewDesignerConfig("photometric", width=4)), "d.safetensors")
    assert score_command.main(["--modality", "vision", "--designer", "d.safetensors"]) == 2
    err = capsys.readouterr().err
    assert "--designer d.safetensors (photometric) makes none" in err and err.count("\n") == 1


def test_states_are_replaced_when_others_are_made_and_not_by_a_dry_run(here, capsys, monkeypatch):
    line = [*TINY, "--only", "first_order value=dot"]
    (here / "runs" / "x").mkdir(parents=True)
    state = here / "runs" / "x" / "state-0.3.json"
    state.write_text("{}")
    assert score_command.main([*line, "--overwrite", "--dry-run"]) == 0
    assert "to do" in capsys.readouterr().out and state.exists()
    # nor by a command that is refused
    assert score_command.main([*line, "--overwrite", "--feedback-bank", "20"]) == 2
    assert "are no two times 20" in capsys.readouterr().err and state.exists()
    left = state.with_name("state-0.7.json")  # of another fraction: it would be found later
    left.write_text("{}")

    def measured(missing, options, console):
        raise UserError(f"{len(missing)} to measure")

    monkeypatch.setattr(study, "_measure", measured)
    assert score_command.main([*line, "--overwrite"]) == 2
    assert "1 to measure" in capsys.readouterr().err
    assert not state.exists() and not left.exists()


def test_the_quick_preset_gives_way_to_what_is_given():
    options, rest = options_of(["--preset", "quick", "--tasks", "9", "--batch-size", "4"])
    assert options.tasks == 9 and options.jobs == SCORE_PRESETS["quick"].jobs
    assert rest == ["--batch-size", "4"]
    swept, rest = options_of(["--preset=quick", "--sweep", "batch-size", "4", "8"])
    assert swept.sweep == ("batch-size", "4", "8") and rest == []
    assert options_of(["--preset", "full"]) == (ScoreOptions(), [])
    assert options_of(["--preset", "random_slips"])[1] == ["--preset", "random_slips"]


def test_the_quick_preset_is_weaker_than_a_file_and_the_command_line(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('batch_size = 12\nbudget = "40steps"\n')
    words = ["--preset", "quick", "--config", str(file), "--eval-size", "9"]
    words += ["--sweep", "feedback_batch_size", "7", "8"]
    first, second = (one.config for one in settings_for(*options_of(words), PRESETS))
    assert (first.options["batch_size"], str(first.run.budget)) == (12, "40steps")
    assert first.options["eval_size"] == 9
    assert [one.options["feedback_batch_size"] for one in (first, second)] == [7, 8]
    (plain,) = settings_for(*options_of(["--preset", "quick"]), PRESETS)
    (views,) = settings_for(*options_of(["--preset", "quick", "--modality", "vision"]), PRESETS)
    for one, modality in ((plain, "language"), (views, "vision")):
        given = {k: v for k, v in one.config.options.items() if k in QUICK_RUN[modality]}
        assert {**given, "budget": str(given["budget"])} == QUICK_RUN[modality]
    file.write_text('modality = "vision"\n')
    words = ["--preset", "quick", "--config", str(file), "--budget", "9steps"]
    (one,) = settings_for(*options_of(words), PRESETS)
    assert (one.config.run.modality, one.config.options["feedback_bank"]) == ("vision", 128)


def test_the_rows_are_all_there_is_to_compare():
    labels = {row.label for row in ROWS}
    assert len(labels) == len(ROWS)
    values = ("dot", "cosine", "preconditioned", "deflated", "deflated_preconditioned")
    assert labels >= {f"first_order value={value}" for value in values}
    assert "first_order value=deflated means=0 mean_batches=4" in labels
    assert labels >= {f"unrolled lookahead_steps={k}" for k in LOOKAHEADS} | {"random", "zero"}
    assert any("truncate" in label for label in labels)
    dampings = {row.options["damping"] for row in ROWS if row.name == "implicit"}
    curvatures = {row.options.get("curvature") for row in ROWS if row.name == "implicit"}
    assert len(dampings) >= 3 and len(curvatures) == 2
    for row in ROWS:
        row.estimator(1e-3)


def test_help_says_what_is_scored(capsys):
    with pytest.raises(SystemExit):
        options_of(["--help"], "score.py")
    shown = capsys.readouterr().out
    for piece in ("Score value estimators", "--horizons", "score.py --preset quick", "run.py"):
        assert piece in shown


def test_states_of_other_contents_are_another_question(here):
    text = here / "text.jsonl"
    text.write_text('{"prompt": "2 + 2 = ", "completion": "4"}\n' * 40)
    given = words({k: v for k, v in RUN.items() if k not in ("problem", "stream_size")})
    own = [*given, "--name", "x"]
    for name in ("--stream", "--feedback", "--eval"):
        own += [name, str(text)]
    options = ScoreOptions(only="zero")
    rows = [row for row in ROWS if row.label == "zero"]
    (setting,) = settings_for(options, own, PRESETS)
    setting.folder.mkdir(parents=True)
    asked = asked_file(setting)
    asked.write_text(identity_of(setting, options, rows))
    settings_for(options, own, PRESETS)  # the same
    before = text.read_text()
    text.write_text(before.replace("4", "5", 1))
    with pytest.raises(UserError, match=r"another question \(contents of --stream .* there"):
        settings_for(options, own, PRESETS)
    # written before contents were kept: nothing is known of them
    known = {k: v for k, v in json.loads(asked.read_text()).items() if "contents" not in k}
    asked.write_text(json.dumps(known))
    settings_for(options, own, PRESETS)

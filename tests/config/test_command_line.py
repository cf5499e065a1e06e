from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from vfunc.config.known import flag
from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import NonFiniteError, NotConvergedError, UserError
from vfunc.studies import bench_command, compare_command, score_command
from vfunc.training.build.configuration import MODALITIES, catalogue_of, resolve, to_toml
from vfunc.training.run_command_line import given_on_command_line, parse, run_guarded


def test_only_what_was_given_is_given():
    assert given_on_command_line([]) == {}
    line = (
        "--lr 1e-3 --betas 0.8 0.9 --arms baseline,vpretraining --budget 2Mtokens --overwrite "
        "--no-designer-features --levels 0 1 0 --stream a.jsonl --seed 0"
    )
    given = given_on_command_line(line.split())
    assert given == {
        "lr": 1e-3, "betas": (0.8, 0.9), "arms": "baseline,vpretraining", "budget": "2Mtokens",
        "overwrite": True, "designer_features": False, "levels": (0.0, 1.0, 0.0),
        "stream": ("a.jsonl",), "seed": 0,
    }  # fmt: skip


def test_a_command_line_becomes_a_configuration():
    config = parse(["--estimator", "unrolled", "--lookahead-steps", "2", "--budget", "1h"])
    assert config == resolve({"estimator": "unrolled", "lookahead_steps": 2, "budget": "3600s"})


@pytest.mark.parametrize("name", ["preset", "config"])
def test_two_presets_or_files_are_refused(name):
    with pytest.raises(UserError, match=f"--{name} is given 2 times; give one"):
        parse([f"--{name}", "quick", f"--{name}=other"])


def test_an_option_that_repeats_its_default_counts_as_given():
    with pytest.raises(UserError, match="--momentum does nothing"):
        parse(["--momentum", "0"])


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(tmp_path):
    (tmp_path / "mine.toml").write_text("lr = 1.0\nseed = 1\nclip = 1.0\n")
    file = tmp_path / "file.toml"
    file.write_text("lr = 2.0\nseed = 2\n")
    config = parse(["--preset", "mine", "--config", str(file), "--lr", "3"], presets=tmp_path)
    assert (config.optimizer.lr, config.run.seed, config.optimizer.clip) == (3.0, 2, 1.0)
    assert (config.command.preset, config.command.config) == ("mine", str(file))


def test_a_written_configuration_repeats_the_run(tmp_path):
    config = parse(["--problem", "random_slips", "--value", "cosine", "--seed", "3"])
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    again = parse(["--config", str(path)])
    assert to_toml(again) == to_toml(config)
    assert (again.data, again.optimizer, again.designer) == (
        config.data,
        config.optimizer,
        config.designer,
    )


@pytest.fixture
def interrupted(tmp_path):
    directory = tmp_path / "runs" / "x"
    directory.mkdir(parents=True)
    config = resolve({"seed": 7, "problem": "style_shift"})
    (directory / "config.toml").write_text(to_toml(config))
    return directory


def test_a_resumed_run_has_its_own_options(interrupted):
    runs = str(interrupted.parent)
    by_name = parse(["--resume", "x", "--runs-dir", runs, "--budget", "400steps", "--threads", "1"])
    assert (by_name.run.seed, by_name.data.problem) == (7, "style_shift")
    assert (by_name.run.budget.amount, by_name.run.threads) == (400, 1)
    assert by_name.command.resume == str(interrupted)
    assert parse(["--resume", str(interrupted)]).command.resume == str(interrupted)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--lr", "1e-3"], "--lr would change the run"),
        (["--seed", "7"], "--seed would change the run"),
        (["--preset", "quick"], "--preset would change the run"),
        (["--overwrite", "--name", "y"], "--name, --overwrite would change the run"),
        (["--budget", "60s"], "--budget 60s: the run counts steps"),
    ],
)
def test_what_would_change_a_resumed_run_is_refused(interrupted, more, said):
    with pytest.raises(UserError, match=said):
        parse(["--resume", str(interrupted), *more])


@pytest.mark.parametrize("name", ["absent", "", "."])
def test_a_run_that_is_not_there_cannot_be_resumed(tmp_path, name):
    with pytest.raises(UserError, match=r"there is no such run|names no run"):
        parse(["--resume", name, "--runs-dir", str(tmp_path)])


def _raising(error):
    def main(config):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("a file\nis missing"), 2, "error: a file is missing\n"),
        (NonFiniteError("loss at step 3"), 1, "error: loss at step 3\n"),
        (NotConvergedError("residual 1"), 1, "error: residual 1\n"),
        (
            OSError(28, "No space left on device", "runs/x"),
            1,
            "error: No space left on device: runs/x\n",
        ),
        (OSError("odd"), 1, "error: odd\n"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 1, "error: CUDA out of memory; a "
         "smaller --batch-size or --seq-len needs less\n"),
        (RuntimeError("[enforce fail at x.cpp:1] DefaultCPUAllocator: can't allocate memory: you "
         "tried to allocate 5905580032 bytes. Error code 12"), 1, "error: out of memory: 5.5 GiB "
         "were asked for at once; a smaller --batch-size or --seq-len needs less\n"),
        (RuntimeError("Storage size calculation overflowed with sizes=[9]"), 1, "error: out of "
         "memory: a tensor of more bytes than can be counted; a smaller --batch-size or --seq-len "
         "needs less\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (SystemExit(3), 3, ""),
        (SystemExit("no"), 1, "error: no\n"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_an_exit_code(capsys, error, code, said):
    assert run_guarded(_raising(error), []) == code
    assert capsys.readouterr().err == said


def test_another_runtime_error_is_a_bug():
    with pytest.raises(RuntimeError, match="sizes do not match"):
        run_guarded(_raising(RuntimeError("sizes do not match")), [])


def test_out_of_memory_names_the_size_that_the_modality_has(capsys):
    out_of_memory = _raising(MemoryError())
    assert run_guarded(out_of_memory, ["--modality", "vision"]) == 1
    said = capsys.readouterr().err
    assert said == "error: out of memory; a smaller --batch-size or --image-size needs less\n"


def test_debug_shows_the_traceback_and_keeps_the_code(capsys):
    assert run_guarded(_raising(UserError("wrong")), ["--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.endswith("error: wrong\n")
    assert run_guarded(_raising(UserError("wrong")), ["--debug", "--momentum", "1"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert run_guarded(_raising(UserError("wrong")), ["--debug", "--no-debug"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_bugs_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_guarded(_raising(ZeroDivisionError()), [])


def test_what_main_returns_is_the_exit_code():
    assert run_guarded(lambda config: None, []) == 0
    assert run_guarded(lambda config: 5, []) == 5


LISTS = "--help lists what there is"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--learnr x", f"--learnr is no option; did you mean --learner?; {LISTS}"),
        ("--no-dry-rn", f"--no-dry-rn is no option; did you mean --dry-run?; {LISTS}"),
        ("--zzz", f"--zzz is no option; {LISTS}"),
        ("--learnr=x", f"--learnr is no option; did you mean --learner?; {LISTS}"),
        ("-seed 3", f"'-seed' belongs to no option; did you mean --seed?; {LISTS}"),
        ("zzz", f"'zzz' belongs to no option; {LISTS}"),
        ("--seed 1 2", f"'2' belongs to no option; {LISTS}"),
        ("--optimizer adm", "--optimizer must be one of "),
        ("--lr fast", "--lr must be a number, not 'fast'"),
        ("--seed 2.5", "--seed must be a whole number, not '2.5'"),
        ("--seed=", "--seed must be a whole number, not ''"),
        ("--seed 1 --seed x", "--seed must be a whole number, not 'x'"),
        ("--betas 0.9 x", "--betas must be 2 numbers, not '0.9 x'"),
        ("--betas 0.9", "--betas must be 2 numbers, not '0.9'"),
        ("--lr", f"--lr wants a number, and nothing follows it; {LISTS}"),
        ("--lr --seed 1", f"--lr wants a number, and nothing follows it; {LISTS}"),
        (f"--seed {'x' * 200}", f"--seed must be a whole number, not '{'x' * 200}'"),
        ("--se\x1b[2Jed 3", "--se\\x1b[2Jed is no option; did you mean --seed?; "),
    ],
)
def test_what_the_parser_refuses_is_one_line_with_a_hint(capsys, line, said):
    ran = _raising(AssertionError("ran"))
    assert run_guarded(ran, line.split(" ")) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {said}") and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "line", "said"),
    [
        (compare_command, "--seeds 0 x", "--seeds does not take '0 x'"),
        (compare_command, "--primary", "--primary wants a value, and nothing follows it"),
        (compare_command, "--seeds 0 --zzz 3", "--zzz is no option"),
        (bench_command, "--repeats x", "--repeats does not take 'x'"),
        (score_command, "--horizons 1 x", "--horizons does not take '1 x'"),
        (score_command, "--tasks 3 --zzz 3", "--zzz is no option"),
        (bench_command, "--learnr x", "--learnr is no option; did you mean --learner?"),
    ],
)
def test_so_is_what_the_other_commands_refuse(capsys, command, line, said):
    assert command.main(line.split(), "vfunc it") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err == f"error: {said}; {LISTS}\n"


@pytest.mark.parametrize("code", [0, 3])
def test_what_is_printed_beside_a_refusal_is_not_lost(capsys, code):
    with pytest.raises(SystemExit), refused_in_a_line([]):
        print("a warning", file=sys.stderr)
        raise SystemExit(code)
    assert capsys.readouterr().err == "a warning\n"


@pytest.fixture
def help_of(capsys, monkeypatch):
    """What `--help` shows with further arguments, on so many columns."""

    def shown(*argv, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            parse([*argv, "--help"], prog="run.py")
        assert stop.value.code == 0
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)

    return shown


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("modality", MODALITIES)
def test_help_shows_every_option_of_the_modality_within_the_terminal(help_of, modality, columns):
    text = help_of("--modality", modality, columns=columns)
    for name in catalogue_of(modality):
        assert re.search(rf"{flag(name)}\b", text), name
    (other,) = set(MODALITIES) - {modality}
    for name in set(catalogue_of(other)) - set(catalogue_of(modality)):
        assert not re.search(rf"^. {flag(name)}\b", text, re.M), name
    assert max(map(len, text.splitlines())) <= columns
    assert "unset" not in text and "None)" not in text and "%(prog)s" not in text


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", [compare_command, bench_command, score_command])
def test_help_of_the_other_commands_fits_the_terminal(capsys, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for program in ("vfunc compare", "compare.py"):
        assert command.main(["--help"], program) == 0
        lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
        assert max(map(len, lines)) <= columns, max(lines, key=len)
        examples = lines.index("Examples:")
        assert lines[examples + 1].startswith(f"  {program}")


def test_help_names_the_program():
    assert run_guarded(lambda config: pytest.fail("ran"), ["--help"]) == 0


def test_help_tells_the_defaults_of_the_modality_and_whose_an_option_is(help_of):
    text = " ".join(re.sub(r"[│╭╮╰╯─]", "", help_of()).split())
    assert (
        "0.3 for bounded without --gate-penalty, else 0" in text
        and "With --estimator unrolled." in text
    )
    assert "1e-3 for the embedded learner, 2e-4 with LoRA, else 1.5e-5" not in text
    assert "0.001 for the embedded learner, 0.0002 with LoRA, else 1.5e-5" in text
    assert "first_order, random, implicit, unrolled; default: auto" in text
    vision = " ".join(re.sub(r"[│╭╮╰╯─]", "", help_of("--modality=vision")).split())
    assert "0.0005 for the embedded learner, else 4.15e-6" in vision
    assert "unet: 8 for the embedded learner, else 32; dit: 48" in vision
    assert "(--objective dino; default: 0 on the problems shortcut and clean, else 6)" in vision


def test_a_preset_or_a_file_tells_help_the_modality(help_of, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('modality = "vision"\n')
    assert "--augmentor" in help_of("--config", str(file))
    assert "--augmentor" not in help_of("--config", str(file), "--modality", "language")
    assert "--augmentor" not in help_of("--config", str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--image-size 64", "--image-size does nothing here: it is for --modality vision"),
        ("--no-pretrained", "--pretrained does nothing here: it is for --modality vision"),
        ("--keep=0.5", "--keep does nothing here: it is for --modality vision"),
        ("--modality vision --top_k 4", "--top-k does nothing here: it is for --modality language"),
    ],
)
def test_an_option_of_the_other_modality_is_refused_with_its_reason(capsys, line, said):
    assert run_guarded(lambda config: pytest.fail("ran"), line.split()) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize(
    ("modality", "foreign"),
    [("language", ("timm", "kornia")), ("vision", ("transformers", "peft", "datasets"))],
)
def test_parsing_brings_no_library_of_the_other_modality_nor_any_that_only_runs_need(
    modality, foreign
):
    code = (
        "import sys; from vfunc.training.run_command_line import parse;"
        f"parse(['--modality', {modality!r}]);"
        f"print([n for n in (*{foreign!r}, 'torchvision', 'transformers', 'timm', 'matplotlib')"
        " if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done


def test_a_process_ends_with_the_code_and_without_a_traceback():
    code = (
        "import sys; from vfunc.training.run_command_line import run_guarded; "
        "sys.exit(run_guarded(lambda config: None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--momentum", "0.5"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert (
        done.stderr == "error: --momentum does nothing here: it is for --optimizer sgd or rmsprop\n"
    )

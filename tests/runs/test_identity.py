"""A run that is resumed is the run that was interrupted; what differs is named, or accepted."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from baseline_run import BASELINE
from small_run import SMALL, cached_assemble, new_run, small, words

from vfunc.designer_file import save_designer
from vfunc.errors import UserError
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.report.events import EventLog, read_events
from vfunc.storage.digests import so_far
from vfunc.storage.manifest import read_manifest
from vfunc.studies.comparison_files import _other_data
from vfunc.studies.finished_runs import FoundRun
from vfunc.studies.repetition import PlannedRun, check
from vfunc.training import loop
from vfunc.training.checkpoint import save_checkpoint
from vfunc.training.files.identity import (
    differences,
    digest_of_identity,
    identity_of,
    kept_with_checkpoints,
)
from vfunc.training.files.inputs import read_by
from vfunc.training.files.opening import begin, give_up_log, go_on, require_own
from vfunc.training.run_command_line import parse
from vfunc.training.run_directory import RunDirectory

QUESTION = '{{"question": "What is {0} + 1?", "answer": "It is {1}. #### {1}"}}\n'
FILES = {"stream": "stream.jsonl", "feedback": "feedback.jsonl", "eval": "eval.jsonl",
         "learner": "learner", "designer": "designer.safetensors"}  # fmt: skip
OPTIONS = {k: v for k, v in SMALL.items() if k not in ("stream_size", "device")} | FILES


@pytest.fixture(scope="module")
def parts():
    """The parts of a run, whose configuration the tests replace."""
    return cached_assemble(small())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Everything that a run can read."""
    folder = tmp_path_factory.mktemp("files")
    for number, name in enumerate(("stream", "feedback", "eval")):
        rows = [QUESTION.format(k, k + 1) for k in range(100 * number, 100 * number + 40)]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    shutil.copytree(EMBEDDED_LEARNER, folder / "learner")
    save_designer(new_run().state.designer, folder / "designer.safetensors")
    return folder


@pytest.fixture
def begun(tmp_path, monkeypatch, files, parts):
    """A run that has begun, with a checkpoint and a log; and a way to go on with it."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory(tmp_path / "runs/x")
    directory.path.mkdir(parents=True)

    def identity(config):
        return identity_of(dataclasses.replace(parts, config=config))

    config = parse(words(OPTIONS | {"budget": "6steps"}))
    made = identity(config)
    begin(directory, config, made)
    with EventLog(directory.events) as log:
        for step in (1, 2, 3):
            log.write({"kind": "step", "arm": "baseline", "step": step})
    state = new_run("baseline", arms=("baseline", "vpretraining")).state
    state.counters = dataclasses.replace(state.counters, step=4, units=40)
    kept = {"identity": kept_with_checkpoints(made), "log": so_far(directory.events)}
    save_checkpoint(state, directory.checkpoint("baseline"), kept)

    def resumed(*more):
        config = parse(["--resume", "x", *more])
        return go_on(directory, config, identity(config))

    resumed.directory, resumed.identity, resumed.kept = directory, identity, kept
    return resumed


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def in_config(before, after):
    return in_file("runs/x/config.toml", before, after)


def in_file(name, before="1", after="7"):
    return lambda: edit(Path(name), before, after)


def emptied(name):
    return lambda: Path(name).write_text("")


def appended():
    with open("stream.jsonl", "a") as file:
        file.write(QUESTION.format(8, 9))


def other_weight():
    with open("learner/model.safetensors", "r+b") as file:
        file.seek(-9, os.SEEK_END)
        byte = file.read(1)
        file.seek(-9, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def other_designer():
    designer = new_run().state.designer
    with torch.no_grad():
        next(designer.parameters()).add_(1e-3)
    save_designer(designer, "designer.safetensors")


def added_file():
    with open("learner/extra.json", "w") as file:
        file.write("{}")


CHANGES = {
    "stream": (in_file("stream.jsonl"), "--stream stream.jsonl: other contents"),
    "a line more": (appended, "--stream stream.jsonl: other contents"),
    "feedback": (in_file("feedback.jsonl"), "--feedback feedback.jsonl: other contents"),
    "evaluation": (in_file("eval.jsonl"), "--eval eval.jsonl: other contents"),
    "learner": (other_weight, r"--learner learner/model.safetensors changed"),
    "tokenizer": (in_file("learner/tokenizer_config.json", "{", "{ "), "tokenizer_config.json cha"),
    "a file more": (added_file, "--learner learner/extra.json is new"),
    "designer": (other_designer, "--designer designer.safetensors: other contents"),
    "seed": (in_config("seed = 0", "seed = 3"), "--seed 0 then, 3 now"),
    "lr": (in_config("\nlr = 1.5e-05", "\nlr = 0.01"), r"--lr \S+ then, 0.01 now"),
    "batch": (in_config("batch_size = 2", "batch_size = 4"), "--batch-size 2 then, 4 now"),
    "source": (in_config("eval.jsonl", "feedback.jsonl"), "--eval feedback.jsonl: other"),
    "emptied": (emptied("runs/x/config.toml"), "config.toml is empty"),
    "no events": (emptied("runs/x/events.jsonl"), "events.jsonl has not the events"),
    "an event": (in_file("runs/x/events.jsonl", "2", "4"), "events.jsonl has not the events"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_what_has_changed_is_refused_and_named_or_accepted(begun, change, said):
    before = (begun.directory.path / "manifest.json").read_bytes()
    change()
    with pytest.raises(UserError, match=said) as refused:
        begun()
    assert "\n" not in str(refused.value) and "--accept-changes" in str(refused.value)
    assert (begun.directory.path / "manifest.json").read_bytes() == before
    lines, changed = begun("--accept-changes")
    assert changed and any("accepted" in line for line in lines)
    manifest = read_manifest(begun.directory.path)
    assert manifest.accepted and manifest.before


def test_a_run_that_is_as_it_was_goes_on(begun):
    assert begun("--threads", "1", "--device", "cpu", "--budget", "9steps") == ([], False)
    assert read_manifest(begun.directory.path).identity["budget"] == "9steps"
    # places and names are no difference, and neither are comments and checks
    os.rename("stream.jsonl", "moved.jsonl")
    edit(begun.directory.config, "stream.jsonl", "moved.jsonl")
    edit(begun.directory.config, "seed = 0", "# a comment\nseed = 0")
    edit(begun.directory.config, "save_every = 0.25", "save_every = 0.5")
    assert begun() == ([], False)
    with pytest.raises(UserError, match="--accept-changes does nothing here: nothing has changed"):
        begun("--accept-changes")


def test_how_a_file_is_read_is_part_of_it(begun):
    with gzip.open("packed.jsonl.gz", "wt") as file:
        file.write(Path("stream.jsonl").read_text())
    edit(begun.directory.config, "stream.jsonl", "packed.jsonl.gz")
    with pytest.raises(UserError, match=r"--stream packed.jsonl.gz: other contents"):
        begun()


def test_an_arm_that_is_trained_anew_changes_the_log_of_the_others(begun):
    log = begun.directory.events
    lines = log.read_bytes().splitlines(keepends=True)
    give_up_log(begun.directory, b"".join(lines))  # the same: nothing is given up
    assert not read_manifest(begun.directory.path).before
    give_up_log(begun.directory, b"".join(lines[1:]))
    log.write_bytes(b"".join(lines[1:]))
    assert begun() == ([], False)
    require_own(begun.kept, begun.directory, begun.identity(parse(["--resume", "x"])))
    log.write_bytes(b"".join(lines[2:]))
    assert begun() == ([], False)  # which log that is, is not known any more


def test_what_was_no_log_that_a_checkpoint_has_seen_is_still_refused(begun):
    log = begun.directory.events
    edit(log, "2", "4")
    give_up_log(begun.directory, b"")
    with pytest.raises(UserError, match="has not the events"):
        begun()


@pytest.mark.parametrize("budget", ["2steps", "3steps"])
def test_a_budget_below_what_is_spent_is_refused(begun, budget):
    said = rf"--budget {budget}: the arm baseline of .* has spent 4 steps already"
    with pytest.raises(UserError, match=said):
        begun("--budget", budget)
    edit(begun.directory.config, '"6steps"', f'"{budget}"')
    with pytest.raises(UserError, match=said):
        begun()
    assert "6steps" in str(read_manifest(begun.directory.path).identity["budget"])


def test_a_budget_of_what_is_spent_or_of_another_unit(begun):
    assert begun("--budget", "4steps") == ([], False)
    edit(begun.directory.config, '"4steps"', '"400tokens"')
    with pytest.raises(UserError, match=r"the run counts steps .it had 4steps.*400tokens now"):
        begun()


def test_a_checkpoint_of_another_run_is_refused(begun):
    config = parse(["--resume", "x"])
    now = begun.identity(config)
    require_own(begun.kept, begun.directory, now)
    other = {**begun.kept["identity"], "options": begun.kept["identity"]["options"] | {"seed": 9}}
    with pytest.raises(UserError, match="at its last checkpoint: --seed 9 then, 0 now"):
        require_own({**begun.kept, "identity": other}, begun.directory, now)
    # what was accepted before is no difference
    manifest = read_manifest(begun.directory.path)
    begun.directory.keep(dataclasses.replace(manifest, before=(digest_of_identity(other),)))
    require_own({**begun.kept, "identity": other}, begun.directory, now)


def test_a_damaged_manifest_is_made_anew_if_that_is_accepted(begun):
    path = begun.directory.path / "manifest.json"
    path.write_text(path.read_text().replace("seed", "sEed", 1))
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        begun()
    assert begun("--accept-changes")[1]
    assert read_manifest(begun.directory.path).accepted


def test_a_run_of_before_there_were_digests_goes_on_and_says_so(begun):
    (begun.directory.path / "manifest.json").unlink()
    begun.directory.checkpoint("baseline").unlink()
    lines, changed = begun()
    assert not changed and "before runs kept digests" in lines[0]
    assert begun() == ([], False)


def test_the_option_is_for_resuming():
    with pytest.raises(UserError, match="--accept-changes does nothing here: it is for --resume"):
        parse(["--accept-changes"])


def test_every_option_of_a_run_counts_but_those_that_decide_nothing(parts):
    counted = identity_of(parts)["options"]
    left_out = set(parts.config.options) - set(counted)
    assert left_out == {
        "preset", "config", "name", "runs_dir", "overwrite", "resume", "accept_changes", "dry_run",
        "leave_checkpoints",
        "debug", "log", "device", "threads", "edge_dir", "data_cache", "certify", "save_every", "budget",
    }  # fmt: skip


def test_data_and_learners_that_come_from_no_file_have_digests(parts):
    made = identity_of(parts)
    assert set(made["inputs"]) == {
        "the start learner", "the stream examples", "the feedback examples",
        "the evaluation examples",
    }  # fmt: skip
    other = identity_of(cached_assemble(small(seed=1)))
    assert differences(made, other)[1:] == [
        "the stream examples: other contents "
        f"({made['inputs']['the stream examples']['sha256'][:12]} then, "
        f"{other['inputs']['the stream examples']['sha256'][:12]} now)",
        "the feedback examples: other contents "
        f"({made['inputs']['the feedback examples']['sha256'][:12]} then, "
        f"{other['inputs']['the feedback examples']['sha256'][:12]} now)",
    ]
    assert json.loads(json.dumps(made)) == made


def test_runs_on_other_data_are_compared_with_a_note(begun):
    other = begun.directory.path.with_name("y")
    shutil.copytree(begun.directory.path, other)
    found = [FoundRun(path, "", {}) for path in (begun.directory.path, other)]
    assert _other_data(found) == []
    appended()
    begun("--accept-changes")
    assert "different data: --stream" in _other_data(found)[0]


def test_a_changed_stream_from_end_to_end(command, monkeypatch, tmp_path, files, capsys):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    options = {k: v for k, v in (OPTIONS | BASELINE | {"budget": "3steps"}).items()
               if k not in ("designer",)}  # fmt: skip
    taken = loop.optimizer_step

    def signalled(run):
        os.kill(os.getpid(), signal.SIGTERM)
        return taken(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", signalled)
        assert command("--name", "x", small_data=False, **options) == 143
    appended()
    assert command("--resume", "x", small_data=False) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "runs/x is not what it was: --stream stream.jsonl: other contents" in said
    assert command("--resume", "x", "--accept-changes", small_data=False) == 0
    metrics = json.loads((tmp_path / "runs/x/metrics.json").read_text())
    assert "--stream stream.jsonl: other contents" in metrics["accepted_changes"][0]
    assert metrics["arms"]["baseline"]["steps"] == 3
    assert [e["step"] for e in read_events("runs/x/events.jsonl") if e["kind"] == "step"] == [
        1,
        2,
        3,
    ]
    assert command("--resume", "x", small_data=False) == 0  # it is the run's own by now


def test_a_comparison_takes_no_run_on_other_data_for_its_own(begun):
    config = parse(words(OPTIONS | {"budget": "6steps"}))
    one = PlannedRun("", config, begun.directory)
    assert one.state == "interrupted"
    check([one])
    in_file("feedback.jsonl")()
    with pytest.raises(UserError, match=r"was run on other data .--feedback feedback.jsonl: other"):
        check([one])


def test_what_is_read_is_known_by_its_place_and_not_by_a_likeness(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("embedded", "main", "copy/images"):
        Path(name).mkdir(parents=True)
    Path("a.jsonl").write_text("{}")
    language = parse(["--stream", "a.jsonl", "some/set:main", "--feedback", "x/y", "--eval", "x/z"])
    assert read_by(language) == {"--stream (1)": ("stream", Path("a.jsonl"))}
    vision = parse(["--modality", "vision", "--feedback", "ade20k:copy", "--retrieval", "main"])
    assert read_by(vision) == {
        "--feedback": ("feedback", Path("copy")),
        "--retrieval": ("retrieval", Path("main")),
    }

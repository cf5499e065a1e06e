"""The paper's language runs: every preset builds at full size, without a network."""

from __future__ import annotations

import functools
import re
import socket
import tomllib

import pytest

from vfunc.config.toml import BASE, read_toml
from vfunc.errors import UserError
from vfunc.training.build import language_dry_run
from vfunc.training.build.known_architectures import KNOWN
from vfunc.training.run import run
from vfunc.training.run_command_line import PRESETS, parse, run_guarded

FOLDER = PRESETS / "paper"
LANGUAGE = {
    path.stem: read_toml(path).given
    for path in sorted(FOLDER.glob("*.toml"))
    if read_toml(path).given.get("modality") != "vision"
}
PUBLISHED = {
    "Qwen/Qwen1.5-0.5B": 463_987_712,
    "Qwen/Qwen1.5-4B": 3_950_369_280,
    "Qwen/Qwen1.5-7B": 7_721_324_544,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
}
"""Parameters, shared embeddings counted once, of the published weights."""

FULL = {
    "batch_size": 4, "accumulate": 32, "seq_len": 512, "warmup": 0.03, "weight_decay": 0.0,
    "clip": 1.0, "lr": 1.5e-5, "align": "last:2", "meta_period": 8, "feedback_size": 1024,
}  # fmt: skip
LORA = {
    "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.05, "lr": 2e-4, "designer_lr": 1e-4,
    "batch_size": 4, "accumulate": 8, "seq_len": 1024, "feedback_seq_len": 512,
    "align": "lora:last:2", "meta_period": 8, "feedback_size": 1024,
}  # fmt: skip
DESIGNER = {
    "top_k": 64, "alpha_max": 0.5, "designer_width": 256, "designer_layers": 6,
    "designer_heads": 4, "optimizer": "adamw", "targets": "free",
}  # fmt: skip
ROWS = {
    "qwen2.5_0.5b_full": ("Qwen/Qwen2.5-0.5B", FULL | {"budget": "13430steps"}),
    "qwen2.5_0.5b_lora": ("Qwen/Qwen2.5-0.5B", LORA),
    "qwen1.5_0.5b_lora": ("Qwen/Qwen1.5-0.5B", LORA),
    "qwen1.5_4b_lora": ("Qwen/Qwen1.5-4B", LORA | {"budget": "2000steps"}),
    "qwen1.5_7b_lora": ("Qwen/Qwen1.5-7B", LORA),
    "qwen1.5_4b_controls": ("Qwen/Qwen1.5-4B", LORA),
    "qwen1.5_4b_direct": ("Qwen/Qwen1.5-4B", LORA | {"budget": "28800s", "grpo_generations": 8}),
    "qwen1.5_4b_decontaminated": ("Qwen/Qwen1.5-4B", LORA),
    "qwen1.5_4b_feedback_1k": ("Qwen/Qwen1.5-4B", LORA | {"feedback_size": 1000}),
    "qwen1.5_4b_feedback_2k": ("Qwen/Qwen1.5-4B", LORA | {"feedback_size": 2000}),
    "qwen1.5_4b_feedback_3k": ("Qwen/Qwen1.5-4B", LORA | {"feedback_size": 3000}),
    "multitask": ("Qwen/Qwen2.5-0.5B", {
        "stream_cap": [50000] * 3 + [5000] * 3, "pack": True, "seq_len": 512,
        "feedback_combine": "matched",
    }),
}  # fmt: skip


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """Dry runs in an empty folder without a network: what is said, and the configuration."""

    def refused(*args, **kwargs):
        raise AssertionError("a dry run touches no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(language_dry_run, "_plain_step", _once(language_dry_run._plain_step))

    def call(*argv):
        code = run_guarded(run, [*argv, "--dry-run"])
        printed = capsys.readouterr()
        if code:
            return code, printed.err
        told, config = printed.out.split("# run\n")
        return {row[:9].strip(): row[10:] for row in told.splitlines()}, tomllib.loads(config)

    return call


_MEASURED: dict[object, object] = {}


def _once(measure):
    """Rows that differ in nothing that a step takes are measured once."""

    @functools.wraps(measure)
    def call(config, module, blocks):
        key = (config.learner.learner, config.adapters.lora_rank, config.data.batch_size,
               config.data.seq_len, config.trained.train)  # fmt: skip
        if key not in _MEASURED:
            _MEASURED[key] = measure(config, module, blocks)
        return _MEASURED[key]

    return call


def test_there_is_a_preset_for_each_row_and_no_other():
    assert set(LANGUAGE) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_it_is_built_at_full_size_with_the_papers_values(dry_run, name):
    learner, values = ROWS[name]
    said, config = dry_run("--preset", f"paper/{name}")
    assert config["learner"] == learner
    assert {k: config[k] for k in values | DESIGNER} == values | DESIGNER
    numbers = [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?= parameters| trained)", said["learner"])]  # fmt: skip
    assert numbers[0] == PUBLISHED[learner]
    if config.get("lora_rank"):
        sizes = KNOWN[learner]
        width, inner = sizes["hidden_size"], sizes["intermediate_size"]
        pairs = width * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
        block = 8 * (2 * (width + width) + 2 * (width + pairs) + 3 * (width + inner))
        assert numbers[1] == block * sizes["num_hidden_layers"]
        assert f"S (lora:last:2) {2 * block:,} in 28 tensors" in said["learner"]
    else:
        assert numbers[1] == numbers[0] and "S (last:2)" in said["learner"]
    texts = config["batch_size"] * config["accumulate"]
    assert f"= {texts * config['seq_len']:,} a process" in said["tokens"]
    assert "not read" in said["stream"] and "GiB: weights" in said["memory"]
    in_seconds = re.fullmatch(r"\d+s", config["budget"]) is not None
    assert "TFLOP" in said["time"] and ("for all" in said["time"]) is not in_seconds
    by_trl = "sft+grpo: neither memory nor time is foretold; GRPO draws 256 completions a step"
    assert said.get("by TRL", "").endswith(by_trl) is (name == "qwen1.5_4b_direct")


def test_every_value_says_whose_it_is():
    for path in FOLDER.glob("*.toml"):
        if path.stem not in LANGUAGE:
            continue
        table = tomllib.loads(path.read_text())
        lines = path.read_text().splitlines()
        assert lines[0].startswith("#"), path
        for key in table.keys() - {BASE}:
            (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
            told = lines[at] if "[" not in lines[at] or "]" in lines[at] else lines[at - 1]
            assert re.search(r"#.*\b(paper|ours)\b", told) or told.endswith(": paper"), (path, key)


@pytest.mark.parametrize("train", ["all", "last:5"])
def test_figures_of_few_blocks_are_those_of_all(monkeypatch, train):
    """Of a small learner, whose blocks can all be looked at."""
    words = ["--learner", "Qwen/Qwen2.5-0.5B", "--stream", "a:b", "--feedback", "c/d", "--eval",
             "e/f", "--batch-size", "3", "--seq-len", "16", "--train", train]  # fmt: skip
    small = KNOWN["Qwen/Qwen2.5-0.5B"] | {
        "num_hidden_layers": 7, "hidden_size": 28, "intermediate_size": 32, "vocab_size": 64}  # fmt: skip
    monkeypatch.setitem(KNOWN, "Qwen/Qwen2.5-0.5B", small)
    config = parse(words)
    _, module, _ = language_dry_run._built(config)
    drawn = language_dry_run._plain_step(config, module, 7)
    kept, forward, backward = language_dry_run._measured(module, 3, 16, None)
    if train == "all":
        assert (drawn.kept, drawn.forward, drawn.backward) == (kept, forward, backward)
        return
    # above the truth by what leads to the lowest trained block's input alone
    assert drawn.forward == forward
    assert kept <= drawn.kept < 1.1 * kept and backward <= drawn.backward < 1.1 * backward


def test_what_cannot_be_said_without_a_network_is_told(dry_run):
    data = ["--stream", "a/b", "--feedback", "c/d", "--eval", "e/f"]
    assert (
        "of the learner 'some/model' it is not here" in dry_run("--learner", "some/model", *data)[1]
    )
    code, error = dry_run("--preset", "paper/qwen1.5_4b_lora", "--align", "lora:last:99")
    assert code == 2 and "99" in error
    code, error = dry_run("--preset", "paper/qwen1.5_4b_lora", "--seq-len", "40000")
    assert code == 2 and "context of 32768" in error
    # the embedded learner is here: its own sizes, with data that are not
    said, _ = dry_run("--learner", "embedded", *data)
    assert said["learner"].startswith("embedded: 3") and "S (all)" in said["learner"]


def test_a_file_may_build_on_another(tmp_path):
    (tmp_path / "a.toml").write_text('lr = 1e-3\nseed = 3\nbudget = "3steps"')
    (tmp_path / "b.toml").write_text('base = "a"\nlr = 2e-3')
    (tmp_path / "c.toml").write_text('base = "b"\nseed = 4')
    assert read_toml(tmp_path / "c.toml").given == {"lr": 2e-3, "seed": 4, "budget": "3steps"}
    (tmp_path / "a.toml").write_text('base = "c"')
    with pytest.raises(UserError, match="base leads back to"):
        read_toml(tmp_path / "b.toml")
    for wrong in ('"../x"', "3"):
        (tmp_path / "d.toml").write_text(f"base = {wrong}")
        with pytest.raises(UserError, match="must be the name of a file beside it"):
            read_toml(tmp_path / "d.toml")
    (tmp_path / "d.toml").write_text('base = "none"')
    with pytest.raises(UserError, match=r"base = 'none' names none\.toml beside it, which"):
        read_toml(tmp_path / "d.toml")

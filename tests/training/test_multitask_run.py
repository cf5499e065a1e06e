"""Two of the paper's runs at a tiny size, stopped and gone on with: multitask, and LoRA.

Multitask is a mixture of raw text and instruction of several domains, each with its own feedback.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import signal
from pathlib import Path

import pytest
from small_run import SMALL
from test_resume import contents, interrupt_at, require_equal

REAL = Path(os.environ.get("VFUNC_DATA_DIR", "/nowhere"))
SHORT = {name: value for name, value in SMALL.items() if name != "stream_size"} | {
    "arms": "baseline,vpretraining", "budget": "4steps", "batch_size": 6, "feedback_size": 12,
    "feedback_batch_size": 3, "seq_len": 24, "probe_batches": 1, "pack": True, "solve_size": 0,
    "feedback_combine": "matched", "save_every": 0.5,
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    monkeypatch.setattr("vfunc.training.summary._plots", lambda *_: [])
    monkeypatch.setenv("VFUNC_CACHE", str(tmp_path / "cache"))


def made(folder: Path) -> dict[str, object]:
    """Three domains: 0.7 of raw text, 0.3 of instruction, a third each; made here."""

    def write(name: str, records: list[dict]) -> str:
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(folder / name)

    raw = [
        write(f"raw{d}.jsonl", [{"text": f"Tom {d} has {n} pens. " * 9} for n in range(30)])
        for d in range(3)
    ]
    asked = [
        write(f"ask{d}.jsonl", [{"query": f"{n} + {d}?", "response": f"{n + d}"} for n in range(9)])
        for d in range(3)
    ]
    pools = [
        write(f"p{d}.jsonl", [{"query": f"{n}+{d}?", "response": f"{n + d}"} for n in range(9, 40)])
        for d in range(3)
    ]
    held = write("held.jsonl", [{"question": f"{n} + 1?", "answer": f"{n}"} for n in range(50, 60)])
    names = ("math", "code", "general")
    return {
        "stream": tuple([f"{name}:0.7" for name in raw] + [f"{name}:0.3" for name in asked]),
        "stream_cap": (20, 20, 20, 5, 5, 5),
        "stream_domains": names * 2,
        "feedback": tuple(pools),
        "feedback_domains": names,
        "eval": held,
    }


def real(folder: Path) -> dict[str, object]:
    """Textbooks, questions of arithmetic, programs, and questions with options as raw text."""
    with gzip.open(REAL / "mmlu/test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, 60)]
    options = folder / "mmlu.jsonl"
    options.write_text("".join(json.dumps({"text": json.dumps(row)}) + "\n" for row in rows))
    train, programs = str(REAL / "gsm8k/train.jsonl"), str(REAL / "mbpp/mbpp.jsonl")
    return {
        "stream": (f"{REAL / 'openstax_math/docs.jsonl.gz'}:0.4", f"{train}:0.2",
                   f"{programs}:0.2", f"{options}:0.2"),
        "stream_cap": (4, 40, 40, 40),
        "stream_domains": ("math", "math", "code", "none"),
        "feedback": (train, programs),
        "feedback_domains": ("math", "code"),
        "eval": str(REAL / "gsm8k/test.jsonl"),
        "seq_len": 256,
    }  # fmt: skip


def lora(folder: Path) -> dict[str, object]:
    """The paper's LoRA row, tiny: textbooks, GSM8K's feedback and test; S = adapters of the last."""
    return {
        "stream": str(REAL / "openstax_math/docs.jsonl.gz"), "stream_cap": 4,
        "feedback": str(REAL / "gsm8k/train.jsonl"), "eval": str(REAL / "gsm8k/test.jsonl"),
        "lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.1, "align": "lora:last:1",
        "targets": "free", "accumulate": 2, "batch_size": 2, "seq_len": 256, "meta_seq_len": 128,
        "feedback_combine": None,
    }  # fmt: skip


@pytest.mark.parametrize("data", [made, real, lora])
def test_a_run_that_is_resumed_is_the_unbroken_one(data, command, monkeypatch, tmp_path, capsys):
    if data is not made and not (REAL / "openstax_math").is_dir():
        pytest.skip("VFUNC_DATA_DIR names no folder of real data")
    options = {k: v for k, v in (SHORT | data(tmp_path)).items() if v is not None}
    assert command("--name", "whole", small_data=False, **options) == 0
    of_the_shell = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        interrupt_at(patch, "vpretraining", 1)
        code = command("--name", "x", "--data-cache", "no", small_data=False, **options)
    signal.signal(signal.SIGINT, of_the_shell)
    assert code == 130, capsys.readouterr().err
    assert command("--resume", "x", small_data=False) == 0
    whole, resumed = contents(tmp_path / "runs/whole"), contents(tmp_path / "runs/x")
    for of_run in (whole, resumed):  # one by the cache, one without
        of_run[3]["config"].pop("data_cache", None)
    require_equal(resumed, whole)

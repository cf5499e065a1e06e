from __future__ import annotations

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import pytest

from vfunc.language.careless.careless_command import main

REAL = os.environ.get("VFUNC_DATA_DIR")


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def solutions(tmp_path) -> Path:
    records = [
        {
            "question": f"Al has {n} pens and Bo 3.",
            "answer": f"{n}+3 = <<{n}+3={n + 3}>>{n + 3}\n#### {n + 3}",
        }
        for n in range(20, 60)
    ]
    records.insert(7, {"question": "x", "answer": "2E = 42\nE = <<21=21>>21\n#### 21"})
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def test_a_share_is_wrong_and_the_twin_is_clean(solutions, tmp_path, capsys):
    names = [tmp_path / f"{n}.jsonl" for n in ("out", "clean", "rest")]
    out, clean, rest = map(str, names)
    options = ["--limit", "20", "--share", "0.3", "--clean", clean, "--rest", rest]
    assert main([str(solutions), out, *options]) == 0
    said = capsys.readouterr().out
    assert "40 of 41 solutions (97.6 %) can be treated" in said
    assert "1 with no calculation" in said
    stream, twin, left = map(written, names)
    assert len(stream) == len(twin) == 20 and len(left) == 20
    assert [r["question"] for r in stream] == [r["question"] for r in twin]
    assert sum(bool(r["wrong"]) for r in stream) == 6
    assert not any(r["wrong"] for r in (*twin, *left))
    assert not any("<<" in r["answer"] for r in (*stream, *twin, *left))
    assert not {r["question"] for r in stream} & {r["question"] for r in left}
    for record, clean_one in zip(stream, twin, strict=True):
        assert (record["answer"] == clean_one["answer"]) == (not record["wrong"])
        for start, end in record["wrong"]:
            assert record["answer"][start:end].isdigit()
    # the same again, other with another seed, and a smaller one is a part of it
    first = names[0].read_bytes()
    assert main([str(solutions), out, *options]) == 0 and names[0].read_bytes() == first
    assert main([str(solutions), out, *options, "--seed", "1"]) == 0
    assert names[0].read_bytes() != first
    assert main([str(solutions), out, "--limit", "5"]) == 0
    assert {r["question"] for r in written(names[0])} < {r["question"] for r in stream}


def test_a_reader_who_goes_before_it_is_done(solutions, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main([str(solutions), str(out)]) == 0
    assert len(written(out)) == 40


def test_untreated_ones_are_kept_where_asked(solutions, tmp_path):
    out = tmp_path / "out.jsonl"
    assert main([str(solutions), str(out), "--untreated", "keep", "--share", "0"]) == 0
    kept = written(out)
    assert len(kept) == 41 and kept[7]["answer"] == "2E = 42\nE = 21\n#### 21"


def test_other_fields_and_marks(tmp_path):
    path, out = tmp_path / "in.json", tmp_path / "out.jsonl"
    text = "9 - 2 = <<9-2=7>>7\nOf 7 there are 7 * 5 = <<7*5=35>>35\n#### 35"
    path.write_text(json.dumps([{"q": "9, 2, 5", "s": text}]), encoding="utf-8")
    asked = [str(path), str(out), "--question", "q", "--solution", "s", "--share", "1"]
    assert main([*asked, "--mark", "all"]) == 0
    (record,) = written(out)
    assert [record["s"][a:b] for a, b in record["wrong"]] == ["11", "11", "11", "16", "16"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "give two files, IN and OUT; there are 0"),
        (["IN"], "there are 1"),
        (["IN", "OUT", "--share", "2"], "--share 2: give 0 to 1"),
        (["IN", "OUT", "--limit", "0"], "--limit 0"),
        (["IN", "OUT", "--limit", "99"], "40 solutions can be used, and --limit wants 99"),
        (["IN", "OUT", "--seed", "-1"], "--seed -1"),
        (["IN", "IN"], "is IN itself"),
        (["IN", "out.txt"], "name a .jsonl file"),
        (["IN", "no/where/out.jsonl"], "there is no folder"),
        (["IN", "OUT", "--clean", "OUT"], "name one file twice"),
        (["IN", "OUT", "--rest", "rest.jsonl"], "--rest is for what --limit leaves out"),
        (["IN", "OUT", "--question", "Question"], "no text in a field 'Question'"),
        (["IN", "OUT", "--question", "wrong"], "name two fields"),
        (["absent.jsonl", "OUT"], "there is no such file"),
        (["IN", "OUT", "--shar", "1"], "--share"),
        (["IN", "OUT", "--untreated", "keep", "--share", "1"], "40 can be made wrong"),
    ],
)
def test_refused_in_a_line(words, why, solutions, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"IN": str(solutions), "OUT": str(tmp_path / "out.jsonl")}
    assert main([names.get(word, word) for word in words]) == 2
    said = capsys.readouterr().err
    assert why in said and said.startswith("error: ") and said.count("\n") == 1


NUMBER = r"\(?-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)\)?"
EQUATION = re.compile(
    rf"(?:^|(?<=[a-wyz,:] )\$?)({NUMBER})((?:\s?[-+*/x×÷–]\s?{NUMBER})+)\s?=\s?(-?\$?[\d.,]*\d)(?![\d%]| ?[-+*/x×])",
    re.MULTILINE,
)


@pytest.mark.skipif(not REAL, reason="VFUNC_DATA_DIR names no folder of real data")
def test_real_solutions(tmp_path):
    """Every plain equation of the result is worked out again, by the rule and by arithmetic."""
    source = Path(str(REAL)) / "gsm8k" / "train.jsonl"
    if not source.exists():
        pytest.skip("gsm8k/train.jsonl is not in VFUNC_DATA_DIR")
    some, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = source.read_text(encoding="utf-8").splitlines()[:600]
    some.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main([str(some), str(out), "--share", "1"]) == 0
    records = written(out)
    assert len(records) > 0.75 * len(lines)
    looked = 0
    for record in records:
        text = record["answer"]
        assert record["wrong"] and text.rpartition("#### ")[2]
        for match in EQUATION.finditer(text):
            if match[0].count("(") != match[0].count(")") or re.search(r"\((?!-)", match[0]):
                continue
            looked += 1
            result = _number(match[3])
            assert _worked(match[1], match[2], wrongly=True) == result, match[0]
            marked = any(a < match.end(3) <= b for a, b in record["wrong"])
            assert marked == (_worked(match[1], match[2], wrongly=False) != result), match[0]
    assert looked > 700


def _number(text: str) -> Fraction:
    return Fraction(re.sub(r"[$,()]", "", text))


def _worked(first: str, rest: str, *, wrongly: bool) -> Fraction | None:
    parts = re.findall(rf"\s?([-+*/x×÷–])\s?({NUMBER})", rest)
    values, symbols = [_number(first), *(_number(n) for _, n in parts)], [s for s, _ in parts]
    for rank in ("*/x×÷", "+-–"):
        at = 0
        while at < len(symbols):
            if symbols[at] not in rank:
                at += 1
                continue
            a, b = values[at : at + 2]
            symbol = symbols.pop(at)
            if wrongly:
                found = abs(a - b) if symbol == "+" else a - b if symbol in "/÷" else a + b
            elif symbol in "/÷":
                if not b:
                    return None
                found = a / b
            else:
                found = a + b if symbol == "+" else a - b if symbol in "-–" else a * b
            values[at : at + 2] = [found]
    return values[0]

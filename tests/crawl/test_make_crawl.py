from __future__ import annotations

import json
import random
import shlex
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from vfunc.language.crawl.crawl_command import main
from vfunc.language.crawl.crawled import LEAD, Piece, boilerplate, pieces_of, shuffled
from vfunc.language.data.examples import Example
from vfunc.language.data.sources import load_examples
from vfunc.language.data.tokenise import encode_examples
from vfunc.language.embedded_learner import EMBEDDED_LEARNER


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def sources(tmp_path) -> list[str]:
    """Useful solutions, code, and prose: two with prompts, one of raw text."""
    made = {
        "in": [{"question": f"q{n}?", "answer": f"a{n} b c\n#### {n}"} for n in range(60)],
        "code": [{"text": f"write f{n}", "code": f"def f{n}():\n    pass"} for n in range(20)],
        "prose": [{"text": " ".join(f"w{n}_{k}" for k in range(70))} for n in range(5)],
    }
    for name, records in made.items():
        lines = "".join(json.dumps(r) + "\n" for r in records)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return [str(tmp_path / f"{name}.jsonl") for name in made]


def crawl(sources, tmp_path, *options) -> dict[str, list[dict]]:
    source, *beside = sources
    asked = [source, str(tmp_path / "out"), "--beside", *beside, "--words", "30", *options]
    assert main(asked) == 0
    return {path.stem: written(path) for path in (tmp_path / "out").iterdir()}


def test_half_is_useful_and_each_kind_has_its_part(sources, tmp_path, capsys):
    rest = tmp_path / "rest.jsonl"
    kinds = crawl(sources, tmp_path, "--limit", "41", "--rest", str(rest))
    counts = {kind: len(records) for kind, records in kinds.items()}
    assert counts == {"useful": 20, "code": 6, "prose": 5, "shuffled": 5, "boilerplate": 5}
    out = tmp_path / "out"
    mixed = " ".join(
        f"{out / kind}.jsonl:{counts[kind]}"
        for kind in ("useful", "code", "prose", "shuffled", "boilerplate")
    )
    assert f"--stream {mixed}\n" in capsys.readouterr().out
    known = {r["question"]: r["answer"] for r in written(Path(sources[0]))}
    left = {r["question"] for r in written(rest)}
    for record in kinds["useful"]:
        assert record == {
            "question": record["question"],
            "answer": known[record["question"]],
            "wrong": [],
        }
    used = {r["question"] for kind in ("useful", "shuffled") for r in kinds[kind]}
    assert len(used) == 25 and not used & left and used | left == set(known)
    for kind in ("code", "prose", "shuffled", "boilerplate"):
        assert all(r["wrong"] == [[0, len(r["answer"]) + 1]] for r in kinds[kind])
    for record in kinds["shuffled"]:
        assert sorted(record["answer"].split()) == sorted(known[record["question"]].split())
    for record in kinds["prose"]:
        assert len(record["question"].split()) == LEAD
        assert len(record["answer"].split()) == 30 - LEAD
    assert all(r["answer"].startswith("def f") for r in kinds["code"])


def test_the_same_seed_makes_the_same_and_another_another(sources, tmp_path):
    first = crawl(sources, tmp_path, "--limit", "40")
    assert crawl(sources, tmp_path, "--limit", "40") == first
    other = crawl(sources, tmp_path, "--limit", "40", "--seed", "1")
    assert all(other[kind] != first[kind] for kind in first)


def test_raw_text_is_cut_without_loss_or_overlap():
    words = [f"w{n}" for n in range(100)]
    pieces = pieces_of([Example("", " ".join(words)), Example("p", "c  c")], 30)
    said = [f"{p.prompt} {p.completion}".split() for p in pieces[:-1]]
    assert [word for piece in said for word in piece] == words[:90]
    assert pieces[-1] == Piece("p", "c  c")


def test_shuffled_words_are_in_another_order():
    piece = Piece("p", " ".join(map(str, range(50))))
    made = shuffled(piece, random.Random(0))
    assert made.prompt == "p" and made.completion != piece.completion
    assert sorted(made.completion.split()) == sorted(piece.completion.split())


def test_boilerplate_has_no_gap_left():
    for seed in range(50):
        made = boilerplate(random.Random(seed))
        assert len(made.completion.splitlines()) == 5
        assert "{" not in made.prompt + made.completion


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--share", "0"], "--share 0: give more than 0 and less than 1"),
        (["--share", "1"], "--share 1: give more than 0 and less than 1"),
        (["--share", "nan"], "--share nan: give more than 0 and less than 1"),
        (["--limit", "1"], "--limit 1: give 2 or more"),
        (["--limit", "6"], "--limit 6 with --share 0.5 leaves a kind without a text; there are 5"),
        (["--limit", "4000"], "2500 texts are wanted of it, and there are 60 that are different"),
        (["--words", "15"], "--words 15: give 16 or more"),
        (["--seed", "-1"], "--seed -1: give 0 or more"),
        (["--rest", "rest.txt"], "--rest rest.txt: name a .jsonl file"),
        (["--rest", "none/rest.jsonl"], "--rest none/rest.jsonl: there is no folder none"),
    ],
)
def test_what_cannot_be_is_refused(sources, tmp_path, capsys, options, said):
    source, *beside = sources
    assert main([source, str(tmp_path / "out"), "--beside", *beside, *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_that_is_read_is_written(sources, tmp_path, capsys):
    kinds = crawl(sources, tmp_path, "--limit", "40")
    useful = tmp_path / "out" / "useful.jsonl"
    assert main([str(useful), str(tmp_path / "out"), "--limit", "20"]) == 2
    assert f"{useful} would be written, and is read" in capsys.readouterr().err
    assert written(useful) == kinds["useful"]
    source, target = sources[0], str(tmp_path / "out")
    assert main([source, target, "--rest", source]) == 2
    assert f"{source} would be written, and is read" in capsys.readouterr().err
    assert main([source, target, "--rest", str(useful)]) == 2
    assert "is a file of OUT; name another one" in capsys.readouterr().err
    assert main([source, sources[1]]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert main([source]) == 2
    assert "give a source and a folder, IN and OUT; there are 1" in capsys.readouterr().err


def test_two_sources_of_one_name_are_two_kinds(sources, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "useful.jsonl").write_bytes(Path(sources[1]).read_bytes())
    kinds = crawl([sources[0], str(other / "useful.jsonl")], tmp_path, "--limit", "20")
    assert set(kinds) == {"useful", "useful-2", "shuffled", "boilerplate"}


def test_marks_of_useful_texts_are_kept(tmp_path):
    records = [{"question": f"q{n}?", "answer": f"a b {n}", "wrong": [[2, 3]]} for n in range(9)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    kinds = crawl([str(source)], tmp_path, "--limit", "8", "--rest", str(tmp_path / "rest.jsonl"))
    for record in [*kinds["useful"], *written(tmp_path / "rest.jsonl")]:
        assert record["wrong"] == [[2, 3]]
    assert all(r["wrong"] == [[0, 6]] for r in kinds["shuffled"])


def test_no_text_is_useful_and_of_another_kind(sources, tmp_path, capsys):
    """Twice in IN, in IN and a source beside it, or of one word, which shuffling leaves alone."""
    twice = written(Path(sources[0]))[:4] * 2
    word = [{"question": f"one {n}?", "answer": "yes"} for n in range(4)]
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in twice + word), encoding="utf-8")
    rest = tmp_path / "rest.jsonl"
    for seed in "0123":
        kinds = crawl([str(path)], tmp_path, "--limit", "10", "--seed", seed, "--rest", str(rest))
        told = [*kinds["useful"], *written(rest)]
        said = [r["question"] for r in (*told, *kinds["shuffled"])]
        assert len(said) == len(set(said)) == 8
        clean = {(r["question"], r["answer"]) for r in twice + word}
        assert not clean & {(r["question"], r["answer"]) for r in kinds["shuffled"]}
    capsys.readouterr()
    asked = [str(path), str(tmp_path / "other"), "--beside", str(path), "--limit", "8"]
    assert main(asked) == 2
    assert (
        "there are 0 that are different and neither of IN nor of a source before it"
        in capsys.readouterr().err
    )
    path.write_text("".join(json.dumps(r) + "\n" for r in word), encoding="utf-8")
    assert main([str(path), str(tmp_path / "other"), "--limit", "4"]) == 2
    assert "of 3 texts 0 have words to shuffle, and 1 are wanted" in capsys.readouterr().err


def test_no_text_is_in_two_files_of_sources(sources, tmp_path, capsys):
    """Twice in one source, in a later one too, or in IN: it is the first's, once."""
    held = [{"text": f"say {n}", "code": f"print({n})"} for n in range(9)]
    of_in = [{"text": r["question"], "code": r["answer"]} for r in written(Path(sources[0]))]
    names = []
    for name, records in (("one", [*held[:6], *held[:6], *of_in]), ("two", [*held[2:], *of_in])):
        lines = "".join(json.dumps(r) + "\n" for r in records)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        names.append(str(tmp_path / f"{name}.jsonl"))
    kinds = crawl([sources[0], *names], tmp_path, "--limit", "24")
    said = {name: [r["question"] for r in kinds[name]] for name in ("one", "two")}
    assert sorted(said["two"]) == ["say 6", "say 7", "say 8"]
    assert len(set(said["one"])) == 3 and set(said["one"]) < {r["text"] for r in held[:6]}
    capsys.readouterr()
    asked = [sources[0], str(tmp_path / "other"), "--beside", *names, "--limit", "32"]
    assert main(asked) == 2
    assert "4 texts are wanted of it, and there are 3 that are different" in capsys.readouterr().err


def test_the_end_of_a_text_of_no_use_is_wrong_too(sources, tmp_path):
    """As a run reads it: every token of it that is predicted, and none of a useful one."""
    crawl(sources, tmp_path, "--limit", "40")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_LEARNER)
    for kind in ("code", "useful"):
        examples = load_examples(tmp_path / "out" / f"{kind}.jsonl", split="stream").examples
        for one in encode_examples(examples, tokenizer, 512, split="stream").sequences:
            assert one.tokens[-1] == tokenizer.eos_token_id
            assert bool(one.wrong[one.predict_from :].all()) == (kind == "code")
            assert bool(one.wrong.any()) == (kind == "code")


def test_the_stream_that_is_told_can_be_pasted(sources, tmp_path, capsys):
    out = tmp_path / "a crawl"
    assert main([sources[0], str(out), "--limit", "8"]) == 0
    stream = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert stream[0] == "--stream" and len(stream) == 4
    assert all(Path(one.rpartition(":")[0]).is_file() for one in stream[1:])


def test_a_folder_of_other_files_is_refused(sources, tmp_path, capsys):
    """What an earlier command left would be read with the others by OUT/*.jsonl."""
    crawl(sources, tmp_path, "--limit", "40")
    assert main([sources[0], str(tmp_path / "out"), "--limit", "20"]) == 2
    assert "holds code.jsonl, which would stay as it is" in capsys.readouterr().err


def test_a_name_that_cannot_be_is_told(sources, tmp_path, capsys):
    long = tmp_path / f"{'m' * 247}.jsonl"
    long.write_bytes(Path(sources[1]).read_bytes())
    asked = [sources[0], str(tmp_path / "out"), "--beside", str(long), "--limit", "20"]
    assert main(asked) == 2
    assert "cannot be written (File name too long)" in capsys.readouterr().err

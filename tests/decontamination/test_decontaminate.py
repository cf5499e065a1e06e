"""Planted near-duplicates of test examples are found in a stream and taken out; nothing else is."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import unicodedata
from pathlib import Path

import pytest

from vfunc.errors import UserError
from vfunc.language.data import record_files
from vfunc.language.data.examples import Example
from vfunc.language.decontamination import decontaminate_command
from vfunc.language.decontamination.near_duplicates import Measures, Questions
from vfunc.language.decontamination.word_grams import grams_of, windows, words_of

VOCABULARY = [f"{a}{b}" for a, b in itertools.product("bdfgklmnprstvz", ("ar", "eno", "is", "ut"))]
VOCABULARY = [a + b for a in VOCABULARY for b in ("", "e", "ing", "on", "ly")]


def words(generator: random.Random, count: int) -> list[str]:
    return [
        str(generator.randrange(2, 900)) if at % 9 == 4 else generator.choice(VOCABULARY)
        for at in range(count)
    ]


def sentence(generator: random.Random, count: int) -> str:
    return " ".join(words(generator, count)).capitalize() + "?"


def other_numbers(text: str) -> str:
    return " ".join(str(int(w) + 7) if w.isdigit() else w for w in text.split(" "))


def dressed(text: str) -> str:
    return text.upper().replace(" ", " \n ").replace("?", " !!").replace("E", "E,", 1)


def one_word(text: str) -> str:
    said = text.split(" ")
    said[len(said) // 2] = "otherwise"
    return " ".join(said)


PLANTS = {
    "as it is": lambda text, _: text,
    "other numbers": lambda text, _: other_numbers(text),
    "case, punctuation, spaces": lambda text, _: dressed(text),
    "one word": lambda text, _: one_word(text),
    "with a solution behind": lambda text, g: text + " " + sentence(g, 60),
    "within a long document": lambda text, g: f"{sentence(g, 700)} {text} {sentence(g, 500)}",
}


@pytest.fixture(scope="module")
def planted():
    """Questions; and texts with the question each was made of, None of its own."""
    generator = random.Random(0)
    questions = [sentence(generator, generator.randrange(14, 90)) for _ in range(60)]
    texts = [
        (plant(question, generator), number)
        for number, (question, plant) in enumerate(
            zip(questions, itertools.cycle(PLANTS.values()), strict=False)
        )
        if number < 48
    ]
    texts += [(sentence(generator, generator.choice((40, 300))), None) for _ in range(40)]
    generator.shuffle(texts)
    return questions, texts


def test_planted_duplicates_are_found_and_nothing_else(planted):
    questions, texts = planted
    index = Questions(questions, Measures())
    found = {(at, one.number) for at, (text, _) in enumerate(texts) for one in index.found_in(text)}
    wanted = {(at, number) for at, (_, number) in enumerate(texts) if number is not None}
    recall = len(found & wanted) / len(wanted)
    precision = len(found & wanted) / len(found)
    assert recall >= 0.97
    assert precision == 1.0
    again = Questions(questions, Measures())
    assert [again.found_in(text) for text, _ in texts[:20]] == [
        index.found_in(text) for text, _ in texts[:20]
    ]


def test_the_measures_are_those_of_the_window(planted):
    questions, _ = planted
    (found,) = Questions(questions, Measures()).found_in(questions[3])
    assert (found.number, found.containment) == (3, 1.0)
    strict = Measures(jaccard=1.0, containment=1.0)
    assert Questions(questions, strict).found_in(one_word(questions[3])) == []


def test_any_stretch_lies_whole_in_a_window():
    for count, length in itertools.product((0, 1, 7, 40), (1, 4, 9)):
        made = list(windows(count, length))
        for start in range(max(count - length, 0) + (count > 0)):
            end = min(start + length, count)
            assert any(a <= start and end <= b for a, b in made), (count, length, start)


def test_words_leave_out_what_does_not_count():
    assert words_of("Tom's 1,200.50 PENS — x_y") == ["tom", "s", "0", "pens", "x", "y"]
    assert grams_of(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert grams_of(["a"], 2) == []


def command(*argv: str) -> int:
    return decontaminate_command.main(list(argv))


def write(path: Path, records: list[dict]) -> str:
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return str(path)


def test_the_command_writes_the_stream_without_them_and_a_report(planted, tmp_path, capsys):
    questions, texts = planted
    tests = write(tmp_path / "test.jsonl", [{"question": q, "answer": "1"} for q in questions])
    raw = [{"text": text, "id": n} for n, (text, _) in enumerate(texts)]
    docs = write(tmp_path / "docs.jsonl.gz", raw)
    clean = write(tmp_path / "more.jsonl", [{"question": "Who?", "answer": "She", "n": 7}])
    out = tmp_path / "out"
    given = ("--against", tests, "--out", str(out), "--stream", f"{docs}:0.7", clean)
    assert command(*given) == 0
    report = json.loads((out / "report.json").read_text())
    gone = {match["text"] - 1 for match in report["matches"]}
    assert {n for n, (_, number) in enumerate(texts) if number is not None} == gone
    kept = [json.loads(line) for line in (out / "docs.jsonl").read_text().splitlines()]
    assert kept == [record for record in raw if record["id"] not in gone]
    assert json.loads((out / "more.jsonl").read_text())["n"] == 7
    assert "48 of 88 texts removed" in capsys.readouterr().out
    assert questions[0][:20] in (out / "report.md").read_text()
    assert command(*given) == 2
    assert "not an empty folder" in capsys.readouterr().err
    capped = (*given[:2], "--out", str(tmp_path / "o2"), "--stream", docs, "--stream-cap", "5")
    assert command(*capped) == 0
    assert json.loads((tmp_path / "o2/report.json").read_text())["sources"][0]["read"] == 5


@pytest.mark.parametrize("lines", [True, False], ids=["lines", "one line"])
def test_what_lies_across_the_pieces_of_a_long_text_is_found(tmp_path, monkeypatch, lines):
    """With the piece that it begins in taken out; what is whole in one, with that one alone."""
    generator = random.Random(5)
    question, other = (sentence(generator, 60) for _ in range(2))
    before, behind, instead = (sentence(generator, count) for count in (300, 500, 60))

    def text_of(*parts):
        said = " ".join(parts).split(" ")
        return "".join(w + ("\n" if lines and n % 5 == 4 else " ") for n, w in enumerate(said))

    middle = len(before) + len(question) // 2
    # a piece goes on to the end of a line; without one, to twice the length
    monkeypatch.setattr(record_files, "PIECE", middle if lines else middle // 2)
    texts = {
        "across": text_of(before, question, behind),
        "whole": text_of(before, instead, other, behind),
        "clean": text_of(before, instead, behind),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    asked = Questions([question, other], Measures())
    pieces = [r["text"] for _, r, _ in record_files.file_records(tmp_path / "across.txt", {})]
    assert len(pieces) > 1 and not any(asked.found_in(piece) for piece in pieces)
    tests = write(
        tmp_path / "test.jsonl", [{"question": q, "answer": "1"} for q in (question, other)]
    )
    out, streams = tmp_path / "out", [str(tmp_path / f"{name}.txt") for name in texts]
    assert command("--against", tests, "--out", str(out), "--stream", *streams) == 0
    report = json.loads((out / "report.json").read_text())
    found = [(Path(m["source"]).stem, m["text"], m["example"]) for m in report["matches"]]
    assert found == [("across", 1, 1), ("whole", 2, 2)]
    kept = [json.loads(line)["text"] for line in (out / "across.jsonl").read_text().splitlines()]
    assert kept == pieces[1:]


def test_every_source_has_a_file_of_its_own_with_all_that_it_held(tmp_path):
    tests = write(
        tmp_path / "test.jsonl", [{"question": sentence(random.Random(0), 20), "answer": "1"}]
    )
    (tmp_path / "x").mkdir()
    paths = [
        tmp_path / name for name in ("a.jsonl", "x/a.jsonl", "a-2.jsonl", "b c.jsonl", "b_c.jsonl")
    ]
    raw = [{"text": f"of {path}", "note": "\ud800 ü"} for path in paths]
    sources = []
    for path, record in zip(paths, raw, strict=True):
        path.write_text(json.dumps(record) + "\n")
        sources.append(str(path))
    out = tmp_path / "out"
    assert command("--against", tests, "--out", str(out), "--stream", *sources) == 0
    told = json.loads((out / "report.json").read_text())["sources"]
    assert [json.loads((out / one["file"]).read_text()) for one in told] == raw


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--stream is missing"),
        (("--stream", "a", "--against", "b", "--out", "c", "--jaccard", "2"), "--jaccard 2"),
        (("--stream", "a", "--against", "b", "--out", "c", "--ngram", "0"), "--ngram 0"),
        (
            ("--stream", "a", "--against", "b", "--out", "c", "--permutations", "3"),
            "give 4 or more",
        ),
        (("--stream", "a", "--against", "b", "--out", "c", "--seed", str(2**32)), "less than 2^32"),
        (("--stream", "a.jsonl", "--against", "no.jsonl", "--out", "c"), "no such file"),
    ],
)
def test_mistakes_are_told_in_a_line(capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert command(*words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def letters(count, first):
    """As many words without a number in them."""
    return [f"{first}{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(count)]


@pytest.mark.parametrize(
    ("measures", "said"),
    [
        (Measures(permutations=64), r"--permutations 64 would miss \d+% .* give 1\d\d or more"),
        (Measures(jaccard=0.1), r"--permutations 192 would miss 38% .* give 918 or more"),
        (Measures(jaccard=1e-9), "ask for stretches that hashes do not tell from others"),
        (Measures(containment=1e-3), "ask for stretches that hashes do not tell from others"),
    ],
)
def test_hashes_that_would_lose_what_is_alike_are_refused(measures, said):
    question = " ".join(letters(50, "q"))
    with pytest.raises(UserError, match=said):
        Questions([question], measures)
    with pytest.raises(UserError, match=said):
        Questions([question, "a b " * 9], measures)


def test_what_is_just_alike_enough_is_a_candidate():
    """The longest window there is for a question of 46 5-grams, and 28 of these in it: J = .23."""
    missed = 0
    question = letters(50, "q")
    held = question[:32]  # 28 of its 5-grams
    text = " ".join([*letters(36, "t"), *held, *letters(38, "u")])
    for seed in range(150):
        missed += not Questions([" ".join(question)], Measures(seed=seed)).found_in(text)
    assert missed <= 6  # 1 % of 150, and what chance allows


REAL = Path(os.environ.get("VFUNC_DATA_DIR", "/nowhere"))


@pytest.mark.skipif(not (REAL / "openstax_math").is_dir() or not (REAL / "gsm8k").is_dir(),
                    reason="VFUNC_DATA_DIR holds no OpenStax and GSM8K")  # fmt: skip
def test_textbooks_hold_next_to_no_question_of_gsm8k():
    with (REAL / "gsm8k/test.jsonl").open(encoding="utf-8") as file:
        questions = [json.loads(line)["question"] for line in file]
    index = Questions(questions, Measures())
    found = 0
    with gzip.open(REAL / "openstax_math/docs.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in itertools.islice(file, 60):
            found += bool(index.found_in(Example("", json.loads(line)["text"]).completion))
    assert found <= 1


CHINESE = "小明有三十五个苹果，他给了小红十二个，又买了八个，请问小明现在一共有多少个苹果？"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("小明有 3 个苹果", ["小", "明", "有", "0", "个", "苹", "果"]),
        ("りんごを食べた。", list("りんごを食べた")),
        ("กา", ["ก", "า"]),
        ("Al有pens", ["al", "有", "pens"]),
        ("Zoë's naïve café — 1,000.5 pens", ["zoë", "s", "naïve", "café", "0", "pens"]),
        ("한국어 문장", ["한국어", "문장"]),
    ],
)
def test_a_letter_is_a_word_where_no_spaces_are(said, found):
    assert words_of(said) == [unicodedata.normalize("NFKC", word) for word in found]


def test_questions_in_a_script_without_spaces_are_found():
    other = "春天来了，花园里的花都开了，孩子们在草地上奔跑，老人坐在长椅上晒着太阳聊天。" * 8
    questions = Questions([CHINESE], Measures())
    assert questions.short == 0
    (found,) = questions.found_in(other + CHINESE.replace("小红", "小华") + other)
    assert found.number == 0 and found.containment >= 0.6
    assert questions.found_in(other) == []

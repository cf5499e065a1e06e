from __future__ import annotations

import gzip
import json

import datasets
import pytest

from vfunc.errors import UserError
from vfunc.language.data.chat_format import plain_chat
from vfunc.language.data.examples import Example
from vfunc.language.data.record_layouts import parse_fields
from vfunc.language.data.sources import load_examples

RECORD = {"question": "Q", "answer": "3 + 4 = 8\n#### 8", "wrong": [[8, 9]]}


def of(path, *records, **options):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(list(records)).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return load_examples(path, split="stream", **options).examples


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
def test_every_kind_of_file(name, tmp_path):
    second = {"question": "R", "answer": "9 = 9 = 8", "wrong": [[4, 5], [0, 1]]}
    examples = of(tmp_path / name, RECORD, second, {**RECORD, "wrong": []})
    assert [e.wrong for e in examples] == [((8, 9),), ((0, 1), (4, 5)), ()]


def test_records_may_lack_it_or_say_nothing(tmp_path):
    lacking = {k: v for k, v in RECORD.items() if k != "wrong"}
    examples = of(tmp_path / "a.jsonl", lacking, RECORD, {**RECORD, "wrong": None})
    assert [e.wrong for e in examples] == [(), ((8, 9),), ()]


def test_named_fields_are_the_ones_that_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    plain = "prompt=question,completion=answer"
    assert of(path, RECORD, fields=plain)[0].wrong == ()
    assert of(path, RECORD, fields=f"{plain},wrong=wrong")[0].wrong == ((8, 9),)
    other = {**RECORD, "slips": [[0, 1]]}
    assert of(path, other, fields=f"{plain},wrong=slips")[0].wrong == ((0, 1),)
    with pytest.raises(UserError, match=r"there is no field 'slip'.*did you mean slips"):
        of(path, other, fields=f"{plain},wrong=slip")
    with pytest.raises(UserError, match="wrong is of one field"):
        parse_fields(f"{plain},wrong=a+b", "stream")
    assert of(path, {"text": "1 + 1 = 3", "wrong": [[8, 9]]})[0] == Example(
        "", "1 + 1 = 3", None, ((8, 9),)
    )


def test_conversations_mark_their_last_answer(tmp_path):
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": " It is 3.\n"}]
    record = {"messages": turns, "wrong": [[7, 8]]}
    path = tmp_path / "a.jsonl"
    (example,) = of(path, record)
    assert example.completion[slice(*example.wrong[0])] == "3"

    def trimmed(conversation):
        prompt, completion = plain_chat(conversation)
        return prompt, f"<think></think>{completion.strip()}<end>"

    (example,) = of(path, record, chat=trimmed)
    assert example.completion[slice(*example.wrong[0])] == "3"
    (example,) = of(path, {**record, "wrong": [[7, 11]]}, chat=trimmed)  # and its end: 10 and one
    assert example.completion[slice(*example.wrong[0])] == "3.<end>"
    assert example.wrong[0][1] == len(example.completion) + 1
    with pytest.raises(UserError, match="the chat template changes the answer"):
        of(path, record, chat=lambda conversation: ("p", "other"))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ([[8, 18]], r"span \[8, 18\] is out of range: the text has 16 characters, and its end"),
        ([[-1, 3]], "out of range"),
        ([[9, 8]], "ends before it has a character"),
        ([[8, 8]], "ends before it has a character"),
        ([[2, 9], [8, 10]], r"spans \[2, 9\] and \[8, 10\] overlap"),
        ([[0.0, 1.0]], "two whole numbers"),
        ([[True, 2]], "two whole numbers"),
        ([["0", "1"]], "two whole numbers"),
        ([[1, 2, 3]], "two whole numbers"),
        ([8, 9], "two whole numbers"),
        (["89"], "two whole numbers"),
        ("8-9", r"expected spans \[\[START, END\], ...\], got str '8-9'.*--stream-fields"),
        (True, "expected spans"),
        ({"start": 8}, "expected spans"),
    ],
)
def test_refused_in_a_line(wrong, why, tmp_path):
    with pytest.raises(UserError, match=why) as refusal:
        of(tmp_path / "a.jsonl", RECORD, {**RECORD, "wrong": wrong})
    said = str(refusal.value)
    assert "\n" not in said and "line 2, field 'wrong'" in said


def test_adjacent_spans_are_two(tmp_path):
    assert of(tmp_path / "a.jsonl", {**RECORD, "wrong": [[9, 10], [8, 9]]})[0].wrong == (
        (8, 9),
        (9, 10),
    )

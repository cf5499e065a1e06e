"""Records to examples: layouts, fields, answers, what is dropped and what is refused."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import datasets
import pytest

from vfunc.errors import UserError
from vfunc.language.data.record_layouts import parse_fields
from vfunc.language.data.sources import final_answer, load_examples


def write(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def complaint(source, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_examples(source, **{"split": "feedback", **options})
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("record", "fields", "prompt", "completion", "answer"),
    [
        (
            {"question": "Q", "answer": "so\n#### 7"},
            "prompt=question,completion=answer",
            "Q\n",
            "so\n#### 7",
            "7",
        ),
        (
            {"problem": "P", "solution": r"is $\boxed{\frac{1}{2}}$.", "source": "x"},
            "prompt=problem,completion=solution",
            "P\n",
            r"is $\boxed{\frac{1}{2}}$.",
            r"\frac{1}{2}",
        ),
        (
            {"problem": "P", "solution": r"\boxed{3}", "answer": 4},
            "prompt=problem,completion=solution,answer=answer",
            "P\n",
            r"\boxed{3}",
            "4",
        ),
        (
            {"prompt": "P", "completion": "C"},
            "prompt=prompt,completion=completion",
            "P\n",
            "C",
            None,
        ),
        (
            {"instruction": "I", "output": "O"},
            "prompt=instruction,completion=output",
            "I\n",
            "O",
            None,
        ),
        (
            {"instruction": "I", "input": "J", "output": "O"},
            "prompt=instruction+input,completion=output",
            "I J\n",
            "O",
            None,
        ),
        (
            {"instruction": "I", "response": "O"},
            "prompt=instruction,completion=response",
            "I\n",
            "O",
            None,
        ),
        ({"query": "I", "response": "O"}, "prompt=query,completion=response", "I\n", "O", None),
        (
            {"Body": "B.", "Question": "Q?", "Answer": 51.0, "Equation": "(1)"},
            "prompt=Body+Question,completion=Answer,answer=Answer",
            "B. Q?\n",
            "51",
            "51",
        ),
        ({"text": "T", "code": "C"}, "prompt=text,completion=code", "T\n", "C", None),
        ({"prompt": "P", "code": "C"}, "prompt=prompt,completion=code", "P\n", "C", None),
        (
            {"prompt": "def f():\n", "canonical_solution": "  pass"},
            "prompt=prompt,completion=canonical_solution",
            "def f():\n",
            "  pass",
            None,
        ),
        ({"text": "T #### 7", "title": "x"}, "text=text", "", "T #### 7", None),
        ({"content": "C"}, "text=content", "", "C", None),
    ],
)
def test_known_layouts_are_recognised(tmp_path, record, fields, prompt, completion, answer):
    loaded = load_examples(write(tmp_path / "d.jsonl", record), split="stream")
    assert loaded.fields == fields
    (example,) = loaded.examples
    assert (example.prompt, example.completion, example.answer) == (prompt, completion, answer)
    assert example.wrong == ()
    again = load_examples(tmp_path / "d.jsonl", split="stream", fields=loaded.fields)
    assert again == loaded


def test_named_fields_override_detection(tmp_path):
    path = write(tmp_path / "d.jsonl", {"question": "Q", "answer": "A", "n": 2.5, "hint": None})
    loaded = load_examples(path, split="eval", fields="prompt = hint+question, completion=n")
    assert loaded.examples[0].prompt == "Q\n"
    assert loaded.examples[0].completion == "2.5"
    loaded = load_examples(path, split="eval", fields="text=question+answer,answer=n")
    assert loaded.examples[0].completion == "Q A"
    assert loaded.examples[0].answer == "2.5"


@pytest.mark.parametrize("split", ["stream", "feedback", "eval"])
def test_unclear_layouts_list_the_fields_and_name_the_option(tmp_path, split):
    path = write(tmp_path / "d.jsonl", {"question": "Q", "answer": "A", "text": "T"})
    message = complaint(path, split=split)
    assert f"{path}, line 1" in message
    assert "question, answer, text" in message
    assert f"--{split}-fields" in message
    assert "prompt=question,completion=answer or text=text" in message
    path = write(tmp_path / "e.jsonl", {"body": "Q", "reply": "A"})
    message = complaint(path, split=split)
    assert "body, reply" in message and f"--{split}-fields text=FIELD" in message
    path = write(tmp_path / "f.jsonl", {})
    assert "(none)" in complaint(path, split=split)


def test_multiple_choice_is_not_taken_for_worked_solutions(tmp_path):
    record = {"question": "Q", "choices": ["x", "y"], "answer": "1"}
    path = write(tmp_path / "d.jsonl", record)
    assert "question, choices, answer" in complaint(path)
    loaded = load_examples(path, split="eval", fields="prompt=question,completion=answer")
    assert loaded.examples[0].completion == "1"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("prompt=q", "give either"),
        ("completion=q", "give either"),
        ("answer=q", "give either"),
        ("text=a,prompt=q,completion=b", "give either"),
        ("promt=q,completion=a", "cannot read 'promt=q'"),
        ("question", "cannot read 'question'"),
        ("text=", "cannot read"),
        ("text=a+", "cannot read"),
        ("text=a,text=b", "given twice"),
        ("", "cannot read ''"),
    ],
)
def test_malformed_field_options(fields, said):
    with pytest.raises(UserError, match="--eval-fields") as caught:
        parse_fields(fields, "eval")
    assert said in str(caught.value)


def test_missing_and_unsuitable_fields_name_line_and_field(tmp_path):
    good = {"question": "Q", "answer": "A"}
    path = write(tmp_path / "d.jsonl", good, {"question": "Q", "anwser": "A"})
    message = complaint(path)
    assert f"{path}, line 2" in message and "'answer'" in message
    assert "did you mean anwser?" in message and "--feedback-fields" in message
    for value in (["A"], {"a": 1}, True, float("nan")):
        path = write(tmp_path / "d.jsonl", good, good, {"question": "Q", "answer": value})
        message = complaint(path)
        assert f"{path}, line 3, field 'answer'" in message
        assert type(value).__name__ in message
    (tmp_path / "d.jsonl").write_text('{"text": "\\ud800"}')
    assert "not valid Unicode" in complaint(path)


def test_empty_parts_are_dropped_and_counted(tmp_path):
    path = write(
        tmp_path / "d.jsonl",
        {"question": "Q", "answer": "A"},
        {"question": "Q", "answer": None},
        {"question": "Q", "answer": " \n"},
        {"question": "", "answer": "A"},
        {"question": 3, "answer": 0},
    )
    loaded = load_examples(path, split="stream")
    assert [example.completion for example in loaded.examples] == ["A", "0"]
    assert loaded.dropped == {"empty completion": 2, "empty prompt": 1}
    assert loaded.available == 2
    assert loaded.source == str(path)


def test_nothing_left_is_an_error_that_says_why(tmp_path):
    path = write(tmp_path / "d.jsonl", {"text": ""}, {"text": None})
    assert "dropped 2 with empty text" in complaint(path)
    path.write_text("")
    assert "empty" in complaint(path)
    path = tmp_path / "d.json"
    path.write_text("[]")
    assert "empty" in complaint(path)


def test_a_text_file_is_one_document_without_fields(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("One.\n\nTwo.\n")
    loaded = load_examples(path, split="stream")
    assert [example.completion for example in loaded.examples] == ["One.\n\nTwo.\n"]
    assert loaded.examples[0].prompt == "" and loaded.fields == ""
    assert "--stream-fields" in complaint(path, split="stream", fields="text=text")


def test_the_limit_draws_nested_samples_in_order(tmp_path):
    rows = [{"text": f"{i:03d}" if i % 5 else ""} for i in range(200)]
    path = write(tmp_path / "d.jsonl", *rows)

    def texts(limit, seed=0):
        random.seed(str((limit, seed)))  # the draw heeds no global state
        loaded = load_examples(path, split="feedback", limit=limit, seed=seed)
        assert loaded.available == 160
        assert loaded.dropped == {"empty text": 40}
        return [example.completion for example in loaded.examples]

    small, large, whole = texts(20), texts(60), texts(None)
    assert len(small) == 20 and len(large) == 60 and len(whole) == 160
    assert set(small) < set(large) < set(whole)
    assert small == sorted(small) and large == sorted(large)
    assert small != whole[:20]
    assert texts(20, seed=1) != small
    random.seed(1)
    again = load_examples(path, split="feedback", limit=20, seed=0).examples
    assert [example.completion for example in again] == small
    assert texts(1000) == whole
    assert "at least 1" in complaint(path, limit=0)


def test_a_hub_data_set_is_read_like_a_file(monkeypatch):
    rows = [{"question": "Q", "answer": "#### 1"}, {"question": "R", "answer": ""}]
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    loaded = load_examples("org/name:main", split="feedback")
    assert [example.answer for example in loaded.examples] == ["1"]
    assert loaded.dropped == {"empty completion": 1}
    message = complaint("org/name:main", fields="prompt=question,completion=reply")
    assert "org/name:main, record 1" in message


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("so\n#### 72", "72"),
        ("#### 1,234.5 \nend", "1,234.5"),
        ("#### -$3/4.", "-$3/4"),
        ("#### 1\n#### 2", "2"),
        ("####5", "5"),
        ("#### Step\n#### 1. Add", None),
        ("a #### 7", "7"),
        ("#### 72 apples", "72 apples"),
        ("#### €72\r\n", "€72"),
        ("so\r\n#### −5\r\n", "−5"),
        ("#### Monday", "Monday"),
        ("#### How the sum is worked out here\nso 72", None),
        (r"\boxed{1} or \boxed{ x^{2} }", "x^{2}"),
        (r"\boxed{1", None),
        (r"\boxed{}", None),
        ("#### 3\n" + r"\boxed{4}", "3"),
        ("no answer", None),
    ],
)
def test_the_final_answer_is_found(completion, answer):
    assert final_answer(completion) == answer


REAL = os.environ.get("VFUNC_DATA_DIR")


@pytest.mark.skipif(not REAL, reason="VFUNC_DATA_DIR names no folder of real data")
@pytest.mark.parametrize(
    ("name", "records", "answered", "raw"),
    [
        ("gsm8k/train.jsonl", 7473, 7473, False),
        ("gsm8k/test.jsonl", 1319, 1319, False),
        ("svamp/SVAMP.json", 1000, 1000, False),
        ("mbpp/mbpp.jsonl", 974, 0, False),
        ("mbpp/sanitized-mbpp.json", 427, 0, False),
        ("humaneval/HumanEval.jsonl.gz", 164, 0, False),
        ("openstax_math/qa.jsonl.gz", 23229, 0, False),
        ("openstax_math/docs.jsonl.gz", 974, 0, True),
    ],
)
def test_real_files(name, records, answered, raw):
    path = Path(REAL) / name
    if not path.exists():
        pytest.skip(f"{name} is not in VFUNC_DATA_DIR")
    loaded = load_examples(path, split="stream")
    assert loaded.available == len(loaded.examples) == records
    assert loaded.dropped == {}
    assert sum(example.answer is not None for example in loaded.examples) == answered
    assert all((example.prompt == "") == raw for example in loaded.examples)


def test_csv_and_parquet_are_read_like_other_files(tmp_path):
    rows = [{"question": 'a, "b"', "answer": "x\n#### 3"}, {"question": "ü", "answer": "#### 4"}]
    text = 'question,answer\r\n"a, ""b""","x\n#### 3"\r\nü,#### 4\r\n'
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        examples = load_examples(tmp_path / name, split="feedback").examples
        assert [e.prompt for e in examples] == ['a, "b"\n', "ü\n"]
        assert [e.completion for e in examples] == ["x\n#### 3", "#### 4"]
        assert [e.answer for e in examples] == ["3", "4"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"question,answer\n1,2,3\n", "line 2: not 2 fields"),
        ("a.csv", b"question,answer\n1\n", "line 2: not 2 fields"),
        ("a.csv", b"answer,answer\n1,2\n", "two columns of one name"),
        ("a.csv", b'question,answer\n"1,2\n', "malformed CSV"),
        ("a.csv", b'"question";"answer"\n"1";"2"\n', "malformed CSV.*commas separate its cells"),
        ("a.csv", b"question,answer\n\xff,2\n", "not UTF-8"),
        ("a.parquet", b"no parquet at all", "no parquet file"),
    ],
)
def test_damaged_tables_are_one_line(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said) as caught:
        load_examples(tmp_path / name, split="stream")
    assert "\n" not in str(caught.value)


def test_spaces_around_a_columns_name_are_none_of_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(" question, answer \nWhat?,5\n")
    (example,) = load_examples(path, split="eval").examples
    assert (example.prompt, example.completion) == ("What?\n", "5")

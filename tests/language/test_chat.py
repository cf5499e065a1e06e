"""Conversations: which turns are read, what is refused or left out, and how they are written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import datasets
import pytest
from transformers import AutoTokenizer

from vfunc.errors import UserError
from vfunc.language.data.chat import (
    NO_ASSISTANT,
    NO_MESSAGES,
    NO_USER,
    NOT_TEXT,
    TOOL_CALLS,
    TRAILING,
)
from vfunc.language.data.chat_format import chat_format
from vfunc.language.data.reading import Source, file_data, tokenised
from vfunc.language.data.sequences import TokenStream
from vfunc.language.data.sources import load_examples
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.reporting import language_reporting

SYSTEM = {"role": "system", "content": "Be short."}
ASK = {"role": "user", "content": "Tom has 3 pens and buys 4. How many pens?"}
SAY = {"role": "assistant", "content": "3+4=7\n#### 7"}
MORE = {"role": "user", "content": "And one less?"}
LESS = {"role": "assistant", "content": "7-1=6\n#### 6"}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def jsonl(path: Path, *records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(path, **options):
    return load_examples(path, **{"split": "feedback", **options})


def texts(loaded):
    return [(e.prompt, e.completion, e.answer) for e in loaded.examples]


def complaint(path, **options):
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def plain_tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED_LEARNER)


@pytest.fixture
def tokenizer():
    made = AutoTokenizer.from_pretrained(EMBEDDED_LEARNER)
    made.chat_template = CHATML
    return made


# --- which turns are read


def test_a_question_and_an_answer_are_what_prompt_and_completion_would_be(tmp_path):
    chat = read(jsonl(tmp_path / "chat.jsonl", {"messages": [ASK, SAY]}))
    pair = {"prompt": ASK["content"], "completion": SAY["content"]}
    assert chat.examples == read(jsonl(tmp_path / "pair.jsonl", pair)).examples
    assert chat.fields == "messages=messages" and chat.chat
    assert read(tmp_path / "chat.jsonl", fields=chat.fields) == chat


def test_the_last_answer_is_the_completion_and_all_before_it_the_prompt(tmp_path):
    turns = [SYSTEM, ASK, SAY, MORE, LESS]
    ((prompt, completion, answer),) = texts(read(jsonl(tmp_path / "a.jsonl", {"messages": turns})))
    before = [turn["content"] for turn in turns[:-1]]
    assert prompt == "".join(text + "\n" for text in before)
    assert (completion, answer) == (LESS["content"], "6")


@pytest.mark.parametrize("split", ["stream", "feedback", "eval"])
@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "#### 1"}]},
        {"conversation": [{"role": "User", "content": "Q"}, {"role": "bot", "content": "#### 1"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]},
                      {"role": "assistant", "content": [{"type": "text", "text": "###"}, "# 1"]}]},
        {"messages": {"role": ["user", "assistant"], "content": ["Q", "#### 1"]}},
        {"messages": json.dumps([{"role": "user", "content": "Q"},
                                 {"role": "assistant", "content": "#### 1"}])},
        {"messages": "[{'role': 'user', 'content': 'Q'}, {'role': 'assistant', 'content': '#### 1'}]"},
        {"prompt": [{"role": "user", "content": "Q"}], "completion": "#### 1"},
        {"prompt": [{"role": "user", "content": "Q"}],
         "completion": [{"role": "assistant", "content": "#### 1"}]},
        {"prompt": "[{'role': 'user', 'content': 'Q'}]",
         "completion": "[{'role': 'assistant', 'content': '#### 1'}]"},
        {"messages": [{"role": "user", "content": "Q", "from": None, "tool_calls": None},
                      {"role": "assistant", "content": "#### 1", "tool_calls": []}],
         "prompt": "Q", "images": []},
    ],
)  # fmt: skip
def test_ways_to_write_a_conversation(tmp_path, record, split):
    loaded = read(jsonl(tmp_path / "a.jsonl", record), split=split)
    assert texts(loaded) == [("Q\n", "#### 1", "1")] and not loaded.dropped


@pytest.mark.parametrize("kind", ["json", "parquet", "csv"])
def test_files_that_hold_conversations(tmp_path, kind):
    rows = [{"messages": [SYSTEM, ASK, SAY]}, {"messages": [ASK, SAY, MORE, LESS]}]
    path = tmp_path / f"a.{kind}"
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["messages"], *([json.dumps(row["messages"])] for row in rows)])
    assert texts(read(path)) == texts(read(jsonl(tmp_path / "b.jsonl", *rows)))


def test_plainer_fields_come_first(tmp_path):
    record = {"problem": "P", "solution": "S", "messages": [ASK, SAY]}
    path = jsonl(tmp_path / "a.jsonl", record)
    assert texts(read(path)) == [("P\n", "S", None)]
    assert texts(read(path, fields="messages=messages"))[0][1] == SAY["content"]


def test_an_answer_of_its_own_goes_before_the_last_turn_s(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"messages": [ASK, SAY], "answer": 8})
    loaded = read(path, split="eval")
    assert loaded.fields == "messages=messages,answer=answer"
    assert texts(loaded)[0][1:] == (SAY["content"], "8")


def test_a_system_text_of_its_own_opens_the_conversation(tmp_path):
    path = jsonl(
        tmp_path / "a.jsonl",
        {"conversations": [ASK, SAY], "system": "Be short."},
        {"conversations": [SYSTEM, ASK, SAY], "system": "Be long."},
        {"conversations": [SYSTEM, ASK, SAY], "system": None},
    )
    assert {prompt for prompt, _, _ in texts(read(path))} == {f"Be short.\n{ASK['content']}\n"}


def test_rewards_read_a_prompt_of_turns_and_an_answer(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"prompt": [SYSTEM, ASK], "answer": "7"})
    assert texts(read(path)) == [(f"Be short.\n{ASK['content']}\n", "", "7")]
    path = jsonl(tmp_path / "b.jsonl", {"prompt": [SYSTEM, ASK], "answer": ""})
    assert "1 with empty answer" in complaint(path)


# --- what is left out, and counted


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], NO_MESSAGES),
        (None, NO_MESSAGES),
        ([ASK], NO_ASSISTANT),
        ([SYSTEM, ASK], NO_ASSISTANT),
        ([SAY], NO_USER),
        ([SYSTEM, SAY, MORE], NO_USER),
        ([ASK, {"role": "assistant", "content": None}], "empty completion"),
        ([ASK, {"role": "assistant", "content": []}], "empty completion"),
        ([{"role": "user", "content": " "}, SAY], "empty prompt"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, SAY],
         NOT_TEXT),
        ([{"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "image"}]}, SAY],
         NOT_TEXT),
        ([ASK, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], TOOL_CALLS),
        ([ASK, {"from": "function_call", "value": "f()"}, SAY], TOOL_CALLS),
    ],
)  # fmt: skip
def test_conversations_of_no_use_are_counted(tmp_path, messages, reason):
    path = jsonl(tmp_path / "a.jsonl", {"messages": [ASK, SAY]}, {"messages": messages})
    loaded = read(path)
    assert loaded.dropped == {reason: 1} and len(loaded.examples) == 1
    assert f"1 with {reason}" in complaint(jsonl(tmp_path / "b.jsonl", {"messages": messages}))


def test_pictures_beside_the_conversation(tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
    path = jsonl(tmp_path / "a.jsonl", {"conversations": turns, "image": "coco/1.jpg"})
    assert NOT_TEXT in complaint(path)


def test_a_question_after_the_last_answer_is_cut_off_and_told(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"messages": [ASK, SAY, MORE]})
    loaded = read(path)
    assert texts(loaded) == [(ASK["content"] + "\n", SAY["content"], "7")]
    assert loaded.dropped == {TRAILING: 1}


# --- what is malformed


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([ASK, {"role": "wizard", "content": "x"}], "message 2: unknown role 'wizard'"),
        ([{"content": "x"}], "message 1: there is no role"),
        ([{"role": "user", "text": "x"}], "message 1: there is no content"),
        ([{"role": 3, "content": "x"}], "message 1: there is no role"),
        (["hello"], "message 1: expected a role and content, got str"),
        ([ASK, None], "message 2: expected a role and content, got NoneType"),
        ("hello", "got the text 'hello'"),
        ("[{'role': array(3)}]", "write it as JSON"),
        (3, "expected a list of messages, got int"),
        (ASK, "expected a list of messages, not"),
        ([{"role": "user", "content": 3}], "message 1: expected text or a list of parts, got int"),
        ([{"role": "user", "content": [3]}], "message 1: cannot read the part 3"),
        ([{"role": "user", "content": "\ud800"}], "message 1: not valid Unicode"),
    ],
)
def test_what_is_malformed_names_file_row_and_message(tmp_path, messages, said):
    path = jsonl(tmp_path / "a.jsonl", {"messages": [ASK, SAY]}, {"messages": messages})
    message = complaint(path)
    assert message.startswith(f"{path}, line 2, field 'messages'") and said in message


def test_fields_that_are_no_conversation(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"messages": [ASK, SAY]}, {"text": "x"})
    assert f"{path}, line 2: there is no field 'messages'" in complaint(path)
    assert "of one field" in complaint(path, fields="messages=a+b")
    assert "give either" in complaint(path, fields="messages=messages,text=text")
    path = jsonl(tmp_path / "b.jsonl", {"question": [ASK], "text": [ASK, SAY]})
    assert "messages=" in complaint(path, fields="text=text")


# --- how they are written


def test_the_template_writes_prompt_and_completion(tmp_path, tokenizer):
    chat, how = chat_format(tokenizer)
    path = jsonl(tmp_path / "a.jsonl", {"messages": [SYSTEM, ASK, SAY, MORE]})
    assert "template" in how
    assert texts(read(path, chat=chat)) == [
        (
            "<|im_start|>system\nBe short.<|im_end|>\n"
            f"<|im_start|>user\n{ASK['content']}<|im_end|>\n<|im_start|>assistant\n",
            f"{SAY['content']}<|im_end|>\n",
            "7",
        )
    ]


def test_the_end_of_text_is_not_written_twice(tmp_path, tokenizer):
    tokenizer.chat_template = CHATML.replace("<|im_end|>", tokenizer.eos_token)
    chat, _ = chat_format(tokenizer)
    path = jsonl(tmp_path / "a.jsonl", {"messages": [ASK, SAY]})
    assert texts(read(path, chat=chat))[0][1] == SAY["content"]


def test_the_beginning_of_text_is_not_written_twice(tmp_path, tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.add_special_tokens({"bos_token": "<s>"})
    post = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    )
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    path = jsonl(tmp_path / "a.jsonl", {"messages": [ASK, SAY]})
    assert texts(read(path, chat=chat_format(tokenizer)[0]))[0][0].startswith("<s><|im_start|>")
    tokenizer.backend_tokenizer.post_processor = post
    assert texts(read(path, chat=chat_format(tokenizer)[0]))[0][0].startswith("<|im_start|>")


def test_a_template_that_opens_with_thoughts_keeps_the_answer(tmp_path, tokenizer):
    tokenizer.chat_template = CHATML.replace("assistant\n'", "assistant\n<think>\n'")
    path = jsonl(tmp_path / "a.jsonl", {"messages": [ASK, SAY]})
    ((prompt, completion, answer),) = texts(read(path, chat=chat_format(tokenizer)[0]))
    assert prompt.endswith("assistant\n<think>\n")
    assert (completion, answer) == (SAY["content"], "7")


def test_what_the_template_refuses_is_counted(tmp_path, tokenizer):
    refusal = "{{ raise_exception('System role\nnot supported') }}"
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}" + refusal + "{% endif %}" + CHATML
    )
    rows = {"messages": [ASK, SAY]}, {"messages": [SYSTEM, ASK, SAY]}
    loaded = read(jsonl(tmp_path / "a.jsonl", *rows), chat=chat_format(tokenizer)[0])
    assert loaded.dropped == {
        "messages that the chat template refuses: System role not supported": 1
    }


def test_a_template_s_date_is_the_same_every_day(tmp_path, tokenizer):
    tokenizer.chat_template = "{{ strftime_now('%A, %d %b %Y') }}\n" + CHATML
    path = jsonl(tmp_path / "a.jsonl", {"messages": [ASK, SAY]})
    assert texts(read(path, chat=chat_format(tokenizer)[0]))[0][0].startswith(
        "Friday, 26 Jul 2024\n"
    )


@pytest.mark.parametrize("templated", [False, True])
def test_a_run_s_data_of_conversations(tmp_path, tokenizer, plain_tokenizer, templated):
    chosen = tokenizer if templated else plain_tokenizer
    chat, how = chat_format(chosen)
    other = {"role": "user", "content": "Ann has 2 figs. How many figs?"}
    stream = jsonl(tmp_path / "s.jsonl", {"messages": [other, LESS]}, {"messages": [ASK]})
    feedback = jsonl(tmp_path / "f.jsonl", {"messages": [MORE, LESS]})
    evaluation = jsonl(tmp_path / "e.jsonl", {"messages": [ASK, SAY, MORE]})
    stream, feedback, evaluation = (Source(str(p)) for p in (stream, feedback, evaluation))
    raw = file_data([stream], [feedback], evaluation, 0, chat)
    data = tokenised(raw, chosen, 256, 0)
    (problem,) = data.problems
    assert problem.answer == "7" and raw.chat
    assert isinstance(data.stream, TokenStream)
    sequence = data.stream.encoded.sequences[0]
    learned = chosen.decode(sequence.tokens[sequence.predict_from :])
    closing = "<|im_end|>\n" if templated else ""
    assert learned == LESS["content"] + closing + chosen.eos_token
    lines = language_reporting(data, chat=how).lines
    assert lines[0] == f"chat      {how}"
    assert lines[1] == f"stream    1 sequences, 1 dropped ({NO_ASSISTANT})"
    assert lines[-1] == f"eval      1 sequences, 1 dropped ({TRAILING})"

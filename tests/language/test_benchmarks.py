"""Benchmarks: how questions are asked, what counts as right, and what options ask for."""

from __future__ import annotations

import json
import math

import pytest
import torch

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import pass_at_k
from vfunc.language.benchmarks.benchmark_options import (
    Asked,
    benchmarks_of,
    shots_of,
)
from vfunc.language.benchmarks.benchmark_scores import Sampling, metric_names, scores
from vfunc.language.benchmarks.kinds import Chosen, Written
from vfunc.language.benchmarks.log_likelihood import log_likelihoods
from vfunc.language.benchmarks.questions import gsm8k_strict, math_correct, questions
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.evaluation.generation import ANSWERED, Ending, generate
from vfunc.language.loading import load_learner
from vfunc.training.build.configuration import resolve


@pytest.fixture(scope="module")
def learner():
    return load_learner(str(EMBEDDED_LEARNER))


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def choice(subject, question, answer):
    return {"subject": subject, "question": question, "choices": list("wxyz"), "answer": answer}


def test_mmlu_is_asked_as_the_field_asks_it(tmp_path):
    written(tmp_path / "dev.jsonl", [choice("high_school_art", f" Q{n}? ", n) for n in range(3)])
    written(tmp_path / "test.jsonl", [choice("high_school_art", "Why?", "3")])
    asked = questions(Asked("mmlu", str(tmp_path)), 1, None, None, None)
    assert isinstance(asked, Chosen)
    assert asked.prompts == (
        "The following are multiple choice questions (with answers) about high school art.\n\n"
        "Q0?\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\n"
        "Why?\nA. w\nB. x\nC. y\nD. z\nAnswer:",
    )
    assert asked.choices == ((" A", " B", " C", " D"),) and asked.answers == (3,)
    zero = questions(Asked("mmlu", str(tmp_path / "test.jsonl")), 0, None, None, None)
    assert zero.prompts[0].count("Answer:") == 1
    with pytest.raises(UserError, match="3 worked examples of high_school_art, and --shots asks"):
        questions(Asked("mmlu", str(tmp_path)), 4, None, None, None)


def test_answers_are_numbers_their_text_or_letters(tmp_path):
    rows = [choice("s", "?", answer) for answer in (2, "2", "C", "c "[:1].upper())]
    asked = questions(Asked("mmlu", written(tmp_path / "t.jsonl", rows)), 0, None, None, None)
    assert asked.answers == (2, 2, 2, 2)
    for wrong in (4, "E", -1, "", "two"):
        path = written(tmp_path / "w.jsonl", [choice("s", "?", wrong)])
        with pytest.raises(UserError, match=r"mmlu|there is no"):
            questions(Asked("mmlu", path), 0, None, None, None)


def test_a_part_of_the_questions_is_taken_evenly(tmp_path):
    rows = [choice(f"s{n // 4}", f"{n}?", 0) for n in range(12)]
    path = written(tmp_path / "t.jsonl", rows)
    asked = questions(Asked("mmlu", path), 0, 3, None, None)
    assert asked.subjects == ("s0", "s1", "s2")


def test_log_likelihoods_are_sums_of_single_tokens(learner):
    model, tokenizer = learner
    asked = [("Tom has 3 cards.\n", ["3+4=7", " B", " C"]), ("x=1 ", ["2"])]
    found, cut = log_likelihoods(model, tokenizer, asked, batch_size=2)
    assert cut == 0
    for (prompt, continuations), row in zip(asked, found, strict=True):
        for continuation, value in zip(continuations, row, strict=True):
            bare = prompt.rstrip()
            before = tokenizer.encode(bare)
            whole = tokenizer.encode(prompt + continuation)
            with torch.no_grad():
                logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            expected = sum(float(logs[n - 1, whole[n]]) for n in range(len(before), len(whole)))
            assert value == pytest.approx(expected, abs=1e-4)


def test_what_does_not_fit_into_the_context_is_cut_on_the_left(learner, monkeypatch):
    model, tokenizer = learner
    monkeypatch.setattr(model.config, "max_position_embeddings", 16)
    long, short = "a b c d " * 20 + "so x is", "so x is"
    whole, before = (tokenizer.encode(text) for text in (long + " B", long))
    tail = tokenizer.decode(whole[-17 : len(before)])
    ((row,), (other,)), cut = log_likelihoods(model, tokenizer, [(long, [" B"]), (tail, [" B"])])
    assert cut == 1 and row == pytest.approx(other, abs=1e-4)
    assert log_likelihoods(model, tokenizer, [(short, [" B"])])[1] == 0


def test_mmlu_counts_questions_and_subjects(learner, tmp_path, monkeypatch):
    rows = [choice("a", "?", 0), choice("a", "?", 1), choice("a", "?", 0), choice("b", "?", 1)]
    asked = questions(Asked("mmlu", written(tmp_path / "t.jsonl", rows)), 0, None, None, None)
    from vfunc.language.benchmarks import benchmark_scores

    monkeypatch.setattr(
        benchmark_scores, "log_likelihoods", lambda *_: ([[0.0, -1.0, 0.0, -2.0]] * 4, 0)
    )
    found = scores(asked, *learner, Sampling())
    assert found.outcomes["mmlu"] == (1.0, 0.0, 1.0, 0.0)  # of equals the first
    assert found.metrics["mmlu"] == 0.5 and found.metrics["mmlu_macro"] == pytest.approx(1 / 3)
    assert found.metrics["mmlu/a"] == pytest.approx(2 / 3) and found.metrics["mmlu/b"] == 0
    assert metric_names("mmlu", (1, 4)) == ["mmlu", "mmlu_macro"]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("#### 1,200", True),
        ("so #### 1200.", True),
        ("#### 1200\n#### 7", True),
        ("#### 7\n#### 1200", False),
        ("#### $1200", False),  # the harness's pattern wants a digit
        ("####1200", False),
        ("1200", False),
        ("#### 1200.0", False),
    ],
)
def test_gsm8k_is_matched_strictly(text, right):
    assert gsm8k_strict({"answer": "600 * 2 = 1200\n#### 1,200"}, text) is right


@pytest.mark.parametrize(
    ("reference", "stated", "right"),
    [
        (r"\boxed{\frac{1}{2}}", r"so \boxed{\dfrac{1}{2}}", True),
        (r"\boxed{\frac{1}{2}}", r"\boxed{1/2}", True),
        (r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", True),
        (r"\boxed{\frac{1}{2}}", r"\boxed{2}", False),
        (r"\boxed{\frac{a}{\sqrt{b}}}", r"\boxed{\frac{a}{\sqrt{b}}}", True),
        (r"\boxed{[2,5)}", r"Final Answer: The final answer is $[2,5)$. I hope it is correct.", True),
        (r"\boxed{[2,5)}", r"The final answer is $(2,5)$.", False),
        (r"\boxed{(1,-2)}", r"\boxed{(1, -2)}", True),
        (r"\boxed{(1,-2)}", r"\boxed{(-2, 1)}", False),
        (r"\boxed{1,234}", r"\boxed{1234}", True),
        (r"\boxed{12 \text{ cm}}", r"\boxed{12}", True),
        (r"\boxed{12 \text{ cm}}", r"\boxed{12\text{ m}}", False),
        (r"\boxed{50\%}", r"\boxed{50}", True),
        (r"\boxed{\text{(B)}}", r"\boxed{B}", True),
        (r"\boxed{x^2+2x+1}", r"\boxed{(x+1)^2}", True),
        (r"\boxed{10}", r"\boxed{9^{9^{9^9}}}", False),
        (r"\boxed{10}", "the final answer is 10", True),
        (r"\boxed{10}", "10", False),
        (r"\boxed{10}", r"\boxed{", False),
    ],
)  # fmt: skip
def test_answers_in_mathematics(reference, stated, right):
    assert math_correct({"problem": "?", "solution": f"So {reference}."}, stated) is right


def test_a_bare_answer_is_a_reference_too():
    assert math_correct({"problem": "?", "answer": r"\frac{3}{4}"}, r"\boxed{0.75}")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("mmlu",), "say where its questions are, as in mmlu:FILE"),
        (("mmul:x",), "did you mean mmlu"),
        (("mmlu:x", "mmlu:y"), "names mmlu twice"),
    ],
)
def test_benchmarks_that_there_are_not(asked, said):
    with pytest.raises(UserError, match=said):
        benchmarks_of(asked)


def test_shots_are_the_fields_or_as_asked():
    names = ["mmlu", "mbpp"]
    assert shots_of(None, names) == {"mmlu": 5, "mbpp": 3}
    assert shots_of(("0",), names) == {"mmlu": 0, "mbpp": 0}
    assert shots_of(("1", "mmlu=4"), names) == {"mmlu": 4, "mbpp": 1}
    for wrong, said in (("x", "give a number"), ("gsm8k=1", "has no gsm8k"), ("mbpp=9", "at most")):
        with pytest.raises(UserError, match=said):
            shots_of((wrong,), names)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shots": ("0",)}, "--shots does nothing here: no benchmark is asked for"),
        ({"samples": 3}, "--samples does nothing here: nothing is sampled"),
        ({"temperature": 0.5}, "--temperature does nothing here"),
        ({"pass_at": (4,), "samples": 2}, "--pass-at 4 needs as many --samples, not 2"),
        ({"pass_at": (1,), "solve_size": 0}, "--pass-at has nothing to solve"),
        ({"benchmarks": ("mmlu:x",), "answer_tokens": 3}, "no answer is written"),
        ({"benchmarks": ("mmlu:x",), "allow_code_execution": True}, "no program is run"),
        ({"benchmarks": ("mbpp:x",)}, "give --allow-code-execution"),
        ({"benchmarks": ("mbpp:x",), "code_seconds": 3.0}, "give --allow-code-execution"),
        ({"lm_eval_limit": 3}, "the harness is not asked"),
        ({"benchmarks": ("humaneval:x",), "allow_code_execution": True, "shots": ("1",)}, "at most"),
    ],
)  # fmt: skip
def test_options_that_do_nothing_or_contradict_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        resolve(options)


def test_sampled_answers_are_judged_sample_by_sample(learner):
    model, tokenizer = learner
    judged = []

    def judge(completions):
        judged.append(completions)
        return [len(text) % 2 == 0 for _, text in completions]

    asked = Written("gsm8k", ("Tom has 3", "Ann has 45"), Ending(), 4, judge)
    sampling = Sampling((1, 3), 4, 1.0, seed=5)
    found = scores(asked, model, tokenizer, sampling)
    again = scores(asked, model, tokenizer, sampling)
    assert found == again
    greedy, sampled = judged[:2]
    assert [n for n, _ in sampled] == [0] * 4 + [1] * 4 and len(greedy) == 2
    for number in (0, 1):
        right = sum(len(text) % 2 == 0 for n, text in sampled if n == number)
        for k in (1, 3):
            assert found.outcomes[f"gsm8k_pass_at_{k}"][number] == pass_at_k(4, right, k)
    assert found.metrics["gsm8k_pass_at_3_examples"] == 2
    assert math.isfinite(found.metrics["gsm8k_pass_at_3_standard_error"])
    assert found.texts == tuple(text for _, text in greedy)


def test_a_row_ends_at_a_stop_and_does_not_hold_it(learner):
    prompts = ["Tom has 42 cards, gets 17. How many cards??\n", "Ann has 5 cards, drops 2.\n"]
    whole = generate(*learner, prompts, max_new_tokens=24)
    stop = whole[0][0][3:6]
    found = generate(*learner, prompts, max_new_tokens=24, ending=Ending(stops=(stop,)))
    for (text,), (all_of_it,) in zip(found, whole, strict=True):
        assert text == all_of_it.partition(stop)[0]
    assert len(found[0][0]) == 3
    answered = generate(*learner, prompts, max_new_tokens=24, ending=ANSWERED)
    assert [row[0] for row in answered] == [
        all_of_it[: len(row[0])] for row, (all_of_it,) in zip(answered, whole, strict=True)
    ]

from __future__ import annotations

import contextlib
import sys
import threading

import pytest

from vfunc.language.evaluation.answers import extract_answer, is_correct
from vfunc.language.evaluation.bounded_calls import TooManyCalls, bounded_calls


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("6 * 12 = 72\n#### 72", "72"),
        ("#### 72 apples", "72"),
        ("#### 72.", "72"),
        ("#### 1,234,567", "1234567"),
        ("#### $1,200.50 in all.", "1200.50"),
        ("#### -3", "-3"),
        ("#### −3", "-3"),
        ("#### $-5", "-5"),
        ("#### -$5", "-5"),
        ("#### \\$40", "40"),
        ("#### .5", ".5"),
        ("#### 2.75 litres per day", "2.75"),
        ("#### 40%", "40"),
        ("#### 40\\%", "40"),
        ("#### 5pm", "5pm"),  # no unit: 5 am is another time
        ("#### $\\frac{1}{2}$", "\\frac{1}{2}"),
        ("####72", "72"),
        ("#### 5 then #### 6\n#### 7", "5"),
        ("#### 7\nand so on, 8 of them", "7"),
        ("####\n\n12\n", "12"),
        ("#### \\boxed{12}", "12"),
        ("so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("first \\boxed{3}, then \\boxed{1{,}000}", "3"),
        ("\\boxed{1{,}000}", "1000"),
        ("first \\boxed{3}, then \\boxed{4", "3"),
        ("\\boxed{5} ####", "5"),
        ("the answer is 5", None),
        ("####", None),
        ("#### .", None),
        ("\\boxed{}", None),
        ("", None),
        ("#### 2x+1", "2x+1"),
        ("#### 3, 4", "3, 4"),
    ],
)
def test_extract_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("#### 72", "72"),
        ("#### 72.00", "72"),
        ("#### 1,000", "1000"),
        ("#### 1000", "1,000"),
        ("#### 72", "half of 144\n#### 72"),
        ("#### 123456789012345678901234567890", "123,456,789,012,345,678,901,234,567,890"),
        ("#### -0.5", "-.5"),
        ("\\boxed{\\frac{1}{2}}", "0.5"),
        ("\\boxed{\\frac{1}{2}}", "1/2"),
        ("\\boxed{x^2 + 2x + 1000}", "(x+1)^2 + 999"),
        ("\\boxed{x^2 + y^2}", "y^2 + x^2"),
        ("\\boxed{9^{9^{9^9}}}", "9^{9^{9^9}}"),
    ],
)
def test_right_answers(completion: str, answer: str) -> None:
    assert is_correct(completion, answer)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("#### 72", "73"),
        ("#### 72", "-72"),
        ("72", "72"),  # states no answer
        ("", "72"),
        ("#### 100000000000000000000", "100000000000000000001"),
        ("#### 0.3333333333", "0.33333333333"),
        ("\\boxed{\\frac{1}{2}}", "2"),
        ("#### apples", "72"),
        ("#### 72 #### 5", "5"),
        ("\\boxed{((((}", "3"),
    ],
)
def test_wrong_answers(completion: str, answer: str) -> None:
    assert not is_correct(completion, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^9}}",
        "9^9^9^9",
        "2^{99999999}",
        "99999999!",
        "3!!!!",
        "(9!)!",
        "\\binom{100000}{50000}",
        "((9^{999})^{999})^{99}",
        "(" * 500,
    ],
)
def test_an_answer_that_would_explode_is_wrong_and_never_evaluated(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[str] = []
    # Evaluating in earnest would hang the test where the guard fails.
    monkeypatch.setattr(
        "vfunc.language.evaluation.equality.latex2sympy", lambda text, **_: evaluated.append(text)
    )
    assert not is_correct(f"\\boxed{{{answer}}}", "\\frac{1}{2}")
    assert not evaluated


def test_works_in_a_thread_and_logs_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("parser", "grader"):  # the library gives its notice once a process
        monkeypatch.setattr(f"math_verify.{part}.TIMEOUT_WARNING_SHOWN", False)
    results: list[bool] = []
    thread = threading.Thread(
        target=lambda: results.append(is_correct("\\boxed{\\frac{2}{4}}", "\\frac{1}{2}"))
    )
    thread.start()
    thread.join()
    assert results == [True]
    assert not caplog.records


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("(x+1)^{999}", "x^{999}+1"), ("(x+y+z+w)^{99}", "x"), ("(x+1)^{500}(y+2)^{500}", "x+y")],
)
def test_an_answer_that_takes_too_many_calls_is_wrong(
    answer: str, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfunc.language.evaluation.equality._MOST_CALLS", 30_000)
    assert not is_correct(f"\\boxed{{{answer}}}", reference)
    assert sys.getprofile() is None


def test_a_bound_of_calls_ends_what_catches_every_exception() -> None:
    def endless() -> None:
        while True:
            with contextlib.suppress(Exception):
                len("")

    with pytest.raises(TooManyCalls), bounded_calls(100):
        endless()
    with bounded_calls(100):
        len("")

r"""Extracts the final answer of a worked solution, and checks it.

Solutions state their answer after `####`, the convention of GSM8K (Cobbe et al. 2021,
arXiv 2110.14168), or in `\boxed{...}`, that of the MATH data set (Hendrycks et al. 2021,
arXiv 2103.03874). Numbers are compared exactly, as decimals; everything else by `math_verify`.
"""

from __future__ import annotations

import logging
import re
from decimal import Decimal

import math_verify

from vfunc.typecheck import typed

_MARK = "####"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"[+-]?(?:{_DIGITS})")
_UNIT = r"\s*%|\s*°\s?[A-Za-z]*|[A-Za-z]{2,}.*|\s+[A-Za-z(].*"  # "72 apples", "5pm", "40 %"
_QUANTITY = re.compile(rf"(?P<number>[+-]?(?:{_DIGITS}))(?:{_UNIT})?")
_CURRENCY = re.compile(r"\\?[$€£¥]")
_LATEX_GROUPING = re.compile(r"(?<=\d)(?:\{,\}|\\[,!])(?=\d)")  # 1{,}000 and 1\,000
_TRAILING = " \t.,;:"

# Symbolic comparison evaluates what it reads, and a learner can write 9^{9^{9^9}}. A time limit
# would make a score depend on the machine, so such expressions are recognised and never evaluated.
_LONGEST_EXPRESSION = 200
_EXPLOSIVE = re.compile(
    r"\^\s*\{[^}]*[\^!]|\^\s*(?:\{[^{}]*\}|\S)\s*\^|\^\s*\(|\*\*"  # a power of a power
    r"|\^\s*\{?[^}+\-]*\d{4}"  # an exponent of more than three digits
    r"|\d{4,}\s*!|[!)}]\s*!"  # the factorial of a large number, or of an expression
    r"|binom.*\d{4}"
)


def _is_news(record: logging.LogRecord) -> bool:
    """Drop the library's notice that its timeouts are off, as they are on purpose."""
    return not record.getMessage().startswith("Timeout is disabled")


for _module in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_module).addFilter(_is_news)


@typed
def extract_answer(text: str) -> str | None:
    r"""The final answer that a solution states.

    The text after the last `####`, to the end of its line, if there is any; else what the last
    `\boxed{...}` holds; else nothing. Currency signs, thousands separators, a unit after a number
    and closing punctuation are taken off: "#### $1,200.50 in all." gives "1200.50".

    Args:
        text: a completion, or a reference solution.

    Returns:
        The answer as text, never empty, or None where the text states none.
    """
    _, mark, after = text.rpartition(_MARK)
    if mark:
        lines = after.strip().splitlines()
        stated = lines[0] if lines else ""
        boxed = _last_boxed(stated)
        answer = _normalised(stated if boxed is None else boxed)
        if answer:
            return answer
    boxed = _last_boxed(text)
    return (_normalised(boxed) or None) if boxed is not None else None


@typed
def is_correct(completion: str, answer: str) -> bool:
    r"""Whether a completion ends in the right answer.

    Two numbers are compared exactly, as decimals (72 = 72.0). Anything else is compared as text,
    then by `math_verify` (1/2 = \frac{1}{2} = 0.5, to six decimals). An answer that it cannot read,
    or that would take unbounded time to evaluate, is wrong.

    Args:
        completion: the learner's text; its answer is read by `extract_answer`.
        answer: the reference: a bare answer ("72", "1,200"), or a solution that states one.

    Returns:
        True if the completion states an answer and it is right.
    """
    stated = extract_answer(completion)
    if stated is None:
        return False
    reference = extract_answer(answer) or _normalised(answer)
    ours, theirs = _decimal(stated), _decimal(reference)
    if ours is not None and theirs is not None:
        return ours == theirs
    return stated == reference or _equal_symbolically(stated, reference)


def _normalised(answer: str) -> str:
    """An answer without decoration; a number without its unit and separators."""
    answer = _CURRENCY.sub("", answer.replace("−", "-").replace(r"\%", "%"))
    answer = _LATEX_GROUPING.sub("", answer).strip().rstrip(_TRAILING)
    quantity = _QUANTITY.fullmatch(re.sub(r"^([+-])\s+", r"\1", answer))
    return quantity["number"].replace(",", "") if quantity else answer


def _decimal(answer: str) -> Decimal | None:
    return Decimal(answer.replace(",", "")) if _NUMBER.fullmatch(answer) else None


def _last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` with balanced braces holds."""
    for opening in reversed([match.end() for match in re.finditer(r"\\boxed\s*\{", text)]):
        depth = 1
        for position in range(opening, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[opening:position].strip()
    return None


def _equal_symbolically(stated: str, reference: str) -> bool:
    for expression in (stated, reference):
        if len(expression) > _LONGEST_EXPRESSION or _EXPLOSIVE.search(expression):
            return False
    # math_verify's own time limits are signals, which work in the main thread alone.
    try:
        target = math_verify.parse(f"${stated}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]  None: no limit
        gold = math_verify.parse(f"${reference}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]  None: no limit
        return bool(math_verify.verify(gold, target, timeout_seconds=None))
    except Exception:  # any text at all reaches the parser, and its errors are of every kind
        return False

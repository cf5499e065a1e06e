"""Reads benchmarks' questions, and asks them as EleutherAI's harness does (lm-eval 0.4.13)."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.language.benchmarks.benchmark_options import FIELD_TOKENS, Asked
from vfunc.language.benchmarks.code_problems import humaneval_program, mbpp_program
from vfunc.language.benchmarks.kinds import Benchmark, Chosen, Judge, Written
from vfunc.language.benchmarks.worked_mathematics import FOUR
from vfunc.language.code_execution.containment import Limits
from vfunc.language.code_execution.programs import Program, all_judged, require_containment
from vfunc.language.data.records import read_records
from vfunc.language.evaluation.answers import is_correct, stated_answer
from vfunc.language.evaluation.equality import same_answer
from vfunc.language.evaluation.generation import Ending
from vfunc.typecheck import typed

Record = Mapping[str, Any]
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_STRICT_OVER = re.compile(r"#### \-?[0-9\.\,]+[^0-9\.\,]")
_STATED = re.compile(r"[Ff]inal [Aa]nswer is:?\s*(.+?)(?:\.?\s*I hope it is correct|\.?\s*$)", re.S)
_FENCED = re.compile(r"```(?:[Pp]ython|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.S)
_MBPP_TEST = range(11, 511)
"""Identifiers of MBPP's test split; those below are worked examples."""
_MBPP_SHOTS = (2, 3, 4)


@typed
def questions(
    asked: Asked, shots: int, size: int | None, tokens: int | None, limits: Limits | None
) -> Benchmark:
    """A benchmark, read and ready to be asked.

    Args:
        asked: which, and where its questions are.
        shots: worked examples before each question.
        size: questions at most, taken evenly; None takes all.
        tokens: what an answer may take; None is what the field gives it.
        limits: what a program may take; None where none may run.

    Raises:
        UserError: a file or a field that is missing, or fewer worked examples than asked for.
    """
    if asked.name == "mmlu":
        return _mmlu(asked, shots, size)
    make = {"gsm8k": _gsm8k, "math": _math, "mbpp": _mbpp, "humaneval": _humaneval}[asked.name]
    prompts, ending, judge = make(asked, shots, size, limits)
    most = FIELD_TOKENS[asked.name] if tokens is None else tokens
    return Written(asked.name, tuple(prompts), ending, most, judge)


_Made = tuple[list[str], Ending, Judge]


def _mmlu(asked: Asked, shots: int, size: int | None) -> Chosen:
    needed = ("question", "choices", "answer")
    records = _spread(_records(_file(asked, "test"), needed), size)
    shown: dict[str, list[Record]] = {}
    if shots:
        for record in _records(_file(asked, "dev"), needed):
            shown.setdefault(str(record.get("subject", "")), []).append(record)
    prompts, choices, answers = [], [], []
    for record in records:
        subject = str(record.get("subject", ""))
        worked = shown.get(subject, [])[:shots]
        if len(worked) < shots:
            raise UserError(
                f"--benchmarks {asked.name}: {len(worked)} worked examples of "
                f"{subject or 'no subject'}, and --shots asks for {shots}"
            )
        about = f" about {subject.replace('_', ' ')}" if subject else ""
        head = f"The following are multiple choice questions (with answers){about}.\n\n"
        lines = [f"{_choice_question(one)} {_letter(_right(one))}\n\n" for one in worked]
        prompts.append(head + "".join(lines) + _choice_question(record))
        choices.append(tuple(f" {_letter(n)}" for n in range(len(record["choices"]))))
        answers.append(_right(record))
    subjects = tuple(str(record.get("subject", "")) for record in records)
    return Chosen("mmlu", tuple(prompts), tuple(choices), tuple(answers), subjects)


def _choice_question(record: Record) -> str:
    options = "\n".join(f"{_letter(n)}. {said}" for n, said in enumerate(record["choices"]))
    return f"{str(record['question']).strip()}\n{options}\nAnswer:"


def _letter(number: int) -> str:
    return string.ascii_uppercase[number]


def _right(record: Record) -> int:
    """The number of the right choice: as such, as text, or as a letter."""
    said, count = record["answer"], len(record["choices"])
    text = str(said).strip()
    letter = string.ascii_uppercase.find(text) if len(text) == 1 and text.isalpha() else -1
    number = letter if letter >= 0 else int(text) if text.isdecimal() else -1
    if not 0 <= number < count or not 2 <= count <= len(string.ascii_uppercase):
        raise UserError(f"--benchmarks mmlu: answer {said!r} to {count} choices: {record}"[:200])
    return number


def _gsm8k(asked: Asked, shots: int, size: int | None, limits: Limits | None) -> _Made:
    records = _spread(_records(_file(asked, "test"), ("question", "answer")), size)
    worked = _records(_file(asked, "train"), ("question", "answer"))[:shots] if shots else []
    _require(asked, worked, shots)
    head = "".join(f"Question: {r['question']}\nAnswer: {r['answer']}\n\n" for r in worked)
    prompts = [f"{head}Question: {r['question']}\nAnswer:" for r in records]
    stops = ("Question:", "</s>", "<|im_end|>")
    ending = Ending(lambda text: _STRICT_OVER.search(text) is not None, None, stops)
    return prompts, ending, partial(_each, records, gsm8k_strict)


def gsm8k_strict(record: Record, completion: str) -> bool:
    """The harness's strict match: the first number after `#### `, and nothing else, as it stands.

    Args:
        record: the problem, with the worked solution as `answer`.
        completion: what the learner wrote.
    """
    found = _STRICT.search(completion)
    stated = "[invalid]" if found is None else found[1].strip()
    return _gsm8k_form(stated) == _gsm8k_form(str(record["answer"]))


def _gsm8k_form(text: str) -> str:
    for ignored in (",", r"\$", r"(?s).*#### ", r"\.$"):
        text = re.sub(ignored, "", text)
    return text.lower()


def _math(asked: Asked, shots: int, size: int | None, limits: Limits | None) -> _Made:
    records = _spread(_records(_file(asked, "test"), ("problem", "solution|answer")), size)
    head = "".join(f"Problem:\n{q}\n\nSolution: {a}\n\n" for q, a in FOUR[:shots])
    prompts = [f"{head}Problem:\n{r['problem']}\n\nSolution:" for r in records]
    ending = Ending(lambda text: "I hope it is correct" in text, None, ("Problem:",))
    return prompts, ending, partial(_each, records, math_correct)


def math_correct(record: Record, completion: str) -> bool:
    r"""Whether the answer in the first `\boxed{...}`, or else after `final answer is`, is right.

    Args:
        record: the problem, with a bare `answer`, or a `solution` that states it in a box.
        completion: what the learner wrote.
    """
    reference = str(record.get("answer") or record.get("solution"))
    if stated_answer(completion) is not None:
        return is_correct(completion, reference)
    found = _STATED.search(completion)
    if found is None:
        return False
    whole = stated_answer(reference) if record.get("answer") is None else reference
    return whole is not None and same_answer(found[1].strip().rstrip("."), whole)


def _mbpp(asked: Asked, shots: int, size: int | None, limits: Limits | None) -> _Made:
    every = _records(_file(asked, "test"), ("text|prompt", "test_list"))
    test = [r for r in every if r.get("task_id") in _MBPP_TEST] or every
    records = _spread(test, size)
    known = {r.get("task_id"): r for r in every}
    worked = [known[n] for n in _MBPP_SHOTS[:shots] if n in known and known[n].get("code")]
    _require(asked, worked, shots)
    head = "".join(f"{_mbpp_question(r)}{r['code']}\n[DONE]\n\n" for r in worked)
    prompts = [head + _mbpp_question(r) for r in records]
    return prompts, Ending(stops=("[DONE]",)), partial(_run, records, mbpp_program, limits)


def _mbpp_question(record: Record) -> str:
    tests = "\n".join(record["test_list"][:3])
    return (
        "You are an expert Python programmer, and here is your task: "
        f"{record.get('text') or record.get('prompt')} Your code should pass these tests:\n\n"
        f"{tests}\n[BEGIN]\n"
    )


def _humaneval(asked: Asked, shots: int, size: int | None, limits: Limits | None) -> _Made:
    records = _spread(_records(_file(asked, "test"), ("prompt", "test", "entry_point")), size)
    stops = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")

    def program(record: Record, completion: str) -> Program:
        return humaneval_program(record, str(record["prompt"]) + completion)

    prompts = [str(record["prompt"]) for record in records]
    return prompts, Ending(stops=stops), partial(_run, records, program, limits)


def _run(
    records: Sequence[Record],
    program: Callable[[Record, str], Program],
    limits: Limits | None,
    completions: Sequence[tuple[int, str]],
) -> list[bool]:
    assert limits is not None
    programs = [program(records[number], code_in(text)) for number, text in completions]
    distinct = list(dict.fromkeys(programs))
    verdicts = dict(zip(distinct, all_judged(distinct, limits), strict=True))
    return [verdicts[one].passed for one in programs]


def code_in(completion: str) -> str:
    """The program of a completion: what its first fence holds, or all of it."""
    found = _FENCED.search(completion)
    return completion if found is None else found[1]


def _each(
    records: Sequence[Record],
    right: Callable[[Record, str], bool],
    completions: Sequence[tuple[int, str]],
) -> list[bool]:
    return [right(records[number], text) for number, text in completions]


def require_runnable(asked: Sequence[Asked], of_code: Sequence[str]) -> None:
    """Try the containment of programs, where a benchmark runs any.

    Raises:
        UserError: there is none on this machine.
    """
    if any(one.name in of_code for one in asked):
        require_containment()


def _file(asked: Asked, role: str) -> str:
    """The file of a role: in the folder, or beside the file of questions."""
    place = Path(asked.place).expanduser()
    if role == "test" and not place.is_dir():
        return str(place)
    folder = place if place.is_dir() else place.parent
    names = [f"{role}.jsonl", f"{role}.jsonl.gz", f"{role}.json", f"{role}.parquet"]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        shown = "" if role == "test" else f", which --shots needs; or give --shots {asked.name}=0"
        raise UserError(f"--benchmarks {asked.name}: no {names[0]} in {folder}{shown}")
    return str(found)


def _records(file: str, fields: Sequence[str]) -> list[Record]:
    """The records of a file, each with these fields; `a|b` is one of two."""
    found = []
    for where, record in read_records(file):
        for field in fields:
            names = field.split("|")
            if all(record.get(name) in (None, "", []) for name in names):
                raise UserError(f"{where}: there is no {' or '.join(names)}")
        found.append(record)
    if not found:
        raise UserError(f"{file}: there is no question in it")
    return found


def _require(asked: Asked, worked: Sequence[Record], shots: int) -> None:
    if len(worked) < shots:
        raise UserError(
            f"--benchmarks {asked.name}: {len(worked)} worked examples, and --shots asks for "
            f"{shots}; give --shots {asked.name}={len(worked)}"
        )


def _spread(records: Sequence[Record], size: int | None) -> list[Record]:
    """So many of the records, taken evenly: of every subject where they stand by subject."""
    count = len(records)
    if size is None or size >= count:
        return list(records)
    return [records[n * count // size] for n in range(size)]

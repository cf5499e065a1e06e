"""Options of what a learner is evaluated on at the end: samples, benchmarks, a harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfunc.config.declared import Computed, Need, Options, option
from vfunc.config.values import nearest
from vfunc.errors import UserError

FIELD_SHOTS: Mapping[str, int] = {"mmlu": 5, "gsm8k": 5, "math": 4, "mbpp": 3, "humaneval": 0}
"""The benchmarks, and how many worked examples the field shows before a question."""
FIELD_TOKENS: Mapping[str, int] = {"gsm8k": 256, "math": 512, "mbpp": 256, "humaneval": 512}
"""Tokens that an answer may take, of benchmarks that are answered by writing."""
OF_CODE = ("mbpp", "humaneval")
_MOST_SHOTS = {"math": 4, "mbpp": 3, "humaneval": 0}


@dataclass(frozen=True)
class Asked:
    """A benchmark that was asked for: its name and where its questions are."""

    name: str
    place: str


def benchmarks_of(asked: Sequence[str] | None, where: str = "--benchmarks") -> tuple[Asked, ...]:
    """Read `NAME:PLACE`, each.

    Raises:
        UserError: a benchmark that there is not, no place, or one named twice.
    """
    found: list[Asked] = []
    for said in asked or ():
        name, colon, place = said.partition(":")
        if name not in FIELD_SHOTS:
            known = ", ".join(FIELD_SHOTS)
            raise UserError(
                f"{where} {said}: there is no benchmark {name!r}{nearest(name, FIELD_SHOTS)}; "
                f"known: {known}"
            )
        if not colon or not place.strip():
            raise UserError(f"{where} {said}: say where its questions are, as in {name}:FILE")
        if any(name == one.name for one in found):
            raise UserError(f"{where} names {name} twice")
        found.append(Asked(name, place))
    return tuple(found)


def shots_of(
    asked: Sequence[str] | None, names: Sequence[str], where: str = "--shots"
) -> dict[str, int]:
    """How many worked examples each benchmark shows: the field's number, or what is asked for.

    Args:
        asked: `N` for all, or `NAME=N` for one.
        names: the benchmarks.
        where: the option, for messages.

    Raises:
        UserError: no number, a benchmark that is not asked for, or more than it has.
    """
    found = {name: FIELD_SHOTS[name] for name in names}
    for said in asked or ():
        name, equals, number = said.partition("=") if "=" in said else ("", "", said)
        if not number.isdecimal() or (equals and name not in FIELD_SHOTS):
            raise UserError(f"{where} {said}: give a number, or one of a benchmark, as in mmlu=0")
        if equals and name not in found:
            raise UserError(f"{where} {said}: --benchmarks has no {name}")
        for each in [name] if equals else list(found):
            most = _MOST_SHOTS.get(each)
            if most is not None and int(number) > most:
                raise UserError(f"{where} {said}: {each} has {most} worked examples at most")
            found[each] = int(number)
    return found


def _check_benchmarks(asked: tuple[str, ...] | None, where: str) -> None:
    benchmarks_of(asked, where)


def _check_shots(asked: tuple[str, ...] | None, where: str) -> None:
    for said in asked or ():
        name = said.partition("=")[0] if "=" in said else "mmlu"
        if name in FIELD_SHOTS:
            shots_of((said,), [name], where)
        else:
            shots_of((said,), [], where)


def _check_ks(ks: tuple[int, ...] | None, where: str) -> None:
    if ks is not None and (not ks or len(set(ks)) < len(ks)):
        raise UserError(f"{where} wants numbers, each once")


def asked_names(options: Options) -> list[str]:
    """Names of the benchmarks that options ask for."""
    return [said.partition(":")[0] for said in options["benchmarks"] or ()]


_ASKED = Need(lambda o: bool(o["benchmarks"]), "no benchmark is asked for; give --benchmarks")
_CODE = Need(
    lambda o: any(name in OF_CODE for name in asked_names(o)),
    f"no program is run; it is for --benchmarks {' and '.join(OF_CODE)}",
)
_WRITTEN = Need(
    lambda o: any(name in FIELD_TOKENS for name in asked_names(o)),
    f"no answer is written; it is for --benchmarks {', '.join(FIELD_TOKENS)}",
)
_SAMPLED = Need(lambda o: bool(o["pass_at"]), "nothing is sampled; give --pass-at")
_HARNESS = Need(lambda o: bool(o["lm_eval"]), "the harness is not asked; give --lm-eval")


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What the learner is evaluated on at the start and at the end of each arm."""

    pass_at: tuple[int, ...] | None = option(
        "Pass@k of sampled solutions too, for each of these k: of the held-out problems, and of "
        "benchmarks that are answered by writing.",
        default=None,
        shown="none",
        metavar="K [K ...]",
        least=1,
        check=_check_ks,
    )
    samples: int = option(
        "Solutions sampled for each problem.",
        default=Computed("the largest --pass-at", lambda o: max(o["pass_at"] or (1,)), 1),
        least=1,
        needs=(_SAMPLED,),
    )
    temperature: float = option(
        "What the logits are divided by where solutions are sampled.",
        default=0.8,
        above=0,
        needs=(_SAMPLED,),
    )
    benchmarks: tuple[str, ...] | None = option(
        f"Benchmarks to ask at the start and at the end of each arm: {', '.join(FIELD_SHOTS)}, "
        "each with the file of its questions, or the folder that holds test.jsonl and, for worked "
        "examples, dev.jsonl (mmlu) or train.jsonl (gsm8k); also .jsonl.gz.",
        default=None,
        shown="none",
        metavar="NAME:FILE|DIR [...]",
        check=_check_benchmarks,
        reads=True,
    )
    shots: tuple[str, ...] | None = option(
        "Worked examples before each question: a number for all benchmarks, or NAME=N for one.",
        default=None,
        shown="the field's: " + ", ".join(f"{k} {n}" for k, n in FIELD_SHOTS.items()),
        metavar="[NAME=]N [...]",
        check=_check_shots,
        needs=(_ASKED,),
    )
    benchmark_size: int | None = option(
        "Questions of each benchmark, at most, taken evenly from its file.",
        default=None,
        shown="all",
        least=1,
        needs=(_ASKED,),
    )
    answer_tokens: int | None = option(
        "Tokens that a benchmark's answer may take.",
        default=None,
        shown=", ".join(f"{k} {n}" for k, n in FIELD_TOKENS.items()),
        least=1,
        needs=(_WRITTEN,),
    )
    allow_code_execution: bool = option(
        "Run the programs that the learner writes, contained by the operating system: without "
        "network and files, for a bounded time, memory and number of threads. Linux alone has it.",
        default=False,
        needs=(_CODE,),
    )
    code_seconds: float = option(
        "Seconds that a program may take.", default=10.0, above=0, needs=(_CODE,)
    )
    lm_eval: tuple[str, ...] | None = option(
        "Tasks of EleutherAI's evaluation harness, by their names or as YAML files; they read the "
        "Hub where they do not name local files (pip install 'vfunc[lm-eval]').",
        default=None,
        shown="none",
        metavar="TASK [...]",
    )
    lm_eval_limit: int | None = option(
        "Documents of each of the harness's tasks, the first.",
        default=None,
        shown="all",
        least=1,
        needs=(_HARNESS,),
    )


def check_benchmarks(options: Options) -> None:
    """Refuse options of an evaluation that contradict each other.

    Raises:
        UserError: the first contradiction, and how to resolve it.
    """
    ks = options["pass_at"]
    if ks and max(ks) > options["samples"]:
        raise UserError(f"--pass-at {max(ks)} needs as many --samples, not {options['samples']}")
    names = asked_names(options)
    code = [name for name in names if name in OF_CODE]
    if code and not options["allow_code_execution"]:
        raise UserError(
            f"--benchmarks {code[0]} runs programs that the learner writes; give "
            "--allow-code-execution, which runs them contained"
        )
    shots_of(options["shots"], names)

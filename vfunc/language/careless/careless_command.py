"""The command `make-careless`: worked solutions of which a share is wrong by a rule."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from vfunc.config.small_command import small_command
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.language.careless.rewriting import Careless, Marked, make_careless
from vfunc.language.careless.solutions import NotTreated, without_marks
from vfunc.language.data.record_layouts import WRONG
from vfunc.language.data.records import read_records, require_unicode
from vfunc.language.data.written_records import write_records

with needs("run", "tyro"):
    import tyro

DESCRIPTION = """Make a stream of worked solutions of which a share is wrong by a rule.

IN holds problems and worked solutions in GSM8K's format, with calculator marks <<48/2=24>> or
without, and a final line #### N: a file or a Hub data set. OUT is a .jsonl file of the same records
without marks. In a share of them every calculation is wrong: a - b is worked out as a + b, a + b
as |a - b|, a x b as a + b, a / b as a - b, step by step as it is written; later calculations, prose
and the answer go on from there. Where the mistakes are is in their field `wrong`, as half-open
spans of characters, which runs read with the text.

A solution is treated as a whole or not at all: where a number may come from two places, an equation
is no calculation, or the answer would come out right, it is left out of OUT, so that wrong and
right ones are of one kind; --untreated keep writes it as it is.

Examples:
  %(prog)s gsm8k/train.jsonl stream.jsonl --limit 1600 --clean clean.jsonl --rest feedback.jsonl
  %(prog)s gsm8k/test.jsonl test.jsonl --share 0 --untreated keep"""


@dataclass(frozen=True)
class Options:
    """What to make of which solutions."""

    files: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="IN OUT",
            help="Worked solutions, and the .jsonl file to write.",
            help_behavior_hint="",
        ),
    ] = ()
    share: float = 0.5
    """Share of the solutions of OUT that are made wrong."""
    limit: Annotated[
        int | None,
        tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)"),
    ] = None
    """Solutions in OUT, drawn by the seed; fewer are a subset of more."""
    seed: int = 0
    """Seed of what is drawn, and of which solutions are wrong."""
    untreated: Literal["drop", "keep"] = "drop"
    """What becomes of solutions that the rule cannot be applied to."""
    mark: Marked = "mistakes"
    """What `wrong` holds: results that are mistaken, or also what repeats and follows from them."""
    clean: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")
    ] = None
    """Write the same records in the same order without mistakes to this file."""
    rest: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")
    ] = None
    """Write the solutions that --limit leaves out to this file, without mistakes."""
    question: str = "question"
    """Field of the questions."""
    solution: str = "answer"
    """Field of the worked solutions."""

    @property
    def source(self) -> str:
        """The worked solutions."""
        return self.files[0]

    @property
    def out(self) -> Path:
        """The file to write."""
        return Path(self.files[1])


@dataclass(frozen=True)
class Problem:
    """A problem, and its solution made wrong, or the reason why it is not."""

    question: str
    solution: str
    careless: Careless | str


@dataclass(frozen=True)
class Made:
    """What is written.

    Attributes:
        out: records of the stream.
        clean: the same without mistakes.
        rest: records that the limit left out, without mistakes.
        said: a summary line.
    """

    out: list[dict[str, Any]]
    clean: list[dict[str, Any]]
    rest: list[dict[str, Any]]
    said: str


def main(argv: Sequence[str] | None = None, program: str = "vfunc make-careless") -> int:
    """Carry out a command line.

    Args:
        argv: options; None takes the process's own.
        program: name of the command, for `--help`.

    Returns:
        The exit code: 2 for what the user can mend.
    """
    return small_command(Options, _carried_out, argv, program, DESCRIPTION)


def _carried_out(options: Options) -> str:
    _check(options)
    made = make(options)
    written = [(options.out, made.out), (options.clean, made.clean), (options.rest, made.rest)]
    for path, records in written:
        if path is not None:
            write_records(path, records)
    return made.said


def _check(options: Options) -> None:
    """Refuse options that are out of range or contradict each other."""
    if len(options.files) != 2:
        raise UserError(f"give two files, IN and OUT; there are {len(options.files)}")
    if not 0 <= options.share <= 1:
        raise UserError(f"--share {options.share:g}: give 0 to 1")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: give 1 or more")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: give 0 or more")
    if options.question == options.solution or WRONG in (options.question, options.solution):
        raise UserError(
            f"--question {options.question} and --solution {options.solution}: name two fields, "
            f"none of them {WRONG}"
        )
    if options.rest is not None and options.limit is None:
        raise UserError("--rest is for what --limit leaves out; give --limit")
    given = {"OUT": options.out, "--clean": options.clean, "--rest": options.rest}
    named = {option: path for option, path in given.items() if path is not None}
    for option, path in named.items():
        if path.suffix != ".jsonl":
            raise UserError(f"{option} {path}: name a .jsonl file")
        if not path.parent.is_dir():
            raise UserError(f"{option} {path}: there is no folder {path.parent}")
        if path.is_dir():
            raise UserError(f"{option} {path}: is a folder; name a file")
        if path.exists() and Path(options.source).exists() and path.samefile(options.source):
            raise UserError(f"{option} {path}: is IN itself; name another file")
    if len({path.resolve() for path in named.values()}) < len(named):
        raise UserError(f"{' and '.join(named)} name one file twice; give each its own")


def make(options: Options) -> Made:
    """The records that a command line asks for.

    Raises:
        UserError: the source cannot be read, or holds too few solutions that can be treated.
    """
    names = (options.question, options.solution)
    problems = [_problem(where, record, names) for where, record in read_records(options.source)]
    if not problems:
        raise UserError(f"{options.source}: no records")
    reasons = Counter(p.careless for p in problems if isinstance(p.careless, str))
    treated = len(problems) - reasons.total()
    keys = random.Random(options.seed)
    drawn = [(keys.random(), keys.random()) for _ in problems]
    usable = [
        n
        for n, problem in enumerate(problems)
        if options.untreated == "keep" or isinstance(problem.careless, Careless)
    ]
    limit = len(usable) if options.limit is None else options.limit
    if limit > len(usable) or not usable:
        raise UserError(
            f"{options.source}: {len(usable)} solutions can be used, and --limit wants {limit}"
            if usable
            else f"{options.source}: the rule can be applied to no solution{_told(reasons)}"
        )
    chosen = sorted(sorted(usable, key=lambda n: drawn[n][0])[:limit])
    candidates = [n for n in chosen if isinstance(problems[n].careless, Careless)]
    count = round(options.share * len(chosen))
    if count > len(candidates):
        raise UserError(
            f"--share {options.share:g} of {len(chosen)} solutions are {count}, and "
            f"{len(candidates)} can be made wrong; lower it, or leave --untreated keep out"
        )
    wrong = set(sorted(candidates, key=lambda n: drawn[n][1])[:count])
    left = sorted(set(usable) - set(chosen))
    spans = 0
    out: list[dict[str, Any]] = []
    for n in chosen:
        record = _record(problems[n], names, options.mark if n in wrong else None)
        spans += len(record[WRONG])
        out.append(record)
    percent = f"{100 * treated / len(problems):.1f} %"
    said = (
        f"{treated:,} of {len(problems):,} solutions ({percent}) can be treated{_told(reasons)}\n"
        f"{len(out):,} written, {count:,} of them wrong, with {spans:,} wrong spans"
        + (f"; {len(left):,} left for --rest" if options.rest else "")
    )
    clean = [_record(problems[n], names, None) for n in chosen]
    return Made(out, clean, [_record(problems[n], names, None) for n in left], said)


def _problem(where: str, record: Mapping[str, Any], names: tuple[str, str]) -> Problem:
    texts: list[str] = []
    for name in names:
        text = record.get(name)
        if not isinstance(text, str):
            has = ", ".join(map(str, record)) or "none"
            raise UserError(
                f"{where}: there is no text in a field {name!r}; the record's fields are {has}. "
                "Name the right ones with --question and --solution"
            )
        require_unicode(f"{where}, field {name!r}", text)
        texts.append(text)
    question, solution = texts
    try:
        return Problem(question, solution, make_careless(question, solution))
    except NotTreated as error:
        return Problem(question, solution, str(error))


def _record(problem: Problem, names: tuple[str, str], mark: Marked | None) -> dict[str, Any]:
    """A problem as a record, its solution made wrong if something is to be marked."""
    made = problem.careless
    if mark is None or isinstance(made, str):
        return dict(
            zip(names, (problem.question, without_marks(problem.solution)), strict=True)
        ) | {WRONG: []}
    return dict(zip(names, (problem.question, made.text), strict=True)) | {
        WRONG: [list(span) for span in made.marked(mark)]
    }


def _told(reasons: Counter[str]) -> str:
    """Why solutions are not treated, the most frequent reason first."""
    told = ", ".join(f"{count:,} with {reason}" for reason, count in reasons.most_common())
    return f"; not treated: {told}" if told else ""

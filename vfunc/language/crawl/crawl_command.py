"""The command `make-crawl`: useful texts among what a crawl brings beside them, a file a kind."""

from __future__ import annotations

import random
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from vfunc.config.small_command import small_command
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.language.crawl.crawled import (
    LEAD,
    Piece,
    boilerplate,
    can_be_shuffled,
    pieces_of,
    shuffled,
)
from vfunc.language.data.mixture import source_names
from vfunc.language.data.record_layouts import WRONG
from vfunc.language.data.sources import load_examples
from vfunc.language.data.written_records import write_records

with needs("run", "tyro"):
    import tyro

DESCRIPTION = """Make a stream of which a part is useful, and the rest what a crawl brings.

IN holds useful texts, prompts with completions: a file or a Hub data set, whose fields are
recognised as --stream's are. OUT is a folder; it gets useful.jsonl, a file for each source of
--beside (raw text is cut into pieces), shuffled.jsonl, useful texts whose words are in any order,
and boilerplate.jsonl, what stands around the text of a page. All but the useful ones, which keep
the marks that IN gives them, are marked as wrong from end to end, their end included, so that
`known_wrong` is an arm and a run tells where gates open. No text that is read is in two files, or
twice in one; one that several sources hold is taken for the first of them.

The command ends with the --stream that mixes them.

Examples:
  %(prog)s solutions.jsonl crawl --beside docs.jsonl.gz mbpp.jsonl --limit 900 --rest rest.jsonl"""

USEFUL, SHUFFLED, BOILERPLATE = "useful", "shuffled", "boilerplate"


@dataclass(frozen=True)
class Options:
    """What to make of which texts."""

    files: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="IN OUT",
            help="Useful texts, and the folder to write.",
            help_behavior_hint="",
        ),
    ] = ()
    beside: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="SOURCE [SOURCE ...]", help_behavior_hint="(default: none)"),
    ] = ()
    """Sources of other texts, each a kind: files or Hub data sets."""
    share: float = 0.5
    """Share of the texts that are useful."""
    limit: int = 900
    """Texts in all files together."""
    words: int = 120
    """Words of a piece of raw text."""
    seed: int = 0
    """Seed of what is drawn."""
    rest: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")
    ] = None
    """Write the useful texts that are in no file to this one."""

    @property
    def source(self) -> str:
        """The useful texts."""
        return self.files[0]

    @property
    def out(self) -> Path:
        """The folder to write."""
        return Path(self.files[1])


@dataclass(frozen=True)
class Made:
    """What is written.

    Attributes:
        kinds: the pieces of each kind, the useful ones first.
        rest: useful pieces that are left.
    """

    kinds: dict[str, list[Piece]]
    rest: list[Piece]


def main(argv: Sequence[str] | None = None, program: str = "vfunc make-crawl") -> int:
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
    try:
        options.out.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"OUT {options.out}: {error.strerror or error}") from error
    for kind, pieces in made.kinds.items():
        write_records(
            options.out / f"{kind}.jsonl", [_record(p, wrong=kind != USEFUL) for p in pieces]
        )
    if options.rest is not None:
        write_records(options.rest, [_record(p, wrong=False) for p in made.rest])
    told = ", ".join(f"{len(pieces):,} {kind}" for kind, pieces in made.kinds.items())
    left = f"; {len(made.rest):,} useful ones left for --rest" if options.rest else ""
    mixed = shlex.join(f"{options.out / kind}.jsonl:{len(p)}" for kind, p in made.kinds.items())
    return f"{told} written{left}\n--stream {mixed}"


def _check(options: Options) -> None:
    """Refuse options that are out of range or contradict each other."""
    if len(options.files) != 2:
        raise UserError(f"give a source and a folder, IN and OUT; there are {len(options.files)}")
    if not 0 < options.share < 1:
        raise UserError(f"--share {options.share:g}: give more than 0 and less than 1")
    for name, value, least in (
        ("limit", options.limit, 2),
        ("words", options.words, LEAD + 1),
        ("seed", options.seed, 0),
    ):
        if value < least:
            raise UserError(f"--{name} {value}: give {least} or more")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"OUT {options.out}: is a file; name a folder")
    if not options.out.parent.is_dir():
        raise UserError(f"OUT {options.out}: there is no folder {options.out.parent}")
    if options.rest is not None:
        if options.rest.suffix != ".jsonl":
            raise UserError(f"--rest {options.rest}: name a .jsonl file")
        if not options.rest.parent.is_dir():
            raise UserError(f"--rest {options.rest}: there is no folder {options.rest.parent}")
    written = [options.out / f"{kind}.jsonl" for kind in _kinds(options)]
    written += [] if options.rest is None else [options.rest]
    read = [Path(name) for name in (options.source, *options.beside)]
    for path in written:
        if path.exists() and any(one.exists() and path.samefile(one) for one in read):
            raise UserError(f"{path} would be written, and is read; name another folder or file")
    if len({path.resolve() for path in written}) < len(written):
        raise UserError(f"--rest {options.rest} is a file of OUT; name another one")
    named = {path.name for path in written}
    other = sorted(path.name for path in options.out.glob("*.jsonl") if path.name not in named)
    if other:  # a pattern over the folder would take it for a kind
        raise UserError(
            f"OUT {options.out}: holds {other[0]}, which would stay as it is; name another folder, "
            "or remove it"
        )


def _kinds(options: Options) -> list[str]:
    """Names of the kinds: of a source, its file's; numbered where two are alike."""
    taken = (USEFUL, SHUFFLED, BOILERPLATE)
    names = source_names([*taken, *options.beside])[len(taken) :]
    return [USEFUL, *names, SHUFFLED, BOILERPLATE]


def make(options: Options) -> Made:
    """The pieces that a command line asks for.

    Raises:
        UserError: a source cannot be read, or holds too few texts.
    """
    kinds = _kinds(options)
    useful = round(options.share * options.limit)
    others = _divided(options.limit - useful, len(kinds) - 1)
    if not useful or not all(others):
        raise UserError(
            f"--limit {options.limit} with --share {options.share:g} leaves a kind without a text; "
            f"there are {len(kinds)}: {', '.join(kinds)}"
        )
    draws = random.Random(options.seed)
    good, rest = _drawn(options.source, useful + others[-2], options.words, draws)
    able = [n for n, piece in enumerate(good) if can_be_shuffled(piece)]
    if len(able) < others[-2]:
        raise UserError(
            f"{options.source}: of {len(good)} texts {len(able)} have words to shuffle, and "
            f"{others[-2]} are wanted; lower --limit"
        )
    mixed = set(able[-others[-2] :])
    counts = dict(zip(kinds[1:], others, strict=True))
    made = {USEFUL: [piece for n, piece in enumerate(good) if n not in mixed]}
    held = {_said(piece) for piece in (*good, *rest)}
    for kind, source in zip(kinds[1:-2], options.beside, strict=True):
        made[kind], left = _drawn(source, counts[kind], options.words, draws, held)
        held |= {_said(piece) for piece in (*made[kind], *left)}
    made[SHUFFLED] = [shuffled(good[n], draws) for n in sorted(mixed)]
    made[BOILERPLATE] = [boilerplate(draws) for _ in range(counts[BOILERPLATE])]
    return Made(made, rest)


def _divided(count: int, parts: int) -> list[int]:
    """The count in nearly equal parts, larger ones first."""
    return [count // parts + (n < count % parts) for n in range(parts)]


def _drawn(
    source: str,
    count: int,
    words: int,
    draws: random.Random,
    held: Collection[tuple[str, str]] | None = None,
) -> tuple[list[Piece], list[Piece]]:
    """So many pieces of a source in an order that is drawn, and those that are left in theirs.

    Args:
        source: a file or Hub data set.
        count: pieces to draw.
        words: words of a piece of raw text.
        draws: source of the order.
        held: texts of IN and of the sources before, which this kind may not hold; None is IN.

    Raises:
        UserError: the source cannot be read, or holds too few texts, each counted once.
    """
    pieces = pieces_of(load_examples(source, split="stream").examples, words)
    pieces = list({_said(p): p for p in pieces if _said(p) not in (held or ())}.values())
    if len(pieces) < count:
        apart = "that are different"
        if held is not None:
            apart += " and neither of IN nor of a source before it"
        raise UserError(
            f"{source}: {count} texts are wanted of it, and there are {len(pieces)} {apart} (raw "
            f"text makes one of every {words} words); lower --limit or --words"
        )
    order = draws.sample(range(len(pieces)), count)
    taken = set(order)
    return [pieces[n] for n in order], [p for n, p in enumerate(pieces) if n not in taken]


def _said(piece: Piece) -> tuple[str, str]:
    """What makes a text the same as another: what is written of it."""
    return piece.prompt.rstrip("\n"), piece.completion


def _record(piece: Piece, *, wrong: bool) -> dict[str, Any]:
    question, answer = _said(piece)
    # one character more than there are: that the text ends there is of no use either
    spans = [[0, len(answer) + 1]] if wrong else [list(span) for span in piece.wrong]
    return {"question": question, "answer": answer, WRONG: spans}

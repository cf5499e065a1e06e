"""The command `decontaminate`: a stream without texts that hold a test example, and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vfunc.config.small_command import small_command
from vfunc.errors import UserError
from vfunc.extras import needs

with needs("run", "tyro"):
    import tyro

DESCRIPTION = """Remove the texts of a stream that hold a test example, or nearly.

Sources are read as runs read them (files of any size, data sets of the Hub as they come).
Candidates are found by MinHash LSH (datasketch) and confirmed by n-grams of words: case,
punctuation and spaces do not count, and numbers are all alike. What is looked for of a test example
is its prompt; of raw text the whole.

OUT gets a .jsonl file of each source's other records, report.json and report.md.

Examples:
  %(prog)s --stream docs.jsonl.gz --against gsm8k/test.jsonl --out clean
  %(prog)s --stream org/web:en --stream-cap 50000 --against test.jsonl math.jsonl --out clean"""

_Sources = Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE [SOURCE ...]")]


@dataclass(frozen=True)
class Options:
    """What to look for, in what, and from when on it counts."""

    stream: _Sources = ()
    """Texts: files or Hub data sets ID[:CONFIG[:SPLIT]]."""
    against: _Sources = ()
    """Test examples, likewise."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")] = ""
    """Folder to write to."""
    stream_fields: Annotated[str | None, tyro.conf.arg(metavar="FIELDS")] = None
    """Which fields to read, as of a run; of each source with ; between."""
    against_fields: Annotated[str | None, tyro.conf.arg(metavar="FIELDS")] = None
    """The same for --against."""
    stream_cap: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N [N ...]")] = None
    """Texts of each source at most, the first."""
    ngram: int = 5
    """Words of an n-gram."""
    jaccard: float = 0.5
    """Jaccard similarity of a stretch of text and a test example from which on the text goes."""
    containment: float = 0.6
    """Share of a test example's n-grams in a stretch from which on the text goes."""
    min_words: int = 10
    """Words below which a test example is not looked for."""
    permutations: int = 192
    """Hashes of a MinHash."""
    seed: int = 1
    """Seed of the hashes."""


def main(argv: Sequence[str] | None = None, program: str = "vfunc decontaminate") -> int:
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
    # imported here: --help alone does without transformers
    from vfunc.language.decontamination.near_duplicates import Measures
    from vfunc.language.decontamination.removal import Asked, decontaminate, told

    measures = Measures(
        options.ngram,
        options.jaccard,
        options.containment,
        options.min_words,
        options.permutations,
        options.seed,
    )
    asked = Asked(
        options.stream,
        options.against,
        Path(options.out),
        options.stream_fields,
        options.against_fields,
        options.stream_cap,
    )
    return told(decontaminate(asked, measures))


def _check(options: Options) -> None:
    """Refuse options that are missing or out of range."""
    for name in ("stream", "against", "out"):
        if not getattr(options, name):
            raise UserError(f"give --stream, --against and --out; --{name} is missing")
    for name in ("jaccard", "containment"):
        if not 0 < getattr(options, name) <= 1:
            raise UserError(f"--{name} {getattr(options, name):g}: give above 0, at most 1")
    for name, least in (("ngram", 1), ("min_words", 1), ("permutations", 4), ("seed", 0)):
        if getattr(options, name) < least:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} {getattr(options, name)}: give {least} or more")
    if options.seed >= 2**32:
        raise UserError(f"--seed {options.seed}: give less than 2^32")
    if options.stream_cap is not None and min(options.stream_cap) < 1:
        raise UserError("--stream-cap: give 1 or more")
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there already, and not an empty folder; name another")
    needs("decontaminate")

"""Reads what `--stream` says of a mixture: sources, their weights, caps, fields and domains."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vfunc.errors import UserError
from vfunc.language.data.records import is_file

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)
WINDOW = 8192
"""Sequences among which a source without a known end is shuffled."""
NO_DOMAIN = "none"
"""Domain of a stream that no feedback is of."""
RECOGNISED = ""
"""Fields of a source that are recognised."""


@dataclass(frozen=True)
class Weighted:
    """A source's name, and its share of the mixture as it was given.

    Attributes:
        name: a file or Hub id.
        weight: its weight; None where none was given.
    """

    name: str
    weight: float | None = None


def read_weight(text: str) -> Weighted:
    """Read `SOURCE` or `SOURCE:WEIGHT`.

    A number at the end is a weight, since no split of a data set is called so; a configuration that
    is one is written with the split, `ID:2023:train`.

    Raises:
        UserError: the weight is none, or may be a configuration or part of a file's name.
    """
    name, colon, number = text.rpartition(":")
    if not colon or not name or not _NUMBER.fullmatch(number):
        return Weighted(text)
    option = f"--stream {text}"
    if Path(text).expanduser().exists():
        if Path(name).expanduser().exists():
            raise UserError(f"{option}: both {text} and {name} are files; rename one")
        return Weighted(text)
    if number.isdigit() and not is_file(name) and ":" not in name:
        raise UserError(
            f"{option}: {number} may be a weight or a configuration; write {name}:{number}.0 for "
            f"the weight, {text}:train for the configuration"
        )
    weight = float(number)
    if not 0 < weight < math.inf:
        raise UserError(f"{option}: a weight has to be above 0 and finite, not {number}")
    return Weighted(name, weight)


def without_weight(text: str) -> str:
    """A source's name; what cannot be read is left as it is."""
    try:
        return read_weight(text).name
    except UserError:
        return text


def read_mixture(stream: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """The sources of a stream, and their weights, which add up to 1.

    Args:
        stream: `--stream`, as given.

    Returns:
        Names, and weights; None where no source has one.

    Raises:
        UserError: a weight cannot be read, or some sources have one and others not.
    """
    read = [read_weight(text) for text in stream]
    names = tuple(one.name for one in read)
    given = [one.weight for one in read if one.weight is not None]
    if not given:
        return names, None
    if len(read) == 1:
        raise UserError(
            f"--stream {stream[0]}: one source is all of the stream; leave its weight out"
        )
    if len(given) < len(read):
        bare = next(one.name for one in read if one.weight is None)
        raise UserError(f"--stream {bare}: has no weight, and others have; give all or none one")
    largest = max(given)  # sums of the largest numbers there are overflow
    total = math.fsum(weight / largest for weight in given)
    shares = tuple(weight / largest / total for weight in given)
    if min(shares) < sys.float_info.epsilon:
        small = names[shares.index(min(shares))]
        raise UserError(f"--stream {small}: its weight is nothing beside the others'")
    return names, shares


def caps_of(caps: Sequence[int] | None, count: int) -> tuple[int | None, ...]:
    """The cap of each source: one for all, or one each.

    Raises:
        UserError: another number of them.
    """
    if caps is None:
        return (None,) * count
    if len(caps) == 1:
        return (caps[0],) * count
    if len(caps) != count:
        raise UserError(
            f"--stream-cap {' '.join(map(str, caps))}: give one number, or one for each of the "
            f"{count} --stream"
        )
    return tuple(caps)


def fields_of(fields: str | None, count: int, split: str) -> tuple[str | None, ...]:
    """The fields of each source: the same of all, or by source with `;` between.

    Raises:
        UserError: another number of them.
    """
    if fields is None:
        return (None,) * count
    given = [one.strip() for one in fields.split(";")]
    if len(given) == 1:
        return (fields,) * count
    if len(given) != count:
        raise UserError(
            f"--{split}-fields {fields}: give the fields of one, or with ; between of each of the "
            f"{count} --{split}; nothing between two ; has them recognised"
        )
    return tuple(None if one == RECOGNISED else one for one in given)


def tasks_of(domains: Sequence[str], count: int) -> tuple[str, ...]:
    """The feedback tasks that `--feedback-domains` names, in the order of their first sources.

    Raises:
        UserError: not one for each source, or a name that stands for none.
    """
    if len(domains) != count:
        raise UserError(
            f"--feedback-domains {' '.join(domains)}: give a name for each of the {count} "
            "--feedback; those of one name are one task"
        )
    if NO_DOMAIN in domains:
        raise UserError(f"--feedback-domains: {NO_DOMAIN} is for --stream-domains; name the domain")
    return tuple(dict.fromkeys(domains))


def domains_of(domains: Sequence[str] | None, tasks: Sequence[str], count: int) -> tuple[int, ...]:
    """The number of the feedback task whose domain each source of the stream is of.

    Args:
        domains: `--stream-domains`; None takes sources and tasks in the same order.
        tasks: the tasks' names.
        count: sources.

    Returns:
        A number for each source; that of none is as many as there are tasks.

    Raises:
        UserError: not one for each source, an unknown one, or one that no source is of.
    """
    if domains is None:
        return tuple(range(count))
    said = f"--stream-domains {' '.join(domains)}"
    if len(domains) != count:
        raise UserError(f"{said}: give a domain for each of the {count} --stream")
    known = {name: number for number, name in enumerate(tasks)} | {NO_DOMAIN: len(tasks)}
    for name in domains:
        if name not in known:
            raise UserError(
                f"{said}: there is no feedback of {name!r}; domains are {', '.join(tasks)}, and "
                f"{NO_DOMAIN} for text that no feedback is of"
            )
    for name in tasks:
        if name not in domains:
            raise UserError(f"{said}: no --stream is of {name!r}, which there is feedback of")
    return tuple(known[name] for name in domains)


def source_names(sources: Sequence[str]) -> tuple[str, ...]:
    """Names each source by the last component of its path; equal names are numbered.

    `data/gsm8k.jsonl` and `openai/gsm8k:main` are gsm8k and gsm8k-2.
    """
    stems = [name.rstrip("/").rsplit("/", 1)[-1].split(":")[0].split(".")[0] for name in sources]
    found: list[str] = []
    for stem in stems:
        number, name = 1, stem
        while name in found:  # a-2 may be the name of another one, too
            number += 1
            name = f"{stem}-{number}"
        found.append(name)
    return tuple(found)

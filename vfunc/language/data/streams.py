"""Samples the embedded problem's data, in splits that cannot overlap.

A stream of word problems in which a share of the solutions is wrong, clean feedback, validation
and test problems, and the clean problems that the base learner is made from. A problem belongs to
a split by a hash of its canonical form (operations and numbers), so that no two splits share a
problem whatever the seed, style or difficulty.
"""

from __future__ import annotations

import functools
import hashlib
import random
from dataclasses import dataclass, replace
from typing import Literal

from vfunc.config.declared import Computed, Need, Options, option
from vfunc.errors import UserError
from vfunc.language.data.arithmetic import (
    LEVELS,
    STYLES,
    Problem,
    Style,
    draw_problem,
    draw_telling,
    render,
    work,
)
from vfunc.language.data.examples import Example
from vfunc.language.data.mistakes import MISTAKES, Mistakes, invites_mistakes, mistaken_work
from vfunc.typecheck import typed

BUCKETS = 100
SPLITS: dict[str, range] = {
    "base": range(40),
    "stream": range(40, 80),
    "feedback": range(80, 86),
    "validation": range(86, 92),
    "test": range(92, 100),
}
# Draws in a row that give no new problem before a split counts as exhausted. The rarest split
# takes about one draw in 20, so that by then well under one in a hundred of its problems is left.
PATIENCE = 20_000
MOST = 1_000_000
"""Problems that are drawn of a split at most: a million take minutes to hours, and all memory is
taken long before the levels are exhausted."""


def _of_problem(field: str, plain: object) -> Computed:
    """The default of an option of the embedded problem; None without one."""

    def compute(options: Options) -> object:
        name = options["problem"]
        return None if name is None else getattr(stream_preset(name), field)

    return Computed("the problem's", compute, plain)


def _careless(options: Options) -> str | None:
    name = options["problem"]
    styles = () if name is None else stream_preset(name).careless_styles
    return "both" if set(styles) == set(STYLES) else next(iter(styles), None)


def _styles(careless: str) -> tuple[Style, ...]:
    return tuple(style for style in STYLES if careless in ("both", style))


_MISTAKEN = Need(
    lambda options: options["wrong_share"] != 0,
    "nothing is wrong in the stream; give --wrong-share above 0",
)


@dataclass(frozen=True)
class StreamSpec:
    """Specification of the stream, and of the styles of feedback and evaluation.

    It does not apply to the base split, which is clean, half in each style, and of all levels.

    Attributes:
        mistakes: kind of the mistakes in wrong solutions.
        share_wrong: share of the stream's solutions that are wrong, within `careless_styles`.
        careless_styles: the styles whose authors err; the others write nothing wrong.
        forum_share: share of the stream in forum style; the rest is textbook style.
        evaluation_forum_share: the same for feedback, validation and test, which are clean.
        levels: weights of problems with 1, 2 and 3 events, in every split but base.
    """

    mistakes: Mistakes = option(
        "Embedded: how a wrong solution goes wrong.",
        default=_of_problem("mistakes", "systematic"),
        needs=(_MISTAKEN,),
    )
    share_wrong: float = option(
        "Embedded: share of wrong solutions, within the careless styles.",
        name="wrong_share",
        default=_of_problem("share_wrong", 0.5),
        least=0,
        most=1,
    )
    careless_styles: tuple[Style, ...] = option(
        "Embedded: the styles whose authors err.",
        default=Computed("the problem's", _careless, STYLES),
        kind=Literal["both", "textbook", "forum"],
        make=_styles,
        needs=(_MISTAKEN,),
    )
    forum_share: float = option(
        "Embedded: share of the stream in forum style, the rest being textbook.",
        default=_of_problem("forum_share", 0.5),
        least=0,
        most=1,
    )
    evaluation_forum_share: float = option(
        "Embedded: the same for feedback, validation and test.",
        name="eval_forum_share",
        default=_of_problem("evaluation_forum_share", 0.5),
        least=0,
        most=1,
    )
    levels: tuple[float, float, float] = option(
        "Embedded: weights of problems with 1, 2 and 3 events.",
        default=_of_problem("levels", (0.0, 1.0, 1.0)),
        metavar="W1 W2 W3",
        least=0,
    )

    def __post_init__(self) -> None:
        if self.mistakes not in MISTAKES:
            raise UserError(
                f"mistakes={self.mistakes!r} is not a kind of mistake; use one of "
                f"{', '.join(MISTAKES)}"
            )
        for name in ("share_wrong", "forum_share", "evaluation_forum_share"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise UserError(f"{name}={share} is not a share; give a number from 0 to 1")
        for style in self.careless_styles:
            if style not in STYLES:
                raise UserError(
                    f"careless_styles has {style!r}, which is no style; use {', '.join(STYLES)}"
                )
        if self.share_wrong and not self.careless_styles:
            raise UserError(
                f"share_wrong={self.share_wrong} but careless_styles is empty; name a style, or "
                "set share_wrong to 0"
            )
        if len(self.levels) != len(LEVELS):
            raise UserError(f"levels={self.levels}: give {len(LEVELS)} weights, one a level")
        if not all(0 <= weight < float("inf") for weight in self.levels) or not any(self.levels):
            raise UserError(
                f"levels={self.levels}: weights must be finite, at least 0, and one above 0"
            )


PRESETS: dict[str, StreamSpec] = {
    "careless_everywhere": StreamSpec(),
    "careless_source": StreamSpec(careless_styles=("forum",)),
    "random_slips": StreamSpec(mistakes="random_slips", share_wrong=0.7),
    "style_shift": StreamSpec(share_wrong=0.0, forum_share=0.1, evaluation_forum_share=0.9),
}
DEFAULT_PRESET = "careless_everywhere"
# Few problems have one event: the base split holds some 800, so that they are a small part of it.
_BASE = StreamSpec(share_wrong=0.0, levels=(1.0, 10.0, 10.0))


@typed
def stream_preset(name: str) -> StreamSpec:
    """The stream specification of that name.

    Raises:
        UserError: there is no such preset; the message lists those there are.
    """
    if name not in PRESETS:
        raise UserError(f"unknown stream preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def split_of(problem: Problem) -> str:
    """The split that a problem belongs to, by a hash of its canonical form."""
    digest = hashlib.blake2b(problem.canonical.encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % BUCKETS
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


@typed
def embedded_problems(
    split: str, count: int, levels: tuple[float | int, float | int, float | int], seed: int
) -> list[Problem]:
    """Sample distinct problems of a split, all of which invite a careless author's mistakes.

    Args:
        split: a name in `SPLITS`.
        count: number of problems.
        levels: weights of problems with 1, 2 and 3 events.
        seed: a smaller `count` with the same seed gives the first problems of a larger one.

    Raises:
        UserError: unknown split, negative count, or a split too small for the count.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    if count < 0:
        raise UserError(f"count={count}: give a number of examples that is not negative")
    if count > MOST:
        raise UserError(
            f"{count:,} problems of the embedded problem's {split} split were asked for; at most "
            f"{MOST:,} are drawn"
        )
    generator = random.Random(f"problems {split} {seed}")
    problems: dict[str, Problem] = {}
    misses = 0
    while len(problems) < count:
        level = generator.choices(LEVELS, levels)[0]
        problem = draw_problem(generator, level)
        fits = split_of(problem) == split and invites_mistakes(problem)
        if fits and problem.canonical not in problems:
            problems[problem.canonical] = problem
            misses = 0
        elif (misses := misses + 1) > PATIENCE:
            raise UserError(
                f"the {split} split has no more than {len(problems)} problems at levels={levels}; "
                f"{count} were asked for: ask for fewer, or give weight to a higher level"
            )
    return list(problems.values())


@typed
def embedded_examples(split: str, count: int, spec: StreamSpec, seed: int) -> list[Example]:
    """Sample examples of a split of the embedded problem; only the stream has mistakes in it.

    Problems depend on split, seed and levels alone, and names and verbs do not depend on the
    mistakes, so that streams that differ in their mistakes differ in nothing else.

    Args:
        split: "base", "stream", "feedback", "validation" or "test".
        count: number of examples; those of a smaller count are the first of a larger one's.
        spec: the stream's specification.
        seed: seed of all that is sampled.

    Raises:
        UserError: unknown split, negative count, or a split too small for the count.
    """
    return list(_examples(split, count, _BASE if split == "base" else spec, seed))


# comparisons and sweeps ask for the same sets over and over
@functools.lru_cache(maxsize=16)
def _examples(split: str, count: int, spec: StreamSpec, seed: int) -> tuple[Example, ...]:
    forum_share = spec.forum_share if split in ("base", "stream") else spec.evaluation_forum_share
    examples = []
    for index, problem in enumerate(embedded_problems(split, count, spec.levels, seed)):
        # One generator for each purpose, or a mistake's draws would shift the next one's names.
        telling_draws = random.Random(f"telling {split} {seed} {index}")
        style: Style = STYLES[telling_draws.random() < forum_share]
        telling = draw_telling(telling_draws, problem, style)
        mistake_draws = random.Random(f"mistakes {split} {seed} {index}")
        careless = split == "stream" and style in spec.careless_styles
        if careless and mistake_draws.random() < spec.share_wrong:
            steps = mistaken_work(problem, spec.mistakes, mistake_draws)
        else:
            steps = work(problem)
        examples.append(replace(render(problem, telling, steps), domain=STYLES.index(style)))
    return tuple(examples)

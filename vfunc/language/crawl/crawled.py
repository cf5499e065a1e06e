"""Texts of a crawl: useful ones, pieces of other sources, boilerplate, shuffled words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vfunc.language.data.examples import Example

LEAD = 15
"""Words of a piece of raw text that are its prompt."""

_SITES = ("Harbour Gazette", "Oakfield Online", "The Daily Ledger", "Fern & Co", "Northgate Forum")
_TOPICS = ("gardening", "travel", "local news", "recipes", "home repair", "sports", "weather")
_LINES = (
    "Home | About us | {topic} | Contact | Log in | Register",
    "We use cookies to give you the best experience on {site}. Accept all | Manage settings",
    "Subscribe to the {site} newsletter and never miss our stories on {topic} again.",
    "Share this page: e-mail, print, copy link. Comments ({number})",
    "Copyright {year} {site}. All rights reserved. Terms of use | Privacy policy",
    "You have {number} free articles left this month. Sign in to read more about {topic}.",
    "Page {number} of 48. Previous | Next | Back to the list of {topic}",
    "This site works best with scripts enabled. Please update your browser.",
    "Related: {number} things you did not know about {topic}",
    "Posted by admin on 12 March {year} in {topic}. Filed under: general, archive",
    "Add to basket. Delivery within {number} working days. Customers also viewed {topic}",
    "Your session has expired. Please log in again to go on to {site}.",
)


@dataclass(frozen=True)
class Piece:
    """A text of a crawl.

    Attributes:
        prompt: what comes before.
        completion: what is learned.
        wrong: half-open character spans of `completion` that are known to be mistaken.
    """

    prompt: str
    completion: str
    wrong: tuple[tuple[int, int], ...] = ()


def pieces_of(examples: Sequence[Example], words: int) -> list[Piece]:
    """A source's texts: prompts with completions as they are, raw text cut.

    Args:
        examples: as they were read.
        words: words of a piece of raw text, more than `LEAD`; shorter ends are left out.
    """
    pieces = []
    for example in examples:
        if example.prompt:
            pieces.append(Piece(example.prompt, example.completion, example.wrong))
            continue
        said = example.completion.split()
        for start in range(0, len(said) - words + 1, words):
            part = said[start : start + words]
            pieces.append(Piece(" ".join(part[:LEAD]), " ".join(part[LEAD:])))
    return pieces


def can_be_shuffled(piece: Piece) -> bool:
    """Whether the words of its completion have another order."""
    return len(set(piece.completion.split())) > 1


def shuffled(piece: Piece, draws: random.Random) -> Piece:
    """The same prompt, and the words of its completion in another order, which is drawn.

    Args:
        piece: one that `can_be_shuffled`.
        draws: source of the order.
    """
    words = said = piece.completion.split()
    while words == said:  # of a few words, an order that is drawn is often theirs
        words = said.copy()
        draws.shuffle(words)
    return Piece(piece.prompt, " ".join(words))


def boilerplate(draws: random.Random) -> Piece:
    """Six lines of what stands around the text of a page."""
    site, topic = draws.choice(_SITES), draws.choice(_TOPICS)
    first, *others = (
        line.format(
            site=site, topic=topic, number=draws.randint(2, 60), year=draws.randint(2004, 2024)
        )
        for line in draws.sample(_LINES, 6)
    )
    return Piece(first, "\n".join(others))

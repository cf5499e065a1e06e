"""The feedback as TRL takes it: a data set's rows, and the order in which the run reads them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Sampler

from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.language.data.sequences import InterleavedStream, TokenStream, in_turn
from vfunc.language.rewards import Prompt, PromptStream

with needs("language", "transformers", "datasets"):
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that nothing is learned of."""
ENDLESS = 2**31 - 1
"""Steps of a trainer that is stopped from outside."""


@dataclass(frozen=True)
class Rows:
    """Feedback examples as a data set, with their order.

    Attributes:
        dataset: a row an example, source after source.
        sources: the numbers of the rows of each source.
        seed: seed of the order, the feedback's own.
    """

    dataset: Dataset
    sources: tuple[range, ...]
    seed: int

    def at(self, position: int, count: int) -> list[int]:
        """The rows at `position`, ... of the endless order in which the run reads its feedback."""
        return in_turn(self.sources, self.seed, position, count)


def solution_rows(stream: TokenStream | InterleavedStream) -> Rows:
    """Worked solutions, tokenised as everywhere; the loss falls on what the run predicts of them.

    Args:
        stream: the feedback.
    """
    sets = (stream.encoded,) if isinstance(stream, TokenStream) else stream.sets
    found: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for one in itertools.chain.from_iterable(each.sequences for each in sets):
        ids = one.tokens.tolist()
        found["input_ids"].append(ids)
        found["labels"].append([IGNORED] * one.predict_from + ids[one.predict_from :])
    return Rows(Dataset.from_dict(found), _ranges([len(each) for each in sets]), stream.seed)


def prompt_rows(stream: PromptStream, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Prompts and right answers; no solution.

    Args:
        stream: the feedback's prompts.
        tokenizer: the learner's, by which TRL reads them.

    Raises:
        UserError: it reads a prompt otherwise than the run does.
    """
    prompts: list[Prompt] = list(itertools.chain.from_iterable(stream.sources))
    read: Any = tokenizer([prompt.text for prompt in prompts], verbose=False)["input_ids"]
    for prompt, tokens in zip(prompts, read, strict=True):
        if tuple(tokens) != prompt.tokens:
            raise UserError(
                "GRPO by TRL reads a prompt with the tokenizer's own special tokens, and this "
                f"tokenizer adds some that the run's prompts have not ({prompt.text[:40]!r}...); "
                "take the arm out of --arms"
            )
    rows = {"prompt": [p.text for p in prompts], "answer": [p.answer for p in prompts]}
    return Rows(Dataset.from_dict(rows), _ranges(list(map(len, stream.sources))), stream.seed)


def _ranges(sizes: list[int]) -> tuple[range, ...]:
    starts = [0, *itertools.accumulate(sizes)]
    return tuple(range(a, b) for a, b in itertools.pairwise(starts))


class RunOrder(Sampler[int]):
    """Rows in the order of the run, without an end, an optimizer step's after another.

    As TRL's `RepeatSampler` hands them out: each row of a step `copies` times in succession, the
    step's rows `rounds` times.
    """

    def __init__(
        self, rows: Rows, position: int, window: int, copies: int = 1, rounds: int = 1
    ) -> None:
        """An order.

        Args:
            rows: the rows.
            position: how many have been taken before.
            window: rows of an optimizer step.
            copies: of each row.
            rounds: of each step.
        """
        self._rows, self._position, self._window = rows, position, window
        self._copies, self._rounds = copies, rounds

    def __iter__(self) -> Iterator[int]:
        for step in itertools.count():
            taken = self._rows.at(self._position + step * self._window, self._window)
            for _ in range(self._rounds):
                for row in taken:
                    yield from itertools.repeat(row, self._copies)

    def __len__(self) -> int:
        return ENDLESS * self._window * self._copies * self._rounds

"""Makes the segments of a stream's source, each from where the one before ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vfunc.language.data.disk.segment_files import columns_of
from vfunc.language.data.examples import Example
from vfunc.language.data.sources import Examples
from vfunc.language.data.tokenise import Encoded, Encoder, blocks

SEQUENCES = 2048
"""Sequences of a segment, at least: it ends with the block of examples that fills it."""

Told = Mapping[str, Any]
"""What there is to say of a segment."""


@dataclass(eq=False)
class SegmentMaker:
    """A source that is read and encoded as far as it is asked for.

    Attributes:
        opened: the source's examples, on from a place.
        tokenizer: the learner's.
        sequence_length: T.
        pack: whether raw text is packed.
        cap: the most examples that are read; None are all.
        size: sequences of a segment, at least.
    """

    opened: Callable[[Mapping[str, Any] | None], Examples]
    tokenizer: PreTrainedTokenizerBase
    sequence_length: int
    pack: bool = False
    cap: int | None = None
    size: int = field(default_factory=lambda: SEQUENCES)
    _going: tuple[int, Examples, Iterator[list[Example]], Encoder] | None = field(
        default=None, init=False, repr=False
    )

    def made(self, number: int, before: Told | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A segment's tensors, and what there is to say of it.

        Args:
            number: the segment's number.
            before: what there is to say of the one before; None for the first.

        Raises:
            UserError: the source cannot be read.
        """
        examples, in_blocks, encoder = self._at(number, before)
        sequences: list[Encoded] = []
        ended = False
        while len(sequences) < self.size and not ended:
            block = next(in_blocks, None)
            if block is None:
                sequences += encoder.rest()
                ended = True
            else:
                sequences += encoder.encode(block)
        first = 0 if before is None else before["first"] + before["sequences"]
        told: dict[str, Any] = {
            "first": first,
            "sequences": len(sequences),
            "largest": max((int(s.tokens.max()) for s in sequences), default=0),
            "wrong": any(bool(s.wrong.any()) for s in sequences),
            "ended": ended,
            "examples": examples.place,
            "encoder": encoder.carried,
        }
        self._going = None if ended else (number + 1, examples, in_blocks, encoder)
        return columns_of(sequences), told

    def _at(
        self, number: int, before: Told | None
    ) -> tuple[Examples, Iterator[list[Example]], Encoder]:
        going, self._going = self._going, None  # one that raises cannot be gone on with
        if going is not None and going[0] == number:
            return going[1:]
        examples = self.opened(None if before is None else before["examples"])
        encoder = Encoder(
            self.tokenizer,
            self.sequence_length,
            pack=self.pack,
            carried=None if before is None else before["encoder"],
        )
        return examples, blocks(self._capped(examples)), encoder

    def _capped(self, examples: Examples) -> Iterator[Example]:
        while self.cap is None or examples.usable < self.cap:
            example = next(examples, None)
            if example is None:
                return
            yield example

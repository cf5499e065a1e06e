"""A trainer's batches and data sets as the project's: token batches, feedback streams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.language.data.examples import Example, TokenBatch
from vfunc.language.data.sequences import InterleavedStream, TokenStream
from vfunc.language.data.tokenise import Encoded, EncodedSet, encode_examples

IGNORED = -100
"""The label of what is not predicted."""

WRONG = "wrong"
"""Column of the tokens that are known to be mistaken, for `gate_on_wrong`."""

READ = ("input_ids", "labels", "attention_mask", "position_ids", WRONG)
_PACKED = ("seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


def token_batch(inputs: Mapping[str, Any]) -> TokenBatch:
    """A trainer's batch as the project has it.

    Args:
        inputs: `input_ids` and `labels` (B, L), -100 where nothing is predicted; `attention_mask`
            of right padding; `wrong` (B, L) where mistaken tokens are known.

    Raises:
        UserError: padding on the left, packed sequences, labels that are not the tokens
            themselves, or something else that the learner would be called with.
    """
    if packed := [name for name in _PACKED if name in inputs]:
        raise UserError(
            f"the batch is packed without padding ({packed[0]}): targets are designed for one text "
            "a row; leave packing and padding_free out"
        )
    if others := [name for name in inputs if name not in READ]:
        raise UserError(
            f"the batch holds {', '.join(others)}, and the learner of designed targets is called "
            f"with input_ids alone; a batch has {', '.join(READ[:3])}"
        )
    for name in READ[:2]:
        if not isinstance(inputs.get(name), Tensor) or inputs[name].dim() != 2:
            raise UserError(
                f"the batch has no {name} of rows and positions: give a data_collator that pads "
                "input_ids and labels, or none for that of vfunc"
            )
    tokens, labels = inputs["input_ids"], inputs["labels"]
    _require_right_padding(inputs.get("attention_mask"), tokens)
    _require_in_order(inputs.get("position_ids"), tokens)
    said = labels != IGNORED
    if bool((said & (labels != tokens)).any()):
        raise UserError(
            "labels differ from input_ids where they are not -100: a causal model predicts the "
            "text's own tokens, and labels are not shifted"
        )
    if tokens.shape[1] < 2:
        raise UserError("a batch of texts of one token predicts nothing")
    wrong = inputs.get(WRONG)
    return TokenBatch(
        tokens,
        said[:, 1:],
        torch.zeros_like(said[:, 1:]) if wrong is None else wrong[:, 1:].bool(),
        torch.zeros(len(tokens), dtype=torch.long, device=tokens.device),
    )


def _require_right_padding(mask: Any, tokens: Tensor) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.shape != tokens.shape:
        raise UserError(
            "attention_mask has a shape of its own, and the learner of designed targets attends "
            "to all before: leave it out"
        )
    seen = mask != 0
    if bool((seen[:, 1:] & ~seen[:, :-1]).any()):
        raise UserError(
            "the batch is padded on the left, or has holes: set the tokenizer's padding_side to "
            "'right'"
        )


def _require_in_order(places: Any, tokens: Tensor) -> None:
    if places is None:
        return
    usual = torch.arange(tokens.shape[1], device=tokens.device)
    if not isinstance(places, Tensor) or not bool((places == usual).all()):
        raise UserError(
            "position_ids begin anew within a row (packed sequences), or are padded: targets are "
            "designed for one text a row; leave packing and padding_free out"
        )


@dataclass(frozen=True)
class RightPadding:
    """Collator of rows: pads `input_ids`, `labels` and `wrong` on the right, and makes the mask.

    Attributes:
        pad_id: token id of padding.
        multiple_of: lengths are rounded up to a multiple of it.
    """

    pad_id: int
    multiple_of: int = 1

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The rows as one batch; without labels they are the tokens, padding of a row left out.

        Raises:
            UserError: a row has no token ids, or is padded on the left.
        """
        rows = [_unpadded(row) for row in rows]
        longest = max(len(row["input_ids"]) for row in rows)
        longest = -(-longest // self.multiple_of) * self.multiple_of
        columns = {
            "input_ids": (self.pad_id, [row["input_ids"] for row in rows]),
            "labels": (IGNORED, [row.get("labels", row["input_ids"]) for row in rows]),
            "attention_mask": (0, [[1] * len(row["input_ids"]) for row in rows]),
        }
        if any(WRONG in row for row in rows):
            columns[WRONG] = (0, [row.get(WRONG, []) for row in rows])
        return {name: _padded(fill, lists, longest) for name, (fill, lists) in columns.items()}


def _unpadded(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row without what its own `attention_mask` says is padding."""
    if "input_ids" not in row:
        held = ", ".join(row) or "nothing"
        raise UserError(f"a row to train on has no input_ids, and holds {held}: give it tokenised")
    if (given := row.get("attention_mask")) is None:
        return row
    mask = torch.as_tensor(given) != 0
    _require_right_padding(mask[None], torch.as_tensor(row["input_ids"])[None])
    kept = int(mask.sum())
    return {name: row[name][:kept] for name in ("input_ids", "labels", WRONG) if name in row}


def _padded(fill: int, lists: Sequence[Any], length: int) -> Tensor:
    found = torch.full((len(lists), length), fill, dtype=torch.long)
    for row, values in enumerate(lists):
        found[row, : len(values)] = torch.as_tensor(values, dtype=torch.long)
    return found


def tokenised(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, sequence_length: int = 512
) -> Dataset:
    """The project's examples as a data set of `input_ids`, `labels` and `wrong`.

    They are tokenised as `vfunc run` does: prompt and completion apart, an end-of-text token
    behind, and labels on the completion alone.

    Args:
        examples: such as `vfunc.language.data.sources.load_examples(...).examples`.
        tokenizer: the learner's.
        sequence_length: longest sequence, in predicted tokens.
    """
    found = encode_examples(examples, tokenizer, sequence_length, split="feedback")
    rows = []
    for one in found.sequences:
        ids = one.tokens.tolist()
        labels = [IGNORED] * one.predict_from + ids[one.predict_from :]
        rows.append({"input_ids": ids, "labels": labels, WRONG: one.wrong.int().tolist()})
    return Dataset.from_list(rows)


@dataclass(frozen=True, eq=False)
class Labelled(Encoded):
    """A token sequence whose predicted tokens may have gaps (the turns of a chat).

    Attributes:
        labelled: which tokens are predicted.
    """

    labelled: Bool[Tensor, "L"] | None = None


def labelled_set(
    rows: Iterable[Any], vocabulary: int, pad_id: int, name: str, domain: int = 0
) -> EncodedSet:
    """A data set of `input_ids` and `labels` as sequences.

    Args:
        rows: mappings of token ids and labels, -100 where nothing is predicted; without labels
            all tokens are.
        vocabulary: rows of the learner's embedding.
        pad_id: token id of padding.
        name: of the data set, for messages.
        domain: its number among several.

    Raises:
        UserError: no row predicts anything, one has labels that are not its tokens, or a token
            that the learner does not know.
    """
    found, empty = [], 0
    for at, row in enumerate(rows):
        if not isinstance(row, Mapping) or "input_ids" not in row:
            raise UserError(
                f"row {at} of {name} has no input_ids: give it tokenised, with labels; "
                "vfunc.integrations.transformers.tokenised makes that of examples"
            )
        tokens = torch.as_tensor(row["input_ids"], dtype=torch.int32)
        labels = torch.as_tensor(row.get("labels", row["input_ids"]), dtype=torch.int32)
        mask = torch.as_tensor(row.get("attention_mask", [1] * len(tokens))) != 0
        if labels.shape != tokens.shape or mask.shape != tokens.shape:
            raise UserError(f"row {at} of {name} has labels or a mask of another length")
        _require_right_padding(mask[None], tokens[None])
        tokens, labels = tokens[mask], labels[mask]
        said = labels != IGNORED
        if bool((said & (labels != tokens)).any()):
            raise UserError(f"row {at} of {name} has labels that are not its own tokens")
        said[:1] = False  # nothing comes before it
        if not bool(said.any()):
            empty += 1
            continue
        if int(tokens.max()) >= vocabulary:
            raise UserError(
                f"row {at} of {name} holds token {int(tokens.max())}, and the learner's embedding "
                f"has {vocabulary} rows"
            )
        last = int(said.nonzero()[-1])
        tokens, said = tokens[: last + 1], said[: last + 1]  # what comes after plays no part
        first = int(said.nonzero()[0])
        found.append(Labelled(tokens, first, torch.zeros_like(said), domain, said))
    if not found:
        raise UserError(f"{name} has no row with a label to learn from")
    dropped = {"no labels": empty} if empty else {}
    return EncodedSet(tuple(found), dropped, 0, pad_id)


def _with_gaps(batch: TokenBatch, sequences: Sequence[Any]) -> TokenBatch:
    for row, one in enumerate(sequences):
        if isinstance(one, Labelled) and one.labelled is not None:
            batch.predict[row, : len(one.tokens) - 1] = one.labelled[1:]
    return batch


@dataclass(frozen=True, eq=False)
class LabelledStream(TokenStream):
    """One feedback data set, in the order that a run reads it."""

    def batch(self, position: int, batch_size: int) -> TokenBatch:
        """See `TokenStream.batch`."""
        return _with_gaps(super().batch(position, batch_size), self.sequences(position, batch_size))


@dataclass(frozen=True, eq=False)
class LabelledStreams(InterleavedStream):
    """Several feedback data sets, a sequence of each in turn."""

    def batch(self, position: int, batch_size: int) -> TokenBatch:
        """See `TokenStream.batch`."""
        return _with_gaps(super().batch(position, batch_size), self.sequences(position, batch_size))

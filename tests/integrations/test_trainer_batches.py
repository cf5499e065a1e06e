"""A trainer's rows as token batches and feedback; what is left out is refused in a line."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from vfunc.errors import UserError
from vfunc.integrations.trainer_batches import (
    IGNORED,
    LabelledStream,
    RightPadding,
    labelled_set,
    token_batch,
    tokenised,
)
from vfunc.language.data.examples import Example
from vfunc.language.data.sequences import collate
from vfunc.language.data.tokenise import encode_examples
from vfunc.language.embedded_learner import EMBEDDED_LEARNER

ROWS = [
    {"input_ids": [5, 6, 7, 8], "labels": [IGNORED, IGNORED, 7, 8], "wrong": [0, 0, 0, 1]},
    {"input_ids": [9, 4], "labels": [IGNORED, 4], "wrong": [0, 0]},
]


def batch(**more):
    return RightPadding(0)(ROWS) | more


def test_a_padded_batch_predicts_what_is_labelled():
    found = token_batch(batch())
    assert found.tokens.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert found.predict.tolist() == [[False, True, True], [True, False, False]]
    assert found.wrong.tolist() == [[False, False, True], [False, False, False]]
    plain = token_batch(RightPadding(0, multiple_of=8)([{"input_ids": [5, 6, 7]}]))
    assert plain.tokens.shape == (1, 8) and plain.predict.sum() == 2
    in_order = torch.arange(4).expand(2, 4)
    assert token_batch(batch(position_ids=in_order)).predict.equal(found.predict)


def test_padding_that_rows_have_of_their_own_is_no_text():
    """As by a tokenizer's padding="max_length": neither predicted nor, on the left, read."""
    rows = [
        {"input_ids": [5, 6, 7, 0, 0, 0], "attention_mask": [1, 1, 1, 0, 0, 0]},
        {**ROWS[0], "attention_mask": torch.ones(4)},
    ]
    made = RightPadding(0)(rows)
    assert made["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    found = token_batch(made)
    assert found.tokens.tolist() == [[5, 6, 7, 0], [5, 6, 7, 8]]
    assert found.predict.tolist() == [[True, True, False], [False, True, True]]
    assert found.wrong.tolist() == [[False] * 3, [False, False, True]]
    with pytest.raises(UserError, match="padded on the left"):
        RightPadding(0)([{"input_ids": [0, 5, 6], "attention_mask": [0, 1, 1]}])
    with pytest.raises(UserError, match="has no input_ids, and holds text"):
        RightPadding(0)([{"text": "hm"}])


REFUSED = {
    "padded on the left": {"attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])},
    "has holes": {"attention_mask": torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0]])},
    "shape of its own": {"attention_mask": torch.ones(2, 1, 4, 4)},
    "begin anew within a row": {"position_ids": torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])},
    "packed without padding": {"cu_seq_lens_q": torch.tensor([0, 2, 4])},
    "holds pixel_values": {"pixel_values": torch.zeros(2)},
    "labels differ from input_ids": {"labels": torch.tensor([[6, 7, 8, 9], [4, 1, 1, 1]])},
    "no labels of rows": {"labels": None},
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_no_text_a_row_is_refused(said):
    with pytest.raises(UserError, match=said):
        token_batch(batch(**REFUSED[said]))


def test_examples_are_tokenised_as_a_run_does():
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_LEARNER)
    texts = [Example("What is 1 + 1?\n", "It is 3.\n#### 3", wrong=((6, 7),)), Example("", "Hm.")]
    found = tokenised(texts, tokenizer, 64)
    wanted = collate(encode_examples(texts, tokenizer, 64).sequences, 0)
    made = token_batch(RightPadding(0)(list(found)))
    for name in ("tokens", "predict", "wrong"):
        assert getattr(made, name).equal(getattr(wanted, name))
    assert made.wrong.any()


def test_feedback_keeps_the_gaps_of_its_labels():
    chat = {"input_ids": [1, 2, 3, 4, 5, 6], "labels": [IGNORED, 2, IGNORED, 4, 5, IGNORED]}
    left_out = {"input_ids": [1, 2], "labels": [IGNORED] * 2}
    found = labelled_set([chat, left_out], 10, 0, "feedback_dataset")
    assert found.dropped == {"no labels": 1}
    read = LabelledStream(found, 3).batch(0, 2)
    assert read.predict.tolist() == [[True, False, True, True]] * 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "hm"}, "has no input_ids"),
        ({"input_ids": [1, 12]}, "embedding has 10 rows"),
        ({"input_ids": [1, 2], "labels": [1, 3]}, "not its own tokens"),
        ({"input_ids": [1, 2], "attention_mask": [0, 1]}, "padded on the left"),
        ({"input_ids": [1]}, "no row with a label"),
    ],
)
def test_feedback_that_cannot_be_used_is_refused(row, said):
    with pytest.raises(UserError, match=said):
        labelled_set([row], 10, 0, "feedback_dataset")

"""Examples to token sequences: borders, cuts, what is dropped, and which tokens are mistaken."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vfunc.errors import UserError
from vfunc.language.data.examples import Example
from vfunc.language.data.sources import load_examples
from vfunc.language.data.tokenise import (
    NO_COMPLETION,
    NO_ROOM,
    _tokenise,
    encode,
    encode_examples,
    prompt_tokens,
)

TEXTS = [
    "Tom has 12 pens and buys 7 more. How many pens has he?\n",
    "12 + 7 = 19\n#### 19",
    "Anna bakes 31 rolls and sells 4. How many rolls are left?\n31 - 4 = 27\n#### 27",
] * 4


def byte_level_bpe(*, trim: bool = False, **special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if trim:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=list(special.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if "bos_token" in special:
        bos = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


TOKENIZER = byte_level_bpe(eos_token="<eos>")
TRIMMING = byte_level_bpe(trim=True, eos_token="<eos>")
OPENING = byte_level_bpe(eos_token="<eos>", bos_token="<bos>")
EOS = TOKENIZER.eos_token_id


def ids(text: str, tokenizer=TOKENIZER) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_prompt_completion_and_end_are_joined_and_the_completion_is_predicted():
    example = Example("How many pens?\n", "12 + 7 = 19\n#### 19")
    (sequence,) = encode(example, TOKENIZER, 512)
    prompt = ids(example.prompt)
    assert sequence.tokens.tolist() == [*prompt, *ids(example.completion), EOS]
    assert sequence.predict_from == len(prompt)
    assert not sequence.wrong.any()
    assert prompt_tokens([example.prompt], TOKENIZER) == [prompt]


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_training_sees_the_prompt_that_generation_starts_from(prompt, completion):
    (sequence,) = encode(Example(prompt, completion), TOKENIZER, 512)
    start = sequence.predict_from
    assert sequence.tokens[:start].tolist() == ids(prompt)
    text = TOKENIZER.decode(sequence.tokens[start:-1], clean_up_tokenization_spaces=False)
    assert text == completion


def test_joining_first_would_have_merged_across_the_border():
    prompt, completion = "Tom has 12 pe", "ns"
    assert ids(prompt + completion) != ids(prompt) + ids(completion)
    (sequence,) = encode(Example(prompt, completion), TOKENIZER, 512)
    assert sequence.tokens[: sequence.predict_from].tolist() == ids(prompt)


def test_raw_text_is_predicted_everywhere():
    (sequence,) = encode(Example("", "Tom has 12 pens."), TOKENIZER, 512)
    assert sequence.tokens.tolist() == [*ids("Tom has 12 pens."), EOS]
    assert sequence.predict_from == 1


@pytest.mark.parametrize("length", [1, 2, 5, 7, 8, 500])
@pytest.mark.parametrize("tokenizer", [TOKENIZER, OPENING])
def test_long_raw_text_is_cut_so_that_each_token_is_predicted_once(length, tokenizer):
    text = "".join(TEXTS[:3])
    sequences = encode(Example("", text), tokenizer, length)
    opening = [tokenizer.bos_token_id] if tokenizer is OPENING else []
    whole = opening + ids(text, tokenizer) + [tokenizer.eos_token_id]
    assert all(2 <= len(sequence.tokens) <= length + 1 for sequence in sequences)
    predicted = [t for s in sequences for t in s.tokens[s.predict_from :].tolist()]
    assert predicted == whole[1:]
    for before, after in pairwise(sequences):
        assert len(before.tokens) == length + 1
        assert after.tokens[0] == before.tokens[-1]


def test_documents_are_not_packed_together():
    encoded = encode_examples([Example("", "Tom"), Example("", "Anna")], TOKENIZER, 512)
    assert [s.tokens.tolist() for s in encoded.sequences] == [
        [*ids(t), EOS] for t in ("Tom", "Anna")
    ]


def test_long_completions_are_cut_on_the_right_and_counted():
    example = Example("How many?\n", "12 + 7 = 19")
    prompt, completion = ids(example.prompt), ids(example.completion)
    whole = [*prompt, *completion, EOS]
    for length in range(len(prompt), len(whole) + 2):
        encoded = encode_examples([example], TOKENIZER, length)
        assert encoded.sequences[0].tokens.tolist() == whole[: length + 1]
        assert encoded.sequences[0].predict_from == len(prompt)
        assert encoded.truncated == (length + 1 < len(whole))
        assert encoded.dropped == {}
    assert encode(example, TOKENIZER, len(prompt) - 1) == NO_ROOM


def test_what_cannot_be_used_is_dropped_counted_and_reported():
    long, good, empty = Example("Tom " * 20, "7"), Example("T\n", "7"), Example("T\n", "")
    assert encode(long, TOKENIZER, 8) == NO_ROOM
    assert encode(empty, TOKENIZER, 8) == NO_COMPLETION
    assert encode(Example("", ""), TOKENIZER, 8) == NO_COMPLETION
    read = {"empty prompt": 3, NO_ROOM: 1}
    encoded = encode_examples([long, good, empty, long], TOKENIZER, 8, dropped=read)
    assert len(encoded) == 1
    assert encoded.dropped == {NO_ROOM: 3, NO_COMPLETION: 1, "empty prompt": 3}
    assert read == {"empty prompt": 3, NO_ROOM: 1}
    with pytest.raises(UserError) as caught:
        encode_examples([long, empty, long], TOKENIZER, 8, split="feedback")
    message = str(caught.value)
    assert "feedback" in message and "\n" not in message
    assert f"2 with {NO_ROOM}, 1 with {NO_COMPLETION}" in message
    assert "raise the sequence length" in message
    with pytest.raises(UserError, match="no example to use"):
        encode_examples([], TOKENIZER, 8)


def test_unusable_settings_are_refused():
    with pytest.raises(UserError, match="sequence length 0"):
        encode_examples([Example("", "x")], TOKENIZER, 0)
    with pytest.raises(UserError, match="end-of-text"):
        encode_examples([Example("", "x")], byte_level_bpe(unk_token="?"), 8)


def test_padding_is_the_tokenisers_own_or_the_end_of_text():
    padded = byte_level_bpe(eos_token="<eos>", pad_token="<pad>")
    example = Example("", "x")
    assert (
        encode_examples([example], padded, 8).pad_id == padded.pad_token_id != padded.eos_token_id
    )
    assert encode_examples([example], TOKENIZER, 8).pad_id == EOS


def test_an_opening_token_stands_before_prompts_but_not_completions():
    example = Example("How many?\n", "12")
    (sequence,) = encode(example, OPENING, 64)
    bos, eos = OPENING.bos_token_id, OPENING.eos_token_id
    prompt = [bos, *ids(example.prompt, OPENING)]
    assert (
        prompt_tokens([example.prompt], OPENING) == [prompt] == [OPENING(example.prompt).input_ids]
    )
    assert sequence.tokens.tolist() == [*prompt, *ids("12", OPENING), eos]
    assert sequence.predict_from == len(prompt)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, TRIMMING])
@given(data=st.data())
def test_tokens_are_mistaken_where_their_characters_overlap_a_span(tokenizer, data):
    completion = data.draw(st.text("12+= \npenTomé€", min_size=1, max_size=25))
    begin = data.draw(st.integers(0, len(completion) - 1))
    end = data.draw(st.integers(begin + 1, len(completion) + 1))  # behind it, its end too
    example = Example("T\n", completion, wrong=((begin, end),))
    (sequence,) = encode(example, tokenizer, 512)
    # By bytes, of which a byte-level token's name has one printable character each.
    owner = [index for index, char in enumerate(completion) for _ in char.encode()]
    expected = [False] * sequence.predict_from
    for token in ids(completion, tokenizer):
        size = len(tokenizer.convert_ids_to_tokens(token))
        expected.append(any(begin <= index < end for index in owner[:size]))
        owner = owner[size:]
    assert owner == []
    assert sequence.wrong.tolist() == [*expected, end > len(completion)]


def test_encoding_leaves_the_tokeniser_as_it_was():
    tokenizer = byte_level_bpe(trim=True, eos_token="<eos>")
    before = tokenizer.backend_tokenizer.to_str()
    encode(Example("T\n", "12 = 3", wrong=((0, 1),)), tokenizer, 64)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_several_spans_and_truncation_keep_the_mask_in_step():
    text = "12 + 7 = 18\n#### 18"
    spans = ((9, 11), (17, 19))
    example = Example("", text, wrong=spans)
    clean = Example("", "7 + 12 = 19")
    encoded = encode_examples([clean, example], TOKENIZER, 512)
    assert not encoded.sequences[0].wrong.any()
    sequence = encoded.sequences[1]
    marked = [TOKENIZER.decode(t) for t in sequence.tokens[sequence.wrong]]
    assert "".join(marked).replace(" ", "") == "1818"
    pieces = encode(example, TOKENIZER, 4)
    flat = torch.cat([pieces[0].wrong[:1], *(piece.wrong[1:] for piece in pieces)])
    assert flat.tolist() == sequence.wrong.tolist()
    assert all(len(piece.wrong) == len(piece.tokens) for piece in pieces)


def test_blocks_of_examples_encode_as_each_alone():
    draw = random.Random(0)
    examples = [
        Example(draw.choice(["", "How many pens?\n"]), draw.choice(TEXTS) * draw.randint(1, 3))
        for _ in range(150)
    ]
    together = encode_examples(examples, TOKENIZER, 24).sequences
    alone = [sequence for e in examples for sequence in encode(e, TOKENIZER, 24)]
    assert len(together) == len(alone) > 150
    for one, other in zip(together, alone, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.predict_from == other.predict_from


@pytest.mark.parametrize("offsets", [False, True])
def test_padding_and_truncation_left_on_in_the_tokeniser_do_no_harm(offsets):
    tokenizer = byte_level_bpe(eos_token="<eos>", pad_token="<pad>")
    texts = ["a", "Tom has 12 pens"]
    expected = [ids(text, tokenizer) for text in texts]
    tokenizer(texts, padding="max_length", truncation=True, max_length=3)
    assert [row for row, _ in _tokenise(texts, tokenizer, offsets=offsets)] == expected


def test_a_slow_tokeniser_works_but_cannot_place_mistakes():
    from transformers import PythonBackend

    class Characters(PythonBackend):
        vocab_size = 130

        def get_vocab(self):
            return {chr(i): i for i in range(128)} | {"<eos>": 128}

        def _tokenize(self, text, **_):
            return list(text)

        def _convert_token_to_id(self, token):
            return self.get_vocab().get(token, 0)

        def _convert_id_to_token(self, index):
            return chr(index)

    slow = Characters(eos_token="<eos>")
    (sequence,) = encode(Example("ab", "c"), slow, 8)
    assert sequence.tokens.tolist() == [97, 98, 99, slow.eos_token_id]
    with pytest.raises(UserError, match="fast tokeniser"):
        encode(Example("ab", "c", wrong=((0, 1),)), slow, 8)


REAL = os.environ.get("VFUNC_DATA_DIR")


@pytest.mark.skipif(not REAL, reason="VFUNC_DATA_DIR names no folder of real data")
@pytest.mark.parametrize("name", ["gsm8k/test.jsonl", "openstax_math/docs.jsonl.gz"])
def test_real_text_survives(name):
    path = Path(REAL) / name
    if not path.exists():
        pytest.skip(f"{name} is not in VFUNC_DATA_DIR")
    examples = load_examples(path, split="stream", limit=40).examples
    sequences = encode_examples(examples, TOKENIZER, 256).sequences
    predicted = [t for s in sequences for t in s.tokens[s.predict_from :].tolist()]
    if all(not example.prompt for example in examples):
        assert sum(t == EOS for t in predicted) == len(examples)
        whole = "".join(example.completion for example in examples)
        assert sum(len(s.tokens) - 1 for s in sequences) > len(whole) / 8
    assert all(len(s.tokens) <= 257 for s in sequences)
    assert all(TOKENIZER.decode(s.tokens[: s.predict_from]) for s in sequences)

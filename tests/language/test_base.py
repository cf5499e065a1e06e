from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from vfunc.language.data.arithmetic import BAGS, GAINS, LOSSES, NAMES, OBJECTS
from vfunc.language.data.streams import PRESETS, StreamSpec, embedded_examples
from vfunc.language.embedded_learner import EMBEDDED_LEARNER, greedy_pass_at_1


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED_LEARNER)


@pytest.fixture(scope="module")
def learner():
    return AutoModelForCausalLM.from_pretrained(EMBEDDED_LEARNER).eval()


def test_the_learner_is_a_small_qwen2_with_tied_embeddings(learner, tokenizer):
    assert type(learner) is Qwen2ForCausalLM
    assert learner.config.tie_word_embeddings
    assert 200_000 < learner.num_parameters() < 500_000
    assert learner.config.vocab_size == len(tokenizer) <= 512
    assert learner.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id is not None


def test_package_data_stays_small():
    files = [path for path in EMBEDDED_LEARNER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000


@pytest.mark.parametrize("preset", PRESETS)
def test_solutions_round_trip(tokenizer, preset: str):
    for example in embedded_examples("stream", 100, PRESETS[preset], 0):
        for text in (example.prompt, example.completion):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_any_text_round_trips(tokenizer):
    for text in ("Zürich – 東京 🙂\t½\n\n  x²", "def f(x):\n    return x  # ok\r\n", "\x00\x7f"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_stand_alone_and_words_are_whole(tokenizer):
    assert tokenizer.tokenize("47-123=") == [*"47-123="]
    for word in (*NAMES, *OBJECTS, *BAGS, *GAINS, *LOSSES, "has", "many"):
        assert len(tokenizer.tokenize(f" {word}")) == 1, word


def test_a_marked_span_is_a_token_of_its_own(tokenizer):
    # Targets are made per token: a token that is half mistaken would be marked as a whole.
    for preset in ("careless_everywhere", "random_slips"):
        for example in embedded_examples("stream", 100, PRESETS[preset], 0):
            offsets = tokenizer(example.completion, return_offsets_mapping=True)["offset_mapping"]
            assert set(example.wrong) <= set(map(tuple, offsets))


def test_examples_are_short(tokenizer):
    examples = embedded_examples("stream", 300, StreamSpec(), 0)
    lengths = [len(tokenizer(e.prompt + e.completion)["input_ids"]) for e in examples]
    assert 45 < sum(lengths) / len(lengths) < 65
    assert max(lengths) < 128


def test_the_longest_solution_fits_what_is_generated(tokenizer):
    longest = StreamSpec(levels=(0.0, 0.0, 1.0))
    for example in embedded_examples("test", 1024, longest, 0):
        assert len(tokenizer(example.completion)["input_ids"]) < 64


def test_pass_at_1_leaves_room_both_ways(learner, tokenizer):
    held_out = embedded_examples("validation", 64, StreamSpec(), 0)
    assert 0.2 < greedy_pass_at_1(learner, tokenizer, held_out) < 0.8


def test_pass_at_1_counts_the_true_answers(learner, tokenizer):
    held_out = embedded_examples("validation", 16, StreamSpec(), 0)
    one_by_one = [greedy_pass_at_1(learner, tokenizer, [example]) for example in held_out]
    assert set(one_by_one) == {0.0, 1.0}
    # Left padding must not change what is generated.
    assert greedy_pass_at_1(learner, tokenizer, held_out) == sum(one_by_one) / len(one_by_one)


def test_the_learner_solves_problems_it_was_not_made_from_as_text(learner, tokenizer):
    text = "Ann has 20 pens. Ann finds 5. Ann loses 3. How many pens?\n"
    prompt = torch.tensor([tokenizer(text)["input_ids"]])
    generated = learner.generate(prompt, do_sample=False, max_new_tokens=64)[0]
    assert generated[-1] == tokenizer.eos_token_id
    assert "\n#### " in tokenizer.decode(generated)

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from vfunc.errors import UserError
from vfunc.language.data.examples import Example
from vfunc.language.evaluation.generation import ANSWERED, generate
from vfunc.language.evaluation.solving import pass_at_1

CONTEXT = 64


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and an end-of-text token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A random learner whose logits are far apart, so that rounding decides nothing."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.4,
    )
    learner = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    # A frequent end of text: otherwise a random learner would hardly ever stop.
    with torch.no_grad():
        learner.lm_head.weight[tokenizer.eos_token_id] *= 1.5
    return learner.eval()


PROMPTS = [
    "Tom has 3 apples.",
    "A",
    "Each of the 12 bags holds 7 beads; how many?",
    "2+2=",
    "Ω ≈ é",
]


def naive_greedy(model: PreTrainedModel, tokenizer, prompt: str, limit: int) -> str:
    return tokenizer.decode(naive_greedy_tokens(model, tokenizer, prompt, limit))


def naive_greedy_tokens(model, tokenizer, prompt: str, limit: int) -> list[int]:
    """Greedy decoding without cache, padding or library."""
    ids = tokenizer(prompt)["input_ids"]
    made: list[int] = []
    for _ in range(limit):
        with torch.no_grad():
            token = int(model(torch.tensor([ids + made])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        made.append(token)
    return made


def test_a_batch_equals_naive_greedy_decoding(model, tokenizer) -> None:
    expected = [[naive_greedy(model, tokenizer, prompt, 12)] for prompt in PROMPTS]
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12) == expected
    assert len({texts[0] for texts in expected}) == len(PROMPTS)
    lengths = {len(tokenizer(texts[0])["input_ids"]) for texts in expected}
    assert len(lengths) > 1  # some stop at the end of text, some at the limit


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_batch_composition_does_not_matter(model, tokenizer, temperature: float) -> None:
    options = {"max_new_tokens": 10, "temperature": temperature, "seed": 3}
    whole = generate(model, tokenizer, PROMPTS, **options)
    for batch_size in (1, 2, 3):
        assert generate(model, tokenizer, PROMPTS, batch_size=batch_size, **options) == whole
    assert generate(model, tokenizer, PROMPTS[:2], **options) == whole[:2]
    other = ["x" * 30, *PROMPTS[1:]]
    assert generate(model, tokenizer, other, **options)[1:] == whole[1:]


def test_the_end_of_the_context_is_respected(model, tokenizer) -> None:
    prompts = ["b" * (CONTEXT - 3), "a", "b" * (CONTEXT - 1), "c" * (CONTEXT - 3)]
    texts = generate(model, tokenizer, prompts, max_new_tokens=8)
    rooms = [3, 8, 1, 3]
    for prompt, room, completions in zip(prompts, rooms, texts, strict=True):
        assert completions == [naive_greedy(model, tokenizer, prompt, room)]


def test_samples_follow_the_model_at_the_temperature(model, tokenizer) -> None:
    temperature = 0.7
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("A")["input_ids"]])).logits[0, -1]
    p = torch.softmax(logits.double() / temperature, -1)
    draws = 4000
    texts = generate(
        model, tokenizer, ["A"], max_new_tokens=1, temperature=temperature, samples=draws
    )
    expected: dict[str, float] = {}  # several bytes have one text: they are no characters
    for token, chance in enumerate(p.tolist()):
        text = tokenizer.decode([token], skip_special_tokens=True)
        expected[text] = expected.get(text, 0.0) + chance
    likely = sorted(expected, key=expected.__getitem__)[-6:]
    for text in likely:
        error = (expected[text] * (1 - expected[text]) / draws) ** 0.5
        assert abs(texts[0].count(text) / draws - expected[text]) < 4 * error


def test_the_seed_decides_the_samples(model, tokenizer) -> None:
    options = {"max_new_tokens": 8, "temperature": 1.0, "samples": 3}
    first = generate(model, tokenizer, PROMPTS, seed=1, **options)
    assert generate(model, tokenizer, PROMPTS, seed=1, **options) == first
    assert generate(model, tokenizer, PROMPTS, seed=2, **options) != first
    assert len(set(first[0])) > 1


def test_nothing_is_changed(model, tokenizer) -> None:
    model.train()
    model.lm_head.eval()  # a mixture of modes comes back as it was
    modes = {name: module.training for name, module in model.named_modules()}
    settings = model.generation_config
    parameters = {name: value.clone() for name, value in model.named_parameters()}
    random_state = torch.random.get_rng_state()
    generate(model, tokenizer, PROMPTS, max_new_tokens=4, temperature=1.0, samples=2)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.generation_config is settings
    assert all(torch.equal(value, parameters[name]) for name, value in model.named_parameters())
    with pytest.raises(TypeError):  # an error on the way restores it all too
        model.forward = None
        generate(model, tokenizer, PROMPTS, max_new_tokens=4)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.generation_config is settings


def test_decoding_is_plain_whatever_the_checkpoint_asks_for(model, tokenizer) -> None:
    expected = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    model.generation_config = GenerationConfig(
        repetition_penalty=5.0, do_sample=True, top_k=1, temperature=0.1, max_new_tokens=2
    )
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12) == expected


def test_the_checkpoints_own_end_tokens_end_a_text(model, tokenizer) -> None:
    tokens = naive_greedy_tokens(model, tokenizer, "A", 12)
    end = tokens[2]
    model.generation_config = GenerationConfig(eos_token_id=[end, tokenizer.eos_token_id])
    shorter = generate(model, tokenizer, ["A"], max_new_tokens=12)[0][0]
    assert shorter == tokenizer.decode(tokens[: tokens.index(end)])


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["a", "b" * CONTEXT], {}, f"prompt 1 has {CONTEXT} tokens"),
        (["a", ""], {}, "prompt 1 is empty"),
        (["a"], {"samples": 2}, "greedy samples"),
        (["a"], {"temperature": -1.0}, "temperature -1.0"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        (["a"], {"batch_size": 0}, "batch_size is 0"),
        (["a"], {"samples": 0}, "samples is 0"),
        (["a"], {"seed": -1}, "seed is -1"),
    ],
)
def test_bad_input_is_refused(model, tokenizer, prompts, options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(model, tokenizer, prompts, **{"max_new_tokens": 2, **options})


def test_no_prompts_give_no_completions(model, tokenizer) -> None:
    assert generate(model, tokenizer, [], max_new_tokens=2) == []


class Scripted:
    """Stands in for `generate`: each problem's completions, spelled out."""

    def __init__(self, texts: list[list[str]]) -> None:
        self.texts = texts

    def __call__(self, model, tokenizer, prompts, **options) -> list[list[str]]:
        assert options["samples"] == len(self.texts[0])
        return self.texts


EXAMPLES = [Example(f"Q{index}", "", answer) for index, answer in enumerate(["1", "2", "3", "4"])]


def test_pass_at_1_counts_right_answers(monkeypatch, model, tokenizer) -> None:
    texts = [["#### 1"], ["#### 3"], ["3"], ["#### 4.0"]]
    monkeypatch.setattr("vfunc.language.evaluation.solving.generate", Scripted(texts))
    result = pass_at_1(model, tokenizer, EXAMPLES, max_new_tokens=4, keep_texts=True)
    assert result.outcomes == (1.0, 0.0, 0.0, 1.0)
    assert (result.mean, result.count, result.samples) == (0.5, 4, 1)
    assert result.standard_error == pytest.approx((0.25 / 3) ** 0.5)
    assert result.by_k == {1: (0.5, result.standard_error)}
    assert result.texts == (("#### 1",), ("#### 3",), ("3",), ("#### 4.0",))


def test_pass_at_k_over_samples(monkeypatch, model, tokenizer) -> None:
    texts = [["#### 1", "#### 1"], ["#### 2", "#### 3"], ["", ""], ["#### 5", "#### 4"]]
    monkeypatch.setattr("vfunc.language.evaluation.solving.generate", Scripted(texts))
    result = pass_at_1(
        model, tokenizer, EXAMPLES, max_new_tokens=4, samples=2, temperature=1.0, ks=(1, 2)
    )
    assert result.outcomes == (1.0, 0.5, 0.0, 0.5)
    assert result.by_k[1][0] == result.mean == 0.5
    assert result.by_k[2][0] == 0.75
    assert result.texts is None


def test_pass_at_1_with_a_model(model, tokenizer) -> None:
    result = pass_at_1(model, tokenizer, EXAMPLES, max_new_tokens=4, keep_texts=True)
    prompts = [example.prompt for example in EXAMPLES]
    assert [list(texts) for texts in result.texts] == generate(
        model, tokenizer, prompts, max_new_tokens=4
    )


@pytest.mark.parametrize(
    ("examples", "options", "message"),
    [
        ([], {}, "no problems"),
        ([Example("Q", "", "1"), Example("Q", "")], {}, "example 1 has no answer"),
        (EXAMPLES, {"ks": (2,)}, "pass@2"),
    ],
)
def test_pass_at_1_refuses(model, tokenizer, examples, options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pass_at_1(model, tokenizer, examples, max_new_tokens=2, **options)


def test_a_completion_may_end_where_its_answer_is_complete(model, tokenizer, monkeypatch) -> None:
    """Nothing that is scored changes, and a row's end does not depend on the others."""
    prompts = ["A", "B" * 9, "C", "D"]
    written = ["so\n#### 72\nQ: and #### 5\n", "no answer at all", "\\boxed{7} x", "#### 3"]
    scripts = [[*tokenizer(text)["input_ids"], *[tokenizer.eos_token_id] * 9] for text in written]
    steps: list[int] = []

    def scripted(self, input_ids, scores):
        step = input_ids.shape[1] - self.width
        steps.append(step)
        rows = [scripts["ABCD".index(tokenizer.decode(row[self.width - 1]))] for row in input_ids]
        chosen = torch.tensor([[row[min(step, len(row) - 1)]] for row in rows])
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)

    monkeypatch.setattr("vfunc.language.evaluation.generation._InverseCdf.__call__", scripted)
    options = {"max_new_tokens": 30, "temperature": 1.0}
    whole = generate(model, tokenizer, prompts, **options)
    assert whole == [[text] for text in written]
    expected = [["so\n#### 72\n"], ["no answer at all"], ["\\boxed{7}"], ["#### 3"]]
    assert generate(model, tokenizer, prompts, ending=ANSWERED, **options) == expected
    for one, text in zip(prompts, expected, strict=True):
        assert generate(model, tokenizer, [one], ending=ANSWERED, **options) == [text]
    steps.clear()
    generate(model, tokenizer, ["A"], ending=ANSWERED, **options)
    assert max(steps) == len(expected[0][0]) - 1  # the learner is not asked for more
    answers = ["72", "1", "7", "3"]
    examples = [Example(p, "", answer) for p, answer in zip(prompts, answers, strict=True)]
    solved = pass_at_1(model, tokenizer, examples, keep_texts=True, **options)
    assert solved.outcomes == (1.0, 0.0, 1.0, 1.0)
    assert solved.texts == tuple(map(tuple, expected))

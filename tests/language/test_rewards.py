"""Feedback from rewards: what is drawn, what it is worth, and the gradient of the surrogate."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import vfunc
from vfunc import trees
from vfunc.errors import UserError
from vfunc.language.data.examples import Example
from vfunc.language.data.sequences import collate
from vfunc.language.data.streams import PRESETS, embedded_examples
from vfunc.language.data.tokenise import Encoded, prompt_tokens
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.evaluation.answers import is_correct
from vfunc.language.evaluation.generation import complete
from vfunc.language.learner import LanguageLearner
from vfunc.language.loading import load_learner
from vfunc.language.rewards import (
    NO_ANSWER,
    NO_PROMPT,
    TOO_LONG,
    Prompt,
    PromptBatch,
    PromptStream,
    RewardOptions,
    Samples,
    advantages_of,
    checkable_prompts,
    draw_samples,
    surrogate,
)

END, LETTERS = 0, 4  # the end of text, and a vocabulary of four with it


@pytest.fixture(scope="module")
def tiny():
    """A float64 learner of four tokens, and a tokeniser that writes them a, b, c."""
    vocabulary = {"<end>": END, "a": 1, "b": 2, "c": 3}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    config = Qwen2Config(
        vocab_size=LETTERS,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        initializer_range=0.7,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Qwen2ForCausalLM(config).double().eval()
    return model, tokenizer


@pytest.fixture(scope="module")
def embedded():
    return load_learner(str(EMBEDDED_LEARNER))


def rewarded_at(prompt, completions, rewards):
    """Samples of one prompt, written by hand."""
    rows = [
        Encoded(
            torch.tensor([*prompt, *c], dtype=torch.int32),
            len(prompt),
            torch.zeros(len(prompt) + len(c), dtype=torch.bool),
        )
        for c in completions
    ]
    scored = torch.tensor([rewards], dtype=torch.float64)
    return Samples(collate(rows, END), scored, advantages_of(scored))


def log_p(learner, theta, prompt, completion, temperature):
    """Of a completion: its own forward, unpadded, token by token."""
    tokens = torch.tensor([[*prompt, *completion]])
    logits = learner(theta, input_ids=tokens[:, :-1], use_cache=False).logits
    rows = (logits[0] / temperature).log_softmax(-1)
    at = range(len(prompt) - 1, tokens.shape[1] - 1)
    return sum(rows[t, tokens[0, t + 1]] for t in at)


def gradient(loss, theta):
    theta = trees.leaves(theta)
    with vfunc.keep_float64():
        return trees.gradient(loss(theta), theta)


def off(a, b):
    return float(trees.norm(trees.axpy(-1.0, b, a)) / trees.norm(b))


@pytest.mark.parametrize(("group", "temperature"), [(2, 0.6), (3, 1.0)])
def test_the_expected_gradient_is_that_of_the_negative_expected_reward(tiny, group, temperature):
    # all completions of up to two tokens, enumerated in every group, each with its probability
    model, _ = tiny
    learner = vfunc.functional(model)
    theta = learner.theta
    prompt, first = (2, 1), (1, 2, 3)
    every = [(END,), *itertools.product(first, range(LETTERS))]
    if group == 3:
        every = [(token,) for token in range(LETTERS)]  # of one token: 64 groups
    draw = torch.Generator().manual_seed(0)
    worth = torch.rand(len(every), generator=draw, dtype=torch.float64).tolist()

    def expected_reward(theta):
        return sum(
            r * log_p(learner, theta, prompt, c, temperature).exp()
            for r, c in zip(worth, every, strict=True)
        )

    with vfunc.keep_float64(), torch.no_grad():
        p = [float(log_p(learner, theta, prompt, c, temperature).exp()) for c in every]
    assert math.fsum(p) == pytest.approx(1, abs=1e-12)
    found = trees.zeros_like(theta)
    for drawn in itertools.product(range(len(every)), repeat=group):
        samples = rewarded_at(prompt, [every[i] for i in drawn], [worth[i] for i in drawn])
        loss = surrogate(LanguageLearner(learner), samples, temperature)
        chance = math.prod(p[i] for i in drawn)
        found = trees.axpy(chance, gradient(loss, theta), found)
    wanted = gradient(lambda theta: -expected_reward(theta), theta)
    assert off(found, wanted) < 1e-10


def test_the_surrogate_weighs_each_completions_own_log_probability(tiny):
    model, tokenizer = tiny
    learner = vfunc.functional(model)
    prompts = PromptBatch((Prompt((1, 2, 3, 3, 1), "a"), Prompt((2,), "b"), Prompt((3, 1), "a")))
    options = RewardOptions(samples=3, temperature=0.8, max_new_tokens=4)
    with vfunc.keep_float64():
        samples = draw_samples(
            model, tokenizer, prompts, options, 7, lambda text, answer: text.count(answer)
        )
        drawn = complete(
            model,
            tokenizer,
            [prompt.tokens for prompt in prompts.prompts],
            max_new_tokens=4,
            temperature=0.8,
            samples=3,
            seed=7,
        )
    rows = iter(range(9))
    expected = 0.0
    for i, (prompt, group) in enumerate(zip(prompts.prompts, drawn, strict=True)):
        rewards = [float(one.text.count(prompt.answer)) for one in group]
        assert samples.rewards[i].tolist() == rewards
        for j, one in enumerate(group):
            row, length = next(rows), len(prompt.tokens) + len(one.tokens)
            assert samples.batch.tokens[row, :length].tolist() == [*prompt.tokens, *one.tokens]
            marked = samples.batch.next_tokens[row, samples.batch.predict[row]].tolist()
            assert marked == list(one.tokens)
            assert END not in one.tokens[:-1] and (END in one.tokens or len(one.tokens) == 4)
            baseline = (sum(rewards) - rewards[j]) / 2
            with vfunc.keep_float64():
                own = log_p(learner, learner.theta, prompt.tokens, one.tokens, 0.8)
            expected -= (rewards[j] - baseline) * float(own) / 9
    loss = surrogate(LanguageLearner(learner), samples, 0.8)
    with vfunc.keep_float64():
        assert float(loss(learner.theta)) == pytest.approx(expected, rel=1e-12)
    lengths = samples.batch.predict.sum(-1)
    assert expected != 0 and len(set(lengths.tolist())) > 1  # padding was needed


def test_groups_are_means_of_their_own(tiny):
    model, _ = tiny
    learner = LanguageLearner(vfunc.functional(model))
    theta = learner.functional.theta
    parts = [rewarded_at((1, 2), [(1,), (2, 3), (END,)], [r, 0.0, 1.0]) for r in (0.3, 2.0)]
    rows = [
        Encoded(row.to(torch.int32)[:length], 2, torch.zeros(length, dtype=torch.bool))
        for part in parts
        for row, length in zip(part.batch.tokens, (3, 4, 3), strict=True)
    ]
    rewards = torch.cat([part.rewards for part in parts])
    both = Samples(collate(rows, END), rewards, advantages_of(rewards))
    with vfunc.keep_float64():
        alone = [float(surrogate(learner, part, 1.0)(theta)) for part in parts]
        chosen = [float(surrogate(learner, both, 1.0, torch.tensor([i]))(theta)) for i in range(2)]
        whole = float(surrogate(learner, both, 1.0)(theta))
    assert chosen == pytest.approx(alone, rel=1e-13)
    assert whole == pytest.approx(sum(alone) / 2, rel=1e-13)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6))
def test_advantages_compare_with_the_others_of_the_group(rewards):
    (found,) = advantages_of(torch.tensor([rewards], dtype=torch.float64)).tolist()
    n = len(rewards)
    for i, advantage in enumerate(found):
        others = [r for j, r in enumerate(rewards) if j != i]
        assert advantage == pytest.approx(rewards[i] - sum(others) / (n - 1), abs=1e-12)
    assert sum(found) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_equal_rewards_say_exactly_nothing(tiny, reward):
    model, _ = tiny
    samples = rewarded_at((1, 2), [(1,), (2, 3), (END,)], [reward] * 3)
    assert samples.advantages.tolist() == [[0.0] * 3] and float(samples.informative) == 0
    learner = LanguageLearner(vfunc.functional(model))
    loss = surrogate(learner, samples, 1.0)
    assert float(loss(learner.functional.theta)) == 0
    assert trees.is_zero(gradient(loss, learner.functional.theta))
    one = rewarded_at((1, 2), [(1,), (2, 3), (END,)], [reward, reward, 2.0])
    assert float(one.informative) == 1


def problems(count=6):
    return embedded_examples("feedback", count, PRESETS["careless_everywhere"], 0)


def test_completions_are_drawn_as_often_as_they_are_probable(tiny):
    model, tokenizer = tiny
    learner = vfunc.functional(model)
    options = RewardOptions(samples=2000, temperature=0.7, max_new_tokens=1)
    with vfunc.keep_float64(), torch.no_grad():
        samples = draw_samples(model, tokenizer, PromptBatch((Prompt((1, 2), "a"),)), options, 0)
        p = [float(log_p(learner, learner.theta, (1, 2), (y,), 0.7).exp()) for y in range(LETTERS)]
    drawn = samples.batch.tokens[:, 2].bincount(minlength=LETTERS) / 2000
    for seen, chance in zip(drawn.tolist(), p, strict=True):
        assert abs(seen - chance) < 4 * math.sqrt(chance * (1 - chance) / 2000)


def test_drawing_repeats_and_leaves_everything_as_it_was(embedded):
    model, tokenizer = embedded
    model.train()
    prompts, _ = checkable_prompts(problems(4), tokenizer, 128)
    batch = PromptBatch(prompts)
    options = RewardOptions(samples=2, max_new_tokens=40)
    before = torch.get_rng_state()
    theta = {name: p.clone() for name, p in model.named_parameters()}
    first, again, other = (draw_samples(model, tokenizer, batch, options, s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(p, theta[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(first.batch.tokens, again.batch.tokens)
    assert not torch.equal(first.batch.tokens, other.batch.tokens)
    for row, (prompt, group) in enumerate(zip(prompts, first.rewards.tolist(), strict=True)):
        for column, reward in enumerate(group):
            at = 2 * row + column
            text = tokenizer.decode(
                first.batch.next_tokens[at, first.batch.predict[at]], skip_special_tokens=True
            )
            assert reward == float(is_correct(text, prompt.answer))
    assert first.batch.domains.tolist() == [p.domain for p in prompts for _ in range(2)]


def test_prompts_are_read_without_their_solutions(embedded):
    _, tokenizer = embedded
    examples = problems(8)
    garbled = [Example(e.prompt, "nonsense", e.answer, domain=e.domain) for e in examples]
    prompts, dropped = checkable_prompts(examples, tokenizer, 128)
    assert checkable_prompts(garbled, tokenizer, 128) == (prompts, dropped) and not dropped
    for example, prompt in zip(examples, prompts, strict=True):
        assert list(prompt.tokens) == prompt_tokens([example.prompt], tokenizer)[0]
        assert prompt.answer == example.answer and prompt.domain == example.domain


def test_what_cannot_be_rewarded_is_dropped_and_counted(embedded):
    _, tokenizer = embedded
    good = problems(1)[0]
    bad = [Example("", "raw", "3"), Example("ask\n", "tell"), Example("1 " * 200, "", "3")]
    prompts, dropped = checkable_prompts([*bad, good], tokenizer, 128)
    assert [p.answer for p in prompts] == [good.answer]
    assert dropped == {NO_PROMPT: 1, NO_ANSWER: 1, TOO_LONG: 1}
    with pytest.raises(UserError, match=f"nothing to reward: dropped 1 with {NO_PROMPT}, 1 with"):
        checkable_prompts(bad, tokenizer, 128)


def test_a_prompt_stream_takes_one_of_each_source_in_turn():
    sources = tuple(tuple(Prompt((d, i), "", d) for i in range(n)) for d, n in enumerate((3, 5)))
    stream = PromptStream(sources, 3)
    read = stream.batch(0, 30).prompts
    assert [p.domain for p in read] == [0, 1] * 15
    for domain, source in enumerate(sources):
        own = [p for p in read if p.domain == domain]
        for epoch in range(15 // len(source)):
            part = own[epoch * len(source) : (epoch + 1) * len(source)]
            assert sorted(p.tokens for p in part) == sorted(p.tokens for p in source)
    assert stream.batch(7, 4).prompts == read[7:11]
    assert PromptBatch(read[:3]).domains.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"samples": 1}, "1 reward samples make no group"), ({"temperature": 0.0}, "above 0")],
)
def test_reward_options_that_draw_nothing_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        RewardOptions(**options)

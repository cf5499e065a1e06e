"""Generates a learner's completions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from vfunc.errors import UserError
from vfunc.language.data.tokenise import end_of_text, prompt_tokens
from vfunc.language.evaluation.answers import COMPLETING, has_answered
from vfunc.typecheck import typed


@dataclass(frozen=True)
class Completion:
    """A learner's completion.

    Attributes:
        tokens: all generated tokens, the end-of-text token included if it was generated.
        text: text of the tokens before that.
    """

    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Ending:
    """What ends a completion besides the end-of-text token.

    Attributes:
        over: whether a text is complete: nothing written after it could change what it is worth.
        completing: characters one of which the last token of such a text holds; None is any.
        stops: texts before the first of which a completion ends; it does not hold them.
    """

    over: Callable[[str], bool] = lambda text: False
    completing: str | None = ""
    stops: tuple[str, ...] = ()

    def ends(self, text: str) -> bool:
        """Whether a text has come to its end."""
        return any(stop in text for stop in self.stops) or self.over(text)

    def may_end(self, text: str) -> bool:
        """Whether a token with this text may bring a text to its end."""
        if self.completing is None:
            return True
        return any(c in text for c in self.completing) or any(s[-1] in text for s in self.stops)

    def cut(self, text: str) -> str:
        """A text up to the first stop."""
        return text[: min((at for s in self.stops if (at := text.find(s)) >= 0), default=None)]


ANSWERED = Ending(has_answered, COMPLETING)
"""A completion ends where it has stated an answer that nothing after it could change."""


@typed
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float | int = 0.0,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 128,
    ending: Ending | None = None,
) -> list[list[str]]:
    """Complete prompts, in batches of similar length, with left padding.

    A completion depends on its prompt, its place in `prompts`, the sample's number and the seed,
    not on what else is in its batch (up to rounding). It ends before the end-of-text token, after
    `max_new_tokens`, or where the learner's context ends. Decoding is plain: whatever the
    checkpoint's own generation settings say (penalties, top-p), they are not used, save for the
    tokens that end a text. Sampling is by inverting the distribution function at a uniform
    number of its own generator, so that arms compared with one seed share their randomness.

    Random state, train or eval mode and generation settings are left as they were found.

    Args:
        model: a causal language model.
        tokenizer: its tokeniser.
        prompts: texts to complete, none empty.
        max_new_tokens: largest number of tokens in a completion.
        temperature: divisor of the logits; 0 for greedy decoding.
        samples: number of completions a prompt; more than one needs a temperature.
        seed: seed of the samples.
        batch_size: number of completions at a time.
        ending: what ends a completion early, such as `ANSWERED`.

    Returns:
        For each prompt, in order, its completions.

    Raises:
        UserError: a prompt that is empty or fills the model's context, several greedy samples,
            a tokeniser without end-of-text token, or a number out of its range.
    """
    found = complete(
        model,
        tokenizer,
        prompt_tokens(prompts, tokenizer),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        ending=ending,
    )
    return [[completion.text for completion in completions] for completions in found]


@typed
def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float | int = 0.0,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 128,
    ending: Ending | None = None,
) -> list[list[Completion]]:
    """Does what `generate` does, from tokens to tokens.

    Args:
        model: a causal language model.
        tokenizer: its tokeniser, for the end-of-text token.
        tokens: prompts, as `prompt_tokens` makes them; none empty.
        max_new_tokens: largest number of tokens in a completion, the last one included.
        temperature: divisor of the logits; 0 for greedy decoding.
        samples: number of completions a prompt.
        seed: seed of the samples.
        batch_size: number of completions at a time.
        ending: what ends a completion early, such as `ANSWERED`.

    Returns:
        For each prompt, in order, its completions.

    Raises:
        UserError: as `generate`.
    """
    _check_options(tokenizer, max_new_tokens, temperature, samples, seed, batch_size)
    rooms = _rooms(model, tokens, max_new_tokens)
    # Where the context leaves less room than asked for, only prompts of one length share a batch,
    # so that the room of one never cuts or stretches the completion of another.
    jobs = sorted(
        ((prompt, sample) for prompt in range(len(tokens)) for sample in range(samples)),
        key=lambda job: (-rooms[job[0]], len(tokens[job[0]]), job),
    )
    found = [[Completion((), "")] * samples for _ in tokens]
    with _plain_decoding(model, tokenizer) as ends:
        for room, group in itertools.groupby(jobs, key=lambda job: rooms[job[0]]):
            for batch in _batches(list(group), batch_size):
                processors = LogitsProcessorList()
                width = max(len(tokens[prompt]) for prompt, _ in batch)
                if temperature > 0:
                    uniforms = _uniforms(seed, batch, room)
                    processors.append(_InverseCdf(uniforms, float(temperature), width))
                ids, mask = _left_padded([tokens[prompt] for prompt, _ in batch], ends[0])
                ended = _Ended(tokenizer, width, len(batch), ends, ending or Ending())
                criteria = StoppingCriteriaList([] if ending is None else [ended])
                produced = cast("Any", model).generate(  # GenerationMixin's
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    max_new_tokens=room,
                    logits_processor=processors,
                    stopping_criteria=criteria,
                )
                rows = produced[:, width:].tolist()
                for (prompt, sample), full, at in zip(batch, rows, ended.after, strict=True):
                    row = full[:at]  # all of it where nothing ended it
                    kept = list(itertools.takewhile(lambda token: token not in ends, row))
                    text = cast("str", tokenizer.decode(kept, skip_special_tokens=True))
                    text = text if ending is None else ending.cut(text)
                    found[prompt][sample] = Completion(tuple(row[: len(kept) + 1]), text)
    return found


def context_of(model: PreTrainedModel) -> int | None:
    """The longest sequence that a learner takes, in tokens; None where it does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


class _InverseCdf(LogitsProcessor):
    """Leaves one token to greedy decoding: the one that a given uniform number falls on."""

    def __init__(self, uniforms: Float[Tensor, "B T"], temperature: float, width: int) -> None:
        self.uniforms, self.temperature, self.width = uniforms, temperature, width

    def __call__(
        self, input_ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]
    ) -> Float[Tensor, "B V"]:
        step = input_ids.shape[1] - self.width
        below = torch.softmax(scores.double() / self.temperature, -1).cumsum(-1)
        # Scaled by the sum as rounded, so that no uniform number falls beyond the last token.
        at = self.uniforms[:, step : step + 1].to(scores.device) * below[:, -1:]
        chosen = torch.searchsorted(below, at, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)


class _Ended(StoppingCriteria):
    """Ends each row after the token that brings its text to its end."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        width: int,
        rows: int,
        ends: Sequence[int],
        ending: Ending,
    ) -> None:
        self.tokenizer, self.width, self.ends, self.ending = tokenizer, width, ends, ending
        self.after: list[int | None] = [None] * rows
        self._over = [False] * rows
        self._may_end: dict[int, bool] = {}

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  each row its own
        self, input_ids: Int[Tensor, "B L"], scores: object, **_: object
    ) -> Bool[Tensor, "B"]:
        rows = input_ids[:, self.width :].tolist()
        for number, row in enumerate(rows):
            if self._over[number]:
                continue
            if row[-1] in self.ends:
                self._over[number] = True
            elif self._looked_at(row[-1]) and self.ending.ends(self._text(row)):
                self._over[number], self.after[number] = True, len(row)
        return torch.tensor([at is not None for at in self.after], device=input_ids.device)

    def _looked_at(self, token: int) -> bool:
        """Whether a token holds what ends a text: looked up, since texts are slow to decode."""
        if token not in self._may_end:
            self._may_end[token] = self.ending.may_end(self._text([token]))
        return self._may_end[token]

    def _text(self, tokens: Sequence[int]) -> str:
        return cast("str", self.tokenizer.decode(list(tokens), skip_special_tokens=True))


@contextmanager
def _plain_decoding(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[int, ...]]:
    """Eval mode and neutral generation settings for a while; yields the ids that end a text.

    The model's settings are set aside because `generate` fills every option that is not given from
    them: a checkpoint with a repetition penalty would not decode greedily otherwise.
    """
    settings = model.generation_config
    training = [module for module in model.modules() if module.training]
    own = getattr(settings, "eos_token_id", None)
    own = [own] if isinstance(own, int) else list(own or [])
    ends = tuple(dict.fromkeys([end_of_text(tokenizer), *own]))
    model.eval()
    model.generation_config = GenerationConfig(
        do_sample=False, num_beams=1, eos_token_id=list(ends), pad_token_id=ends[0]
    )
    try:
        yield ends
    finally:
        model.generation_config = settings
        for module in training:
            module.training = True


def _check_options(
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    temperature: float,
    samples: int,
    seed: int,
    batch_size: int,
) -> None:
    counts = {"max_new_tokens": max_new_tokens, "samples": samples, "batch_size": batch_size}
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} is {count}: it must be at least 1.")
    if seed < 0:
        raise UserError(f"seed is {seed}: it must not be negative.")
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature {temperature} must be finite, and 0 (greedy) or more.")
    if samples > 1 and temperature == 0:
        raise UserError(
            f"{samples} greedy samples would all be the same: set a temperature above 0."
        )
    if tokenizer.eos_token_id is None:
        raise UserError("the tokeniser has no end-of-text token (eos_token); set one.")


def _rooms(
    model: PreTrainedModel, tokens: Sequence[Sequence[int]], max_new_tokens: int
) -> list[int]:
    """Largest number of new tokens for each prompt."""
    context = context_of(model)
    for number, prompt in enumerate(tokens):
        if not prompt:
            raise UserError(f"prompt {number} is empty: there is nothing to complete.")
        if context is not None and len(prompt) >= context:
            raise UserError(
                f"prompt {number} has {len(prompt)} tokens and the model a context of {context}: "
                "shorten it or leave it out."
            )
    if context is None:
        return [max_new_tokens] * len(tokens)
    return [min(max_new_tokens, context - len(prompt)) for prompt in tokens]


def _batches(
    jobs: Sequence[tuple[int, int]], batch_size: int
) -> Iterator[Sequence[tuple[int, int]]]:
    for start in range(0, len(jobs), batch_size):
        yield jobs[start : start + batch_size]


def _left_padded(
    prompts: Sequence[Sequence[int]], pad: int
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def _uniforms(seed: int, jobs: Sequence[tuple[int, int]], count: int) -> Float[Tensor, "B T"]:
    """Uniform numbers in [0, 1): a generator of its own for every prompt and sample."""
    rows = [np.random.default_rng([seed, *job]).random(count) for job in jobs]
    return torch.from_numpy(np.stack(rows))

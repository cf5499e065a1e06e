"""Make the embedded base learner: a small Qwen2 that solves under half of the word problems.

    python experiments/make_base.py --out base

trains a byte-level BPE tokenizer and a `Qwen2ForCausalLM` on clean problems of the base split,
with loss on the solution, stops before it has learned them well, and saves both with
`save_pretrained`. The same options give the same weights on one machine.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.language.data.examples import Example
from vfunc.language.data.streams import StreamSpec, embedded_examples
from vfunc.language.data.tokenise import end_of_text
from vfunc.language.embedded_learner import EMBEDDED_LEARNER, greedy_pass_at_1
from vfunc.printable import one_line

with needs("run", "tyro"), needs("language", "transformers"):
    import tyro
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

IGNORED = -100


@dataclass(frozen=True)
class Options:
    """Options of the base learner; the defaults made the one that is shipped."""

    out: Path = EMBEDDED_LEARNER
    """Directory to write config.json, model.safetensors and the tokenizer to."""
    seed: int = 0
    """Seed of the weights, the problems and their order."""
    batches: int = 600
    """Training batches: few enough that the learner solves under half of the problems."""
    schedule_batches: int = 1600
    """Batches over which the learning rate would fall to zero; at least --batches."""
    batch_size: int = 32
    """Examples a batch."""
    problems: int = 16_000
    """Distinct problems to train on."""
    lr: float = 3e-3
    """Peak learning rate of AdamW."""
    vocabulary: int = 448
    """Upper limit of the vocabulary: 256 bytes, the end of a text, and pieces of words."""
    hidden: int = 96
    """Width of the learner."""
    intermediate: int = 256
    """Width of its feed-forward layers."""
    layers: int = 3
    """Number of blocks."""
    heads: int = 4
    """Attention heads."""
    key_value_heads: int = 2
    """Key and value heads that the attention heads share."""
    initializer_range: float = 0.06
    """Standard deviation of the initial weights; transformers' 0.02 is for wider learners."""
    validation: int = 256
    """Validation problems to measure Pass@1 and loss on."""

    def __post_init__(self) -> None:
        for name in ("batches", "batch_size", "validation"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        if self.schedule_batches < self.batches:
            raise UserError(
                f"--schedule-batches {self.schedule_batches} is below --batches {self.batches}: "
                "the learning rate would fall below zero; raise it or lower --batches"
            )
        if self.problems < self.batch_size:
            raise UserError(
                f"--problems {self.problems} do not fill a batch of {self.batch_size}; ask for more"
            )
        if self.vocabulary < 257:
            raise UserError(
                f"--vocabulary {self.vocabulary} has no room for 256 bytes and the end of a text; "
                "give at least 257"
            )


def train_tokenizer(examples: list[Example], vocabulary: int) -> Qwen2Tokenizer:
    """Train a tokenizer on the text of the examples.

    It is Qwen2's in all but its vocabulary (byte-level BPE, every digit by itself):
    `AutoTokenizer` goes by the model's type, and would put Qwen2's rules in place of any others.
    """
    texts = (e.prompt + e.completion for e in examples)
    return Qwen2Tokenizer().train_new_from_iterator(texts, vocabulary, show_progress=False)


def encode(tokenizer: Qwen2Tokenizer, examples: list[Example]) -> list[tuple[list[int], int]]:
    """Token ids of prompt, completion and end token, with the prompt's length."""
    prompts = tokenizer([e.prompt for e in examples])["input_ids"]
    completions = tokenizer([e.completion for e in examples])["input_ids"]
    end = end_of_text(tokenizer)
    return [
        ([*prompt, *completion, end], len(prompt))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def collate(sequences: list[tuple[list[int], int]], end: int) -> tuple[Tensor, Tensor]:
    """Right-padded tokens and, of the same shape, labels on the completion and end token only."""
    longest = max(len(tokens) for tokens, _ in sequences)
    tokens = torch.full((len(sequences), longest), end)
    labels = torch.full((len(sequences), longest), IGNORED)
    for row, (ids, prompt_length) in enumerate(sequences):
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, prompt_length : len(ids)] = torch.tensor(ids[prompt_length:])
    return tokens, labels


def completion_loss(learner: Qwen2ForCausalLM, tokens: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the labelled tokens."""
    logits = learner(input_ids=tokens[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def shuffled_batches(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of indices below `count`, each epoch in a new order."""
    generator = random.Random(seed)
    order: list[int] = []
    while True:
        if len(order) < size:
            order = generator.sample(range(count), count)
        order, batch = order[size:], order[:size]
        yield batch


def train(
    learner: Qwen2ForCausalLM, data: list[tuple[list[int], int]], end: int, options: Options
) -> None:
    """Train the learner in place for `options.batches` batches."""
    optimizer = torch.optim.AdamW(
        learner.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01
    )
    warm_up = max(1, options.schedule_batches // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 1 - step / options.schedule_batches),
    )
    indices = shuffled_batches(len(data), options.batch_size, options.seed)
    started = time.perf_counter()
    for batch in range(1, options.batches + 1):
        tokens, labels = collate([data[i] for i in next(indices)], end)
        loss = completion_loss(learner, tokens, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if batch % 100 == 0:
            seconds = time.perf_counter() - started
            print(f"batch {batch:5d}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)


def main(options: Options) -> None:
    """Make, measure and save the base learner."""
    torch.set_num_threads(1)  # sums over several threads are not the same from run to run
    torch.manual_seed(options.seed)
    examples = embedded_examples("base", options.problems, StreamSpec(), options.seed)
    tokenizer = train_tokenizer(examples, options.vocabulary)
    end = end_of_text(tokenizer)
    learner = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=options.hidden,
            intermediate_size=options.intermediate,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            num_key_value_heads=options.key_value_heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=end,
            pad_token_id=cast("int | None", tokenizer.pad_token_id),
            bos_token_id=None,
            initializer_range=options.initializer_range,
        )
    )
    print(f"{learner.num_parameters():,} parameters, {len(tokenizer)} tokens")
    data = encode(tokenizer, examples)
    print(f"{sum(len(tokens) for tokens, _ in data) / len(data):.1f} tokens an example")
    train(learner, data, end, options)
    learner.eval()
    held_out = embedded_examples("validation", options.validation, StreamSpec(), options.seed)
    with torch.no_grad():
        tokens, labels = collate(encode(tokenizer, held_out), end)
        loss = completion_loss(learner, tokens, labels)
    score = greedy_pass_at_1(learner, tokenizer, held_out)
    print(f"validation: Pass@1 {score:.3f}, loss {loss.item():.4f} ({options.validation} problems)")
    learner.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"saved in {options.out}")


if __name__ == "__main__":
    try:
        with refused_in_a_line(sys.argv[1:]):
            asked = tyro.cli(Options, description=__doc__)
        main(asked)
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)

"""Path of the base learner that comes with the package, and its Pass@1.

`EMBEDDED_LEARNER` is a `save_pretrained` directory (a `Qwen2ForCausalLM` of 0.3M parameters and a
byte-level BPE tokenizer), rebuilt by `experiments/make_base.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.language.data.examples import Example
from vfunc.typecheck import typed

EMBEDDED_LEARNER = Path(__file__).parent / "embedded"


@typed
def greedy_pass_at_1(
    learner: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    max_new_tokens: int = 64,
) -> float:
    """Share of embedded examples whose greedy solution ends in `#### ` and the true answer.

    The whole sample is generated as one batch with left padding, so it should be small.

    Args:
        learner: the learner, in eval mode.
        tokenizer: its tokenizer, with a padding token.
        examples: problems with answers.
        max_new_tokens: largest number of tokens in a solution; the longest true one takes 60.
    """
    batch = tokenizer([e.prompt for e in examples], padding=True, padding_side="left")
    prompts = torch.tensor(batch["input_ids"], device=learner.device)
    generated = cast("Any", learner).generate(  # GenerationMixin's
        input_ids=prompts,
        attention_mask=torch.tensor(batch["attention_mask"], device=learner.device),
        do_sample=False,
        max_new_tokens=max_new_tokens,
    )
    texts = tokenizer.batch_decode(generated[:, prompts.shape[1] :], skip_special_tokens=True)
    right = [
        text.rpartition("#### ")[2].strip() == example.answer
        for text, example in zip(texts, examples, strict=True)
    ]
    return sum(right) / len(right)

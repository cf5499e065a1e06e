"""Makes a language run of a given shape from random weights and random tokens, for measurements."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vfunc.arms import ARMS
from vfunc.estimators import FirstOrder
from vfunc.extras import needs
from vfunc.language.data.reading import LanguageData
from vfunc.language.data.sequences import TokenStream
from vfunc.language.data.tokenise import Encoded, EncodedSet
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.soft_targets.designer import DesignerConfig
from vfunc.language.soft_targets.targets import TargetForm
from vfunc.language.workload import LanguageWorkload
from vfunc.training.arm_run import ArmRun, StepOptions
from vfunc.training.budget import ArmPlan, Budget, Schedule
from vfunc.training.log import Silent
from vfunc.training.options.optimizer_options import OptimizerOptions
from vfunc.training.state import new_arm_state

with needs("language", "transformers"):
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM


@dataclass(frozen=True)
class Shape:
    """Sizes of a learner, its batches and its designer.

    Attributes:
        width: the learner's hidden size.
        layers: its blocks.
        heads: its attention heads.
        pairs: its key and value heads.
        inner: width of its gated layers.
        vocabulary: its tokens.
        batch: sequences of a micro-batch.
        length: tokens of each.
        feedback: tokens of each sequence of a feedback batch, which is padded to the longest.
        designer_width: hidden size of the designer.
        designer_layers: its blocks.
        top_k: K.
        period: micro-batches between two updates of the designer.
    """

    width: int
    layers: int
    heads: int
    pairs: int
    inner: int
    vocabulary: int
    batch: int
    length: int
    feedback: tuple[int, ...]
    designer_width: int
    designer_layers: int
    top_k: int
    period: int = 8


SHAPES = {
    "tiny": Shape(16, 3, 2, 1, 32, 200, 2, 16, (12, 9), 8, 1, 8, 2),
    "scaled": Shape(128, 8, 4, 2, 640, 20_000, 4, 256, (128, 112, 96, 80), 64, 3, 64),
    "proportioned": Shape(128, 8, 4, 2, 640, 7_000, 4, 256, (128, 112, 96, 80), 32, 2, 64),
    "qwen2.5-0.5b": Shape(896, 24, 14, 2, 4864, 151_936, 4, 512, (256, 224, 192, 160), 256, 6, 64),
}
"""Shapes by name: one for tests; Qwen2 scaled down, with an embedding of half of its 4.9M
parameters; the same with the shares of Qwen2.5-0.5B, where the embedding is 28 % of the parameters
and the designer 1 %; and Qwen2.5-0.5B, with the paper's designer (Table 10)."""


def learner_of(shape: Shape) -> Qwen2ForCausalLM:
    """A Qwen2 of that shape, with random weights from seed 0 and tied embeddings."""
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.pairs,
        max_position_embeddings=2 * shape.length,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen2ForCausalLM(config)


def shaped_run(
    shape: Shape,
    arm: str,
    align: str,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> ArmRun:
    """One arm of a run of that shape: AdamW, one micro-batch a step, `first_order`.

    Args:
        shape: the sizes.
        arm: `baseline` or `vpretraining`.
        align: the subset S.
        device: the device; None is the CPU.
        dtype: of mixed precision; None is float32 throughout.
    """
    device = device or torch.device("cpu")
    workload = LanguageWorkload(
        _random_data(shape),
        AutoTokenizer.from_pretrained(EMBEDDED_LEARNER),  # for text, of which there is none
        DesignerConfig(
            shape.vocabulary,
            TargetForm("free", alpha_max=0.5),
            shape.designer_width,
            shape.designer_layers,
        ),
        None,
        shape.top_k,
        shape.batch,
        shape.batch,
        len(shape.feedback),
        0.1,
        device,
        dtype,
        0,
    )
    designed = ARMS[arm].designed
    state = new_arm_state(
        learner_of(shape),
        align,
        OptimizerOptions(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01, warmup=0.0),
        workload.new_designer() if designed else None,
        1e-4,
        device,
    )
    return ArmRun(
        ARMS[arm],
        state,
        workload,
        workload.estimated(state.functional) if designed else None,
        FirstOrder() if designed else None,
        StepOptions(1, 1.0, shape.period, 0, 1, {}, False, 0),
        ArmPlan(Budget(10**6, "steps"), 1e-4, Schedule(), 0.0, 0.0, 0),
        Silent(),
    )


def _random_data(shape: Shape) -> LanguageData:
    drawn = torch.Generator().manual_seed(0)

    def sequence(length: int) -> Encoded:
        tokens = torch.randint(shape.vocabulary, (length + 1,), generator=drawn, dtype=torch.int32)
        return Encoded(tokens, 1, torch.zeros(length + 1, dtype=torch.bool))

    def stream(lengths: tuple[int, ...]) -> TokenStream:
        return TokenStream(EncodedSet(tuple(map(sequence, lengths)), {}, 0, 0), 0)

    feedback = stream(shape.feedback)
    return LanguageData(
        stream((shape.length,) * shape.batch * shape.period), feedback, (), feedback, (), 0
    )

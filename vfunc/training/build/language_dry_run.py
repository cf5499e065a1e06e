"""Checks a language run at full size (`--dry-run`) where its learner or data are not here.

The architecture is built on the meta device, where tensors have shapes and no numbers; no network
is touched, nothing is downloaded, and no data of the Hub are read.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from vfunc.arms import ARMS
from vfunc.conditions import EMBEDDED
from vfunc.errors import UserError
from vfunc.evaluation.flops import Flops
from vfunc.extras import needs
from vfunc.forward_pass import autocast
from vfunc.language.data.mixture import without_weight
from vfunc.language.data.records import is_file
from vfunc.language.feedback_options import GRPO_ARMS
from vfunc.language.gguf import is_gguf
from vfunc.language.loading import quiet, with_lora
from vfunc.language.soft_targets.candidates import require_top_k
from vfunc.language.soft_targets.designer import TopKDesigner
from vfunc.learner import blocks, select
from vfunc.training.build.kept_bytes import GIB, copies_of, counting_saved, fake
from vfunc.training.build.known_architectures import architecture_of
from vfunc.training.build.language_assembly import designer_config_of
from vfunc.training.build.language_config import LanguageConfig
from vfunc.training.build.language_frozen import freeze_others

with needs("language", "transformers"):
    from transformers import AutoModelForCausalLM, PreTrainedModel

FEW = 4
"""Blocks that are looked at, of which the rest are copies."""

REACHED = 4e14
"""FLOPs a second that times are told for: 40 % of an H100's dense bfloat16 peak of 989 TFLOP/s."""


def is_all_here(config: LanguageConfig) -> bool:
    """Whether learner and data are files of this machine: then a dry run tries the run itself.

    Args:
        config: resolved.
    """
    name, data = config.learner.learner, config.data
    learner = name == EMBEDDED or Path(name).expanduser().is_dir() or is_gguf(name)
    sources = [*map(without_weight, data.stream or ()), *(data.feedback or ())]
    return learner and all(map(is_file, [*sources, *([data.eval] if data.eval else [])]))


@dataclass(frozen=True)
class Sizes:
    """What a plain micro-batch of the learner takes.

    Attributes:
        kept: bytes that its graph keeps.
        forward: FLOPs of its forward pass.
        backward: FLOPs of its backward pass.
    """

    kept: int
    forward: int
    backward: int


def language_dry_run(config: LanguageConfig, console: Console) -> None:
    """Build the learner and designer of a run without numbers, and say what the run would take.

    Args:
        config: resolved.
        console: the console to print on.

    Raises:
        UserError: something does not fit together, or the learner's sizes are not known here.
    """

    def say(name: str, text: str) -> None:
        console.print(f"{name:9} {text}", highlight=False, markup=False, soft_wrap=True)

    model, module, whole_learner = _built(config)
    name, data = config.learner.learner, config.data
    vocabulary, context = model.config.vocab_size, model.config.max_position_embeddings
    require_top_k(config.targets.top_k, vocabulary)
    if data.seq_len > context:
        raise UserError(
            f"--seq-len {data.seq_len} is longer than the learner's context of {context}"
        )
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    s = select(module, config.estimator.align)
    with torch.device("meta"):
        designer = TopKDesigner(designer_config_of(config, vocabulary, module, None))
    phi = sum(p.numel() for p in designer.parameters())
    theta, of_s = _numbers(trained.values()), _numbers(trained[n] for n in s)
    say(
        "learner",
        f"{name}: {whole_learner:,} parameters; {theta:,} trained; S "
        f"({config.estimator.align}) {of_s:,} in {len(s)} tensors; designer {phi:,}",
    )
    for kind, sources in (("stream", data.stream), ("feedback", data.feedback)):
        say(kind, f"{', '.join(sources or ())} (not read)")
    say("eval", f"{data.eval} (not read)")
    windows = data.batch_size * config.optimizer.accumulate
    tokens, steps = windows * data.seq_len, _steps(config, windows * data.seq_len)
    whole = "" if steps is None else f"; {steps:,} steps, {tokens * steps / 1e6:,.0f}M tokens"
    say(
        "tokens",
        f"a step at most {data.batch_size} x {config.optimizer.accumulate} x {data.seq_len:,} = "
        f"{tokens:,} a process{whole}",
    )
    plain = _plain_step(config, module, model.config.num_hidden_layers)
    numbers = {"theta": theta, "s": of_s, "phi": phi}
    for label, text in _told(config, module, model, plain, numbers, steps):
        say(label, text)
    if by_trl := [arm for arm in config.run.arms if ARMS[arm].phases]:
        drawn = config.direct.grpo_generations * windows
        of_grpo = (
            f"; GRPO draws {drawn:,} completions a step" if set(by_trl) & set(GRPO_ARMS) else ""
        )
        say("by TRL", f"{', '.join(by_trl)}: neither memory nor time is foretold{of_grpo}")


def _built(
    config: LanguageConfig, fewer: int | None = None
) -> tuple[PreTrainedModel, nn.Module, int]:
    """The learner on the meta device, the module that is trained, and the learner's parameters.

    Args:
        config: the run.
        fewer: build so many blocks alone, all of them trained; None builds what the run trains.
    """
    architecture = architecture_of(config.learner.learner)
    if fewer is not None:
        architecture.num_hidden_layers = fewer
        if getattr(architecture, "layer_types", None):
            architecture.layer_types = architecture.layer_types[:fewer]
    with torch.device("meta"), quiet():
        model: Any = AutoModelForCausalLM.from_config(architecture, dtype=torch.float32)
    lora, count = config.adapters, _numbers(model.parameters())
    module: nn.Module = model
    if lora.lora_rank:  # adapters are layers of the model
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft's own calls
            module = with_lora(model, lora.lora_rank, lora.lora_alpha, lora.lora_dropout)
    if fewer is None:
        freeze_others(module, config.trained.train)
    return model, module, count


def _steps(config: LanguageConfig, tokens: int) -> int | None:
    """Optimizer steps of the budget; None where it is of seconds."""
    budget = config.run.budget
    if budget.unit == "seconds":
        return None
    return int(budget.amount if budget.unit == "steps" else -(-budget.amount // tokens))


def _plain_step(config: LanguageConfig, module: nn.Module, blocks_there: int) -> Sizes:
    """What a micro-batch takes, by tensors without numbers, as a CPU would go about it.

    Measured at one and two texts through a few blocks, and drawn on: all three grow linearly with
    both. Blocks below the lowest that is trained keep nothing, and have no backward pass.
    """
    few = min(FEW, blocks_there)
    dtype = torch.bfloat16 if config.learner.precision == "bfloat16" else None
    texts = {1, 2} if config.data.batch_size > 1 else {1}
    at = {
        (n, k): _measured(_built(config, k)[1], n, config.data.seq_len, dtype)
        for k in {few, max(few // 2, 1)}
        for n in texts
    }
    trained = tuple(n for n, p in module.named_parameters() if p.requires_grad)
    above = round(_share_above(module, trained) * blocks_there)

    def drawn_on(which: int, blocks: int) -> int:
        """A figure at all texts and so many blocks."""
        by_blocks = []
        for k in (max(few // 2, 1), few):
            one = at[1, k][which]
            two = at[2, k][which] if config.data.batch_size > 1 else one
            by_blocks.append(one + (config.data.batch_size - 1) * (two - one))
        low, high = by_blocks
        slope = (high - low) / (few - few // 2) if few > 1 else 0.0
        return round(high + (blocks - few) * slope)

    return Sizes(drawn_on(0, above), drawn_on(1, blocks_there), drawn_on(2, above))


def _measured(
    module: nn.Module, texts: int, length: int, dtype: torch.dtype | None
) -> tuple[int, int, int]:
    """Bytes kept, and FLOPs of a forward and a backward, of so many texts."""
    device = torch.device("cpu")
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with FakeTensorMode(), counting_saved() as saved, autocast(device, dtype):
        held = {name: fake(x, device) for name, x in state.items()}
        tokens = torch.zeros((texts, length), dtype=torch.long, device=device)
        with Flops() as counted:
            out = functional_call(module, held, (), {"input_ids": tokens, "use_cache": False})
            loss = F.cross_entropy(out.logits.float().flatten(0, 1), tokens.flatten())
        own = {x.untyped_storage()._cdata for x in held.values()}
        kept = sum(size for storage, size in saved.items() if storage not in own)
        forward = counted.total
        with Flops() as counted:
            torch.autograd.grad(loss, [x for x in held.values() if x.requires_grad])
    return kept, forward, counted.total


def _told(
    config: LanguageConfig,
    module: nn.Module,
    model: PreTrainedModel,
    plain: Sizes,
    numbers: dict[str, int],
    steps: int | None,
) -> list[tuple[str, str]]:
    """Memory and time, of the baseline and of V-pretraining by first-order value, in words."""
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    state = 4 * copies_of(config.optimizer) * numbers["theta"]
    added = 4 * (4 * numbers["phi"] + numbers["s"])
    memory = (
        f"about {(weights + state + plain.kept) / GIB:.1f} GiB: weights {weights / GIB:.1f}, "
        f"gradients and optimizer {state / GIB:.1f}, activations {plain.kept / GIB:.1f} in "
        f"{config.learner.precision}; the designer and g_down {added / GIB:.1f} more"
    )
    every = config.estimator.meta_period
    share = _share_above(module, select(module, config.estimator.align))
    length, batch = config.data.seq_len, config.data.batch_size
    a_text = plain.forward / batch
    feedback = config.data.feedback_batch_size * config.data.feedback_seq_len / length * a_text
    shown = config.data.meta_batch_size * config.data.meta_seq_len / length
    estimate = feedback * (1 + 2 * share) + shown * a_text * 3 * share
    blocks_of_phi = numbers["phi"] - model.config.vocab_size * config.targets.design["width"]
    designing = 2 * max(blocks_of_phi, 0) * length * batch
    more = (estimate + 3 * designing) / every + designing
    step = (plain.forward + plain.backward) * config.optimizer.accumulate
    own = step + more * config.optimizer.accumulate
    whole = "" if steps is None else f"; {_hours(steps * step)}, {_hours(steps * own)} for all"
    time = (
        f"a step {step / 1e12:,.1f} TFLOP, V-pretraining by first-order value about "
        f"{100 * (own / step - 1):.0f} % more{whole}, at {REACHED / 1e12:.0f} TFLOP/s (40 % of an "
        "H100's bfloat16 peak) and without waiting for data, evaluation or other processes"
    )
    return [("memory", memory), ("time", time)]


def _share_above(module: nn.Module, names: tuple[str, ...]) -> float:
    """The share of blocks from the lowest that S takes in on: those that its graph goes through."""
    found = blocks(module)
    if found is None:
        return 1.0
    prefix, there = found
    numbered = [n.split(f"{prefix}.", 1)[1].split(".")[0] for n in names if f"{prefix}." in n]
    inside = [int(number) for number in numbered if number.isdigit()]
    outside_below = any("embed" in n for n in names)
    return 1.0 if outside_below or not inside else (len(there) - min(inside)) / len(there)


def _hours(flops: int | float) -> str:
    hours = flops / REACHED / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def _numbers(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)

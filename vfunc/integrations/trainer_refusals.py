"""Refuses what would make a trainer's step another than estimates simulate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vfunc.errors import UserError
from vfunc.simulate import check_step

_SHARDED = (
    "value gradients need whole parameters (docs/scaling.md): launch plain data-parallel (DDP)"
)


def refuse(trainer: Any) -> None:
    """Refuse a trainer that designed targets do not fit.

    What can be told from the optimizer alone is refused when the training begins
    (`vfunc.check_step`), and what can be told from a batch alone at that batch.

    Args:
        trainer: a `transformers.Trainer`, made.

    Raises:
        UserError: the first reason, and what to do.
    """
    for reason in _reasons(trainer):
        raise UserError(f"ValueTrainer: {reason}")


def refuse_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], args: Any
) -> None:
    """Refuse an optimizer whose step is not simulated.

    Args:
        optimizer: the optimizer itself, without a wrapper.
        parameters: the live parameters in S.
        args: the trainer's arguments.

    Raises:
        UserError: it is none of torch.optim's, or steps otherwise.
    """
    try:
        check_step(optimizer, parameters)
    except UserError as error:
        kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        name = getattr(args.optim, "value", args.optim)
        raise UserError(
            f"ValueTrainer: the optimizer is {kind} (optim={name!r}, unless it was given): "
            f"{error}; "
            "with optim='adamw_torch', 'sgd', 'rmsprop' or 'adagrad' it is torch's own"
        ) from error


def _reasons(trainer: Any) -> Iterator[str]:
    yield from _of_processes(trainer)
    yield from _of_the_loss(trainer)
    yield from _of_the_model(trainer.model)
    yield from _of_packing(trainer.args)


def _of_processes(trainer: Any) -> Iterator[str]:
    args, accelerator = trainer.args, trainer.accelerator
    if getattr(trainer, "is_fsdp_enabled", False) or args.fsdp:
        yield f"FSDP shards the learner, and {_SHARDED}"
    if getattr(trainer, "is_deepspeed_enabled", False) or args.deepspeed:
        yield f"DeepSpeed steps by itself, in shards, and {_SHARDED}"
    if args.n_gpu > 1:
        yield (
            "one process with several GPUs is nn.DataParallel, whose copies have no optimizer: "
            "start it by accelerate launch or torchrun, or show it one GPU "
            "(CUDA_VISIBLE_DEVICES=0)"
        )
    mode = str(getattr(args.parallel_mode, "value", args.parallel_mode))
    if mode not in ("not_parallel", "distributed"):
        yield f"parallel mode {mode} is not supported; {_SHARDED}"
    shared = getattr(accelerator, "parallelism_config", None)
    split = [n for n in ("tp_size", "cp_size", "sp_size") if (getattr(shared, n, 1) or 1) > 1]
    if split or (getattr(trainer.model, "tp_size", None) or 1) > 1:
        yield f"a learner split among processes ({(split or ['tp_size'])[0]}): {_SHARDED}"
    if getattr(trainer, "is_distributed_loading_by_transformers", False):
        yield f"the learner was loaded in shards (distributed_config), and {_SHARDED}"
    if getattr(trainer, "is_model_parallel", False):
        yield f"the learner is spread over devices (device_map), and {_SHARDED}"
    plugin = getattr(accelerator.gradient_state, "plugin_kwargs", {})
    if accelerator.num_processes > 1 and plugin.get("sync_each_batch"):
        yield (
            "sync_each_batch sums gradients within a window, which simulated windows do "
            "themselves: leave it out of accelerator_config"
        )
    if accelerator.mixed_precision not in ("no", "bf16"):
        yield (
            f"mixed precision {accelerator.mixed_precision} scales the loss and leaves steps out, "
            "which the simulated step does not: give bf16=True, or neither"
        )


def _of_the_loss(trainer: Any) -> Iterator[str]:
    args = trainer.args
    if trainer.compute_loss_func is not None:
        yield (
            "compute_loss_func takes the place of the loss on designed targets: leave it out, or "
            "use a plain Trainer"
        )
    if args.label_smoothing_factor:
        yield (
            "label_smoothing_factor changes the targets that are designed here: leave it out (the "
            "arm uniform_smoothing of vfunc run is that)"
        )
    if getattr(args, "loss_type", "nll") != "nll":
        yield f"loss_type={args.loss_type} is a loss of its own: leave it at nll"
    if args.neftune_noise_alpha is not None:
        yield (
            "neftune_noise_alpha adds noise to the learner's step, which the simulated step is "
            "without: leave it out"
        )
    if args.use_liger_kernel:
        yield (
            "use_liger_kernel has kernels without a forward mode or second derivative, and a loss "
            "without logits: leave it out"
        )
    if args.torch_compile or _compiled(trainer.model):
        yield (
            "torch_compile compiles the learner alone, and derivatives through it fall back or "
            "fail: leave it out"
        )
    if args.auto_find_batch_size:
        yield (
            "auto_find_batch_size begins anew with a designer that has been trained: find the size "
            "first, and give it"
        )


def _compiled(model: Any) -> bool:
    return hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None


def _of_the_model(model: Any) -> Iterator[str]:
    config: Any = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        yield "the learner is an encoder and a decoder, and targets are those of a causal model"
    if not callable(getattr(model, "get_input_embeddings", None)):
        yield "the learner has no get_input_embeddings: give a causal language model"
    quantised = getattr(model, "is_quantized", False) or getattr(model, "quantization_method", None)
    if quantised or any(not p.is_floating_point() for p in model.parameters()):
        yield (
            "the learner is quantised, and its weights cannot be handed to it as a function's "
            "arguments: load it without quantization_config"
        )
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if getattr(text, "output_router_logits", False):
        yield (
            "the learner adds a loss of its router (output_router_logits), which designed targets "
            "leave out: set it to False in its config, with router_aux_loss_coef=0.0"
        )
    adapters = getattr(model, "peft_config", {})
    if isinstance(adapters, dict) and any(
        getattr(one, "is_prompt_learning", False) for one in adapters.values()
    ):
        yield (
            "adapters of virtual tokens (prompt learning) shift the positions: use LoRA, or "
            "another kind within the layers"
        )


def _of_packing(args: Any) -> Iterator[str]:
    for name in ("packing", "padding_free"):
        if getattr(args, name, False):
            yield f"{name}=True puts several texts in a row, and targets are designed for one a row"
    if getattr(args, "activation_offloading", False):
        yield (
            "activation_offloading packs what is saved for backward passes, which estimates "
            "refuse: use activation checkpointing in its place"
        )

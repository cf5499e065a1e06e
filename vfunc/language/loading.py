"""Loads a learner from a `save_pretrained` directory or the Hub, and adds LoRA adapters."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from vfunc.errors import UserError
from vfunc.hub import hub_within_reach
from vfunc.language.adapters import named, saved_adapters
from vfunc.language.gguf import is_gguf, load_gguf
from vfunc.language.sound_learner import (
    require_floating,
    require_tokenizer,
    require_whole,
    with_end_and_padding,
)
from vfunc.storage.manifest import require_as_written

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Modules that the paper adapts; those that a learner does not have are left out."""


@dataclass(frozen=True)
class StartLearner:
    """What a run starts from.

    Attributes:
        module: what is trained: the model, or the model with adapters.
        model: the model itself; adapters are layers of it.
        tokenizer: its tokenizer.
        note: what became of adapters that were loaded, for the first lines of a run; "" for none.
    """

    module: nn.Module
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    note: str = ""


def start_learner(name: str, rank: int, alpha: float, dropout: float) -> StartLearner:
    """The learner that a run trains, as `--learner` and the options of adapters say.

    A directory of adapters that a run wrote is trained on where the rank is the same; otherwise
    its adapters are merged into their base.

    Args:
        name: directory or Hub id, as for `load_learner`.
        rank: rank of the adapters to train, 0 to train the learner itself.
        alpha: numerator of their scale, alpha / rank.
        dropout: dropout rate on their input.

    Raises:
        UserError: it cannot be loaded, or its adapters have another scale than asked for.
    """
    saved = saved_adapters(name)
    if saved is None or saved.rank != rank:
        model, tokenizer = load_learner(name)
        module = with_lora(model, rank, alpha, dropout) if rank else model
        if saved is None:
            return StartLearner(module, model, tokenizer)
        new = f"; new ones of rank {rank} are trained" if rank else ", which is trained as a whole"
        note = f"adapters of rank {saved.rank} in {name} merged into their base {saved.base}{new}"
        return StartLearner(module, model, tokenizer, note)
    if saved.config.lora_alpha != alpha:
        raise UserError(
            f"the adapters in {name!r} have --lora-alpha {saved.config.lora_alpha:g}, not "
            f"{alpha:g}; give theirs, or another --lora-rank than {rank} to merge them"
        )
    base, tokenizer = _base_and_tokenizer(name, saved.base)
    adapted = saved.onto(base, dropout)
    note = f"adapters of rank {rank} in {name} are trained on; their base is {saved.base}"
    return StartLearner(adapted, base, tokenizer, note)


def load_learner(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The learner and its tokenizer, parameters in float32.

    Mixed precision is autocast's: a bfloat16 parameter loses updates of a small step size.

    Args:
        name: a directory that `save_pretrained` wrote, a GGUF file, or a Hub id. LoRA adapters are
            merged into their base.

    Returns:
        The learner in eval mode, on the CPU, and its tokenizer (with a padding token).

    Raises:
        UserError: it cannot be loaded; one line says why.
    """
    if is_gguf(name):
        with quiet():
            learner, tokenizer = load_gguf(name)
        require_tokenizer(name, tokenizer)
        return named(learner, str(Path(name).expanduser().resolve())), tokenizer
    _require_present(name)
    _require_language(name)
    saved = saved_adapters(name)
    if saved is not None:
        base, tokenizer = _base_and_tokenizer(name, saved.base)
        return saved.merged(base), tokenizer
    require_as_written(Path(name))
    with contextlib.nullcontext(True) if Path(name).is_dir() else hub_within_reach() as reachable:
        try:
            with quiet():
                # False: a learner's own code is not run, nor is standard input asked whether to
                tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    name,
                    dtype=torch.float32,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # to have them all named, and refused
                    trust_remote_code=False,
                )
                learner, info = loaded
        except UserError:
            raise
        except Exception as error:  # tokenizers raise bare ones, and damaged files all kinds
            if not reachable:
                raise UserError(
                    f"the learner {name!r}: no such directory, and the Hub cannot be reached (nor "
                    "is it in the local cache); give a directory, or connect to the network"
                ) from error
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, KeyError):
                reason = f"its config.json or tokenizer names {reason}, which transformers has not"
            if "trust_remote_code" in reason:
                reason = (
                    "it brings code of its own, which is never run; give a model of transformers"
                )
            raise UserError(f"the learner {name!r} cannot be loaded: {reason[:240]}") from error
    require_tokenizer(name, tokenizer)
    require_whole(name, learner, info)
    require_floating(name, learner)
    with_end_and_padding(name, learner, tokenizer)
    if Path(name).is_dir():  # adapters of it look for it from wherever they are loaded
        named(learner, str(Path(name).resolve()))
    return learner, tokenizer


def _base_and_tokenizer(
    name: str, base_name: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base of adapters, and the tokenizer beside them, or else the base's."""
    require_as_written(Path(name))
    base, tokenizer = load_learner(str(Path(base_name).expanduser()))
    if (Path(name) / "tokenizer_config.json").is_file():
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except Exception as error:  # tokenizers raise bare ones
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"the tokenizer in {name!r} cannot be loaded: {reason[:240]}"
            ) from error
        require_tokenizer(name, tokenizer)
        with_end_and_padding(name, base, tokenizer)
    return base, tokenizer


def with_lora(learner: PreTrainedModel, rank: int, alpha: float, dropout: float) -> nn.Module:
    """The learner with low-rank adapters; only they are trainable.

    Args:
        learner: the learner to adapt.
        rank: rank of the adapters.
        alpha: numerator of their scale, alpha / rank.
        dropout: dropout rate on the adapters' input, in train mode.

    Raises:
        UserError: the learner has none of the modules that are adapted.
    """
    from peft import LoraConfig, get_peft_model  # only now: it takes long to import

    leaves = {name.rpartition(".")[2] for name, _ in learner.named_modules()}
    targets = [name for name in LORA_TARGETS if name in leaves]
    if not targets:
        raise UserError(f"--lora-rank: the learner has none of {', '.join(LORA_TARGETS)}")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  peft multiplies by it alone
        lora_dropout=dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(learner, config)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and reports of many lines, at a load or a save."""
    shown, told = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(told)
        if shown:
            logging.enable_progress_bar()


def _require_language(name: str) -> None:
    """Refuse what timm has saved: a learner of pictures."""
    config: object = None
    with contextlib.suppress(OSError, ValueError):  # what cannot be read is told later
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
    if isinstance(config, dict) and {"architecture", "pretrained_cfg"} <= config.keys():
        raise UserError(
            f"the learner {name!r} is a vision transformer; this takes language models, and "
            "`run --modality vision` trains and measures it"
        )


def _require_present(name: str) -> None:
    """A path has to hold a learner; anything else has to look like a Hub id."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
            raise UserError(
                f"the learner directory {name!r} has no config.json; give a directory that "
                "save_pretrained wrote"
            )
        return
    if path.is_file():
        raise UserError(
            f"the learner {name!r} is a file, and no GGUF; give the directory that holds it"
        )
    if path.suffix.lower() == ".gguf":
        raise UserError(f"the learner {name!r}: there is no such file")
    looks_like_path = name.startswith((".", "/", "~", os.sep)) or name.count("/") > 1
    if looks_like_path or path.exists():
        raise UserError(f"the learner directory {name!r} does not exist")

"""Reads a GGUF file as an ordinary learner: dequantised to float32, with its tokenizer.

GGUF is the format of llama.cpp, in which small quantised models are passed on; transformers
dequantises it by the package `gguf` (the extra of that name).
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.language.sound_learner import require_whole, with_end_and_padding

MAGIC = b"GGUF"
_BLOCK = re.compile(r"blk\.(\d+)\.")


def is_gguf(name: str) -> bool:
    """Whether a learner is named by a GGUF file: by what it holds, or by its ending."""
    path = Path(name).expanduser()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC or path.suffix.lower() == ".gguf"


def load_gguf(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The learner in a GGUF file and its tokenizer, parameters in float32, in eval mode.

    What is quantised is dequantised once: the learner is an ordinary one that can be trained and
    saved.

    Args:
        name: the file.

    Raises:
        UserError: the package gguf is missing; the file is damaged, holds blocks that its header
            does not count, or is of an architecture that transformers does not read from such
            files.
    """
    needs("gguf")
    path = Path(name).expanduser().resolve()
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError(f"the learner {name!r} is no GGUF file: it does not begin with GGUF")
    where = {"gguf_file": path.name, "trust_remote_code": False}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that has no switch
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **where)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(path.parent), dtype=torch.float32, output_loading_info=True, **where
            )
        learner, info = loaded
    except Exception as error:  # readers of damaged files raise all kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"the learner {name!r} cannot be read; it is damaged, cut short, or of a kind that "
            f"transformers does not read from GGUF: {reason[:160]}"
        ) from error
    require_whole(name, learner, info)
    _require_all_blocks(name, path, learner.config.num_hidden_layers)
    _made_ordinary(learner)
    with_end_and_padding(name, learner, tokenizer)
    return learner.eval(), tokenizer


def _require_all_blocks(name: str, path: Path, made: int) -> None:
    """Refuse a file with more blocks than its header counts, which are left out without a word."""
    import gguf  # only now: it is an extra

    blocks = [_BLOCK.match(tensor.name) for tensor in gguf.GGUFReader(path).tensors]
    held = max((int(found[1]) + 1 for found in blocks if found), default=0)
    if held > made:
        raise UserError(
            f"the learner {name!r} holds tensors of {held} blocks and its header counts {made}: it "
            "is damaged, or cut from another; convert it again"
        )


def _made_ordinary(learner: Any) -> None:
    """Take off the quantiser, which transformers leaves on a dequantised model.

    With it `save_pretrained` refuses, and the configuration says that the weights are quantised.
    """
    learner.hf_quantizer = None
    learner.is_quantized = False
    if hasattr(learner.config, "quantization_config"):
        del learner.config.quantization_config

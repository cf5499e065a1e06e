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
        UserError: the package gguf is missing; the file is damaged, holds what transformers leaves
            out, or is of an architecture that transformers does not read from such files.
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
    _require_all_read(name, path, learner)
    _made_ordinary(learner)
    with_end_and_padding(name, learner, tokenizer)
    return learner.eval(), tokenizer


def _require_all_read(name: str, path: Path, learner: PreTrainedModel) -> None:
    """Refuse a file of which transformers leaves something out without a word.

    That are blocks beyond those that the header counts, tensors that the architecture has no place
    for (biases), and how positions are scaled: `rope.scaling.*`, and Llama 3's `rope_freqs`.
    """
    import gguf  # only now: it is an extra

    reader = gguf.GGUFReader(path)
    blocks = [_BLOCK.match(tensor.name) for tensor in reader.tensors]
    held = max((int(found[1]) + 1 for found in blocks if found), default=0)
    made = learner.config.num_hidden_layers
    if held > made:
        raise UserError(
            f"the learner {name!r} holds tensors of {held} blocks and its header counts {made}: it "
            "is damaged, or cut from another; convert it again"
        )
    scales = [key for key, field in reader.fields.items() if _scales(key, field.contents())]
    scales += [t.name for t in reader.tensors if t.name.startswith("rope_") and (t.data != 1).any()]
    if scales and not re.search(r"'rope_type': '(?!default)", str(learner.config.to_dict())):
        raise UserError(
            f"the learner {name!r} scales its positions ({scales[0]}), which transformers does not "
            "read from GGUF: its numbers would be others; take the learner as safetensors"
        )
    numbers = sum(int(t.n_elements) for t in reader.tensors if not t.name.startswith("rope_"))
    read = sum(p.numel() for p in learner.parameters())
    if numbers > read:
        raise UserError(
            f"the learner {name!r} holds {numbers:,} numbers, of which transformers reads {read:,}"
            f": a {type(learner).__name__} has no place for all of its tensors (biases, perhaps); "
            "take the learner as safetensors"
        )


def _scales(key: str, value: Any) -> bool:
    """Whether a header's entry says that positions are scaled."""
    if key.endswith(".rope.scaling.type"):
        return value not in ("none", "")
    return key.endswith((".rope.scaling.factor", ".rope.scale_linear")) and value not in (0, 1)


def _made_ordinary(learner: Any) -> None:
    """Take off the quantiser, which transformers leaves on a dequantised model.

    With it `save_pretrained` refuses, and the configuration says that the weights are quantised.
    """
    learner.hf_quantizer = None
    learner.is_quantized = False
    if hasattr(learner.config, "quantization_config"):
        del learner.config.quantization_config

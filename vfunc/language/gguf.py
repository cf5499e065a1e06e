"""Reads a GGUF file as an ordinary learner: dequantised to float32, with its tokenizer.

GGUF is the format of llama.cpp, in which small quantised models are passed on; transformers
dequantises it by the package `gguf` (the extra of that name).
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Collection, Mapping
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
_BASE = 10_000.0
"""Of rotary angles, where a header names none: llama.cpp's."""

_AS_GPT2 = (None, "", "default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "falcon-rw")
"""Ways of cutting a text before merges that are GPT-2's, or not said."""
_DIGIT = re.compile("[0-9]")  # as merges write other bytes, ² is a letter of theirs
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Those that only cut digits apart beside: the same where no merge holds one."""


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
        UserError: the package gguf is missing; the file is damaged, holds or says what transformers
            leaves out, or is of an architecture that transformers does not read from such files.
    """
    needs("gguf")
    path = Path(name).expanduser().resolve()
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError(f"the learner {name!r} is no GGUF file: it does not begin with GGUF")
    where = {"gguf_file": path.name, "trust_remote_code": False}
    import gguf  # only now: it is an extra

    try:
        reader = gguf.GGUFReader(path)
        header = {key: field.contents() for key, field in reader.fields.items()}
        _require_tokens(name, header)
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that has no switch
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **where)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(path.parent),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # to have them all named, and refused
                **where,
            )
        learner, info = loaded
    except UserError:
        raise
    except Exception as error:  # readers of damaged files raise all kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"the learner {name!r} cannot be read; it is damaged, cut short, or of a kind that "
            f"transformers does not read from GGUF: {reason[:160]}"
        ) from error
    require_whole(name, learner, info, "header, as transformers reads it,")
    _require_all_read(name, reader, header, learner)
    _require_as_its_header(name, header, learner)
    _within_its_window(header, learner)
    _made_ordinary(learner)
    with_end_and_padding(name, learner, tokenizer)
    return learner.eval(), tokenizer


def _require_all_read(
    name: str, reader: Any, header: Mapping[str, Any], learner: PreTrainedModel
) -> None:
    """Refuse a file of which transformers leaves something out without a word.

    That are blocks beyond those that the header counts, tensors that the architecture has no place
    for (biases), and how positions are scaled: `rope.scaling.*`, and Llama 3's `rope_freqs`.
    """
    blocks = [_BLOCK.match(tensor.name) for tensor in reader.tensors]
    held = max((int(found[1]) + 1 for found in blocks if found), default=0)
    made = learner.config.num_hidden_layers
    if held > made:
        raise UserError(
            f"the learner {name!r} holds tensors of {held} blocks and its header counts {made}: it "
            "is damaged, or cut from another; convert it again"
        )
    scales = [key for key, value in header.items() if _scales(key, value)]
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


def _require_tokens(name: str, header: Mapping[str, Any]) -> None:
    """Refuse a file without a tokenizer, or with one that cuts texts as transformers does not.

    The merges of byte-level tokens were learned within pieces of a text; transformers has the
    pieces of a few families and takes GPT-2's for all others, without a word.
    """
    kind = header.get("tokenizer.ggml.model")
    if not kind or not header.get("tokenizer.ggml.tokens"):
        raise UserError(f"the learner {name!r} has no tokenizer in its file; convert it with one")
    cut = header.get("tokenizer.ggml.pre")
    if kind != "gpt2" or cut in _AS_GPT2 or cut in _ways_of_cutting():
        return
    merges = header.get("tokenizer.ggml.merges") or ()
    if cut not in _DIGITS_APART or any(_DIGIT.search(merge) for merge in merges):
        raise UserError(
            f"the learner {name!r} cuts texts as {cut!r} before it makes tokens of them, which "
            "transformers does not read from GGUF: its tokens would be others; take the learner "
            "as safetensors"
        )


def _ways_of_cutting() -> Collection[str]:
    """Those that transformers has; none where it keeps them elsewhere."""
    try:
        from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping
    except ImportError:
        return ()
    return mapping.GGUF_PRE_TOKENIZER_SPLITS


def _require_as_its_header(name: str, header: Mapping[str, Any], learner: PreTrainedModel) -> None:
    """Refuse a file of whose header transformers leaves out what changes its numbers.

    What it does not read is what the architecture's configuration says when nothing is asked for.
    """
    architecture = header["general.architecture"]
    config: Any = learner.config.get_text_config()
    said = {key.removeprefix(f"{architecture}."): value for key, value in header.items()}
    for key, made in _made(learner).items():
        value = said.get(key, _BASE if key == "rope.freq_base" else None)
        if isinstance(value, int | float) and made and not any(_same(value, one) for one in made):
            raise UserError(
                f"the learner {name!r} has {architecture}.{key} {_plain(value)}, which "
                f"transformers does not read from GGUF: it would compute with {_plain(max(made))}; "
                "take the learner as safetensors"
            )
    # llama.cpp divides scores by the root of a head's width, whatever these were trained with
    if config.model_type in ("gemma2", "gemma3_text") and (
        config.query_pre_attn_scalar != config.head_dim
    ):
        raise UserError(
            f"the learner {name!r} has heads of width {config.head_dim}, whose attention "
            f"transformers would scale as if it were {config.query_pre_attn_scalar}: GGUF does not "
            "say which is right; take the learner as safetensors"
        )


def _made(learner: PreTrainedModel) -> dict[str, set[Any]]:
    """Entries of a header that have to be the learner's: what it computes with; empty: unknown."""
    config: Any = learner.config.get_text_config()
    norms = [m for m in learner.modules() if "norm" in type(m).__name__.lower()]
    eps = {getattr(m, n) for m in norms for n in ("eps", "variance_epsilon") if hasattr(m, n)}
    angles = [b for n, b in learner.named_buffers() if n.endswith("inv_freq")]
    rotary = getattr(config, "rope_parameters", None) or {}
    settings = [rotary, *(x for x in rotary.values() if isinstance(x, dict))] if angles else []
    bases = {x["rope_theta"] for x in settings if "rope_theta" in x}

    def own(field: str, default: float) -> set[Any]:
        return {getattr(config, field, None) or default}

    return {
        "rope.dimension_count": {2 * b.numel() for b in angles},
        "rope.freq_base": bases,
        "rope.freq_base_swa": bases,
        "attention.layer_norm_rms_epsilon": eps,
        "attention.layer_norm_epsilon": eps,
        "attn_logit_softcapping": own("attn_logit_softcapping", 0.0),
        "final_logit_softcapping": own("final_logit_softcapping", 0.0),
        "attention.causal": {True},
        "logit_scale": {0.0, 1.0},
        "embedding_scale": {0.0, 1.0},
        "residual_scale": {0.0, 1.0},
    }


def _same(value: Any, made: Any) -> bool:
    return math.isclose(float(value), float(made), rel_tol=1e-5)


def _plain(value: Any) -> str:
    return f"{float(value):g}"


def _within_its_window(header: Mapping[str, Any], learner: PreTrainedModel) -> None:
    """Bound the context by the window of attention, where transformers does not read that.

    Up to the window's length attention sees all there is, so that nothing is other.
    """
    config: Any = learner.config.get_text_config()
    window = header.get(f"{header['general.architecture']}.attention.sliding_window")
    context = getattr(config, "max_position_embeddings", None)
    if isinstance(window, int) and window and not getattr(config, "sliding_window", None):
        config.max_position_embeddings = min(window, context or window)

"""Sizes of the paper's learners, so that a dry run can build them without a network.

From the configurations that the Qwen team publishes beside the weights (huggingface.co/Qwen): the
test adds up their parameters to the numbers that are published with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vfunc.conditions import EMBEDDED
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.language.embedded_learner import EMBEDDED_LEARNER

with needs("language", "transformers"):
    from transformers import AutoConfig, PretrainedConfig, Qwen2Config

_QWEN1_5 = {"vocab_size": 151_936, "max_position_embeddings": 32_768, "rope_theta": 1e6}


def _qwen(width: int, inner: int, blocks: int, heads: int, pairs: int, *, tied: bool) -> Any:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": pairs,
        "tie_word_embeddings": tied,
        **_QWEN1_5,
    }


KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen1.5-0.5B": _qwen(1024, 2816, 24, 16, 16, tied=True),
    "Qwen/Qwen1.5-4B": _qwen(2560, 6912, 40, 20, 20, tied=False),
    "Qwen/Qwen1.5-7B": _qwen(4096, 11_008, 32, 32, 32, tied=False),
    "Qwen/Qwen2.5-0.5B": _qwen(896, 4864, 24, 14, 2, tied=True),
}
"""Arguments of `Qwen2Config` by the learner's name on the Hub."""


def architecture_of(name: str) -> PretrainedConfig:
    """The architecture of a learner, without its weights and without a network.

    Args:
        name: `embedded`, a directory, or a Hub id that is in the local cache or in `KNOWN`.

    Raises:
        UserError: it is none of these.
    """
    place = str(EMBEDDED_LEARNER) if name == EMBEDDED else name
    try:
        return AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # all kinds, by what is missing
        if name in KNOWN:
            return Qwen2Config(**KNOWN[name])
        known = ", ".join(KNOWN)
        where = "its config.json cannot be read" if Path(name).is_dir() else "it is not here"
        raise UserError(
            f"--dry-run touches no network, and of the learner {name!r} {where}: give a directory, "
            f"download it first, or take one whose sizes are known ({known})"
        ) from error

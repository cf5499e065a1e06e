"""Checks that a learner which was loaded is the one that was saved: all of it, and finite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.errors import UserError

_NUMBER = re.compile(r"\d+")
_SHOWN = 3


def require_whole(name: str, learner: PreTrainedModel, info: Mapping[str, Any]) -> None:
    """Refuse a learner of whose weights some were drawn at random, left out, or are not finite.

    transformers fills what a directory lacks with random numbers, and leaves out what the
    configuration has no place for, with a line in its log. Of what it leaves out, heads of another
    task do no harm; weights of layers like the learner's own do.

    Args:
        name: as the user gave it.
        learner: the learner.
        info: what `from_pretrained(..., output_loading_info=True)` says. Tied weights are not
            among the missing.

    Raises:
        UserError: the weights are named.
    """
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    mismatched = {str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]}
    if missing or mismatched:
        instead = f"; it holds {_listed(unexpected)}, renamed?" if unexpected else ""
        raise UserError(
            f"the learner {name!r} lacks weights that it would draw at random: "
            f"{_listed(missing | mismatched)}{instead}"
        )
    own = {_NUMBER.sub("N", key) for key in learner.state_dict()}
    dropped = {key for key in unexpected if _NUMBER.sub("N", key) in own}
    if dropped:
        raise UserError(
            f"the learner {name!r} holds weights that its config.json has no place for: "
            f"{_listed(dropped)}; mend the configuration"
        )
    for key, x in learner.named_parameters():
        if not x.isfinite().all():
            raise UserError(f"the learner {name!r} is damaged: {key} is not finite")


def require_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that knows no words: transformers makes an empty one where files are gone.

    Raises:
        UserError: there is none, or it is empty.
    """
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    gone = Path(name).is_dir() and not any((Path(name) / file).is_file() for file in files)
    if (gone and tokenizer.vocab_files_names) or not tokenizer(
        "The answer is 12.", add_special_tokens=False
    )["input_ids"]:
        raise UserError(
            f"the learner {name!r} has no tokenizer (there is no tokenizer.json, or it is empty); "
            "save it beside the weights with tokenizer.save_pretrained"
        )


def _listed(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

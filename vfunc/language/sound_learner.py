"""Checks that a learner which was loaded is sound: whole, finite, with rows for its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.errors import UserError

_NUMBER = re.compile(r"\d+")
_SHOWN = 3
_WIDE = ("F64", "F32", "F16", "BF16")  # as safetensors calls them


def require_whole(
    name: str, learner: PreTrainedModel, info: Mapping[str, Any], told_by: str = "config.json"
) -> None:
    """Refuse a learner of whose weights some were drawn at random, left out, or are not finite.

    transformers fills what a directory lacks with random numbers, and leaves out what the
    configuration has no place for, with a line in its log. Of what it leaves out, heads of another
    task do no harm; weights of layers like the learner's own do.

    Args:
        name: as the user gave it.
        learner: the learner.
        info: what `from_pretrained(..., output_loading_info=True)` says. Tied weights are not
            among the missing.
        told_by: what says the shapes and layers that a learner has.

    Raises:
        UserError: the weights are named.
    """
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    mismatched = {
        f"{key} (stored {tuple(stored)}, by its {told_by} {tuple(wanted)})"
        for key, stored, wanted in info["mismatched_keys"]
    }
    if mismatched:
        raise UserError(f"the learner {name!r} has weights of another shape: {_listed(mismatched)}")
    if missing:
        instead = f"; it holds {_listed(unexpected)}, renamed?" if unexpected else ""
        raise UserError(
            f"the learner {name!r} lacks weights that it would draw at random: "
            f"{_listed(missing)}{instead}"
        )
    own = {_NUMBER.sub("N", key) for key in learner.state_dict()}
    dropped = {key for key in unexpected if _NUMBER.sub("N", key) in own}
    if dropped:
        raise UserError(
            f"the learner {name!r} holds weights that its {told_by} has no place for: "
            f"{_listed(dropped)}; mend the configuration"
        )
    for key, x in learner.named_parameters():
        if not x.isfinite().all():
            raise UserError(f"the learner {name!r} is damaged: {key} is not finite")


def require_floating(name: str, learner: PreTrainedModel) -> None:
    """Refuse weights that are stored as whole numbers, or in 8 bits, without a word on their scale.

    transformers casts them to floating point as they are. Where the configuration says how they
    were quantised, it restores them.

    Args:
        name: as the user gave it; of a directory its safetensors are looked at.
        learner: the learner that was loaded.

    Raises:
        UserError: the weights are named.
    """
    if getattr(learner.config, "quantization_config", None) is not None:
        return
    own = tuple(key for key, _ in learner.named_parameters())
    for file in sorted(Path(name).glob("*.safetensors")) if Path(name).is_dir() else ():
        with safe_open(file, "pt") as held:
            kinds = {key: str(held.get_slice(key).get_dtype()) for key in held.keys()}  # noqa: SIM118  no dict
        found = [
            f"{key} ({kind})"
            for key, kind in kinds.items()
            if kind not in _WIDE and any(f".{whole}".endswith(f".{key}") for whole in own)
        ]
        if found:
            raise UserError(
                f"the learner {name!r} has weights that are quantised, and a config.json that does "
                f"not say how: {_listed(found)}; save it in floating point"
            )


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


def with_end_and_padding(
    name: str, learner: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Give a tokenizer an end-of-text and a padding token that the learner has rows for.

    A tokenizer without an end takes the one of the learner's configuration. Padding is never
    predicted nor attended to, so any token will do: where there is none, or one beyond the
    embedding, it is the end.

    Args:
        name: the learner's, for messages.
        learner: the learner.
        tokenizer: its tokenizer, changed in place.

    Raises:
        UserError: no end of text, or one that the learner has no row for.
    """
    rows = vocabulary(learner)
    if tokenizer.eos_token_id is None:
        end = _own_end(learner, tokenizer)
        if end is None:
            raise UserError(
                f"the learner {name!r} has a tokenizer without an end-of-text token; set eos_token "
                "in its tokenizer_config.json"
            )
        tokenizer.eos_token = end
    end_id = tokenizer.eos_token_id
    if not (isinstance(end_id, int) and 0 <= end_id < rows):
        raise UserError(
            f"the learner {name!r} has an embedding of {rows} rows, and its tokenizer's "
            f"end-of-text token {tokenizer.eos_token!r} is number {end_id}; give the learner its "
            "own tokenizer, or resize its embedding"
        )
    pad = tokenizer.pad_token_id
    if not (isinstance(pad, int) and 0 <= pad < rows):
        tokenizer.pad_token = tokenizer.eos_token


def vocabulary(learner: PreTrainedModel) -> int:
    """The number of tokens that a learner has rows for."""
    embedding: Any = learner.get_input_embeddings()
    return int(embedding.num_embeddings)


def require_known(ids: Iterable[int], rows: int, where: str, tokenizer: Any) -> None:
    """Refuse data with a token that the learner has no row for.

    Args:
        ids: tokens, or the largest of each text.
        rows: rows of the learner's embedding.
        where: name of the split.
        tokenizer: the tokenizer, to name the token.

    Raises:
        UserError: there is one.
    """
    largest = max(ids, default=0)
    if largest >= rows:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise UserError(
            f"the {where} data hold the token {token!r}, number {largest}, and the learner's "
            f"embedding has {rows} rows: the tokenizer is not the learner's; resize the embedding"
        )


def _own_end(learner: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str | None:
    for settings in (learner.generation_config, learner.config.get_text_config()):
        number = getattr(settings, "eos_token_id", None)
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and 0 <= number < min(vocabulary(learner), len(tokenizer)):
            token = tokenizer.convert_ids_to_tokens(number)
            if isinstance(token, str):
                return token
    return None


def _listed(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

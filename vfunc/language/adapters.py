"""Reads LoRA adapters back: as they were, to be trained on, or merged into their base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vfunc.errors import UserError

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class SavedAdapters:
    """A directory of LoRA adapters, as a run with `--lora-rank` writes it.

    Attributes:
        path: the directory.
        base: directory or Hub id of the learner that they adapt.
        config: peft's.
    """

    path: Path
    base: str
    config: Any  # LoraConfig: peft takes long to import

    @property
    def rank(self) -> int:
        """Their rank."""
        return self.config.r

    def onto(self, base: PreTrainedModel, dropout: float | None = None) -> nn.Module:
        """Put them onto their base, trainable.

        Args:
            base: the base, as it was loaded; it is adapted in place.
            dropout: dropout rate on their input, in train mode; None keeps theirs.

        Raises:
            UserError: they cannot be read, do not fit the base, or are not finite.
        """
        if dropout is not None:
            self.config.lora_dropout = dropout
        from peft import PeftModel
        from peft.utils import get_peft_model_state_dict, load_peft_weights

        try:
            saved = load_peft_weights(str(self.path), device="cpu")
            made = PeftModel.from_pretrained(
                base, str(self.path), is_trainable=True, config=self.config
            )
        except Exception as error:  # peft, safetensors and torch have no error in common
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"the adapters in {str(self.path)!r} cannot be put onto {self.base!r}: "
                f"{reason[:240]}"
            ) from error
        expected = get_peft_model_state_dict(made, save_embedding_layers=False)
        if odd := sorted(expected.keys() ^ saved.keys()):
            raise UserError(
                f"the adapters in {str(self.path)!r} do not fit the base {self.base!r}: one of "
                f"both has no {odd[0]}"
            )
        for key, x in saved.items():
            if not x.isfinite().all():
                raise UserError(f"the adapters in {str(self.path)!r} are damaged: {key} not finite")
        return made

    def merged(self, base: PreTrainedModel) -> PreTrainedModel:
        """The base with the adapters in its own weights; it goes by the adapters' directory.

        Raises:
            UserError: as `onto`.
        """
        made: Any = self.onto(base)
        learner = made.merge_and_unload()
        learner.requires_grad_(True)  # peft froze the base
        return named(learner, str(self.path.resolve()))


def saved_adapters(name: str) -> SavedAdapters | None:
    """The adapters in a directory; None where it holds a whole learner, or is none.

    Raises:
        UserError: no LoRA adapters, or a base that is not there.
    """
    path = Path(name)
    if not (path / CONFIG).is_file() or (path / "config.json").is_file():
        return None
    from peft import LoraConfig, PeftConfig

    try:
        kind = json.loads((path / CONFIG).read_text()).get("peft_type")
        config = PeftConfig.from_pretrained(str(path)) if kind == "LORA" else None
    except Exception as error:  # of json, of peft's registry, of its constructors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path / CONFIG} cannot be read: {reason[:240]}") from error
    if not isinstance(config, LoraConfig):
        raise UserError(f"{name!r} holds adapters of the kind {kind}; only LoRA adapters are read")
    base = config.base_model_name_or_path
    if not base:
        raise UserError(
            f"the adapters in {name!r} do not say which learner they adapt; give "
            f"base_model_name_or_path in its {CONFIG}"
        )
    if base.startswith(("/", ".", "~")) and not Path(base).expanduser().exists():
        raise UserError(
            f"the adapters in {name!r} adapt {base!r}, which is not there; put it back, or correct "
            f"base_model_name_or_path in {path / CONFIG}"
        )
    if Path(base).is_dir() and Path(base).resolve() == path.resolve():
        raise UserError(f"the adapters in {name!r} adapt their own directory; name their base")
    return SavedAdapters(path, base, config)


def named(learner: PreTrainedModel, name: str) -> PreTrainedModel:
    """The learner under another name, which adapters of it will look for."""
    learner.name_or_path = name
    learner.config._name_or_path = name
    return learner

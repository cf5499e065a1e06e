"""Freezes what a run does not train, and keeps what the frozen blocks make of its texts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import track
from torch import nn

from vfunc.errors import UserError
from vfunc.language.data.reading import LanguageData
from vfunc.language.data.sequences import TokenStream
from vfunc.language.learner_options import TrainedOptions
from vfunc.language.trimmed.edge_store import EdgeStore
from vfunc.language.trimmed.frozen_part import (
    FrozenPart,
    digest_of_frozen,
    frozen_part,
    require_frozen_blocks,
    texts_of,
)
from vfunc.learner import select
from vfunc.printable import SafeConsole
from vfunc.split import Whole
from vfunc.storage.cache_folder import cache_folder
from vfunc.training.build.language_config import LanguageConfig

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_READ = 64
"""Texts that are collated at a time, to know what is missing."""


def freeze_others(module: nn.Module, subset: str) -> None:
    """Freeze all but a subset of the learner's parameters.

    Args:
        module: the start learner, changed in place.
        subset: see `vfunc.learner.functional`; of those that are trainable.

    Raises:
        UserError: nothing would be trained.
    """
    try:
        trained = set(select(module, subset))
    except UserError as error:
        raise UserError(f"--train {subset}: {error}") from None
    skipping = [m for m in module.modules() if getattr(m, "layerdrop", 0)]
    if subset != "all" and skipping:
        raise UserError(
            f"--train {subset}: the learner skips whole blocks at random while it is trained "
            "(layerdrop); set that to 0 in its config.json"
        )
    for name, p in module.named_parameters():
        p.requires_grad_(name in trained)


def frozen_part_of(
    options: TrainedOptions, module: nn.Module, device: torch.device
) -> FrozenPart | None:
    """The learner's frozen lower blocks, with their store; None where none are left out.

    Args:
        options: as configured.
        module: the start learner.
        device: the device of the run.

    Raises:
        UserError: their output is to be kept, and there are none.
    """
    if options.train == "all":
        return None
    autocast = torch.bfloat16 if options.edge_precision == "bfloat16" else None
    found = frozen_part(module, torch.arange(4), device, autocast)
    if options.cache_edge == "no":
        return None if isinstance(found, Whole) else found
    part = require_frozen_blocks(found, f"--cache-edge {options.cache_edge}")
    folder = cache_folder() / "edges" if options.edge_dir is None else Path(options.edge_dir)
    named = f"{digest_of_frozen(part)[:32]}-{options.cache_edge}"
    store = EdgeStore(folder.expanduser() / named, _DTYPES[options.cache_edge])
    return replace(part, store=store)


def sequences_of(config: LanguageConfig) -> int | None:
    """Sequences of the stream that a budget of steps reads; None where time or tokens bound it."""
    budget = config.run.budget
    if budget.unit != "steps":
        return None
    return int(budget.amount) * config.optimizer.accumulate * config.data.batch_size


def keep_edges(part: FrozenPart, data: LanguageData, sequences: int | None) -> None:
    """Compute and keep what the frozen blocks make of a run's texts, with a progress bar.

    What is read beyond that (looking ahead at the end of a run) is kept when it is read.

    Args:
        part: the frozen part; nothing is done where it has no store.
        data: the data of the run.
        sequences: of the stream; None is all of an epoch.
    """
    if part.store is None:
        return
    texts = texts_of(data.evaluation)
    for stream, wanted in ((data.stream, sequences), (data.feedback, None)):
        if not isinstance(stream, TokenStream):
            continue  # several sources in turn, or prompts: kept when they are read
        count = min(len(stream), len(stream) if wanted is None else wanted)
        for at in range(0, count, _READ):
            texts += texts_of([stream.batch(at, min(_READ, count - at))])
    missing = part.missing(texts)
    said = f"frozen blocks, {len(missing)} of {len(texts)} texts"
    for text in track(missing, said, console=SafeConsole(file=sys.stderr), disable=not missing):
        part.edge(text)


def told_of_frozen(part: FrozenPart | None) -> str:
    """The frozen part in a line, for the start of a run; "" where there is none."""
    if part is None:
        return ""
    split, store = part.split, part.store
    kept = "run text by text" if store is None else f"kept in {store.folder}"
    return f"{split.below} of {split.depth} blocks are frozen; their output is {kept}"

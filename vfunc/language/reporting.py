"""Reports of a language run, and files of its learner and designer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.designer_file import save_designer
from vfunc.language.data.reading import PASS_AT_1, LanguageData
from vfunc.language.loading import quiet
from vfunc.language.value_map import draw_value_map
from vfunc.modality import Metric, Reporting, Saving

METRICS = (
    Metric("loss", "held-out\nloss", "nat", outcomes="loss"),
    Metric(
        "pass_at_1",
        "Pass@1\n%",
        "%",
        higher_is_better=True,
        outcomes="pass_at_1",
        scale=100.0,
        digits=1,
    ),
)


def language_metrics(measured: Iterable[str] = ()) -> tuple[Metric, ...]:
    """What a language run is measured in, Pass@1 last.

    Args:
        measured: names of the patterns whose tokens are measured apart.
    """
    loss, *others = METRICS
    apart = [metric for name in measured for metric in _metrics_of(name)]
    return (loss, *apart, *others)


def _metrics_of(name: str) -> tuple[Metric, Metric]:
    """Loss and accuracy of the tokens that a pattern covers."""
    loss, accuracy = f"loss_{name}", f"accuracy_{name}"
    return (
        Metric(loss, f"loss of\n{name}", "nat", outcomes=loss),
        Metric(
            accuracy,
            f"accuracy of\n{name} %",
            "%",
            higher_is_better=True,
            outcomes=accuracy,
            scale=100.0,
            digits=1,
        ),
    )


def language_reporting(data: LanguageData, note: str = "", chat: str = "") -> Reporting:
    """The report's side of a language run on these data.

    Args:
        data: the data.
        note: a line about the learner.
        chat: how conversations are written, where there are any.
    """
    notes = {"learner": note, "chat": chat}
    lines = (*(f"{name:9} {said}" for name, said in notes.items() if said), *_lines(data))
    metrics = language_metrics(data.measured)
    return Reporting("tokens", metrics, lines, dict(data.summary), draw_value_map)


def language_saving(tokenizer: PreTrainedTokenizerBase) -> Saving:
    """Learners go to `save_pretrained` directories, with the tokenizer beside them."""

    def save_learner(learner: nn.Module, path: Path) -> None:
        peft: Any = sys.modules.get("peft")  # where nobody has imported it there are no adapters
        adapted = peft is not None and isinstance(learner, peft.PeftModel)
        assert adapted or isinstance(learner, PreTrainedModel)
        saved: Any = learner
        # peft would look up the base's vocabulary, by a name that may be an adapters' directory;
        # none of the modules that are adapted is an embedding
        own: dict[str, Any] = {"save_embedding_layers": False} if adapted else {}
        with quiet():
            saved.save_pretrained(str(path), **own)
            tokenizer.save_pretrained(path)

    return Saving(save_learner, save_designer)


def _lines(data: LanguageData) -> tuple[str, ...]:
    """Sequences by split, and what became of the others."""
    lines = []
    for split, counts in data.summary.items():
        assert isinstance(counts, Mapping)
        dropped = ", ".join(f"{n} dropped ({why})" for why, n in counts["dropped"].items())
        cut = f"{counts['truncated']:,} truncated" if counts["truncated"] else ""
        kind = "problems" if split == PASS_AT_1 else "sequences"
        count = f"{counts['sequences']:,} {kind}"
        lines.append(f"{split:9} {', '.join(filter(None, (count, dropped, cut)))}")
    whole = sum(int(batch.predict.sum()) for batch in data.evaluation)
    for name, masks in data.measured.items():
        covered = sum(int(mask.sum()) for mask in masks)
        lines.append(f"{'measured':9} {name}: {covered:,} of {whole:,} held-out tokens")
    return tuple(lines)

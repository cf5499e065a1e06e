"""Reports of a language run, and files of its learner and designer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.designer_file import save_designer
from vfunc.language.benchmarks.benchmark_scores import metric_names
from vfunc.language.data.reading import PASS_AT_1, LanguageData
from vfunc.language.evaluation.evaluating import AtEnd, sampled_names
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


def language_metrics(
    measured: Iterable[str] = (), at_end: AtEnd | None = None
) -> tuple[Metric, ...]:
    """What a language run is measured in, Pass@1 last.

    Args:
        measured: names of the patterns whose tokens are measured apart.
        at_end: what is evaluated at the end beside the held-out data; None is nothing.
    """
    loss, *others = METRICS
    apart = [metric for name in measured for metric in _metrics_of(name)]
    return (loss, *apart, *([] if at_end is None else end_metrics(at_end)), *others)


def end_metrics(at_end: AtEnd) -> list[Metric]:
    """Metrics of benchmarks, of the harness and of sampled solutions."""
    ks = at_end.sampling.ks
    found = [
        _share(name, name.replace("_pass_at_", " @").replace("_", " "))
        for benchmark in at_end.benchmarks
        for name in metric_names(benchmark.name, ks)
    ]
    if at_end.harness is not None:
        for name, better in at_end.harness.figures.items():
            task, metric = name.split("/")[1:]
            shown = f"{task}\n{metric.partition(',')[0]}"
            known = metric.partition(",")[0] in _SHARES
            found.append(
                _share(name, shown)
                if known
                else Metric(name, shown, higher_is_better=better, outcomes=name, apart=True)
            )
    return found + [_share(name, f"sampled\n@{k}") for k, name in sampled_names(ks).items()]


_SHARES = ("acc", "acc_norm", "exact_match")
"""Figures of the harness that are shares of documents."""


def _share(name: str, title: str) -> Metric:
    """A share of problems, in per cent."""
    return Metric(
        name,
        f"{title} %" if "\n" in title else f"{title}\n%",
        "%",
        higher_is_better=True,
        outcomes=name,
        scale=100.0,
        digits=1,
        apart=True,
    )


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


def language_reporting(
    data: LanguageData, note: str = "", chat: str = "", at_end: AtEnd | None = None
) -> Reporting:
    """The report's side of a language run on these data.

    Args:
        data: the data.
        note: a line about the learner.
        chat: how conversations are written, where there are any.
        at_end: what is evaluated at the end beside the held-out data.
    """
    notes = {"learner": note, "chat": chat}
    lines = (*(f"{name:9} {said}" for name, said in notes.items() if said), *_lines(data))
    metrics = language_metrics(data.measured, at_end)
    if at_end is not None:
        asked = (f"{b.name} ({len(b.prompts):,} questions)" for b in at_end.benchmarks)
        told = ", ".join([*asked, *(at_end.harness.asked if at_end.harness else ())])
        lines = (*lines, f"{'asked':9} {told}") if told else lines
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
        if counts.get("as_read"):
            count += " to begin with, more as they are read"
        lines.append(f"{split:9} {', '.join(filter(None, (count, dropped, cut)))}")
    whole = sum(int(batch.predict.sum()) for batch in data.evaluation)
    for name, masks in data.measured.items():
        covered = sum(int(mask.sum()) for mask in masks)
        lines.append(f"{'measured':9} {name}: {covered:,} of {whole:,} held-out tokens")
    return tuple(lines)

"""Runs EleutherAI's evaluation harness on the live learner."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.language.benchmarks.benchmark_scores import Scores, summed_up

PREFIX = "lm_eval"
_ENDINGS = (".yaml", ".yml")
_NAMED = {
    key: re.compile(rf"^{key}:[ \t]*['\"]?([\w.-]+)", re.MULTILINE) for key in ("group", "task")
}
_NO_FIGURES = ("alias", "name", "sample_len", "sample_count")


@dataclass(frozen=True)
class HarnessTasks:
    """Tasks of the harness, found and read.

    Attributes:
        asked: the tasks' names, or files.
        limit: documents of each task, the first; None are all.
        figures: the figures that tables show, as `scores_by_harness` names them, and whether more
            of each is better.
        groups: the tasks of each group that has figures of its own.
    """

    asked: tuple[str, ...]
    limit: int | None
    figures: Mapping[str, bool]
    groups: Mapping[str, tuple[str, ...]]


def harness_tasks(asked: Sequence[str], limit: int | None) -> HarnessTasks:
    """Find the tasks, and read their data: what is missing is told before anything is trained.

    Args:
        asked: names that the harness knows, or YAML files.
        limit: documents of each task; None are all.

    Raises:
        UserError: the harness is not installed, a task that it does not know, data that cannot be
            read, or a task that runs what the learner writes.
    """
    needs("lm-eval", "lm_eval")
    found = _loaded(tuple(asked))
    tasks, groups = found["tasks"], found["groups"]
    for name, task in tasks.items():
        if getattr(task.config, "unsafe_code", False):
            raise UserError(
                f"--lm-eval {name} runs programs that the learner writes, and the harness does not "
                "contain them; give --benchmarks mbpp:FILE or humaneval:FILE"
            )
    leaves = {
        name: tuple(task.task_name for task in group.get_all_tasks())
        for name, group in groups.items()
        if group.has_aggregation
    }
    inner = {leaf for each in leaves.values() for leaf in each}
    figures: dict[str, bool] = {}
    for name, task in tasks.items():
        if name not in inner:
            figures |= _figures_of(name, task.config.metric_list, task.config)
    for name, below in leaves.items():
        listed = [vars(one) for one in groups[name].aggregate_metric_list]
        figures |= _figures_of(name, listed, tasks[below[0]].config)
    return HarnessTasks(tuple(asked), limit, figures, leaves)


def _figures_of(name: str, listed: Sequence[Mapping[str, Any]], config: Any) -> dict[str, bool]:
    """Names of a task's figures, for each of its filters; whether more of each is better."""
    return {
        _figure(name, metric["metric"], str(chain["name"])): bool(
            metric.get("higher_is_better", True)
        )
        for chain in config.filter_list or [{"name": "none"}]
        for metric in listed or ()
        if isinstance(metric["metric"], str)
    }


def scores_by_harness(
    tasks: HarnessTasks,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype | None = None,
) -> Scores:
    """Ask the harness's tasks.

    Args:
        tasks: which.
        model: a causal language model; its mode is left as it is.
        tokenizer: its tokeniser.
        dtype: dtype of autocast, or None.

    Returns:
        Every figure of every task as `lm_eval/TASK/METRIC` (with `,FILTER` where it has one), and
        the numbers by document of each.
    """
    with needs("lm-eval", "lm_eval"), _quiet():
        import lm_eval
        from lm_eval.models import huggingface

        # its decorators hide the arguments of both from type checkers
        wrapped: Any = huggingface.HFLM
        evaluate: Any = lm_eval.simple_evaluate

        training = [module for module in model.modules() if module.training]
        side = tokenizer.padding_side
        try:
            live = wrapped(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=8,
                device=str(model.device),
                mixed_precision_dtype=dtype,
            )
            found: Any = evaluate(
                model=live,
                tasks=list(map(_spelled, tasks.asked)),
                limit=tasks.limit,
                bootstrap_iters=0,
                task_manager=_manager(tasks.asked),
            )
        except Exception as error:  # a task's own code raises all kinds
            raise UserError(f"--lm-eval: {_short(error)}") from error
        finally:
            tokenizer.padding_side = side
            for module in training:
                module.training = True
    metrics: dict[str, float | None] = {}
    outcomes: dict[str, tuple[float, ...]] = {}
    for name, figures in {**found["results"], **found.get("groups", {})}.items():
        for key, value in figures.items():
            if key.partition(",")[0] in _NO_FIGURES or not isinstance(value, int | float):
                continue
            metric, _, chain = key.partition(",")
            if metric.endswith("_stderr"):
                continue
            figure = _figure(name, metric, chain)
            samples = found.get("samples", {})
            numbers = tuple(
                number
                for each in tasks.groups.get(name, (name,))
                for number in _by_document(samples.get(each, ()), metric, chain)
            )
            metrics[figure] = float(value)
            if numbers:
                outcomes[figure] = numbers
                error = summed_up(figure, numbers)[f"{figure}_standard_error"]
                metrics[f"{figure}_standard_error"] = error
                metrics[f"{figure}_examples"] = len(numbers)
    return Scores(metrics, outcomes)


def _by_document(samples: Sequence[Mapping[str, Any]], metric: str, chain: str) -> tuple:
    chosen = [s for s in samples if s.get("filter", "none") == (chain or "none")]
    chosen.sort(key=lambda s: s["doc_id"])
    values = [s.get(metric) for s in chosen]
    if not values or any(not isinstance(value, int | float) for value in values):
        return ()  # a figure of all documents together
    return tuple(float(value) for value in values if value is not None)


def _figure(task: str, metric: str, chain: str) -> str:
    return f"{PREFIX}/{task}/{metric}" + (f",{chain}" if chain not in ("", "none") else "")


def _loaded(asked: tuple[str, ...]) -> Mapping[Any, Any]:
    with _quiet():
        manager = _manager(asked)
        for name in asked:
            known = name.endswith(_ENDINGS) or name in manager.all_tasks
            if not known or (name.endswith(_ENDINGS) and not Path(name).is_file()):
                what = "no such file" if name.endswith(_ENDINGS) else "the harness has no such task"
                raise UserError(f"--lm-eval {name}: {what}")
        try:
            return manager.load([_spelled(name) for name in asked])
        except UserError:
            raise
        except Exception as error:  # data that cannot be had, a task's own code
            raise UserError(f"--lm-eval {' '.join(asked)}: {_short(error)}") from error


@functools.lru_cache(maxsize=4)
def _manager(asked: tuple[str, ...]) -> Any:
    from lm_eval.tasks import TaskManager

    found = {Path(name).parent.resolve() for name in asked if name.endswith(_ENDINGS)}
    places: list[str | Path] = [*sorted(found)]
    own = all(name.endswith(_ENDINGS) for name in asked)  # the others are thousands of files
    return TaskManager(include_path=places or None, include_defaults=not own)


def _spelled(name: str) -> str:
    """The name of a task; a file's is in it."""
    if not name.endswith(_ENDINGS):
        return name
    text = Path(name).read_text(encoding="utf-8")
    found = _NAMED["group"].search(text) or _NAMED["task"].search(text)
    if found is None:
        raise UserError(f"--lm-eval {name}: it names no task")
    return found[1]


def _short(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:240]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's progress bars and log lines, which would run through a run's own."""
    before = logging.root.manager.disable
    bars = os.environ.get("TQDM_DISABLE")
    logging.disable(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
        if bars is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = bars
        sys.stdout.flush()

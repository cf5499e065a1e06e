"""The command `evaluate`: benchmarks of a saved learner, without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vfunc.conditions import EMBEDDED
from vfunc.config.build import arguments
from vfunc.config.command_line import parse_words, wrapped
from vfunc.config.declared import option, same
from vfunc.config.known import flag, known_options
from vfunc.config.resolved import ResolvedOptions
from vfunc.config.values import checked_value
from vfunc.errors import UserError
from vfunc.language.benchmarks.benchmark_options import (
    FIELD_TOKENS,
    BenchmarkOptions,
    check_benchmarks,
)
from vfunc.language.benchmarks.benchmark_options import asked_names as names_of
from vfunc.processes import require_alone
from vfunc.training.options.optimizer_options import LearnerOptions
from vfunc.training.options.run_options import RunOptions
from vfunc.training.run_command_line import run_guarded

DESCRIPTION = """Ask a learner benchmarks, or tasks of EleutherAI's harness, without training it.

It is asked as a run asks its arms with the same options: greedily, and by --pass-at of sampled
answers. What it scores is printed, with standard errors over questions; --output keeps it, with the
outcome of each question and what was written.

Examples:
  %(prog)s --benchmarks mmlu:DIR --benchmark-size 100
  %(prog)s --learner runs/x/learners/vpretraining --benchmarks gsm8k:DIR --pass-at 1 4 --samples 8
  %(prog)s --learner DIR --benchmarks mbpp:FILE --allow-code-execution --output mbpp.json
  %(prog)s --learner DIR --lm-eval arc_easy"""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is evaluated, and where."""

    learner: str = option(
        "The language model: 'embedded', 'smollm2', a directory (of a run's learners/), a GGUF "
        "file, or a model of transformers by its name. Pictures are measured by a run alone.",
        default=EMBEDDED,
        metavar="DIR|ID",
        reads=True,
    )
    precision: Literal["float32", "bfloat16"] = same(LearnerOptions, "precision")
    device: str = same(LearnerOptions, "device")
    threads: int = same(RunOptions, "threads")
    seed: int = same(RunOptions, "seed")
    output: str | None = option(
        "A JSON file for scores, outcomes and answers; one that is there is replaced.",
        default=None,
        shown="none",
        metavar="FILE",
    )
    debug: bool = option("Show the traceback of an error.", default=False)


def main(argv: Sequence[str], program: str = "vfunc evaluate") -> int:
    """Carry out a command line; errors and exit codes are those of `run`.

    Args:
        argv: options.
        program: name of the command, for `--help`.
    """
    debug = [word for word in argv if word in ("--debug", "--no-debug")]
    return run_guarded(lambda _: _evaluate(argv, program), debug)


def options_of(argv: Sequence[str], program: str) -> tuple[EvaluateOptions, BenchmarkOptions]:
    """The options that a command line gives.

    Raises:
        UserError: see `check_benchmarks`; an option that does nothing, or nothing to evaluate.
        SystemExit: `--help`.
    """
    groups = {"command": EvaluateOptions, "evaluation": BenchmarkOptions}
    catalogue = known_options(groups)
    given = parse_words(
        argv,
        catalogue,
        program=program,
        description=wrapped(DESCRIPTION.replace("%(prog)s", program)),
        titles={name: made.__doc__ or "" for name, made in groups.items()},
        known={},
    )
    checked = {n: checked_value(catalogue[n], value, flag(n)) for n, value in given.items()}
    resolved = ResolvedOptions(catalogue, checked)
    for name, why in resolved.useless().items():
        raise UserError(f"{flag(name)} does nothing here: {why}")
    if not resolved["benchmarks"] and not resolved["lm_eval"]:
        raise UserError("there is nothing to evaluate on; give --benchmarks or --lm-eval")
    check_benchmarks(resolved)
    if resolved["pass_at"] and not any(n in FIELD_TOKENS for n in names_of(resolved)):
        raise UserError(
            f"--pass-at does nothing here: no answer is written; give {', '.join(FIELD_TOKENS)}"
        )
    made: Any = [each(**arguments(each, resolved)) for each in groups.values()]
    return made[0], made[1]


def _evaluate(argv: Sequence[str], program: str) -> None:
    asked, options = options_of(argv, program)
    require_alone("evaluate")
    output = None if asked.output is None else Path(asked.output)
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise UserError(f"--output {output}: give a file in a folder that is there")
    # only now: --help and a mistake in an option need not wait for it
    import torch

    from vfunc.language.evaluation.evaluating import Forwards, evaluated_at_end
    from vfunc.language.loading import load_learner
    from vfunc.language.reporting import end_metrics
    from vfunc.printable import SafeConsole
    from vfunc.report.apart_table import apart_table
    from vfunc.report.measures import Measures
    from vfunc.report.result_rows import start_row
    from vfunc.training.assemble import pick_device
    from vfunc.training.build.language_assembly import asked_at_end, place_of
    from vfunc.training.checkpoint import write_json

    if asked.threads:
        torch.set_num_threads(asked.threads)
    device = pick_device(asked.device)
    at_end = asked_at_end(options, asked.seed)
    model, tokenizer = load_learner(place_of(asked.learner))
    learner: Any = model  # `to` of transformers' models is too narrowly typed
    dtype = torch.bfloat16 if asked.precision == "bfloat16" else None
    found = evaluated_at_end(learner.to(device), tokenizer, Forwards(device, dtype), at_end)
    names = found.metrics.keys()  # without those of sampled solutions to held-out problems
    metrics = [metric for metric in end_metrics(at_end) if metric.name in names]
    measures = Measures("tokens", tuple(metrics))
    row = replace(start_row(found.metrics, measures), arm=Path(asked.learner).name)
    console = SafeConsole()
    table = apart_table([row], measures)
    console.print(table)
    cut = {k: v for k, v in found.metrics.items() if k.endswith("_cut")}
    for name, count in cut.items():
        console.print(
            f"note: {count} prompts of {name.removesuffix('_cut')} are longer than the learner's "
            "context, and their beginnings were cut off",
            highlight=False,
            soft_wrap=True,
        )
    if output is not None:
        content = {
            "learner": asked.learner,
            "options": {**vars(asked), **vars(options)},
            "metrics": dict(found.metrics),
            "outcomes": {name: list(numbers) for name, numbers in found.outcomes.items()},
            "answers": {name: list(texts) for name, texts in found.texts.items()},
        }
        write_json(output, json.loads(json.dumps(content)))
        console.print(f"written   {output}", highlight=False, soft_wrap=True)

"""Counts how many of an arm's sampled solutions are right: as its run tells, or sampled anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from vfunc.errors import UserError
from vfunc.forward_pass import autocast
from vfunc.language.evaluation.evaluating import sampled_names
from vfunc.language.evaluation.solving import pass_at_1
from vfunc.language.loading import load_learner
from vfunc.language.workload import LanguageWorkload
from vfunc.printable import SafeConsole
from vfunc.storage.digests import digest_of_json, digests_below
from vfunc.storage.manifest import require_as_written
from vfunc.studies.curves.curve_options import PassOptions
from vfunc.studies.curves.pass_statistics import Sampled
from vfunc.studies.curves.saved_arm import config_of, require_same_data
from vfunc.studies.finished_runs import FoundRun
from vfunc.training.assemble import assemble
from vfunc.training.checkpoint import write_json
from vfunc.training.run_directory import RunDirectory

FOLDER = "pass-at-k-samples"
"""Where counts are kept, beside the curve."""


def solutions_of(
    one: FoundRun, arm: str, options: PassOptions, folder: Path, console: SafeConsole
) -> Sampled:
    """What an arm of a run solves, of the held-out problems that the run itself solves.

    Args:
        one: the run.
        arm: the arm.
        options: what is asked for.
        folder: the curve's, in which counts are kept.
        console: the console to say on what is sampled.

    Raises:
        UserError: the run's learner or data are not what they were, or there is no problem with an
            answer.
    """
    known = recorded(one, arm, options)
    if known is not None:
        console.print(
            f"{one.path}, {arm}: {known.samples} samples of the run's own", soft_wrap=True
        )
        return known
    directory = RunDirectory(one.path)
    saved = directory.learner(arm)
    asked = {
        "learner": digest_of_json(digests_below(saved)) if saved.is_dir() else "",
        "options": {
            "samples": samples_of(options),
            "temperature": options.temperature,
            "solve_size": options.solve_size,
        },
        "run": digest_of_json(one.content["config"]),
    }
    # what else is asked of the same arm is kept beside it
    kept = folder / FOLDER / f"{one.path.resolve().name}-{arm}-{digest_of_json(asked)[:12]}.json"
    if (found := _kept(kept, asked)) is not None:
        console.print(f"{one.path}, {arm}: sampled already", soft_wrap=True)
        return found
    console.print(f"{one.path}, {arm}: {samples_of(options)} samples a problem", soft_wrap=True)
    found = _sampled(directory, arm, options)
    write_json(kept, {"asked": asked, **vars(found)})
    return found


def samples_of(options: PassOptions) -> int:
    """How many solutions are sampled for each problem."""
    return 2 * options.k if options.samples is None else options.samples


def recorded(one: FoundRun, arm: str, options: PassOptions) -> Sampled | None:
    """What the run has sampled itself at its end, if that is what is asked for, and as much.

    The number of right samples is read off Pass@1 of the samples, which is their share.

    Args:
        one: the run.
        arm: the arm.
        options: what is asked for.
    """
    config = one.content["config"]
    ks, samples = config.get("pass_at") or (), config.get("samples") or 0
    least = options.k if options.samples is None else options.samples
    if 1 not in ks or samples < least or config.get("temperature") != options.temperature:
        return None
    result = RunDirectory(one.path).finished(arm) or {}
    shares = result.get("outcomes", {}).get(sampled_names([1])[1])
    if not shares or any(share is None for share in shares):
        return None
    return Sampled(samples, tuple(round(samples * share) for share in shares[: options.solve_size]))


def _kept(path: Path, asked: dict[str, Any]) -> Sampled | None:
    """Counts of before, if they are of the same learner, problems and options."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["asked"] != asked:
            return None
        samples, correct = content["samples"], tuple(content["correct"])
        whole = bool(correct) and all(isinstance(n, int) and 0 <= n <= samples for n in correct)
    except (OSError, ValueError, KeyError, TypeError):  # cut off, or another's: sampled anew
        return None
    return Sampled(samples, correct) if whole else None


def _sampled(directory: RunDirectory, arm: str, options: PassOptions) -> Sampled:
    saved = directory.learner(arm)
    if not saved.is_dir():
        raise UserError(f"{saved} is gone, which the run left of the arm {arm}; run it again")
    require_as_written(saved)
    config = config_of(directory, device=options.device, threads=options.threads)
    require_same_data(directory, config)
    assembled = assemble(config)
    workload = assembled.workload
    assert isinstance(workload, LanguageWorkload)
    problems = workload.data.problems[: options.solve_size]
    if not problems:
        raise UserError(
            f"{directory.path}: its held-out data hold no problem with an answer that the run "
            "solves (--solve-size, --eval); there is nothing to sample for"
        )
    model, tokenizer = load_learner(str(saved))
    learner: Any = model  # `to` of transformers' models is too narrowly typed
    with torch.no_grad(), autocast(assembled.device, workload.dtype):
        drawn = pass_at_1(
            learner.to(assembled.device),
            tokenizer,
            problems,
            max_new_tokens=workload.data.max_new_tokens,
            temperature=options.temperature,
            samples=samples_of(options),
            seed=config.run.seed,
        )
    return Sampled(drawn.samples, drawn.correct)

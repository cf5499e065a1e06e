"""The Pass@k curve: Pass@k for k = 1 to K of finished runs' arms, and their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import holm
from vfunc.report.seed_statistics import Interval
from vfunc.report.table import NONE, captioned, empty_table, p_text
from vfunc.studies.curves.curve_files import (
    Curve,
    folder_of,
    new_console,
    require_writable,
    told_of,
    write_curve,
)
from vfunc.studies.curves.curve_options import PassOptions
from vfunc.studies.curves.figures.pass_figure import draw_pass
from vfunc.studies.curves.pass_statistics import PassAt, Sampled, pass_curves
from vfunc.studies.curves.read_runs import arms_of, runs_of_one_setting
from vfunc.studies.curves.sampled_solutions import solutions_of

KIND = "pass-at-k"


def make(options: PassOptions, rest: Sequence[str], command: str) -> None:
    """Read or sample the solutions, and write the curve.

    Args:
        options: the runs, and what is sampled.
        rest: nothing.
        command: the command line, for the record.

    Raises:
        UserError: runs that are not finished, not of one setting or not on text, or whose data have
            no problems with answers.
    """
    del rest
    if options.samples is not None and options.samples < options.k:
        raise UserError(
            f"--samples {options.samples} are fewer than --k {options.k}: Pass@k needs k at least"
        )
    require_writable(options.output)
    found = runs_of_one_setting(options.from_)
    for one in found:
        if one.measures.unit != "tokens":
            raise UserError(f"{one.path} is of pictures, and Pass@k is of problems that are solved")
    arms = arms_of(found, options.arms)
    folder, console = folder_of([one.path for one in found], options.output), new_console()
    solved = {
        arm: tuple(solutions_of(one, arm, options, folder, console) for one in found)
        for arm in arms
    }
    curves = pass_curves(solved, options.k)
    seeds = [one.seed_run.seed for one in found]
    write_curve(curve_of(curves, solved, seeds, options), told_of(found), command, folder, console)


def curve_of(
    curves: Mapping[str, Sequence[PassAt]],
    solved: Mapping[str, Sequence[Sampled]],
    seeds: Sequence[int],
    options: PassOptions,
) -> Curve:
    """What is written and printed of these curves.

    Args:
        curves: by arm.
        solved: what they were made of.
        seeds: seeds of the runs.
        options: what was asked for.
    """
    several = len(seeds) > 1
    over = "seeds" if several else "problems"
    counts = sorted({len(one.correct) for of in solved.values() for one in of})
    drawn = sorted({one.samples for of in solved.values() for one in of})
    how = (
        f"{' to '.join(map(str, counts))} problems, {' to '.join(map(str, drawn))} samples of each "
        f"at temperature {options.temperature:g}"
    )
    notes = [f"{how}; intervals are over {over}."]
    if not several:
        notes.append("One seed: what another seed would give is not told.")
    return Curve(
        KIND,
        {
            "seeds": list(seeds),
            "temperature": options.temperature,
            "confidence": 0.95,
            "intervals_over": over,
            "points": [{"arm": arm, **vars(one)} for arm, of in curves.items() for one in of],
            "solutions": {
                arm: [{"seed": seed, **vars(one)} for seed, one in zip(seeds, of, strict=True)]
                for arm, of in solved.items()
            },
        },
        [_row(arm, one, seeds) for arm, of in curves.items() for one in of],
        lambda path: draw_pass(curves, over, path),
        [_table(curves, over)],
        notes,
    )


def _row(arm: str, one: PassAt, seeds: Sequence[int]) -> dict[str, Any]:
    low, high = one.interval or (None, None)
    below, above = one.difference_interval or (None, None)
    return {
        "arm": arm,
        "k": one.k,
        "mean": one.mean,
        "low": low,
        "high": high,
        "difference": one.difference,
        "difference_low": below,
        "difference_high": above,
        "p_value": one.p_value,
        **{f"seed_{seed}": value for seed, value in zip(seeds, one.values, strict=True)},
    }


def _table(curves: Mapping[str, Sequence[PassAt]], over: str) -> Table:
    """The table of k = 1, 2, 4, ... and the largest."""
    most = max(one.k for of in curves.values() for one in of)
    shown = sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})
    compares = any(one.difference is not None for of in curves.values() for one in of)
    table = empty_table()
    table.title, table.title_justify = "Pass@k, %", "left"
    table.add_column("k", justify="right")
    table.add_column("arm")
    for header in ("mean", *(["against baseline", "p"] if compares else [])):
        table.add_column(header, justify="right", no_wrap=True)
    rows = [(arm, of[k - 1]) for k in shown for arm, of in curves.items()]
    # a p value that is not defined is one more comparison
    tested = [
        1.0 if one.p_value is None else one.p_value
        for _, one in rows
        if one.difference_interval is not None
    ]
    adjusted = iter(holm(tested) if tested else [])
    for arm, one in rows:
        cells = [str(one.k), arm, _in_percent(one.mean, one.interval)]
        if compares:
            p = None if one.difference_interval is None else next(adjusted)
            p = None if one.p_value is None else p
            cells += [
                NONE
                if one.difference is None
                else _in_percent(one.difference, one.difference_interval, "+"),
                NONE if one.difference is None else p_text(p),
            ]
        table.add_row(*map(Text, cells))
    notes = ["higher is better", f"±: 95 % interval over {over}"]
    notes += ["p: paired, Holm over this table"] if tested else []
    return captioned(table, notes)


def _in_percent(mean: float, interval: Interval | None, sign: str = "") -> str:
    half = "" if interval is None else f" ± {50 * (interval[1] - interval[0]):.1f}"
    return f"{100 * mean:{sign}.1f}{half}"

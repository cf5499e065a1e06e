"""The command `report`: builds the page of a run anew, or lays several runs side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vfunc.config.command_line import wrapped
from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.printable import one_line
from vfunc.report.page.page import NAME, write_page
from vfunc.report.page.run_facts import is_run

with needs("run", "tyro"):
    import tyro

DESCRIPTION = """Build the page of a run anew, or lay several runs side by side.

A run writes its page itself, as report.html in its folder: curves, tables, value maps, probe,
counterfactual score, certification, configuration and environment in one file, which fetches
nothing. Of several runs there is one page, with their curves in the same axes and the options in
which they differ. What a run lacks, because it is not finished or a file is damaged, the page says.

Examples:
  %(prog)s my-run
  %(prog)s runs/a runs/b --output a-and-b.html"""


@dataclass(frozen=True)
class ReportOptions:
    """What to show, and where."""

    runs: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            help="Runs, or scores of `score`: their folders, or their names in --runs-dir.",
            metavar="RUN ...",
            help_behavior_hint="",
        ),
    ]
    runs_dir: Annotated[
        str, tyro.conf.arg(help="Directory that holds the runs.", metavar="DIR")
    ] = "runs"
    output: Annotated[
        str | None,
        tyro.conf.arg(
            help="The file to write; a page that is there is replaced, another file is not.",
            metavar="FILE",
            help_behavior_hint="(default: report.html in the run's folder; of several runs, beside "
            "the first)",
        ),
    ] = None


def main(argv: Sequence[str], program: str = "vfunc report") -> int:
    """Carry out a command line.

    Args:
        argv: runs and options.
        program: name of the command, for `--help`.

    Returns:
        The exit code: 2 for what the user can mend, 1 where the page cannot be written.
    """
    try:
        _report(argv, program)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except UserError as error:
        return _failed(str(error), 2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _failed(f"{error.strerror or error}{where}", 1)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    return 0


def _report(argv: Sequence[str], program: str) -> None:
    with refused_in_a_line(argv):
        options = tyro.cli(
            ReportOptions,
            args=list(argv),
            prog=program,
            description=wrapped(DESCRIPTION.replace("%(prog)s", program)),
        )
    if not options.runs:
        raise UserError("name a run, or several: a folder, or a name in --runs-dir")
    folders = list(dict.fromkeys(_found(name, Path(options.runs_dir)) for name in options.runs))
    output = _output(options, folders)
    for line in write_page(folders, output):
        print(f"warning: {line}", file=sys.stderr)
    print(one_line(f"report   {output}"))


def _found(name: str, runs: Path) -> Path:
    """The folder of a run."""
    places = (Path(name), runs / name)
    for place in places:
        if is_run(place):
            return place
    there = next((place for place in places if place.exists()), None)
    if there is not None:
        raise UserError(
            f"{there} is no run: it holds no config.toml, metrics.json, events.jsonl or score.json"
        )
    looked = " or ".join(dict.fromkeys(map(str, places)))
    raise UserError(f"there is no run {name!r}; looked for {looked}")


def _output(options: ReportOptions, folders: Sequence[Path]) -> Path:
    if options.output is None:
        return (folders[0] if len(folders) == 1 else folders[0].parent) / NAME
    output = Path(options.output)
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; give a file, such as {output / NAME}")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    return output


def _failed(message: str, code: int) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code

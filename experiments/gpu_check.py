"""Every figure that needs a GPU, in ten minutes: `python experiments/gpu_check.py --output DIR`.

Without a GPU: `python experiments/gpu_check.py --device cpu --tiny --output DIR`, which shows that
it works. Exit code 1 where a section has failed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.printable import one_line

with needs("run", "tyro"):
    import tyro


@dataclass(frozen=True)
class CheckOptions:
    """What is measured, and where it goes."""

    output: Annotated[str, tyro.conf.arg(help="Folder for check.md and check.json.", metavar="DIR")]
    device: Annotated[str, tyro.conf.arg(help="The GPU; or cpu, with --tiny.")] = "cuda"
    tiny: Annotated[bool, tyro.conf.arg(help="Tiny shapes, for a look that it works.")] = False
    repeats: Annotated[int, tyro.conf.arg(help="Paired repeats of each time.")] = 5
    minutes: Annotated[float, tyro.conf.arg(help="No section begins after these.")] = 9.0


def main(argv: list[str]) -> int:
    """Carry out a command line; returns the exit code."""
    try:
        with refused_in_a_line(argv):
            options = tyro.cli(CheckOptions, args=argv, description=__doc__)
        return _checked(options)
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2


def _checked(options: CheckOptions) -> int:
    if options.repeats < 1 or not options.minutes > 0:
        raise UserError("--repeats must be at least 1, and --minutes above 0")
    if options.device == "cpu" and not options.tiny:
        raise UserError("--device cpu is for --tiny: the shapes are a GPU's")
    # only now: --help need not wait for it
    from vfunc.studies.gpu_check import check_json, check_markdown, gpu_check
    from vfunc.training.assemble import pick_device

    device = pick_device(options.device)
    folder = Path(options.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)  # refused before it is measured
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror}") from error
    found = gpu_check(device, tiny=options.tiny, repeats=options.repeats, minutes=options.minutes)
    text = check_markdown(found, device)
    (folder / "check.md").write_text(text, encoding="utf-8")
    (folder / "check.json").write_text(check_json(found), encoding="utf-8")
    print(text)
    return int(any(check.verdict == "FAILED" for check in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

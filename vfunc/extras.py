"""Checks that the packages of an installation's extra are there, with one line if not.

`import vfunc` needs none of them. A part of the package that does says so at its head, before it
imports any: `needs("language")`. A test reads every import of the package to keep it so.
"""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext

from vfunc.errors import UserError

EXTRAS = {
    "language": (
        "accelerate",
        "transformers",
        "tokenizers",
        "peft",
        "regex",
        "datasets",
        "math_verify",
        "latex2sympy2_extended",
        "einops",
        "huggingface_hub",
        "safetensors",
        "scipy",
    ),
    "vision": (
        "timm",
        "torchvision",
        "kornia",
        "sklearn",
        "PIL",
        "datasets",
        "einops",
        "huggingface_hub",
        "safetensors",
        "scipy",
    ),
    "run": (
        "tyro",
        "tomli_w",
        "matplotlib",
        "jinja2",
        "markupsafe",
        "tqdm",
        "safetensors",
        "scipy",
    ),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "gguf": ("gguf",),
    "lm-eval": ("lm_eval",),
    "trl": ("trl",),
    "decontaminate": ("datasketch",),
    "peers": ("torchopt", "higher", "bergson"),
}
"""Modules by extra, as they are imported and looked for; `run` brings the other two as well."""


class MissingExtraError(ModuleNotFoundError, UserError):
    """A package is not installed that an extra of this one brings."""


def needs(extra: str, *modules: str) -> AbstractContextManager[None]:
    """Make sure that packages are there, without importing them.

    Args:
        extra: the extra that brings them, a key of `EXTRAS`.
        modules: those that are needed; none are all of the extra's.

    Returns:
        A context that does nothing: `with needs("run", "tyro"): import tyro` keeps an import below
        its check where linters want imports first.

    Raises:
        MissingExtraError: one is missing; the message names it, and the extra.
    """
    for name in modules or EXTRAS[extra]:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"this needs {name}: pip install 'vfunc[{extra}]'", name=name)
    return nullcontext()

"""A live `nn.Module` seen as a pure function of the parameters in S.

The module stays live, so that `generate`, PEFT, `save_pretrained` and every outside tool work;
estimators see it only through `FunctionalLearner`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vfunc import trees
from vfunc.errors import UserError
from vfunc.forward_pass import autocast, without_recomputation
from vfunc.trees import Params

Blocks: TypeAlias = nn.ModuleList | nn.Sequential

Subset: TypeAlias = str | Callable[[str, nn.Parameter], bool]


@dataclass(frozen=True, repr=False)
class FunctionalLearner:
    """`module` as a function of theta_S; parameters outside S are held constant.

    Attributes:
        module: the live module; it is never changed.
        names: names of the parameters in S, as `module.named_parameters()` gives them (tied
            parameters appear once).
    """

    module: nn.Module
    names: tuple[str, ...]

    def __repr__(self) -> str:
        own = dict(self.module.named_parameters())
        numbers = sum(own[name].numel() for name in self.names)
        inside = f"{len(self.names)} of {len(own)} parameters, {numbers} numbers"
        return f"FunctionalLearner({type(self.module).__name__}, {inside})"

    @property
    def theta(self) -> Params:
        """theta_S now: the live parameters' values, detached, not copied."""
        parameters = dict(self.module.named_parameters())
        return {name: parameters[name].detach() for name in self.names}

    @property
    def live(self) -> dict[str, nn.Parameter]:
        """The live parameters of S, as an optimizer holds them."""
        parameters = dict(self.module.named_parameters())
        return {name: parameters[name] for name in self.names}

    def __call__(self, theta: Params, *args: Any, **kwargs: Any) -> Any:
        """The module's output with theta in place of its own parameters in S.

        Gradient checkpointing is off within the call (see `without_recomputation`), so that an
        estimate holds the activations of S, whatever the module's own steps recompute.

        Raises:
            UserError: theta has other names, shapes or another device than the parameters in S;
                or the module recomputes activations in a way of its own: that would happen after
                its own parameters are back, and give another theta's gradients.
        """
        held = _Held(self.module)
        self._require_own(theta, held.parameters)
        frozen = _constants(held.parameters)
        frozen |= {name: frozen[name].clone() for name in held.rescaled if name in frozen}
        # copies: batch norm in train mode writes its running statistics
        buffers = {name: b.clone() for name, b in held.buffers.items()}
        values = frozen | buffers | theta
        # torch's own tying puts a module's tensors back wrongly where it has the module twice
        placed = {slot: values[name] for slot, name in held.slots.items()}
        with without_recomputation(held.modules):
            return functional_call(self.module, placed, args, kwargs, tie_weights=False)

    def _require_own(self, theta: Params, own: Mapping[str, nn.Parameter]) -> None:
        """Check that theta stands for the parameters in S: what is missing would be held constant.

        Dtypes are free: a float32 module is asked in float64 too.

        Args:
            theta: what the module is called with.
            own: all parameters of the module.
        """
        kind = type(self.module).__name__
        # what is not in S may be given too: a cut learner's lower layers are tried so
        wanted = {n: own[n] for n in own if n in theta} | {n: own[n] for n in self.names}
        trees.require_same_structure(f"theta for {kind}", theta, wanted)
        for name, p in wanted.items():
            if theta[name].device != p.device:
                raise UserError(
                    f"theta[{name!r}] is on {theta[name].device}, the {kind} on {p.device}"
                )


def _constants(parameters: Mapping[str, Tensor]) -> Params:
    """Their values, detached, not copied, in tensors that no transform under way has touched.

    Within a transform `detach` makes a tensor of that transform's, of which nobody can tell that it
    does not move: forward mode would multiply its zero tangent.
    """
    functorch: Any = torch._C
    followed = functorch._functorch.is_functorch_wrapped_tensor
    plain = {n: p for n, p in parameters.items() if not followed(p)}
    with functorch._DisableFuncTorch():
        found = {n: p.detach() for n, p in plain.items()}
    return {n: found[n] if n in found else p.detach() for n, p in parameters.items()}


class _Held:
    """What a module holds, by one walk through it: each is a good part of a small call's time.

    Attributes:
        modules: itself, and all that are in it.
        parameters: as `named_parameters()` gives them.
        buffers: as `named_buffers()` gives them.
        slots: each place of a module that holds one of them, and the name above that it goes by:
            tied ones have several, a module that is registered twice has its places once.
        rescaled: names of weights that their own forward writes to: those of embeddings with a
            `max_norm`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.modules: list[nn.Module] = []
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, Tensor] = {}
        self.slots: dict[str, str] = {}
        self.rescaled: list[str] = []
        seen: dict[int, str] = {}
        for path, part in module.named_modules():
            self.modules.append(part)
            before = f"{path}." if path else ""
            for held, found in ((part._parameters, self.parameters), (part._buffers, self.buffers)):
                for name, x in held.items():
                    if x is not None:
                        slot = before + name
                        if id(x) not in seen:  # tied ones count once
                            seen[id(x)] = slot
                            cast("dict[str, Tensor]", found)[slot] = x
                        self.slots[slot] = seen[id(x)]
            # a module is slow to say that it has no such attribute
            known = "max_norm" in vars(part) or hasattr(type(part), "max_norm")
            if known and part.max_norm is not None:
                self.rescaled.append(f"{before}weight")


def functional(module: nn.Module, subset: Subset = "all") -> FunctionalLearner:
    """See `module` as a function of the parameters that `subset` selects.

    Args:
        module: the live learner.
        subset: `all`; `last:N` (the last N blocks and the final norm); `lora`; `lora:last:N`;
            `re:PATTERN` (searched in the parameter's name); or a callable (name, parameter) ->
            bool. Only parameters that require a gradient are selected.

    Returns:
        The functional learner.

    Raises:
        UserError: nothing is selected, the subset is not understood, or the module is wrapped or
            sharded for several processes.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"functional takes an nn.Module, not a {type(module).__name__}")
    _require_bare(module)
    return FunctionalLearner(module, select(module, subset))


WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
"""Modules that call a module of several processes or devices, by hooks or copies of their own."""


def _require_bare(module: nn.Module) -> None:
    """Refuse wrappers: their hooks run in plain backward passes alone, and transforms pass them by.

    Raises:
        UserError: the module is one, or its parameters are shards.
    """
    wrapped = [type(part).__name__ for part in module.modules() if type(part).__name__ in WRAPPERS]
    if wrapped:
        raise UserError(
            f"a {wrapped[0]} sums or gathers in hooks that transforms do not run: give functional "
            "the bare module (.module), replicated, and ValueProblem its `processes`"
        )
    shards = [name for name, p in module.named_parameters() if hasattr(p, "device_mesh")]
    if shards:
        raise UserError(
            f"{shards[0]!r} is a shard ({len(shards)} parameters are, as fully_shard leaves them), "
            "and transforms need whole parameters: replicate the learner"
        )


def select(module: nn.Module, subset: Subset) -> tuple[str, ...]:
    """Names of the trainable parameters that `subset` selects (see `functional`)."""
    trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
    accepts = subset if callable(subset) else _named_subset(module, subset)
    names = tuple(name for name, p in trainable.items() if accepts(name, p))
    if not names:
        raise UserError(
            f"the subset {subset!r} selects no trainable parameter; the learner has "
            f"{describe(module)}"
        )
    return names


def describe(module: nn.Module) -> str:
    """What there is to select from, in a line: blocks, LoRA, parameter groups."""
    found = blocks(module)
    words = []
    if found is not None:
        stack, layers = found
        first = block_prefix(stack, 0).removesuffix(".")
        words = [f"{len(layers)} blocks ({first} to .{len(layers) - 1})"]
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    lora = sum("lora_" in name for name in names)
    words.append(f"{lora} LoRA tensors" if lora else "no LoRA")
    tops = sorted({".".join(re.split(r"\.\d+\.", name)[0].split(".")[:2]) for name in names})
    return ", ".join([*words, "parameters under " + ", ".join(tops[:8])])


def blocks(module: nn.Module) -> tuple[str, Blocks] | None:
    """The learner's stack of blocks: its longest list of modules of one class, with its name.

    One that is trained goes before one that is frozen (a teacher's).
    """
    stacks = [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList | nn.Sequential)
        and len(child) > 0
        and len({_own_class(block) for block in child}) == 1
        and any(True for _ in child.parameters())
    ]

    def trained_then_long(stack: tuple[str, Blocks]) -> tuple[bool, int]:
        return any(p.requires_grad for p in stack[1].parameters()), len(stack[1])

    return max(stacks, key=trained_then_long, default=None)


def _own_class(module: nn.Module) -> type[nn.Module]:
    """A module's class, as it was before `fully_shard` made one of its own of it."""
    kind = type(module)
    made = any(base.__name__ == "FSDPModule" for base in kind.__bases__)
    return next(base for base in kind.__bases__ if base.__name__ != "FSDPModule") if made else kind


def block_prefix(stack: str, number: int) -> str:
    """What the names of a block's parameters begin with; a stack without a name is the learner."""
    return f"{stack}.{number}." if stack else f"{number}."


def first_block_of(names: Collection[str], stack: str, count: int) -> int:
    """The number of the first block that has one of these parameters; `count` where none has.

    Args:
        names: of parameters.
        stack: name of the stack of blocks.
        count: how many blocks there are.
    """
    prefixes = (block_prefix(stack, i) for i in range(count))
    has = (any(name.startswith(prefix) for name in names) for prefix in prefixes)
    return next((i for i, one in enumerate(has) if one), count)


def _named_subset(module: nn.Module, subset: str) -> Callable[[str, nn.Parameter], bool]:
    kind, _, rest = subset.partition(":")
    if subset == "all":
        return lambda name, p: True
    if subset == "lora":
        return lambda name, p: "lora_" in name
    if kind == "last":
        return _last(module, subset, rest)
    if subset.startswith("lora:last:"):
        last = _last(module, subset, subset.removeprefix("lora:last:"))
        return lambda name, p: "lora_" in name and last(name, p)
    if kind == "re":
        try:
            pattern = re.compile(rest)
        except re.error as error:
            raise UserError(f"the subset {subset!r} is not a regular expression: {error}") from None
        return lambda name, p: bool(pattern.search(name))
    raise UserError(f"unknown subset {subset!r}; known: all, last:N, lora, lora:last:N, re:PATTERN")


def _last(module: nn.Module, subset: str, count: str) -> Callable[[str, nn.Parameter], bool]:
    """The last `count` blocks and the norm that follows the stack."""
    found = blocks(module)
    if found is None:
        raise UserError(f"{subset!r} needs a stack of blocks; the learner has {describe(module)}")
    stack, layers = found
    depth = len(layers)
    if not count.isdigit() or not 1 <= int(count) <= depth:
        raise UserError(f"{subset!r} needs N from 1 to {depth}; the learner has {describe(module)}")
    prefixes = [block_prefix(stack, i) for i in range(depth - int(count), depth)]
    prefixes += [f"{norm}." for norm in _final_norms(module, stack)]
    return lambda name, p: name.startswith(tuple(prefixes))


def _final_norms(module: nn.Module, stack: str) -> list[str]:
    """Norms registered beside the stack, after it: what the last block's output goes through."""
    if not stack:  # the learner is its own stack
        return []
    parent_name, _, own_name = stack.rpartition(".")
    siblings = list(module.get_submodule(parent_name).named_children())
    after = [n for n, _ in siblings].index(own_name) + 1
    prefix = f"{parent_name}." if parent_name else ""
    return [prefix + n for n, child in siblings[after:] if "norm" in type(child).__name__.lower()]


@contextlib.contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put every submodule in train or eval mode, and each back in its own mode afterwards."""
    before = [(child, child.training) for child in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for child, was_training in before:
            child.training = was_training


@contextlib.contextmanager
def replay_random_state(state: RandomState | None, device: torch.device) -> Iterator[None]:
    """Draw the same random numbers (dropout masks) as a forward that began in `state`.

    The surrounding random state is untouched. None changes nothing.
    """
    if state is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        state.restore(device)
        yield


@contextlib.contextmanager
def as_estimated(
    module: nn.Module, dtype: torch.dtype | None, dropout: RandomState | None = None
) -> Iterator[None]:
    """Run the module as estimates do: without dropout, or with a step's own masks.

    Args:
        module: the live learner.
        dtype: of mixed precision, or None for the parameters' own.
        dropout: the random state whose dropout masks are repeated, or None.
    """
    device = next(module.parameters()).device
    with (
        mode(module, training=dropout is not None),
        replay_random_state(dropout, device),
        autocast(device, dtype),
    ):
        yield


@dataclass(frozen=True)
class RandomState:
    """The generators' state at one moment: the CPU's, and the accelerator's if there is one."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The state at this moment."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda)

    def same_as(self, other: RandomState) -> bool:
        """Whether nothing has been drawn between the two."""
        if not torch.equal(self.cpu, other.cpu):
            return False
        return self.cuda is None or (other.cuda is not None and torch.equal(self.cuda, other.cuda))

    def restore(self, device: torch.device) -> None:
        """Set the generators back to this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)

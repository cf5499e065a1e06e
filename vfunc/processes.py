"""The processes of a data-parallel run, each with a share of every batch, and what they sum up.

`torchrun --nproc-per-node N experiments/run.py ...` starts them. Parameters and optimizer state are
replicated: every process holds the same ones and takes the same steps. Losses are this process's
part of a sum over all processes (its examples, divided by the number of all processes' examples),
so that gradients, Hessian products and values add up to those of one process with all the examples.

Sums are taken outside of every transform, on detached tensors: the learner is the bare module, and
neither forward mode nor a double backward ever meets a collective operation.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vfunc.errors import UserError
from vfunc.storage.digests import digest_of_tensors
from vfunc.trees import Params, Scalar

BUCKET_ELEMENTS = 2**25
"""Numbers that are summed at a time: few large messages, and a bounded copy."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together, and sums over all of them.

    The default is one process alone, for which every sum is what it is given. All processes have to
    ask for the same sums in the same order, as with every collective operation.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        host: the group that sums numbers of the host, where the default one cannot (NCCL alone);
            None is the default one.
    """

    rank: int = 0
    size: int = 1
    host: Any = None

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Places of this process's share of so many examples; shares differ by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def summed(
        self, part: Mapping[str, Tensor], like: Mapping[str, Tensor] | None = None
    ) -> Params:
        """Sum tensors by name, in float32 at least.

        Args:
            part: this process's part, detached.
            like: what the names are taken from; a name that some process has a part of is summed,
                and one that none has is left out. None says that all have the same names.

        Returns:
            The sums, by name, in `part`'s dtypes; the very tensors where there is one process.
        """
        part = dict(part)
        if self.alone:
            return part
        if like is not None:
            part = self._filled(part, like)
        sums = {name: x for group in _groups(part) for name, x in self._sum_of(group).items()}
        return {name: sums[name] for name in part}

    def total(self, x: Scalar) -> Scalar:
        """Sum a scalar, in float32 at least."""
        return x if self.alone else self.summed({"": x.detach()})[""]

    def totals(self, *numbers: float | int) -> tuple[float | int, ...]:
        """Sum plain numbers, in float64, without a look at the device."""
        if self.alone:
            return numbers
        held = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(held, group=self.host)
        return tuple(held.tolist())

    def mean(self, part: Mapping[str, Tensor]) -> Params:
        """Average tensors by name: of what every process has as much of."""
        summed = self.summed(part)
        return summed if self.alone else {name: x / self.size for name, x in summed.items()}

    def agreed(self, said: Any) -> Any:
        """What the first process says, in all of them: a clock's reading, a name."""
        if self.alone:
            return said
        holder = [said]
        dist.broadcast_object_list(holder, src=0, group=self.host)
        return holder[0]

    def any(self, said: int | None) -> int | None:
        """The largest of what the processes say; None where none says anything."""
        if self.alone:
            return said
        held = torch.tensor([-1 if said is None else said])
        dist.all_reduce(held, op=dist.ReduceOp.MAX, group=self.host)
        return None if int(held) < 0 else int(held)

    def every(self, said: Any) -> list[Any]:
        """What each process says, in their order."""
        if self.alone:
            return [said]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, said, group=self.host)
        return found

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.every(None)

    def require_same(self, what: str, tensors: Mapping[str, Tensor]) -> None:
        """Check that every process holds the same numbers.

        Args:
            what: what they are, for the message.
            tensors: real ones, by name.

        Raises:
            UserError: they differ. Replicas that have drifted apart would train on, each on its
                own, and their sums would be nobody's gradient.
        """
        if self.alone:
            return
        # bit for bit: what is equal to rounding drifts apart
        if len(set(self.every(digest_of_tensors(tensors)))) > 1:
            raise UserError(
                f"the processes hold different numbers in {what}: they have to be started with the "
                "same options, files and package versions, on the same kind of device"
            )

    def _filled(self, part: Params, like: Mapping[str, Tensor]) -> Params:
        """With zeros in place of what another process alone has a part of."""
        here = torch.tensor([name in part for name in like], dtype=torch.int32)
        dist.all_reduce(here, op=dist.ReduceOp.MAX, group=self.host)
        return {
            name: part[name] if name in part else torch.zeros_like(x)
            for (name, x), there in zip(like.items(), here.tolist(), strict=True)
            if there
        }

    def _sum_of(self, group: Sequence[tuple[str, Tensor]]) -> Params:
        """The sums of tensors of one dtype and device, in one message."""
        first = group[0][1]
        dtype = torch.promote_types(first.dtype, torch.float32)
        flat = torch.cat([x.detach().reshape(-1).to(dtype) for _, x in group])
        dist.all_reduce(flat)
        pieces = flat.split([x.numel() for _, x in group])
        return {
            name: piece.view(x.shape).to(x.dtype)
            for (name, x), piece in zip(group, pieces, strict=True)
        }


ALONE = Processes()
"""One process."""


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that `torchrun` has started with this one; alone without it.

    Yields:
        The processes. They are parted at the end.

    Raises:
        UserError: they cannot find one another.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if not dist.is_torchelastic_launched() or size == 1:
        yield ALONE
        return
    # numbers of the host and tensors of the device each go their own way
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(local_device())
        dist.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the {size} processes cannot find one another: {str(error).splitlines()[0]}"
        ) from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def local_device() -> torch.device:
    """This process's own GPU.

    Raises:
        UserError: the machine has fewer GPUs than processes.
    """
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise UserError(
            f"process {number} of this machine finds {there} GPUs: give --nproc-per-node {there}, "
            "or --device cpu"
        )
    return torch.device("cuda", number)


def which_process() -> str:
    """`process 1: ` for messages of those that are not the first; "" else."""
    rank = os.environ.get("RANK", "0") if dist.is_torchelastic_launched() else "0"
    return "" if rank == "0" else f"process {rank}: "


def require_alone(command: str) -> None:
    """Refuse to do under `torchrun` what one process does.

    Args:
        command: what is refused.

    Raises:
        UserError: there are several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and dist.is_torchelastic_launched():
        raise UserError(f"{command} is for one process; start it without torchrun")


def _groups(part: Params) -> Iterator[list[tuple[str, Tensor]]]:
    """Tensors of one dtype and device, as many as are summed at a time."""
    kinds: dict[tuple[torch.dtype, torch.device], list[tuple[str, Tensor]]] = {}
    for name, x in part.items():
        kinds.setdefault((x.dtype, x.device), []).append((name, x))
    for tensors in kinds.values():
        group, held = [], 0
        for name, x in tensors:
            if group and held + x.numel() > BUCKET_ELEMENTS:
                yield group
                group, held = [], 0
            group.append((name, x))
            held += x.numel()
        yield group

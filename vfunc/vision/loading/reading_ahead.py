"""Makes the stream's batches in threads of their own, the next ones while the learner steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from vfunc.vision.data.decoding import quieten_pillow

_T = TypeVar("_T")


class ReadingAhead(Generic[_T]):
    """Gives what `make` gives, some of it made before.

    `make` has to depend on its argument alone: what was made before is then what would be made
    now. Threads and not processes: decoding and cropping are done outside of Python's lock, nothing
    is copied, and a cache of pictures is one. What goes wrong in a thread is raised where the batch
    is asked for.

    A batch is made by one thread of torch's, however many there are: a sum that several share is
    another in its last bits, and a run would depend on them. Up to 2 N + 1 batches are held.

    Args:
        make: (place) -> the batch there.
        workers: N, the number of threads and of batches that are made ahead; 0 makes none ahead,
            in a thread all the same.
    """

    def __init__(self, make: Callable[[int], _T], workers: int) -> None:
        self._make = make
        self._workers = workers
        self._made: dict[int, Future[_T]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, place: int, next_ones: Sequence[int]) -> _T:
        """The batch at a place.

        Args:
            place: the place.
            next_ones: where batches will be asked for next, the nearest first.
        """
        if self._pool is None:
            quieten_pillow()
            count = max(1, self._workers)
            self._pool = ThreadPoolExecutor(count, "reading", torch.set_num_threads, (1,))
        for at in (place, *next_ones[: self._workers]):
            if at not in self._made:
                self._made[at] = self._pool.submit(self._make, at)
        wanted = {place, *next_ones[: self._workers]}
        # a look ahead asks for later ones, and the step after it for the earlier ones again
        spare = sorted(set(self._made) - wanted)
        for at in spare[: max(0, len(spare) - self._workers)]:
            self._made.pop(at).cancel()
        made = self._made[place]
        try:
            return made.result()
        except BaseException:
            self._made.pop(place, None)
            raise

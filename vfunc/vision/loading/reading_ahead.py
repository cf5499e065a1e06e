"""Makes the stream's next batches in threads of their own, while the learner steps."""

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

    Args:
        make: (place) -> the batch there.
        workers: number of threads, at least 1, and of batches that are made ahead.
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
            # the learner has the cores; a batch is made by one of them
            self._pool = ThreadPoolExecutor(self._workers, "reading", torch.set_num_threads, (1,))
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

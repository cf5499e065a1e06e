"""Finds the median of more numbers than have to be there at once, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vfunc.errors import UserError

_DIGIT = 16
_WHOLE = {torch.float32: torch.int32, torch.float64: torch.int64}


def median_of(parts: Callable[[], Iterator[Tensor]]) -> float:
    """The median of positive numbers, the lower of the middle two: what `torch.median` gives.

    A radix selection: as whole numbers, the bits of positive floating-point numbers are in the
    numbers' order. The numbers are read once for every 16 of their bits.

    Args:
        parts: gives the numbers, some at a time, float32 or float64, the same at each call.

    Raises:
        UserError: there is none.
    """
    found, low, rank = torch.zeros(1), 0, None
    digits, digit = 1, 0
    while digit < digits:
        counts = torch.zeros(2**_DIGIT, dtype=torch.long)
        for part in parts():
            found = part
            bits = 8 * part.element_size()
            digits = bits // _DIGIT
            whole = part.contiguous().view(_WHOLE[part.dtype]).long()
            shift = bits - _DIGIT * (digit + 1)
            if digit:
                whole = whole[(whole >> (shift + _DIGIT)) == low]
            at = (whole >> shift) & (2**_DIGIT - 1)
            counts += torch.bincount(at.flatten(), minlength=2**_DIGIT).cpu()
        total = int(counts.sum())
        if not total:
            raise UserError("the median of no numbers is asked for")
        rank = (total - 1) // 2 if rank is None else rank
        before = counts.cumsum(0)
        here = int((before > rank).nonzero()[0])
        rank -= int(before[here] - counts[here])
        low = (low << _DIGIT) | here
        digit += 1
    return float(torch.tensor(low, dtype=_WHOLE[found.dtype]).view(found.dtype))

"""The memory of mapped files. What is read of a map stays in memory until the system or `give_back` drops it."""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def announce(array: Array) -> None:
    """Lets the system read the array's part of its file ahead. Arrays of no file pass."""
    _advise(array, mmap.MADV_WILLNEED)


def give_back(array: Array) -> None:
    """Drops the array's pages from this process; whoever looks at it again reads them again."""
    _advise(array, mmap.MADV_DONTNEED)


def _advise(array: Array, advice: int) -> None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, mmap.mmap) or not array.nbytes:
        return
    whole = np.frombuffer(base, np.uint8)
    if whole.flags.writeable:  # dropping the pages of a private map would undo what was written to it
        return
    begin = _address(array) - _address(whole)
    first = begin // mmap.PAGESIZE * mmap.PAGESIZE
    base.madvise(advice, first, begin + array.nbytes - first)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])

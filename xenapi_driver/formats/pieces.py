# SPDX-License-Identifier: Apache-2.0
"""A disk as the pieces that are not zero, in the framing that hosts read.

Each piece is an 8-byte offset, a 4-byte length, and the data; one of no length ends it
all. Numbers are little-endian ("XAPI today", section 7, ``chunked``). A fresh file
system of 2,000 GiB, which has a few KiB in each of 16,000 places, is 150 MB in this
form; a VHD of it, which has blocks of 2 MiB, would be 32 GB.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

MAX_PIECE = 1 << 20  # bytes that are held in memory; hosts take more

_HEAD = struct.Struct("<QI")
_END = _HEAD.pack(0, 0)


class Pieces:
    """What is not zero of a disk that is partly in memory, partly in a sparse file.

    :ivar length: bytes of the stream
    """

    def __init__(self, path: Path, at: int = 0, head: bytes = b"") -> None:
        """Look through the file, which nobody may write to from here on.

        :param at: byte of the disk at which the file's first is
        :param head: of the disk, before that
        """
        if len(head) > at:
            raise ValueError(f"A head of {len(head)} bytes does not end before {at}.")
        self._path = path
        self._at = at
        self._head = head
        with open(path, "rb") as file:
            self._runs = list(_not_zero(file.fileno()))
        sizes = [size for _, size in self._runs]
        sizes += [len(head)] if head else []
        self.length = sum(sizes) + _HEAD.size * (len(sizes) + 1)

    def __call__(self) -> Iterator[bytes]:
        """Give the stream, the same each time, in pieces of bounded size."""
        if self._head:
            yield _HEAD.pack(0, len(self._head)) + self._head
        with open(self._path, "rb") as file:
            for begin, size in self._runs:
                data = os.pread(file.fileno(), size, begin)
                if len(data) < size:
                    raise OSError(errno.EIO, "it became shorter", str(self._path))
                yield _HEAD.pack(self._at + begin, size) + data
        yield _END


def _not_zero(descriptor: int) -> Iterator[tuple[int, int]]:
    """Give offset and size of each piece of a file that has other bytes than zeros."""
    for begin, end in _extents(descriptor):
        for at in range(begin, end, MAX_PIECE):
            size = min(MAX_PIECE, end - at)
            # Some programs write the zeros that were there already.
            if os.pread(descriptor, size, at).count(0) < size:
                yield at, size


def _extents(descriptor: int) -> Iterable[tuple[int, int]]:
    size = os.fstat(descriptor).st_size
    at = 0
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # only a hole follows
                return
            raise
        at = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, at

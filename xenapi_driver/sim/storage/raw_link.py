# SPDX-License-Identifier: Apache-2.0
"""A raw file as a disk of its own, or as the parent of a VHD."""

from __future__ import annotations

import errno
import os
import uuid as uuidlib
from collections.abc import Iterator
from pathlib import Path

from xenapi_driver.sim.storage import vhd

SUFFIX = ".raw"


def data_blocks(handle: int, block_size: int) -> set[int]:
    """Return the numbers of the blocks of a sparse file that are no holes."""
    found: set[int] = set()
    end, size = 0, os.fstat(handle).st_size
    while end < size:
        try:
            start = os.lseek(handle, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole follows
                break
            raise
        end = os.lseek(handle, start, os.SEEK_HOLE)
        found.update(range(start // block_size, -(-end // block_size)))
    return found


class RawLink:
    """What :class:`vhd.VhdFile` is for a VHD; the last link of a chain.

    :ivar footer: made up, with its size
    """

    parent_path: Path | None = None

    def __init__(self, path: Path, writable: bool = False) -> None:
        self.path = path
        self._file = open(path, "r+b" if writable else "rb")  # noqa: SIM115
        size = os.fstat(self._file.fileno()).st_size
        self.footer = vhd.Footer(size, vhd.FIXED, uuidlib.UUID(int=0))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks that are no holes."""
        return sorted(data_blocks(self._file.fileno(), vhd.BLOCK_SIZE))

    def runs(self, block: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the one run of sectors that there is: all of them."""
        if first < last:
            yield first, last

    def read_sectors(self, block: int, first: int, last: int) -> bytes:
        """Return the bytes of a run of sectors of one block."""
        size = (last - first) * vhd.SECTOR
        offset = block * vhd.BLOCK_SIZE + first * vhd.SECTOR
        return os.pread(self._file.fileno(), size, offset).ljust(size, b"\0")

    def write_sectors(self, block: int, first: int, data: bytes) -> None:
        """Write whole sectors into one block; the file never grows."""
        offset = block * vhd.BLOCK_SIZE + first * vhd.SECTOR
        os.pwrite(self._file.fileno(), data[: self.footer.size - offset], offset)


def create(path: Path, size: int) -> None:
    """Make a disk of zeros; it takes no room yet.

    :raises FileExistsError: ``path`` is there already
    """
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.truncate(size)
    try:
        os.link(part, path)
    finally:
        part.unlink()

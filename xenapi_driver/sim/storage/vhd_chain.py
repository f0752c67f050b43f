# SPDX-License-Identifier: Apache-2.0
"""A chain of VHD files, read and written as the one disk that a guest sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from xenapi_driver.sim.storage import cbt, raw_link
from xenapi_driver.sim.storage.raw_link import RawLink
from xenapi_driver.sim.storage.vhd import (
    BLOCK_SIZE,
    SECTOR,
    SECTORS_PER_BLOCK,
    BadVhd,
    VhdFile,
    round_size,
)

MAX_CHAIN = 30  # longest chain that a storage manager accepts


class Chain:
    """A disk as a guest sees it: a VHD and its parents, leaf first.

    :raises BadVhd: a link is broken, missing, or not the parent its child means
    """

    def __init__(self, leaf: Path, writable: bool = False) -> None:
        self.links: list[VhdFile | RawLink] = []
        self._leaf = leaf
        self._log: cbt.Log | None = None
        self._changed: set[int] = set()
        try:
            self._open(leaf, writable)
        except BaseException:
            self.close()
            raise
        if writable:
            self._log = cbt.open_for_writing(leaf)

    def _open(self, leaf: Path, writable: bool) -> None:
        path: Path | None = leaf
        while path is not None:
            if len(self.links) >= MAX_CHAIN:
                raise BadVhd(f"chain of {leaf.name} is longer than {MAX_CHAIN}")
            kind = RawLink if path.suffix == raw_link.SUFFIX else VhdFile
            try:
                link = kind(path, writable and not self.links)
            except FileNotFoundError:
                raise BadVhd(f"{path.name} is missing") from None
            except BadVhd as error:
                raise BadVhd(f"{path.name}: {error}") from error
            child = self.links[-1] if self.links else None
            self.links.append(link)
            if isinstance(child, VhdFile) and not _is_meant(child, link):
                raise BadVhd(f"{path.name} is not the parent that its child names")
            path = link.parent_path

    def __enter__(self) -> Chain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for link in self.links:
            link.close()
        if self._log is not None:
            cbt.note(self._leaf, self._log, self._changed)
            self._log = None

    @property
    def virtual_size(self) -> int:
        """Size of the disk in bytes: the leaf's."""
        return self.links[0].footer.size

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks that some link holds, within the leaf's size."""
        count = round_size(self.virtual_size) // BLOCK_SIZE
        held = {block for link in self.links for block in link.blocks}
        return sorted(block for block in held if block < count)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the disk; what no link holds reads as zeros."""
        self._check_range(offset, length)
        first = offset // SECTOR
        last = -(-(offset + length) // SECTOR)
        parts = [self._sectors(*part) for part in _by_block(first, last)]
        begin = offset - first * SECTOR
        return b"".join(parts)[begin : begin + length]

    def _sectors(self, block: int, first: int, last: int) -> bytes:
        buffer = bytearray((last - first) * SECTOR)
        # Deepest first: what a child holds then replaces what its parent said.
        for link in reversed(self.links):
            limit = -(-link.footer.size // SECTOR) - block * SECTORS_PER_BLOCK
            if limit <= first:
                continue  # a parent may be smaller than its children
            for begin, end in link.runs(block, first, min(last, limit)):
                data = link.read_sectors(block, begin, end)
                buffer[(begin - first) * SECTOR : (end - first) * SECTOR] = data
        return bytes(buffer)

    def write(self, offset: int, data: bytes) -> None:
        """Write into the leaf; parts of sectors are filled up from the chain."""
        self._check_range(offset, len(data))
        if self._log is not None and data:
            last_byte = offset + len(data) - 1
            touched = range(offset // cbt.BLOCK, last_byte // cbt.BLOCK + 1)
            self._changed.update(touched)
        first = offset // SECTOR
        last = -(-(offset + len(data)) // SECTOR)
        begin = offset - first * SECTOR
        end = min(last * SECTOR, self.virtual_size) - offset - len(data)
        head = self.read(first * SECTOR, begin)
        whole = head + data + self.read(offset + len(data), end)
        whole = whole.ljust((last - first) * SECTOR, b"\0")
        for block, low, high in _by_block(first, last):
            start = (block * SECTORS_PER_BLOCK + low - first) * SECTOR
            part = whole[start : start + (high - low) * SECTOR]
            self.links[0].write_sectors(block, low, part)

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.virtual_size:
            raise BadVhd(f"{length} bytes at {offset} are not inside the disk")


def _is_meant(child: VhdFile, parent: VhdFile | RawLink) -> bool:
    """Return whether a parent is the one that a child was made on."""
    if isinstance(parent, RawLink) or child.header is None:
        return True
    return child.header.parent_uuid == parent.footer.uuid


def _by_block(first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Split a run of the disk's sectors into (block, first, last) of each block."""
    while first < last:
        block, low = divmod(first, SECTORS_PER_BLOCK)
        high = min(SECTORS_PER_BLOCK, low + last - first)
        yield block, low, high
        first += high - low

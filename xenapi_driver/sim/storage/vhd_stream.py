# SPDX-License-Identifier: Apache-2.0
"""VHDs as streams: written and read forwards, without a file to seek in."""

from __future__ import annotations

import struct
import uuid as uuidlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from xenapi_driver.sim.storage import vhd
from xenapi_driver.sim.storage.vhd_store import Content

Put = Callable[[bytes], None]
# Returns so many bytes, fewer only where the stream ends.
Take = Callable[[int], bytes]

_ENTRY = struct.Struct(">I")


@dataclass(frozen=True)
class Parent:
    """What a differencing stream names as its parent.

    :ivar name: of its file
    """

    uuid: uuidlib.UUID
    name: str


def write(
    disk: Content, blocks: list[int], put: Put, parent: Parent | None = None
) -> None:
    """Write a disk as a VHD that holds these of its blocks, each in full.

    :param parent: makes a differencing VHD
    """
    size = disk.virtual_size
    entries = -(-size // vhd.BLOCK_SIZE)
    header = vhd.Header(
        vhd.FOOTER_SIZE + vhd.HEADER_SIZE,
        entries,
        parent_uuid=parent.uuid if parent else None,
        parent=parent.name if parent else None,
    )
    kind = vhd.DIFFERENCING if parent else vhd.DYNAMIC
    footer = vhd.Footer(size, kind, uuidlib.uuid4(), original_size=size).pack()
    meta, start = vhd.metadata(header)
    first = start + len(meta) - vhd.HEADER_SIZE
    # Data on a page boundary, as storage managers have it.
    at = -(-(first + vhd.BITMAP_SIZE) // vhd.PAGE) * vhd.PAGE - vhd.BITMAP_SIZE
    table = bytearray(b"\xff" * entries * 4)
    step = vhd.BITMAP_SIZE + vhd.BLOCK_SIZE
    for number, block in enumerate(blocks):
        _ENTRY.pack_into(table, block * 4, (at + number * step) // vhd.SECTOR)
    put(footer + meta[: vhd.HEADER_SIZE])
    put(bytes(table).ljust(start - header.table_offset, b"\0"))
    put(meta[vhd.HEADER_SIZE :] + bytes(at - first))
    for block in blocks:
        offset = block * vhd.BLOCK_SIZE
        data = disk.read(offset, min(vhd.BLOCK_SIZE, size - offset))
        put(b"\xff" * vhd.BITMAP_SIZE + data.ljust(vhd.BLOCK_SIZE, b"\0"))
    put(footer)


def size_of(disk: Content, blocks: list[int], parent: Parent | None = None) -> int:
    """Return the bytes that :func:`write` writes, about."""
    step = vhd.BITMAP_SIZE + vhd.BLOCK_SIZE
    return len(blocks) * step + vhd.overhead(disk.virtual_size)


def differing(disk: Content, base: Content) -> list[int]:
    """Return the numbers of the blocks in which a disk differs from another."""
    found = []
    for block in sorted({*disk.blocks, *base.blocks}):
        offset = block * vhd.BLOCK_SIZE
        length = min(vhd.BLOCK_SIZE, disk.virtual_size - offset)
        if length <= 0:
            continue
        known = max(0, min(length, base.virtual_size - offset))
        old = base.read(offset, known) if known else b""
        if disk.read(offset, length) != old.ljust(length, b"\0"):
            found.append(block)
    return found


class Reader:
    """A VHD that arrives.

    :ivar virtual_size: bytes of the disk in it
    :raises BadVhd: it is none, or one that cannot be read forwards
    """

    def __init__(self, take: Take) -> None:
        self._take = take
        self._at = 0
        footer = self._exactly(vhd.FOOTER_SIZE)
        about = vhd.Footer.unpack(footer)
        self.virtual_size = about.size
        if about.kind == vhd.FIXED:
            raise vhd.BadVhd("a fixed disk has no table to read it by")
        (header_at,) = struct.unpack_from(">Q", footer, 16)
        self._skip_to(header_at)
        table_at, entries = vhd.parse_header(self._exactly(vhd.HEADER_SIZE))
        if not about.size <= entries * vhd.BLOCK_SIZE <= 2 * vhd.MAX_VIRTUAL_SIZE:
            raise vhd.BadVhd("block allocation table that does not fit the disk")
        self._skip_to(table_at)
        table = struct.unpack(f">{entries}I", self._exactly(entries * 4))
        used = [(at, block) for block, at in enumerate(table) if at != vhd.UNUSED]
        # As they come in the stream, whatever their place on the disk.
        self._blocks = sorted(used)

    def parts(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of the sectors that the stream holds.

        :raises BadVhd: it ends too early, or its blocks overlap
        """
        for sector, block in self._blocks:
            self._skip_to(sector * vhd.SECTOR)
            bitmap = self._exactly(vhd.BITMAP_SIZE)
            data = self._exactly(vhd.BLOCK_SIZE)
            start = block * vhd.BLOCK_SIZE
            room = self.virtual_size - start
            for first, last in vhd.runs_of(bitmap, 0, vhd.SECTORS_PER_BLOCK):
                begin, end = first * vhd.SECTOR, min(last * vhd.SECTOR, room)
                if begin < end:
                    yield start + begin, data[begin:end]

    def _skip_to(self, position: int) -> None:
        if position < self._at:
            raise vhd.BadVhd("parts of the file in an order that cannot be streamed")
        while self._at < position:
            self._exactly(min(vhd.BLOCK_SIZE, position - self._at))

    def _exactly(self, size: int) -> bytes:
        data = self._take(size)
        if len(data) != size:
            raise vhd.BadVhd("the stream ends too early")
        self._at += size
        return data

# SPDX-License-Identifier: Apache-2.0
"""VHDs as streams: made, and read forwards, without a file to seek in.

Layout (Microsoft's "Virtual Hard Disk Image Format Specification" 1.0): the footer's
copy, a dynamic disk header, the block allocation table (BAT), blocks, the footer. A
block is a bitmap of its 512-byte sectors and 2 MiB of data. Numbers are big-endian;
those in the BAT count sectors.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import time
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

SECTOR = 512
FOOTER_SIZE = 512  # VHD spec 1.0, "Hard Disk Footer Format"
HEADER_SIZE = 1024  # VHD spec 1.0, "Dynamic Disk Header Format"
BLOCK_SIZE = 2 << 20  # what the storage of XAPI hosts makes and reads
BITMAP_SIZE = BLOCK_SIZE // SECTOR // 8
MAX_VIRTUAL_SIZE = 2040 << 30  # a BAT entry has 32 bits for the sector of a block

FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
ALL = b"\xff" * BITMAP_SIZE  # the bitmap of a block whose sectors are all there

_UNUSED = 0xFFFFFFFF
_COOKIE = b"conectix"
_EPOCH = 946684800  # VHD's clock counts seconds from 2000-01-01 00:00 UTC
_VERSION = 0x00010000
_NO_OFFSET = 0xFFFFFFFFFFFFFFFF

# cookie, features, version, header's offset, time, creator, its version and system,
# original size, current size, cylinders, heads, sectors, type, checksum, uuid, saved
# state; the rest is reserved
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
_FOOTER_CHECKSUM = 64
# cookie, data offset, BAT's offset, version, entries, block size, checksum, parent's
# uuid; then its name and locators
_HEADER = struct.Struct(">8sQQIIII16s968x")
_HEADER_CHECKSUM = 36
# The host's own tool: readers (qemu) take the size of its disks from the size field and
# not from the geometry. As of this version it has no map of full blocks beside the BAT.
_CREATOR, _CREATOR_VERSION = b"tap\0", 0x00000001
_FEATURES = 2  # reserved by the specification, and always set

# Returns up to so many bytes, none only where the stream ends.
Read = Callable[[int], bytes]


class BadVhd(ValueError):
    """It is no VHD, or one that cannot be used; the text says why."""


@dataclass(frozen=True)
class Footer:
    """What we keep of a footer.

    :ivar virtual_size: bytes of the disk in it
    :ivar kind: ``FIXED``, ``DYNAMIC`` or ``DIFFERENCING``
    :ivar header_offset: byte at which the dynamic disk header is
    """

    virtual_size: int
    kind: int
    uuid: uuid.UUID
    header_offset: int


def read_footer(raw: bytes) -> Footer:
    """Return what a footer, or its copy at the start of a file, says.

    :param raw: its 512 bytes
    :raises BadVhd: it is none, or damaged
    """
    if len(raw) != FOOTER_SIZE or not raw.startswith(_COOKIE):
        raise BadVhd("there is no VHD footer")
    fields = _FOOTER.unpack(raw)
    if fields[14] != _checksum(raw, _FOOTER_CHECKSUM):
        raise BadVhd("the footer's checksum is wrong")
    if fields[13] not in (FIXED, DYNAMIC, DIFFERENCING):
        raise BadVhd(f"unknown type of disk {fields[13]}")
    size = fields[9]
    if not 0 < size <= MAX_VIRTUAL_SIZE or size % SECTOR:
        raise BadVhd(f"impossible virtual size of {size} bytes")
    return Footer(size, fields[13], uuid.UUID(bytes=fields[15]), fields[3])


def _checksum(raw: bytes, at: int) -> int:
    """Return the ones' complement of the sum of bytes, its own field left out."""
    return ~(sum(raw) - sum(raw[at : at + 4])) & 0xFFFFFFFF


def _sealed(raw: bytes, at: int) -> bytes:
    return raw[:at] + struct.pack(">I", _checksum(raw, at)) + raw[at + 4 :]


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def geometry(virtual_size: int) -> tuple[int, int, int]:
    """Return (cylinders, heads, sectors) of a disk: spec 1.0, "CHS Calculation"."""
    sectors = min(virtual_size // SECTOR, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    per_track, tracks = 17, sectors // 17
    heads = max(4, (tracks + 1023) // 1024)
    if tracks >= heads * 1024 or heads > 16:
        per_track, heads, tracks = 31, 16, sectors // 31
    if tracks >= heads * 1024:
        per_track, heads, tracks = 63, 16, sectors // 63
    return tracks // heads, heads, per_track


# out


def length(virtual_size: int, blocks: int) -> int:
    """Return the bytes of a dynamic VHD that :func:`dynamic` makes.

    :param blocks: how many it holds
    """
    return _start(virtual_size) + blocks * (BITMAP_SIZE + BLOCK_SIZE) + FOOTER_SIZE


def length_of_full(virtual_size: int) -> int:
    """Return the bytes of the dynamic VHD of a disk that holds data everywhere."""
    return length(virtual_size, _entries(virtual_size))


def _entries(virtual_size: int) -> int:
    return _padded(virtual_size, BLOCK_SIZE) // BLOCK_SIZE


def _start(virtual_size: int) -> int:
    """Return the offset of the first block."""
    return FOOTER_SIZE + HEADER_SIZE + _padded(_entries(virtual_size) * 4, SECTOR)


def dynamic(
    virtual_size: int, blocks: Sequence[int], parts: Iterable[tuple[bytes, bytes]]
) -> Iterator[bytes]:
    """Give a dynamic VHD, which needs no parent, piece by piece.

    :param virtual_size: bytes of the disk, a multiple of 512
    :param blocks: numbers of the blocks, in the order in which they are to lie
    :param parts: bitmap and data of each of them
    :raises ValueError: a size that no VHD has
    """
    if not 0 < virtual_size <= MAX_VIRTUAL_SIZE or virtual_size % SECTOR:
        raise ValueError(f"A VHD cannot have {virtual_size} bytes.")
    entries, at = _entries(virtual_size), _start(virtual_size)
    table = bytearray(b"\xff" * entries * 4)
    for number, block in enumerate(blocks):
        sector = (at + number * (BITMAP_SIZE + BLOCK_SIZE)) // SECTOR
        struct.pack_into(">I", table, block * 4, sector)
    footer = _packed_footer(virtual_size)
    header = _HEADER.pack(
        *(b"cxsparse", _NO_OFFSET, FOOTER_SIZE + HEADER_SIZE, _VERSION),
        *(entries, BLOCK_SIZE, 0, bytes(16)),
    )
    yield footer + _sealed(header, _HEADER_CHECKSUM)
    yield bytes(table).ljust(_padded(len(table), SECTOR), b"\xff")
    for bitmap, data in parts:
        yield bitmap
        yield data
    yield footer


def _packed_footer(virtual_size: int) -> bytes:
    now = int(time.time()) - _EPOCH
    raw = _FOOTER.pack(
        *(_COOKIE, _FEATURES, _VERSION, FOOTER_SIZE, now),
        *(_CREATOR, _CREATOR_VERSION, bytes(4), virtual_size, virtual_size),
        *(*geometry(virtual_size), DYNAMIC, 0, uuid.uuid4().bytes, 0),
    )
    return _sealed(raw, _FOOTER_CHECKSUM)


def sparse(file: BinaryIO, virtual_size: int) -> tuple[int, Iterator[bytes]]:
    """Make a dynamic VHD of a raw file: only what is not a hole in it.

    :param file: open for reading, and nobody writes to it meanwhile; a disk that is
        longer than the file ends in zeros
    :param virtual_size: bytes of the disk, a multiple of 512
    :returns: the bytes that there will be, and the pieces, to be taken once
    :raises ValueError: the file is longer than that, or no VHD can be so large
    """
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    if size > virtual_size:
        raise ValueError(f"{size} bytes do not fit a disk of {virtual_size}.")
    blocks = _blocks_with_data(descriptor, size)
    parts = (
        (bitmap_within(block, virtual_size), _block_of(descriptor, block))
        for block in blocks
    )
    return length(virtual_size, len(blocks)), dynamic(virtual_size, blocks, parts)


def _blocks_with_data(descriptor: int, size: int) -> list[int]:
    found: list[int] = []
    at = 0
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # only a hole follows
                break
            raise
        end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        last = _padded(end, BLOCK_SIZE) // BLOCK_SIZE
        found.extend(range(begin // BLOCK_SIZE, last))
        at = last * BLOCK_SIZE
    return found


def _block_of(descriptor: int, block: int) -> bytes:
    data = b""
    while len(data) < BLOCK_SIZE:
        more = os.pread(
            descriptor, BLOCK_SIZE - len(data), block * BLOCK_SIZE + len(data)
        )
        if not more:
            break
        data += more
    return data.ljust(BLOCK_SIZE, b"\0")


def bitmap_within(block: int, virtual_size: int, bitmap: bytes = ALL) -> bytes:
    """Return a block's bitmap without the sectors that lie behind the disk's end."""
    sectors = (virtual_size - block * BLOCK_SIZE) // SECTOR
    if sectors >= BITMAP_SIZE * 8:
        return bitmap
    # The first sector of a block is the highest bit of its first byte.
    behind = (1 << (BITMAP_SIZE * 8 - max(0, sectors))) - 1
    kept = int.from_bytes(bitmap, "big") & ~behind
    return kept.to_bytes(BITMAP_SIZE, "big")


# in


class Reader:
    """A dynamic or differencing VHD that arrives.

    :ivar virtual_size: bytes of the disk in it
    :ivar needs_parent: what it does not hold, another disk does
    :ivar blocks: numbers of the blocks that it holds, in the order in which they come
    """

    def __init__(self, read: Read) -> None:
        """Read as far as the table.

        :raises BadVhd: it is none, or one that cannot be read forwards
        """
        self._read = read
        self._at = 0
        footer = read_footer(self._exactly(FOOTER_SIZE))
        if footer.kind == FIXED:
            raise BadVhd("it is of type fixed, not dynamic")
        self.virtual_size = footer.virtual_size
        self.needs_parent = footer.kind == DIFFERENCING
        self._uuid = footer.uuid
        self._skip_to(footer.header_offset)
        table_offset, entries = self._header(self._exactly(HEADER_SIZE))
        self._skip_to(table_offset)
        self._table = array("I", self._exactly(entries * 4))
        if sys.byteorder == "little":
            self._table.byteswap()
        held = range(_entries(self.virtual_size))
        self.blocks = [block for block in held if self._table[block] != _UNUSED]
        # As they come in the file, whatever their place on the disk.
        self.blocks.sort(key=self._table.__getitem__)

    def _header(self, raw: bytes) -> tuple[int, int]:
        """Return the table's offset and number of entries."""
        fields = _HEADER.unpack(raw)
        if fields[0] != b"cxsparse":
            raise BadVhd("there is no dynamic disk header")
        if fields[6] != _checksum(raw, _HEADER_CHECKSUM):
            raise BadVhd("the header's checksum is wrong")
        if fields[5] != BLOCK_SIZE:
            raise BadVhd(f"blocks of {fields[5]} bytes, not of 2 MiB")
        least = _entries(self.virtual_size)
        # A disk may have been made with room to grow.
        if not least <= fields[4] <= _entries(MAX_VIRTUAL_SIZE) + 1:
            raise BadVhd(f"a table of {fields[4]} blocks, where there are {least}")
        return fields[2], fields[4]

    def parts(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Give number, bitmap and data of each block, and check that all has come.

        :raises BadVhd: it ends too early, blocks overlap, or the footer is missing
        """
        for block in self.blocks:
            self._skip_to(self._table[block] * SECTOR)
            bitmap = self._exactly(BITMAP_SIZE)
            data = self._exactly(BLOCK_SIZE)
            yield block, bitmap_within(block, self.virtual_size, bitmap), data
        last = b""
        while more := self._read(BLOCK_SIZE):
            last = (last + more)[-FOOTER_SIZE:]
        if read_footer(last).uuid != self._uuid:
            raise BadVhd("the footers at its start and at its end are not of one disk")

    def _skip_to(self, position: int) -> None:
        if position < self._at:
            raise BadVhd("its parts overlap, or come in an order that cannot be read")
        while self._at < position:
            self._exactly(min(BLOCK_SIZE, position - self._at))

    def _exactly(self, size: int) -> bytes:
        # Not added to bytes, which are copied each time: a piece may be a single one.
        data = bytearray()
        while len(data) < size:
            more = self._read(size - len(data))
            if not more:
                raise BadVhd("it ends too early")
            data += more
        self._at += size
        return bytes(data)

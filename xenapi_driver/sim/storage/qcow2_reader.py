# SPDX-License-Identifier: Apache-2.0
"""The content of a QCOW2 image (QEMU, docs/interop/qcow2.rst, versions 2 and 3)."""

import os
import struct
import zlib
from collections.abc import Iterator
from typing import IO

# magic, version, backing file (offset, size), cluster bits, size, encryption,
# L1 (entries, offset), refcount table (offset, clusters), snapshots (number, offset)
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES = struct.Struct(">Q")
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ALL_ZEROS = 1
# Dirty refcounts do not matter to a reader; other features would.
_HARMLESS = 1
_LARGEST_TABLE = 32 << 20


class BadQcow2(Exception):
    """A file is no QCOW2 image, or one that cannot be read; the text says why."""


class Image:
    """An image that stands alone.

    :ivar virtual_size: bytes of the disk in it
    :raises BadQcow2: it is none, or needs another file
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        raw = self._at(0, _HEADER.size)
        fields = _HEADER.unpack(raw)
        version, backing, bits = fields[1], fields[2], fields[4]
        if fields[0] != b"QFI\xfb" or version not in (2, 3):
            raise BadQcow2("no QCOW2 image")
        if backing:
            raise BadQcow2("an image that needs another one")
        if fields[6] or not 9 <= bits <= 21:
            raise BadQcow2("an encrypted image, or clusters of an unknown size")
        if version == 3:
            (features,) = _FEATURES.unpack(self._at(_HEADER.size, 8))
            if features & ~_HARMLESS:
                raise BadQcow2(f"unknown features {features:#x}")
        self.virtual_size: int = fields[5]
        self._bits, self._cluster = bits, 1 << bits
        self._has_zeros = version == 3
        entries, offset = fields[7], fields[8]
        if entries * 8 > _LARGEST_TABLE:
            raise BadQcow2("a table that is too large")
        self._l1 = struct.unpack(f">{entries}Q", self._at(offset, entries * 8))

    def parts(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of the clusters that the image holds.

        :raises BadQcow2: a table points outside the file
        """
        count = self._cluster // 8
        for number, entry in enumerate(self._l1):
            if not entry & _OFFSET:
                continue
            table = self._at(entry & _OFFSET, self._cluster)
            for index, place in enumerate(struct.unpack(f">{count}Q", table)):
                offset = (number * count + index) << self._bits
                left = self.virtual_size - offset
                if place and left > 0:
                    data = self._content(place)
                    if data is not None:
                        yield offset, data[:left]

    def _content(self, place: int) -> bytes | None:
        if place & _COMPRESSED:
            return self._unpacked(place)
        if place & _ALL_ZEROS and self._has_zeros:
            return bytes(self._cluster)
        if not place & _OFFSET:
            return None
        return self._at(place & _OFFSET, self._cluster)

    def _unpacked(self, place: int) -> bytes:
        shift = 62 - (self._bits - 8)
        offset = place & ((1 << shift) - 1)
        sectors = (place & (_COMPRESSED - 1)) >> shift
        size = (sectors + 1) * 512 - (offset & 511)
        packed = self._read(offset, size)
        try:
            data = zlib.decompressobj(-12).decompress(packed, self._cluster)
        except zlib.error as error:
            raise BadQcow2(f"a compressed cluster is damaged: {error}") from error
        if len(data) != self._cluster:
            raise BadQcow2("a compressed cluster is too short")
        return data

    def _at(self, offset: int, length: int) -> bytes:
        # The last cluster of a file may be short; what is missing is zeros.
        return self._read(offset, length).ljust(length, b"\0")

    def _read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes, fewer only at the end of the file."""
        # A place may be one that no file reaches: seek() refuses it.
        if length and offset >= os.fstat(self._file.fileno()).st_size:
            raise BadQcow2("a part lies outside the file")
        self._file.seek(offset)
        return self._file.read(length)

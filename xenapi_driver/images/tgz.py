# SPDX-License-Identifier: Apache-2.0
"""The one disk in a gzipped tar, read as it comes; ``formats/tarball.py`` writes it.

The archive is a tenant's: what stands before the disk's first byte is bounded, and of
the disk no more than a piece is in memory at a time. Python's ``tarfile`` is not used,
as it takes headers of any size into memory and can be sent round in circles.

Layout: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header", and
GNU tar's manual, "Basic Tar Format" (sparse files, numbers in base 256).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xenapi_driver import exceptions

MEMBER = "disk.raw"  # what this handler has always called it

PIECE = 2**20
_BLOCK = 512
# What may stand before the disk: long names, sparse maps, folders.
_MOST_HEADERS = 4 * 2**20
_GZIP = 16 + zlib.MAX_WBITS  # zlib.decompressobj: gzip's header and trailer

_REGULAR = b"\x0007"  # type flags of a plain file; 7 is one in one piece
_FOLDER = b"5"
_SPARSE = b"S"  # GNU's, with a map of where the data belongs
_PAX = b"x"
_SKIPPED = b"gLK"  # pax headers for all, GNU's long names
_LONGEST_LENGTH = 19  # digits of a pax header's number


@dataclass(frozen=True)
class Disk:
    """A disk in an archive.

    :ivar size: bytes
    :ivar pieces: those bytes, to be read once
    """

    size: int
    pieces: Iterator[bytes]


class _Gunzipped:
    """Reads what the pieces of a gzip stream hold, never more than was asked for."""

    def __init__(self, image_id: str, pieces: Iterable[bytes]) -> None:
        self._image_id = image_id
        self._pieces = iter(pieces)
        self._inflate = zlib.decompressobj(_GZIP)
        self._packed = b""

    def bad(self, why: str) -> exceptions.ImageUnusable:
        return exceptions.ImageUnusable(
            self._image_id,
            f"Image {self._image_id} is no gzipped tar with one raw disk: {why}.",
        )

    def some(self, size: int) -> bytes:
        """Return up to ``size`` bytes, b"" at the end."""
        while True:
            if not self._packed:
                self._packed = next(self._pieces, b"")
                if not self._packed:
                    return b""
            if self._inflate.eof:  # gzip streams may follow each other
                self._inflate = zlib.decompressobj(_GZIP)
            try:
                data = self._inflate.decompress(self._packed, size)
            except zlib.error as exc:
                raise self.bad("it is not gzipped, or damaged") from exc
            self._packed = self._inflate.unconsumed_tail or self._inflate.unused_data
            if data:
                return data

    def exactly(self, size: int) -> bytes:
        """Return ``size`` bytes.

        :raises exceptions.ImageUnusable: there are fewer
        """
        parts = []
        while size:
            part = self.some(size)
            if not part:
                raise self.bad("it ends in the middle")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def exhaust(self) -> None:
        """Have all of the image read, so that what is said of it is verified."""
        for _ in self._pieces:
            pass


class _Headers:
    """What stands before the disk, which is bounded."""

    def __init__(self, stream: _Gunzipped) -> None:
        self._stream = stream
        self._left = _MOST_HEADERS

    def take(self, size: int) -> bytes:
        """Return the next bytes and what fills them up to whole blocks."""
        whole = -(-size // _BLOCK) * _BLOCK
        self._left -= whole
        if self._left < 0:
            raise self._stream.bad(
                f"no disk begins within its first {_MOST_HEADERS} bytes"
            )
        return self._stream.exactly(whole)[:size]


def disk(image_id: str, pieces: Iterable[bytes]) -> Disk:
    """Return the first file in the archive, whatever its name; reading begins.

    Folders before it are passed over, and so is all that comes after it. Sparse files
    of GNU tar's own format are expanded.

    :raises exceptions.ImageUnusable: there is none, here or while it is read
    """
    stream = _Gunzipped(image_id, pieces)
    headers = _Headers(stream)
    pax: dict[bytes, bytes] = {}
    while True:
        block = headers.take(_BLOCK)
        if not any(block):
            raise stream.bad("there is no file in it")
        _verify(stream, block)
        flag, size = block[156:157], _number(stream, block[124:136])
        if flag == _PAX:
            pax = dict(_records(stream, headers.take(size)))
        elif flag in _REGULAR:
            if any(key.startswith(b"GNU.sparse.") for key in pax):
                raise stream.bad("its file is sparse in a way that is not read; use tar"
                                 " --format=gnu, or no --sparse")  # fmt: skip
            if b"size" in pax:
                size = _decimal(stream, pax[b"size"])
            return Disk(size, _plain(stream, size))
        elif flag == _SPARSE:
            extents, whole = _sparse_map(stream, headers, block)
            if sum(length for _, length in extents) != size:
                raise stream.bad("the map of its sparse file is wrong")
            return Disk(whole, _expanded(stream, extents, whole))
        elif flag in _SKIPPED:
            headers.take(size)
        elif flag == _FOLDER:
            pax = {}
        else:
            raise stream.bad("it has a link or a special file in it")


def _verify(stream: _Gunzipped, block: bytes) -> None:
    """Refuse a header whose sum is wrong; its own field counts as blanks."""
    told = _number(stream, block[148:156])
    if told != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
        raise stream.bad("what was unpacked is no tar")


def _number(stream: _Gunzipped, field: bytes) -> int:
    """Return a header's number: octal digits, or base 256 behind a set bit."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise stream.bad("what was unpacked is no tar")
    return int(digits or b"0", 8)


def _decimal(stream: _Gunzipped, digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _LONGEST_LENGTH:
        raise stream.bad("a number in its headers is none")
    return int(digits)


def _records(stream: _Gunzipped, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give the records of a pax header: length, blank, key, equals sign, value."""
    at = 0
    # By position: millions of short records would each cost a copy of the rest.
    while at < len(data):
        blank = data.find(b" ", at, at + _LONGEST_LENGTH + 1)
        length = _decimal(stream, data[at:blank] if blank > 0 else b"")
        if length <= blank + 1 - at or at + length > len(data):
            raise stream.bad("a header in it is damaged")
        key, _, value = data[blank + 1 : at + length - 1].partition(b"=")
        yield key, value
        at += length


def _sparse_map(
    stream: _Gunzipped, headers: _Headers, block: bytes
) -> tuple[list[tuple[int, int]], int]:
    """Return where the data of a sparse file belongs, and the file's size."""
    whole = _number(stream, block[483:495])
    fields, more = block[386:482], block[482]
    extents: list[tuple[int, int]] = []
    end = 0
    while True:
        for at in range(0, len(fields), 24):
            if not any(fields[at : at + 24]):
                break
            offset = _number(stream, fields[at : at + 12])
            length = _number(stream, fields[at + 12 : at + 24])
            if offset < end or length < 0 or offset + length > whole:
                raise stream.bad("the map of its sparse file is wrong")
            end = offset + length
            extents.append((offset, length))
        if not more:
            return extents, whole
        block = headers.take(_BLOCK)
        fields, more = block[:504], block[504]


def _plain(stream: _Gunzipped, size: int) -> Iterator[bytes]:
    yield from _data(stream, size)
    stream.exhaust()


def _expanded(
    stream: _Gunzipped, extents: list[tuple[int, int]], whole: int
) -> Iterator[bytes]:
    at = 0
    for offset, length in extents:
        yield from _zeros(offset - at)
        yield from _data(stream, length)
        at = offset + length
    yield from _zeros(whole - at)
    stream.exhaust()


def _data(stream: _Gunzipped, size: int) -> Iterator[bytes]:
    while size:
        piece = stream.exactly(min(size, PIECE))
        size -= len(piece)
        yield piece


def _zeros(size: int) -> Iterator[bytes]:
    piece = bytes(min(size, PIECE))
    while size > 0:
        yield piece[:size]
        size -= PIECE

# SPDX-License-Identifier: Apache-2.0
"""Archives of disks as streams: tar, gzipped or not, read and written forwards.

They come from users: nothing but folders and files of one name is accepted, and only
header blocks are given to ``tarfile``, whose own reader takes extended headers of any
size into memory.
"""

from __future__ import annotations

import itertools
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

BLOCK = tarfile.BLOCKSIZE
PIECE = 1 << 20  # bytes that are unpacked at a time, at most

_GZIP_COOKIE = b"\x1f\x8b"  # RFC 1952, section 2.3.1
_GZIP = 16 + zlib.MAX_WBITS  # zlib's manual, inflateInit2: gzip's format alone
_MOST_MEMBERS = 64
_LONGEST_EXTENSION = 64 << 10  # of a long name or a pax header
_LONGEST_TRAILER = 1 << 20  # behind the last member; tar fills up 10 KiB
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_PAX_RECORD = re.compile(rb"(\d{1,8}) ([^=]+)=")


class BadArchive(ValueError):
    """It is no archive, or one that is not accepted; the text says why."""


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    :ivar name: without folders
    :ivar size: bytes
    :ivar read: gives up to so many of its bytes, none at its end
    """

    name: str
    size: int
    read: Callable[[int], bytes]


def members(pieces: Iterable[bytes]) -> Iterator[Member]:
    """Give the files of an archive one by one; what is not read of one is skipped.

    After the last one all is read to its end, so that every checksum is compared.

    :param pieces: the archive's bytes, gzipped or not
    :raises BadArchive: now or later, also out of ``Member.read``
    """
    stream = _Stream(_plain(pieces))
    said: dict[str, str | int] = {}
    for _count in range(_MOST_MEMBERS):
        header = stream.header()
        if header is None:
            stream.end()
            return
        if header.type in _EXTENSIONS:
            said.update(_said(header, stream))
            continue
        name = str(said.get("path", header.name))
        size = int(said.get("size", header.size))
        said = {}
        if header.type == tarfile.DIRTYPE and size == 0:
            _only_name(name, folder=True)
            continue
        if header.type not in _REGULAR:
            raise BadArchive("a member is neither a file nor a folder")
        body = _Body(stream, size)
        yield Member(_only_name(name), size, body.read)
        body.skip()
    raise BadArchive(f"there are more than {_MOST_MEMBERS} members")


def _plain(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Unpack what is gzipped; the type of a stream is known by its first two bytes."""
    source = iter(pieces)
    first = b""
    while len(first) < 2:
        piece = next(source, None)
        if piece is None:
            break
        first += piece
    source = itertools.chain([first], source)
    return _gunzipped(source) if first.startswith(_GZIP_COOKIE) else source


def _gunzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    inflate, under_way, idle = zlib.decompressobj(_GZIP), True, 0
    for piece in pieces:
        left = piece
        while left:
            if not under_way:
                # Streams follow each other; the end may be filled up with zeros.
                left = left.lstrip(b"\0")
                under_way = bool(left)
                inflate = zlib.decompressobj(_GZIP)
                continue
            try:
                data = inflate.decompress(left, PIECE)
            except zlib.error as exc:
                raise BadArchive(f"its gzip stream is damaged ({exc})") from exc
            under_way = not inflate.eof
            left = inflate.unconsumed_tail if under_way else inflate.unused_data
            if data:
                idle = 0
                yield data
        idle += len(piece)
        if idle > 2 * _LONGEST_TRAILER:
            raise BadArchive("its gzip stream goes on without data")
    if under_way:
        raise BadArchive("its gzip stream ends too early")


class _Stream:
    """Takes amounts out of an iterator of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def some(self, most: int) -> bytes:
        """Return up to ``most`` bytes, none only at the end."""
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece = memoryview(piece)
        taken, self._piece = self._piece[:most], self._piece[most:]
        return bytes(taken)

    def up_to(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        parts = []
        while size:
            part = self.some(size)
            if not part:
                break
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def blocks(self, size: int) -> bytes:
        """Return ``size`` bytes that are filled up to whole blocks.

        :raises BadArchive: there are fewer
        """
        whole = size + -size % BLOCK
        data = self.up_to(whole)
        if len(data) != whole:
            raise BadArchive("it ends too early")
        return data[:size]

    def header(self) -> tarfile.TarInfo | None:
        """Return the next header, None at the end of the archive."""
        block = self.up_to(BLOCK)
        if not block.strip(b"\0"):
            # Some writers leave the closing blocks of zeros out.
            return None
        if block.startswith(b"conectix"):
            raise BadArchive("it is a VHD outside of an archive; pack it with tar -czf")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as exc:
            raise BadArchive(f"it is no tar archive, or damaged ({exc})") from exc
        if header.size < 0:
            raise BadArchive("a member has a negative size")
        return header

    def end(self) -> None:
        """Read what comes behind the archive, which is not much."""
        left = _LONGEST_TRAILER
        while part := self.some(PIECE):
            left -= len(part)
            if left < 0:
                raise BadArchive(f"more than {_LONGEST_TRAILER} bytes follow its end")


class _Body:
    """The bytes of one member."""

    def __init__(self, stream: _Stream, size: int) -> None:
        self._stream = stream
        self._left = size
        self._fill = -size % BLOCK

    def read(self, size: int) -> bytes:
        data = self._stream.some(min(size, self._left))
        if not data and size and self._left:
            raise BadArchive("it ends in the middle of a file")
        self._left -= len(data)
        return data

    def skip(self) -> None:
        while self.read(PIECE):
            continue
        if len(self._stream.up_to(self._fill)) != self._fill:
            raise BadArchive("it ends too early")


def _said(header: tarfile.TarInfo, stream: _Stream) -> dict[str, str | int]:
    """Return what a long name or a pax header says of the next member."""
    if header.size > _LONGEST_EXTENSION:
        raise BadArchive(f"it has an extended header of {header.size} bytes")
    data = stream.blocks(header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    said = dict(_records(data))
    if header.type == tarfile.XGLTYPE and said:
        raise BadArchive("a global header renames or resizes its members")
    return said


def _records(data: bytes) -> Iterator[tuple[str, str | int]]:
    """Give path and size of a pax header, as far as they are there."""
    while data:
        match = _PAX_RECORD.match(data)
        length = int(match[1]) if match else 0
        if match is None or not match.end() < length <= len(data):
            raise BadArchive("a pax header is damaged")
        key, value = match[2], data[match.end() : length - 1]
        if key.startswith(b"GNU.sparse"):
            raise BadArchive("a member is sparse; pack it without that option of tar")
        if key == b"path":
            yield "path", value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise BadArchive("a pax header is damaged")
            yield "size", int(value)
        data = data[length:]


def _only_name(name: str, folder: bool = False) -> str:
    """Return a member's name without ``./``; refuse one that has more than that.

    tar run on a folder writes that as ``./`` and its files as ``./0.vhd``.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise BadArchive(f"the name of a member leads elsewhere: {name[:100]!a}")
    if folder:
        return ""
    if len(parts) != 1:
        raise BadArchive(f"a member lies in a folder: {name[:100]!a}")
    return parts[0]


def packed(
    name: str, size: int, pieces: Iterable[bytes], level: int | None
) -> Iterator[bytes]:
    """Give a gzipped archive whose only member is what ``pieces`` give.

    :param size: bytes of the pieces in all
    :param level: of gzip, 0 to 9; None for gzip's own
    :raises ValueError: the pieces are more or fewer; the archive is of no use
    """
    deflate = zlib.compressobj(-1 if level is None else level, zlib.DEFLATED, _GZIP)
    header = tarfile.TarInfo(name)
    header.size = size
    yield deflate.compress(header.tobuf(tarfile.GNU_FORMAT))
    given = 0
    for piece in pieces:
        given += len(piece)
        if data := deflate.compress(piece):
            yield data
    if given != size:
        raise ValueError(f"A member of {size} bytes has {given}.")
    # Two empty blocks end an archive.
    yield deflate.compress(bytes(-size % BLOCK + 2 * BLOCK))
    yield deflate.flush()

# SPDX-License-Identifier: Apache-2.0
"""The simulator's own reader and writer of VHD files.

It exists beside the driver's and dom0's readers on purpose: a real host judges
files that others made, so the simulated one must be able to disagree.

Layout (VHD specification 1.0): a footer, whose copy also opens the file, a
dynamic disk header, the block allocation table (BAT), locators of the parent,
then blocks, each a sector bitmap followed by 2 MiB of data.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
import uuid as uuidlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO

SECTOR = 512
FOOTER_SIZE = 512  # VHD spec 1.0, "Hard Disk Footer Format"
HEADER_SIZE = 1024  # VHD spec 1.0, "Dynamic Disk Header Format"
BLOCK_SIZE = 2 << 20  # storage managers of XAPI hosts use no other
BITMAP_SIZE = BLOCK_SIZE // SECTOR // 8
SECTORS_PER_BLOCK = BLOCK_SIZE // SECTOR
UNUSED = 0xFFFFFFFF
EPOCH = 946684800  # 2000-01-01 00:00 UTC, where VHD's clock starts
MAX_VIRTUAL_SIZE = 2040 << 30
PAGE = 4096

FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4

# cookie, features, version, data offset, time, creator, its version and system,
# original size, current size, cylinders, heads, sectors, type, checksum, uuid,
# saved state; ``hidden`` follows, in what the specification keeps reserved.
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sBB426x")
# cookie, data offset, table offset, version, BAT entries, block size, checksum,
# parent uuid, parent time, parent name (UTF-16BE), parent locators
_HEADER = struct.Struct(">8sQQIIII16sI4x512s192s256x")
# platform code, space, length, reserved, offset
_LOCATOR = struct.Struct(">4sIIIQ")
# Written as dom0's own tool writes it, with a batmap: other readers (qemu) take
# the size from the geometry when they do not know the creator.
_CREATOR = b"tap\0"
_CREATOR_VERSION = 0x00010003
# cookie, offset of the map, its sectors, version, checksum of the map
_BATMAP = struct.Struct(">8sQIII")


class BadVhd(Exception):
    """A file is no VHD, or one that a host would refuse; the text says why."""


def geometry(virtual_size: int) -> tuple[int, int, int]:
    """Return (cylinders, heads, sectors) of a disk size in bytes.

    The algorithm is the appendix "CHS Calculation" of VHD spec 1.0. A host
    refuses a footer whose geometry is larger than this.
    """
    sectors = min(virtual_size // SECTOR, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    per_track, rest = 17, sectors // 17
    heads = max(4, (rest + 1023) // 1024)
    if rest >= heads * 1024 or heads > 16:
        per_track, heads, rest = 31, 16, sectors // 31
    if rest >= heads * 1024:
        per_track, heads, rest = 63, 16, sectors // 63
    return rest // heads, heads, per_track


def _checksum(raw: bytes, offset: int) -> int:
    """Return the ones' complement of the byte sum, its own field left out."""
    return ~(sum(raw) - sum(raw[offset : offset + 4])) & 0xFFFFFFFF


def _sealed(raw: bytes, offset: int) -> bytes:
    """Return ``raw`` with its checksum put in at ``offset``."""
    checksum = struct.pack(">I", _checksum(raw, offset))
    return raw[:offset] + checksum + raw[offset + 4 :]


def _now() -> int:
    return int(time.time()) - EPOCH


@dataclass(frozen=True)
class Footer:
    """What we keep of a footer; sizes in bytes."""

    size: int
    kind: int
    uuid: uuidlib.UUID
    hidden: bool = False
    original_size: int = 0
    timestamp: int = 0
    batmap: bool = False  # dom0's own tool adds one, and demands it of its files

    @classmethod
    def unpack(cls, raw: bytes) -> Footer:
        if len(raw) != FOOTER_SIZE or not raw.startswith(b"conectix"):
            raise BadVhd("no footer")
        fields = _FOOTER.unpack(raw)
        if fields[14] != _checksum(raw, 64):
            raise BadVhd("checksum of the footer does not match")
        if fields[13] not in (FIXED, DYNAMIC, DIFFERENCING):
            raise BadVhd(f"unknown disk type {fields[13]}")
        if fields[9] > MAX_VIRTUAL_SIZE:
            raise BadVhd(f"virtual size {fields[9]} is too large")
        return cls(
            size=fields[9],
            kind=fields[13],
            uuid=uuidlib.UUID(bytes=fields[15]),
            hidden=bool(fields[17]),
            original_size=fields[8],
            timestamp=fields[4],
            batmap=fields[5] == _CREATOR and fields[6] >= 0x00010001,
        )

    def pack(self) -> bytes:
        raw = _FOOTER.pack(
            b"conectix",
            2,
            0x00010000,
            0xFFFFFFFFFFFFFFFF if self.kind == FIXED else FOOTER_SIZE,
            self.timestamp,
            _CREATOR,
            _CREATOR_VERSION,
            b"\0\0\0\0",
            self.original_size or self.size,
            self.size,
            *geometry(self.size),
            self.kind,
            0,
            self.uuid.bytes,
            0,
            int(self.hidden),
        )
        return _sealed(raw, 64)


@dataclass(frozen=True)
class Header:
    """What we keep of a dynamic disk header; ``parent`` is a relative path."""

    table_offset: int
    entries: int
    parent_uuid: uuidlib.UUID | None = None
    parent: str | None = None
    parent_timestamp: int = 0
    end_of_metadata: int = 0


def _locator_texts(parent: str) -> list[tuple[bytes, bytes]]:
    """Return the three (platform code, data) that dom0's own tool writes."""
    path = "./" + parent
    wide = path.encode("utf-16-le")
    return [
        (b"MacX", ("file://" + path).encode()),
        (b"W2ku", wide),
        (b"W2ru", wide),
    ]


def _batmap(entries: int, offset: int) -> bytes:
    """Return a batmap in which no block is full, to be put at ``offset``."""
    size = _padded(-(-entries // 8), SECTOR)
    raw = _BATMAP.pack(
        b"tdbatmap", offset + SECTOR, size // SECTOR, 0x00010002, 0xFFFFFFFF
    )
    return raw.ljust(SECTOR + size, b"\0")


def metadata(header: Header) -> tuple[bytes, int]:
    """Return the header and what follows the BAT, and the offset of the latter.

    Behind the BAT, padded to a sector, come the batmap and the locators.
    """
    start = header.table_offset + _padded(header.entries * 4, SECTOR)
    table, data = b"", _batmap(header.entries, start)
    if header.parent is not None:
        for code, text in _locator_texts(header.parent):
            table += _LOCATOR.pack(code, SECTOR, len(text), 0, start + len(data))
            data += text.ljust(_padded(len(text), SECTOR), b"\0")
    name = os.path.basename(header.parent or "").encode("utf-16-be")
    raw = _HEADER.pack(
        b"cxsparse",
        0xFFFFFFFFFFFFFFFF,
        header.table_offset,
        0x00010000,
        header.entries,
        BLOCK_SIZE,
        0,
        header.parent_uuid.bytes if header.parent_uuid else bytes(16),
        header.parent_timestamp,
        name,
        table,
    )
    return _sealed(raw, 36) + data, start


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def round_size(virtual_size: int) -> int:
    """Return the size a host gives a disk that was asked for: whole blocks."""
    return _padded(virtual_size, BLOCK_SIZE)


def overhead(virtual_size: int) -> int:
    """Return the bytes that an empty VHD of this virtual size takes, at most."""
    table = _padded(virtual_size // BLOCK_SIZE * 4 + 4, SECTOR)
    return 2 * FOOTER_SIZE + HEADER_SIZE + 2 * table + 5 * SECTOR


def create(
    path: Path,
    virtual_size: int,
    parent: Path | None = None,
    hidden: bool = False,
    parent_name: str = "",
) -> None:
    """Write an empty VHD; with ``parent`` (same directory) a differencing one.

    :param parent_name: the file name that the parent is about to get, if another
    :raises FileExistsError: ``path`` is there already
    :raises BadVhd: the size is not possible, or the parent is no VHD
    """
    if not 0 < virtual_size <= MAX_VIRTUAL_SIZE:
        raise BadVhd(f"virtual size {virtual_size} is not possible")
    entries = _padded(virtual_size, BLOCK_SIZE) // BLOCK_SIZE
    header = Header(FOOTER_SIZE + HEADER_SIZE, entries)
    kind = DYNAMIC
    if parent is not None:
        with VhdFile(parent) as base:
            parent_uuid = base.footer.uuid
        stamp = int(parent.stat().st_mtime) - EPOCH
        kind = DIFFERENCING
        header = replace(
            header,
            parent_uuid=parent_uuid,
            parent=parent_name or parent.name,
            parent_timestamp=max(0, stamp),
        )
    footer = Footer(
        virtual_size, kind, uuidlib.uuid4(), hidden, virtual_size, _now()
    ).pack()
    meta, start = metadata(header)
    table = (b"\xff" * entries * 4).ljust(start - header.table_offset, b"\0")
    # Whoever is killed meanwhile leaves no half of a disk under its name.
    part = path.with_name(path.name + ".part")
    part.write_bytes(footer + meta[:HEADER_SIZE] + table + meta[HEADER_SIZE:] + footer)
    try:
        os.link(part, path)
    finally:
        part.unlink()


def relink(path: Path, parent: Path) -> None:
    """Let a differencing disk name another parent in the same directory.

    What the disk says of its old parent is not looked at: an earlier attempt may
    have been interrupted.

    :raises BadVhd: it is no differencing disk, or names its parent in no known way
    """
    with VhdFile(parent) as base:
        parent_uuid = base.footer.uuid
    texts = dict(_locator_texts(parent.name))
    with open(path, "r+b") as file:
        if Footer.unpack(file.read(FOOTER_SIZE)).kind != DIFFERENCING:
            raise BadVhd("not a differencing disk")
        fields = list(_HEADER.unpack(file.read(HEADER_SIZE)))
        table = b""
        for code, space, length, zero, offset in _LOCATOR.iter_unpack(fields[10]):
            if code in texts:
                # Some writers count the space in sectors, some in bytes.
                room = space * SECTOR if space < SECTOR else space
                length = len(texts[code])
                if length > room:
                    raise BadVhd("no room for the name of another parent")
                file.seek(offset)
                file.write(texts[code].ljust(room, b"\0"))
            table += _LOCATOR.pack(code, space, length, zero, offset)
        if table == bytes(len(table)):
            raise BadVhd("differencing disk without a parent locator")
        fields[6:11] = [
            0,
            parent_uuid.bytes,
            max(0, int(parent.stat().st_mtime) - EPOCH),
            parent.name.encode("utf-16-be"),
            table,
        ]
        file.seek(FOOTER_SIZE)
        file.write(_sealed(_HEADER.pack(*fields), 36))


def parse_header(raw: bytes) -> tuple[int, int]:
    """Return where the block allocation table is, and its number of entries.

    :raises BadVhd: it is no header of a disk as storage managers have them
    """
    if len(raw) != HEADER_SIZE or not raw.startswith(b"cxsparse"):
        raise BadVhd("no dynamic disk header")
    fields = _HEADER.unpack(raw)
    if fields[6] != _checksum(raw, 36):
        raise BadVhd("checksum of the dynamic disk header does not match")
    if fields[5] != BLOCK_SIZE:
        raise BadVhd(f"blocks of {fields[5]} bytes")
    return fields[2], fields[4]


def runs_of(bitmap: bytes, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of the runs of sectors whose bits are set."""
    if bitmap == b"\xff" * BITMAP_SIZE:
        yield first, last
        return
    held = (bool(bitmap[n >> 3] & 0x80 >> (n & 7)) for n in range(first, last))
    for has, run in itertools.groupby(enumerate(held, first), key=lambda item: item[1]):
        if has:
            sectors = [number for number, _ in run]
            yield sectors[0], sectors[-1] + 1


class VhdFile:
    """One open VHD file, seen without its parents.

    :ivar path: where the file is
    :ivar footer: its Footer
    :ivar header: its Header; None for a fixed disk
    :ivar bat: list of int, a block's first sector or UNUSED, one per block
    """

    def __init__(self, path: Path, writable: bool = False) -> None:
        self.path = path
        mode = "r+b" if writable else "rb"
        self._file: IO[bytes] = open(path, mode)  # noqa: SIM115 - closed by close()
        self.header: Header | None = None
        self.bat: list[int] = []
        try:
            self._load_settled()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> VhdFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def parent_path(self) -> Path | None:
        """Where the parent should be; None when the disk needs none.

        :raises BadVhd: it would not be in the same directory
        """
        if self.header is None or self.header.parent is None:
            return None
        name = os.path.normpath(self.header.parent)
        if os.path.basename(name) != name or name == "..":
            raise BadVhd(f"parent {name} in another directory")
        return self.path.parent / name

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks that the file itself holds."""
        if self.header is None:
            return list(range(round_size(self.footer.size) // BLOCK_SIZE))
        return [n for n, sector in enumerate(self.bat) if sector != UNUSED]

    def _at(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def _put(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        self._file.write(data)

    def _load_settled(self) -> None:
        """Load, once more when the file grew meanwhile: then parts did not fit."""
        while True:
            size = os.fstat(self._file.fileno()).st_size
            try:
                self._load()
                return
            except BadVhd:
                if os.fstat(self._file.fileno()).st_size == size:
                    raise

    def _load(self) -> None:
        self._end = self._file.seek(0, os.SEEK_END) - FOOTER_SIZE
        if self._end < 0:
            raise BadVhd("shorter than a footer")
        self.footer = Footer.unpack(self._at(self._end, FOOTER_SIZE))
        if self.footer.kind == FIXED:
            if self._end < self.footer.size:
                raise BadVhd("shorter than its virtual size")
            return
        Footer.unpack(self._at(0, FOOTER_SIZE))
        self.header = self._load_header(self._at(FOOTER_SIZE, HEADER_SIZE))
        self.bat = self._load_bat(self.header)

    def _load_header(self, raw: bytes) -> Header:
        offset, entries = parse_header(raw)
        fields = _HEADER.unpack(raw)
        if entries * BLOCK_SIZE < self.footer.size:
            raise BadVhd("block allocation table smaller than the disk")
        end = offset + _padded(entries * 4, SECTOR)
        if offset < FOOTER_SIZE + HEADER_SIZE or end > self._end:
            raise BadVhd("block allocation table outside the file")
        if self.footer.batmap:
            end = self._end_of_batmap(end)
        header = Header(offset, entries, end_of_metadata=end)
        if self.footer.kind == DYNAMIC:
            return header
        parent, end = self._load_locators(fields[10], end)
        return replace(
            header,
            parent_uuid=uuidlib.UUID(bytes=fields[7]),
            parent=parent,
            parent_timestamp=fields[8],
            end_of_metadata=end,
        )

    def _end_of_batmap(self, offset: int) -> int:
        """Return where the batmap ends whose own header is at ``offset``.

        Its bits say which blocks are full. We do not use them: the bitmap of a
        block says the same, and a bit that is not set is never wrong.
        """
        raw = self._at(offset, _BATMAP.size)
        if len(raw) != _BATMAP.size or not raw.startswith(b"tdbatmap"):
            raise BadVhd("no batmap behind the block allocation table")
        _cookie, start, sectors, _version, _checksum_of_map = _BATMAP.unpack(raw)
        end: int = start + sectors * SECTOR
        if start < offset + SECTOR or end > self._end:
            raise BadVhd("batmap outside the file")
        return end

    def _load_locators(self, table: bytes, end: int) -> tuple[str, int]:
        """Return the parent's path and where the last locator ends."""
        names = []
        for code, _space, length, _zero, offset in _LOCATOR.iter_unpack(table):
            if code == b"\0\0\0\0":
                continue
            data = self._at(offset, length)
            if length > PAGE or len(data) != length or offset + length > self._end:
                raise BadVhd("parent locator outside the file")
            end = max(end, offset + _padded(length, SECTOR))
            try:
                if code == b"MacX":
                    names.append(data.decode().rstrip("\0").removeprefix("file://"))
                elif code in (b"W2ku", b"W2ru"):
                    name = data.decode("utf-16-le").rstrip("\0")
                    names.append(name.replace("\\", "/"))
            except UnicodeDecodeError:
                raise BadVhd("parent locator that is no text") from None
        if not names or not names[0]:
            raise BadVhd("differencing disk without a parent locator")
        if len({os.path.normpath(name) for name in names}) > 1:
            raise BadVhd("parent locators that disagree")
        return names[0], end

    def _load_bat(self, header: Header) -> list[int]:
        raw = self._at(header.table_offset, header.entries * 4)
        bat = list(struct.unpack(f">{header.entries}I", raw))
        used = sorted(sector for sector in bat if sector != UNUSED)
        for sector, following in itertools.pairwise(
            [*used, self._end // SECTOR] if used else []
        ):
            if sector * SECTOR < header.end_of_metadata:
                raise BadVhd("a block lies inside the metadata")
            if (following - sector) * SECTOR < BITMAP_SIZE + BLOCK_SIZE:
                raise BadVhd("a block overlaps what follows it")
        return bat

    def runs(self, block: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield (first, last + 1) of sector runs of a block that are held here.

        Only sectors from ``first`` up to but not with ``last`` are looked at;
        sectors count from the start of the block.
        """
        if self.header is None:
            yield first, last
            return
        if block >= len(self.bat) or self.bat[block] == UNUSED:
            return
        bitmap = self._at(self.bat[block] * SECTOR, BITMAP_SIZE)
        yield from runs_of(bitmap, first, last)

    def read_sectors(self, block: int, first: int, last: int) -> bytes:
        """Return the bytes of a run of held sectors of one block."""
        size = (last - first) * SECTOR
        data = self._at(self._data_offset(block) + first * SECTOR, size)
        return data.ljust(size, b"\0")

    def _data_offset(self, block: int) -> int:
        if self.header is None:
            return block * BLOCK_SIZE
        return self.bat[block] * SECTOR + BITMAP_SIZE

    def write_sectors(self, block: int, first: int, data: bytes) -> None:
        """Write whole sectors into one block; allocates it where needed."""
        if self.header is not None and self.bat[block] == UNUSED:
            self._allocate(block)
        self._put(self._data_offset(block) + first * SECTOR, data)
        if self.header is None:
            return
        offset = self.bat[block] * SECTOR
        bitmap = bytearray(self._at(offset, BITMAP_SIZE))
        before = bytes(bitmap)
        for sector in range(first, first + len(data) // SECTOR):
            bitmap[sector >> 3] |= 0x80 >> (sector & 7)
        if bitmap != before:
            self._put(offset, bytes(bitmap))

    def _next_free(self) -> int:
        """Return where the next block starts, its data on a page boundary."""
        return _padded(self._end + BITMAP_SIZE, PAGE) - BITMAP_SIZE

    def _allocate(self, block: int) -> None:
        assert self.header is not None  # noqa: S101 - told by the caller
        offset, old_end = self._next_free(), self._end
        # In this order the file is whole at any moment: there is a footer at its
        # end first, then an empty block that the table may name.
        self._end = offset + BITMAP_SIZE + BLOCK_SIZE
        self._put(self._end, self._raw_footer())
        # The old footer lies where the new block or the gap before it begins.
        self._put(old_end, bytes(offset + BITMAP_SIZE - old_end))
        self.bat[block] = offset // SECTOR
        entry = struct.pack(">I", self.bat[block])
        self._put(self.header.table_offset + block * 4, entry)

    def _raw_footer(self) -> bytes:
        """Return the footer's bytes as the file's own copy at the start has them."""
        return self._at(0, FOOTER_SIZE)

    def hide(self, hidden: bool = True) -> None:
        """Mark the disk hidden, as a base copy is: the leaves on it are seen."""
        raw = bytearray(self._at(self._end, FOOTER_SIZE))
        raw[85] = int(hidden)
        sealed = _sealed(bytes(raw), 64)
        self.footer = replace(self.footer, hidden=hidden)
        self._put(self._end, sealed)
        if self.header is not None:
            self._put(0, sealed)

    def grow(self, virtual_size: int) -> None:
        """Make the disk larger; what the table needs, the first blocks leave.

        :raises BadVhd: a fixed disk, a smaller or an impossible size
        """
        if self.header is None:
            raise BadVhd("a fixed disk cannot grow")
        if not self.footer.size <= virtual_size <= MAX_VIRTUAL_SIZE:
            raise BadVhd(f"virtual size {virtual_size} is not possible")
        entries = max(
            self.header.entries, _padded(virtual_size, BLOCK_SIZE) // BLOCK_SIZE
        )
        header = replace(
            self.header, entries=entries, table_offset=FOOTER_SIZE + HEADER_SIZE
        )
        meta, start = metadata(header)
        end = start + len(meta) - HEADER_SIZE
        bat = self.bat + [UNUSED] * (entries - len(self.bat))
        blocks = sorted(n for n, sector in enumerate(bat) if sector != UNUSED)
        self._end = max(self._end, end)
        for block in blocks:
            if bat[block] * SECTOR < end:
                raw = self._at(bat[block] * SECTOR, BITMAP_SIZE + BLOCK_SIZE)
                offset = self._next_free()
                self._put(offset, raw)
                bat[block] = offset // SECTOR
                self._end = offset + len(raw)
        if not blocks:
            self._end = end
        self.footer = replace(self.footer, size=virtual_size, batmap=True)
        self.header = replace(header, end_of_metadata=end)
        self.bat = bat
        footer = self.footer.pack()
        table = struct.pack(f">{entries}I", *bat)
        table = table.ljust(start - header.table_offset, b"\0")
        self._put(0, footer + meta[:HEADER_SIZE] + table + meta[HEADER_SIZE:])
        self._put(self._end, footer)
        self._file.truncate()

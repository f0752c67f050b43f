# SPDX-License-Identifier: Apache-2.0
"""Changed-block tracking: logs beside the disks of an SR, as a storage manager's.

A log notes which blocks of 64 KiB of a disk were written since the snapshot that it
names as its parent. It stays when a snapshot's data goes.
"""

from __future__ import annotations

import struct
import uuid as uuidlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

BLOCK = 64 * 1024
_NOBODY = uuidlib.UUID(int=0)
# consistent, parent, child, size of the disk; the bitmap follows
_HEAD = struct.Struct(">?16s16sQ")


class BadLog(Exception):
    """Nobody can say what changed; the text says why."""


@dataclass(frozen=True)
class Log:
    """What is known of one disk.

    :ivar consistent: False while it is being written, or after that was interrupted
    :ivar parent: uuid of the snapshot before, None for the first one
    :ivar child: uuid of the disk or snapshot after
    :ivar size: of the disk, in bytes
    :ivar bitmap: first block in the highest bit of the first byte
    """

    size: int
    parent: str | None = None
    child: str | None = None
    consistent: bool = True
    bitmap: bytes = b""

    def full(self) -> bytes:
        """Return the bitmap in the length that the size asks for."""
        return self.bitmap.ljust(length(self.size), b"\0")


def length(size: int) -> int:
    """Return the bytes of the bitmap of a disk."""
    blocks = (size + BLOCK - 1) // BLOCK
    return (blocks + 7) // 8


def path_of(disk: Path) -> Path:
    """Return where the log of a disk's file is."""
    return disk.with_suffix(".cbtlog")


def _packed(uuid: str | None) -> bytes:
    return (uuidlib.UUID(uuid) if uuid else _NOBODY).bytes


def _unpacked(raw: bytes) -> str | None:
    found = uuidlib.UUID(bytes=raw)
    return None if found == _NOBODY else str(found)


def read(disk: Path) -> Log | None:
    """Return the log of a disk; None: its changes are not noted."""
    try:
        raw = path_of(disk).read_bytes()
    except FileNotFoundError:
        return None
    consistent, parent, child, size = _HEAD.unpack_from(raw)
    bitmap = raw[_HEAD.size :]
    return Log(size, _unpacked(parent), _unpacked(child), consistent, bitmap)


def write(disk: Path, log: Log) -> None:
    """Write the log of a disk, whole or not at all."""
    head = _HEAD.pack(log.consistent, _packed(log.parent), _packed(log.child), log.size)
    part = path_of(disk).with_suffix(".cbtlog.part")
    part.write_bytes(head + log.full())
    part.replace(path_of(disk))


def begin(disk: Path, size: int) -> None:
    """Begin to note changes; where that is done already nothing happens."""
    if read(disk) is None:
        write(disk, Log(size))


def end(disk: Path) -> None:
    """Forget the log of a disk; its neighbours are not neighbours any more."""
    log = read(disk)
    if log is None:
        return
    for name, field in ((log.parent, "child"), (log.child, "parent")):
        _change(disk, name, **{field: None})
    path_of(disk).unlink()


def _beside(disk: Path, uuid: str) -> Path:
    return disk.with_name(f"{uuid}.vhd")


def _change(disk: Path, uuid: str | None, **fields: str | None) -> None:
    """Change the log of a neighbour, if there is one."""
    other = read(_beside(disk, uuid)) if uuid else None
    if uuid and other is not None:
        values = {"parent": other.parent, "child": other.child, **fields}
        changed = replace(other, parent=values["parent"], child=values["child"])
        write(_beside(disk, uuid), changed)


def snapshot(disk: Path, uuid: str) -> None:
    """Give the log of a disk to its new snapshot; the disk begins another."""
    log = read(disk)
    if log is None:
        return
    write(_beside(disk, uuid), replace(log, child=disk.stem))
    _change(disk, log.parent, child=uuid)
    write(disk, Log(log.size, parent=uuid, child=None))


def remove(disk: Path) -> None:
    """Let a disk go: what its log holds belongs to the one after it."""
    log = read(disk)
    if log is None:
        return
    if log.child and (after := read(_beside(disk, log.child))) is not None:
        merged = _merged([log.full(), after.full()], after.size)
        write(
            _beside(disk, log.child),
            replace(after, parent=log.parent, bitmap=merged),
        )
    _change(disk, log.parent, child=log.child)
    path_of(disk).unlink()


def resize(disk: Path, size: int) -> None:
    """Tell the log that its disk has grown."""
    log = read(disk)
    if log is not None:
        write(disk, replace(log, size=size))


def open_for_writing(disk: Path) -> Log | None:
    """Mark the log of a disk until :func:`note` says what was written."""
    log = read(disk)
    if log is not None:
        write(disk, replace(log, consistent=False))
    return log


def note(disk: Path, before: Log, blocks: Iterable[int]) -> None:
    """Note blocks of 64 KiB that were written; the log can be trusted again."""
    bitmap = bytearray(before.full())
    for block in blocks:
        bitmap[block >> 3] |= 0x80 >> (block & 7)
    log = read(disk) or before
    write(disk, replace(log, consistent=before.consistent, bitmap=bytes(bitmap)))


def _merged(bitmaps: list[bytes], size: int) -> bytes:
    number = 0
    for bitmap in bitmaps:
        padded = bitmap.ljust(length(size), b"\0")[: length(size)]
        number |= int.from_bytes(padded, "big")
    return number.to_bytes(length(size), "big")


def changed(first: Path, last: Path) -> bytes:
    """Return the blocks in which a later disk or snapshot differs from an earlier.

    :raises BadLog: one is not tracked, or they are no relatives
    """
    if first == last:
        raise BadLog("Source and target VDI are the same")
    start, target = read(first), read(last)
    if start is None or target is None:
        raise BadLog("Changed-block tracking is not enabled on both")
    log, at = start, first
    bitmaps: list[bytes] = []
    while at != last:
        if log.child is None:
            raise BadLog("Source and target VDI are unrelated")
        at = _beside(first, log.child)
        after = read(at)
        if after is None or not after.consistent or len(bitmaps) > 1000:
            raise BadLog("The log is not consistent")
        bitmaps.append(after.full())
        log = after
    return _merged(bitmaps, target.size)

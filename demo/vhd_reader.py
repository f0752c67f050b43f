# SPDX-License-Identifier: Apache-2.0
"""Turn a VHD with its parents into a raw file: ``vhd_reader.py LEAF RAW``.

Runs under the distribution's Python, which has libvhdi (python3-libvhdi). What a
grown disk has beyond its first size, libvhdi does not show: it goes by the original
size in the footer, and reads no further than a parent. So it is given footers that
say what the disk is today, and beyond a parent's end a chain without that parent.
"""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import pyvhdi

PIECE = 1 << 20
# VHD spec 1.0, "Hard Disk Footer Format"
FOOTER = 512
ORIGINAL_SIZE, CURRENT_SIZE, KIND, CHECKSUM = 40, 48, 60, 64
FIXED, DYNAMIC, DIFFERENTIAL = 2, 3, 4


class Vhd(io.FileIO):
    """A VHD file with another footer.

    :ivar size: of the disk, in bytes
    :param alone: read as a disk without a parent
    """

    def __init__(self, path: Path, alone: bool = False) -> None:
        super().__init__(path)
        self._end = self.seek(-FOOTER, io.SEEK_END)
        footer = bytearray(super().read(FOOTER))
        self.seek(0)
        (self.size,) = struct.unpack_from(">Q", footer, CURRENT_SIZE)
        (self.kind,) = struct.unpack_from(">I", footer, KIND)
        if alone and self.kind == DIFFERENTIAL:
            struct.pack_into(">I", footer, KIND, DYNAMIC)
        struct.pack_into(">Q", footer, ORIGINAL_SIZE, self.size)
        struct.pack_into(">I", footer, CHECKSUM, 0)
        struct.pack_into(">I", footer, CHECKSUM, ~sum(footer) & 0xFFFFFFFF)
        self._footer = bytes(footer)

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        at = self.tell()
        found = bytearray(super().read(size) or b"")
        # All but a fixed disk have a copy at their begin.
        for begin in (self._end,) if self.kind == FIXED else (0, self._end):
            low, high = max(at, begin), min(at + len(found), begin + FOOTER)
            if low < high:
                found[low - at : high - at] = self._footer[low - begin : high - begin]
        return bytes(found)


def opened(path: Path, alone: bool = False) -> Any:
    disk = pyvhdi.file()
    disk.open_file_object(Vhd(path, alone))
    return disk


def files_of(leaf: Path) -> list[Path]:
    """The files of a chain, leaf first.

    :raises ValueError: a parent is not in the leaf's folder
    """
    found = [leaf]
    while True:
        disk = opened(found[-1])
        if disk.get_disk_type() != DIFFERENTIAL:
            return found
        found.append(parent_of(disk, leaf.parent))


def parent_of(disk: Any, folder: Path) -> Path:
    """The VHD in a folder that a disk names as its parent.

    The name decides, as on a host: an image that was made of a server there has
    disks of the same identifiers. Where the parent was renamed, those decide.
    """
    identifier = disk.get_parent_identifier()
    name = (disk.get_parent_filename() or "").replace("\\", "/").split("/")[-1]
    named = folder / name
    for path in (named, *sorted(folder.glob("*.vhd"))):
        if path.is_file() and opened(path).get_identifier() == identifier:
            return path
    raise ValueError(f"no VHD {identifier} in {folder}")


def chained(files: list[Path]) -> list[Any]:
    """Open files as a chain of their own, leaf first, each knowing its parent."""
    chain = [opened(path, path == files[-1]) for path in files]
    # From the base upwards: a parent has to be complete when it is given.
    for child, parent in reversed(list(zip(chain, chain[1:], strict=False))):
        child.set_parent(parent)
    return chain


def main(leaf: Path, raw: Path) -> None:
    files = files_of(leaf)
    sizes = [Vhd(path).size for path in files]
    at = 0
    with raw.open("wb") as out:
        for end in sorted({size for size in sizes if size <= sizes[0]}):
            # Down to the first that ends before here.
            short = [number for number, size in enumerate(sizes) if size <= at]
            # Kept: libvhdi does not hold on to the parents.
            chain = chained(files[: min(short, default=len(files))])
            at = copy(chain[0], at, end, out)
        out.truncate(sizes[0])


def copy(disk: Any, at: int, end: int, out: io.BufferedWriter) -> int:
    """Copy from one offset to another, which is returned; zeros stay holes."""
    while at < end:
        piece = disk.read_buffer_at_offset(min(PIECE, end - at), at)
        if piece.count(0) != len(piece):
            out.seek(at)
            out.write(piece)
        at += len(piece)
    return at


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

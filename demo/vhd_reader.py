# SPDX-License-Identifier: Apache-2.0
"""Turn a VHD with its parents into a raw file: ``vhd_reader.py LEAF RAW``.

Runs under the distribution's Python, which has libvhdi (python3-libvhdi).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyvhdi

PIECE = 1 << 20
DIFFERENTIAL = 4  # VHD spec 1.0, "Disk Type"


def open_chain(leaf: Path) -> list[Any]:
    """Every file of the chain, leaf first, each knowing its parent.

    :raises ValueError: a parent is not in the leaf's folder
    """
    chain = [pyvhdi.file()]
    chain[0].open(str(leaf))
    while chain[-1].get_disk_type() == DIFFERENTIAL:
        wanted = chain[-1].get_parent_identifier()
        chain.append(find(leaf.parent, wanted))
    # From the base upwards: a parent has to be complete when it is given.
    for child, parent in reversed(list(zip(chain, chain[1:], strict=False))):
        child.set_parent(parent)
    return chain


def find(folder: Path, identifier: str) -> Any:
    """The VHD in a folder whose footer bears an identifier, opened."""
    for path in sorted(folder.glob("*.vhd")):
        candidate = pyvhdi.file()
        candidate.open(str(path))
        if candidate.get_identifier() == identifier:
            return candidate
        candidate.close()
    raise ValueError(f"no VHD {identifier} in {folder}")


def main(leaf: Path, raw: Path) -> None:
    chain = open_chain(leaf)  # kept: libvhdi does not hold on to the parents
    disk = chain[0]
    left = disk.get_media_size()
    with raw.open("wb") as out:
        while left:
            piece = disk.read_buffer(min(PIECE, left))
            left -= len(piece)
            if piece.count(0) == len(piece):
                out.seek(len(piece), 1)  # keep the file sparse
            else:
                out.write(piece)
        out.truncate(disk.get_media_size())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

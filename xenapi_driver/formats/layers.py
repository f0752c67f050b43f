# SPDX-License-Identifier: Apache-2.0
"""A chain of VHDs as streams that make one disk, in whatever order they come.

Each link of a chain is written straight onto one disk. What a link nearer to the leaf
has written already must stay, so that it is taken out of those that come later: whole
blocks, and sectors by a block's bitmap. Only bitmaps are remembered: 1/4096 of the
disk at most, and next to nothing of blocks that are complete.
"""

from __future__ import annotations

from collections.abc import Iterator

from xenapi_driver.formats import vhd

_EMPTY = bytes(vhd.BITMAP_SIZE)


class _Held:
    """The sectors that one link holds."""

    def __init__(self) -> None:
        self.whole: set[int] = set()
        self.bitmaps: dict[int, bytes] = {}

    def add(self, block: int, bitmap: bytes) -> None:
        if bitmap == vhd.ALL:
            self.whole.add(block)
        else:
            self.bitmaps[block] = bitmap


class Layers:
    """What the links written so far hold, by their place in the chain."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}

    def stream(self, reader: vhd.Reader, place: int) -> tuple[int, Iterator[bytes]]:
        """Make a link a dynamic VHD of what no link nearer to the leaf has written.

        :param reader: the link, which is read while the pieces are taken
        :param place: 0 for the leaf, 1 for what it was made on, and so on
        :returns: the bytes that there will be, and the pieces, to be taken once
        :raises BadVhd: while they are taken, where the link is damaged
        """
        nearer = [held for at, held in self._held.items() if at < place]
        blocks = [
            block
            for block in reader.blocks
            if not any(block in held.whole for held in nearer)
        ]
        size = reader.virtual_size
        parts = self._parts(reader, place, nearer)
        return vhd.length(size, len(blocks)), vhd.dynamic(size, blocks, parts)

    def _parts(
        self, reader: vhd.Reader, place: int, nearer: list[_Held]
    ) -> Iterator[tuple[bytes, bytes]]:
        # A base is below all others: nobody asks what it holds.
        own = _Held()
        if reader.needs_parent:
            self._held[place] = own
        for block, bitmap, data in reader.parts():
            if reader.needs_parent:
                own.add(block, bitmap)
            if not any(block in held.whole for held in nearer):
                yield _without(bitmap, block, nearer), data


def _without(bitmap: bytes, block: int, nearer: list[_Held]) -> bytes:
    """Return the sectors of a block's bitmap that no nearer link holds."""
    taken = 0
    for held in nearer:
        taken |= int.from_bytes(held.bitmaps.get(block, _EMPTY), "big")
    left = int.from_bytes(bitmap, "big") & ~taken
    return left.to_bytes(vhd.BITMAP_SIZE, "big")

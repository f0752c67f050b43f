# SPDX-License-Identifier: Apache-2.0
"""Small VHD files for the tests, written independently of the plugins' own reader.

Layout: Microsoft's VHD specification 1.0. Each file holds at most one block.
"""
from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass, field

MIB = 1024 * 1024
BLOCK = 2 * MIB
TABLE = 512 + 1024  # the table follows the footer's copy and the header
LOCATOR_AREA = TABLE + 512
DATA = LOCATOR_AREA + 3 * 512
MADE = 800000000  # seconds from 2000-01-01: in 2025


@dataclass
class VhdFile:
    """What to write; ``bytes()`` writes it."""

    virtual_size: int = 8 * MIB
    identity: uuid.UUID = field(default_factory=uuid.uuid4)
    parent: VhdFile | None = None
    parent_name: str = "parent.vhd"
    fill: int | None = None  # the byte that fills block 0, None: no block
    hidden: bool = False
    made: int = MADE
    kind: int | None = None
    table_entry: int | None = None  # instead of the right one of block 0
    block_size: int = BLOCK
    locators: bool = True

    def geometry(self) -> int:
        """CHS of a disk of up to 500 MiB, by the specification's appendix."""
        tracks = min(self.virtual_size, 500 * MIB) // 512 // 17
        heads = max(4, -(-tracks // 1024))
        return (tracks // heads) << 16 | heads << 8 | 17

    def footer(self) -> bytes:
        kind = self.kind or (4 if self.parent else 3)
        blank = struct.pack(
            ">8sIIQI4sI4sQQIII16sBB426x",
            b"conectix", 2, 0x00010000, 512, self.made, b"win ", 1, b"Wi2k",
            self.virtual_size, self.virtual_size, self.geometry(), kind, 0,
            b"", 0, 0,
        )
        data = bytearray(blank)
        data[68:84] = self.identity.bytes
        data[84:86] = bytes([0, int(self.hidden)])
        data[64:68] = struct.pack(">I", ~sum(data) & 0xFFFFFFFF)
        return bytes(data)

    def header(self) -> bytes:
        data = bytearray(1024)
        struct.pack_into(
            ">8sQQIII", data, 0, b"cxsparse", 2**64 - 1, TABLE, 0x00010000,
            -(-self.virtual_size // BLOCK), self.block_size,
        )
        if self.parent:
            data[40:56] = self.parent.identity.bytes
            data[64:64 + 2 * len(self.parent_name)] = self.parent_name.encode(
                "utf-16-be"
            )
            if self.locators:
                for number, (code, text) in enumerate(self.locator_texts()):
                    struct.pack_into(
                        ">4sIIIQ", data, 576 + 24 * number, code, 512, len(text), 0,
                        LOCATOR_AREA + 512 * number,
                    )
        data[36:40] = struct.pack(">I", ~sum(data) & 0xFFFFFFFF)
        return bytes(data)

    def locator_texts(self) -> list[tuple[bytes, bytes]]:
        """Return platform codes and the parent's name as each has it."""
        if not (self.parent and self.locators):
            return []
        windows = f".\\{self.parent_name}".encode("utf-16-le")
        return [
            (b"MacX", f"file://./{self.parent_name}".encode()),
            (b"W2ku", windows), (b"W2ru", windows),
        ]

    def __bytes__(self) -> bytes:
        entry = 0xFFFFFFFF if self.fill is None else DATA // 512
        if self.table_entry is not None:
            entry = self.table_entry
        table = struct.pack(">I", entry).ljust(512, b"\xff")
        block = b""
        if self.fill is not None:
            block = b"\xff" * 512 + bytes([self.fill]) * BLOCK
        names = b"".join(text.ljust(512, b"\0") for _code, text in self.locator_texts())
        return b"".join(
            [self.footer(), self.header(), table, names.ljust(3 * 512, b"\0"), block,
             self.footer()]
        )


def chain(*fills: int | None) -> list[VhdFile]:
    """Return a chain, leaf first, of which each disk has the given fill."""
    disks: list[VhdFile] = []
    for fill in reversed(fills):
        parent = disks[0] if disks else None
        disks.insert(0, VhdFile(fill=fill, parent=parent, hidden=False))
    return disks

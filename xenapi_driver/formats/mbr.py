# SPDX-License-Identifier: Apache-2.0
"""Partition tables of disks that have one partition (master boot records).

Layout: UEFI specification 2.10, section 5.2.1, "Legacy Master Boot Record". Numbers
are little-endian and count sectors of 512 bytes.
"""

from __future__ import annotations

import struct

SECTOR = 512
# Where the partition begins: aligned for every kind of storage, and what all tools of
# today choose. Earlier releases began at 0, which is slow on SSDs.
START = 2048 * SECTOR

LINUX, LINUX_SWAP, FAT32, NTFS = 0x83, 0x82, 0x0C, 0x07

# Cylinder, head and sector of what lies beyond what they can say.
_BEYOND = b"\xfe\xff\xff"
_MOST_SECTORS = 0xFFFFFFFF
_ENTRY = struct.Struct("<B3sB3sII")


def table(size: int, kind: int, signature: bytes, start: int = START) -> bytes:
    """Return the first sector of a disk with one partition, from ``start`` to its end.

    :param size: bytes of the disk, a multiple of 512
    :param kind: type of the partition, such as ``LINUX``
    :param signature: 4 bytes by which systems tell disks apart
    :param start: bytes, a multiple of 512
    :raises ValueError: there is no room for a partition, or more than a table can say
    """
    sectors = (size - start) // SECTOR
    if not 0 < sectors <= _MOST_SECTORS or len(signature) != 4:
        raise ValueError(f"A disk of {size} bytes cannot have such a partition.")
    entry = _ENTRY.pack(0, _BEYOND, kind, _BEYOND, start // SECTOR, sectors)
    code = bytes(440) + signature + bytes(2)
    return code + entry.ljust(64, b"\0") + b"\x55\xaa"

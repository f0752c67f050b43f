# SPDX-License-Identifier: Apache-2.0
"""AMI images: a file system, which becomes the one partition of a disk."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from xenapi_driver import exceptions

SECTOR = 512
# Where the partition begins, as servers built by earlier releases have it: the first
# track of the disk geometry that the msdos label was made for.
FIRST_SECTOR = 63

# Boot record of an msdos label: four entries of 16 bytes from byte 446 on, then its
# signature. An entry: flags, CHS of its begin, type, CHS of its end, LBA, sectors.
_ENTRIES_AT = 446
_ENTRY = struct.Struct("<B3sB3sII")
_SIGNATURE = b"\x55\xaa"
_LINUX = 0x83
_MOST_SECTORS = 2**32 - 1
# A place that cylinders, heads and sectors cannot say: everybody reads the LBA.
_BEYOND_CHS = b"\xfe\xff\xff"
_FIRST_CHS = b"\x01\x01\x00"  # head 1, sector 1, cylinder 0: sector 63


def disk_size(image_id: str, size: int) -> int:
    """Return the bytes of the disk for an image of ``size`` bytes.

    :raises exceptions.ImageUnusable: it is empty, or too large for such a label
    """
    sectors = -(-size // SECTOR)
    if not 0 < sectors <= _MOST_SECTORS - FIRST_SECTOR:
        raise exceptions.ImageUnusable(
            image_id,
            f"Image {image_id} has {size} bytes, which no partition of an msdos label "
            "can have.",
        )
    return (FIRST_SECTOR + sectors) * SECTOR


def pieces(size: int, image: Iterable[bytes]) -> Iterator[bytes]:
    """Give the disk whose partition holds an image of ``size`` bytes."""
    yield label(-(-size // SECTOR))
    yield from image
    if rest := -size % SECTOR:
        yield bytes(rest)


def label(sectors: int) -> bytes:
    """Return what lies before a partition of this many sectors."""
    entry = _ENTRY.pack(0, _FIRST_CHS, _LINUX, _BEYOND_CHS, FIRST_SECTOR, sectors)
    record = bytes(_ENTRIES_AT) + entry
    record = record.ljust(SECTOR - len(_SIGNATURE), b"\0") + _SIGNATURE
    return record.ljust(FIRST_SECTOR * SECTOR, b"\0")

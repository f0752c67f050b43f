# SPDX-License-Identifier: Apache-2.0
"""AMI images: a file system, which becomes the one partition of a disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from xenapi_driver import exceptions
from xenapi_driver.formats import mbr

# Where the partition begins, as servers built by earlier releases have it: the first
# track of the disk geometry that the msdos label was made for.
START = 63 * mbr.SECTOR

_MOST_BYTES = (2**32 - 1) * mbr.SECTOR


def disk_size(image_id: str, size: int) -> int:
    """Return the bytes of the disk for an image of ``size`` bytes.

    :raises exceptions.ImageUnusable: it is empty, or too large for a partition
    """
    if not 0 < size <= _MOST_BYTES:
        raise exceptions.ImageUnusable(
            image_id,
            f"Image {image_id} has {size} bytes, which no partition of an msdos label "
            "can have.",
        )
    return START + size + -size % mbr.SECTOR


def pieces(image_id: str, size: int, image: Iterable[bytes]) -> Iterator[bytes]:
    """Give the disk whose partition holds an image of ``size`` bytes.

    It is the same each time, so that it can be sent anew.
    """
    signature = hashlib.sha256(image_id.encode()).digest()[:4]
    whole = disk_size(image_id, size)
    yield mbr.table(whole, mbr.LINUX, signature, START).ljust(START, b"\0")
    yield from image
    if rest := -size % mbr.SECTOR:
        yield bytes(rest)

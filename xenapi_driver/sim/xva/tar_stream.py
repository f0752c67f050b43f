# SPDX-License-Identifier: Apache-2.0
"""Tar archives written and read forwards, in the oldest format, as hosts write them."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator

BLOCK = 512
_ZEROS = bytes(BLOCK)


class BadArchive(Exception):
    """What arrives is no tar archive, or an incomplete one; the text says why."""


def member(name: str, data: bytes) -> bytes:
    """Return one file of an archive: header, content, padding."""
    fields = [
        name.encode().ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        f"{len(data):011o}\0".encode(),
        b"00000000000\0",
        b" " * 8,
        b"0" + bytes(100),
    ]
    head = b"".join(fields).ljust(BLOCK, b"\0")
    checksum = f"{sum(head):06o}\0 ".encode()
    head = head[:148] + checksum + head[156:]
    return head + data + bytes(-len(data) % BLOCK)


def end() -> bytes:
    """Return what closes an archive."""
    return _ZEROS * 2


def read(take: Callable[[int], bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file; stops at the archive's end.

    :param take: returns so many bytes, fewer only where the stream ends
    :raises BadArchive: it is none, or ends too early
    """
    while True:
        head = take(BLOCK)
        if head == _ZEROS:
            return
        if len(head) < BLOCK:
            raise BadArchive("ends too early")
        try:
            info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BadArchive(str(error)) from error
        padded = -(-info.size // BLOCK) * BLOCK
        data = take(padded)
        if len(data) < padded:
            raise BadArchive(f"ends inside {info.name}")
        yield info.name, data[: info.size]

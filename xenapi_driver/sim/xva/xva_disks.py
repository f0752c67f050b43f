# SPDX-License-Identifier: Apache-2.0
"""Disks as VM archives hold them: files of 1 MiB, each followed by its checksum.

Files that would hold zeros alone are left out, but for the first and the last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from xenapi_driver.sim.messages import Call
from xenapi_driver.sim.storage import vhd
from xenapi_driver.sim.storage.disk_transfer import (
    Gauge,
    Place,
    Source,
    io_error,
    written,
)
from xenapi_driver.sim.storage.vhd_store import Content
from xenapi_driver.sim.xva import tar_stream, xxh64

_PART = 1 << 20
_SUMS = {
    "xxhash": xxh64.hexdigest,
    "checksum": lambda data: hashlib.sha1(data, usedforsecurity=False).hexdigest(),
}


def write(
    disk: Content,
    prefix: str,
    put: Callable[[bytes], None],
    moved: Callable[[int], None],
) -> None:
    """Write a disk as files of an archive.

    :param prefix: of their names, ends with a slash where it names a folder
    :param moved: is told of the bytes of the disk that are done
    """
    held = set(disk.blocks)
    count = -(-disk.virtual_size // _PART)
    for number in range(count):
        offset = number * _PART
        length = min(_PART, disk.virtual_size - offset)
        at_border = number in (0, count - 1)
        if at_border or offset // vhd.BLOCK_SIZE in held:
            data = disk.read(offset, length)
            if at_border or data.strip(b"\0"):
                name = f"{prefix}{number:08d}"
                put(tar_stream.member(name, data))
                checksum = xxh64.hexdigest(data).encode()
                put(tar_stream.member(f"{name}.xxhash", checksum))
        moved(length)


def parts(
    files: Iterator[tuple[str, bytes]],
) -> Iterator[tuple[str, int, bytes]]:
    """Yield folder, offset and content of each part, once its checksum was right.

    :param files: of the archive, from its first part on
    :raises BadArchive: a part without a checksum, or with a wrong one
    """
    for name, data in files:
        folder, _, number = name.rpartition("/")
        if not number.isdecimal():
            raise tar_stream.BadArchive(f"{name} is no part of a disk")
        told, checksum = next(files, ("", b""))
        base, _, kind = told.rpartition(".")
        if base != name or kind not in _SUMS:
            raise tar_stream.BadArchive(f"{name} has no checksum")
        if _SUMS[kind](data) != checksum.decode("ascii", "replace").strip():
            raise tar_stream.BadArchive(f"checksum of {name} does not match")
        yield folder, int(number) * _PART, data


def send_tar(call: Call, disk: Content, put: Callable[[bytes], None]) -> None:
    """Write one disk as an archive of its own."""
    write(disk, "", put, Gauge(call, disk.virtual_size).add)
    put(tar_stream.end())


def receive_tar(call: Call, place: Place, source: Source) -> None:
    """Write an archive of one disk into a disk.

    :raises Failure: VDI_IO_ERROR, TASK_CANCELLED
    """
    gauge = Gauge(call, source.length or 0)
    try:
        with written(place) as put:
            for _, offset, data in parts(tar_stream.read(source.exactly)):
                put(offset, data)
                gauge.add(len(data))
    except tar_stream.BadArchive as error:
        raise io_error() from error

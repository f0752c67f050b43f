# SPDX-License-Identifier: Apache-2.0
"""A server's disks beside its root: swap and ephemeral ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from xenapi_driver import flow
from xenapi_driver.steps import file_system
from xenapi_driver.steps.build import (
    DISK_TYPE_KEY,
    FIRST_EPHEMERAL_DEVICE,
    GIB,
    INSTANCE_KEY,
    MIB,
    ROOT_DEVICE,
    SWAP_DEVICE,
    Attached,
    Built,
    FurtherDisk,
    Server,
)
from xenapi_driver.xapi import vdi
from xenapi_driver.xapi.home import Home

# Pieces of a large ephemeral disk, in GiB: a VHD holds 2040. Totals that are a multiple
# of the second are cut evenly.
_PIECE, _EVEN_PIECE = 2000, 1024


def wished(
    name: str,
    swap_mb: int,
    ephemerals: Sequence[tuple[int, str | None]],
    default_format: str | None,
    windows: bool,
    root_gb: int = 0,
) -> tuple[FurtherDisk, ...]:
    """Return the disks that a server of this flavor has beside its root.

    :param name: of the server's VM
    :param swap_mb: MiB, 0 for no swap
    :param ephemerals: GiB and the file system that was asked for, or None
    :param default_format: file system of the others, None to leave them empty
    :param root_gb: GiB of a blank root disk, 0 where the image is the root disk
    :raises exceptions.NotSupportedYet: a file system that nobody makes
    :raises exceptions.UnfitHost: one whose program is not installed here
    """
    disks = []
    if root_gb:
        size = root_gb * GIB
        disks.append(FurtherDisk("user", name, size, ROOT_DEVICE, default_format, ""))
    if swap_mb:
        # Windows has no swap partitions: it gets a volume for its paging file.
        kind = "vfat" if windows else "swap"
        disks.append(
            FurtherDisk("swap", name, swap_mb * MIB, SWAP_DEVICE, kind, "swap")
        )
    for number, (size, kind) in enumerate(_cut(ephemerals)):
        suffix = f" ({number})" if number else ""
        disks.append(
            FurtherDisk(
                "ephemeral",
                f"{name} ephemeral{suffix}",
                size * GIB,
                str(FIRST_EPHEMERAL_DEVICE + number),
                kind or default_format,
                f"ephemeral{number or ''}",
            )
        )
    for kind in {disk.format for disk in disks if disk.format}:
        file_system.check(kind)
    return tuple(disks)


def _cut(
    ephemerals: Iterable[tuple[int, str | None]],
) -> Iterator[tuple[int, str | None]]:
    for size, kind in ephemerals:
        piece = _PIECE if size % _EVEN_PIECE else _EVEN_PIECE
        while size > 0:
            yield min(size, piece), kind
            size -= piece


def count(sizes: Iterable[int]) -> int:
    """Return of how many disks ephemeral ones of these sizes (GiB) consist."""
    return sum(1 for _ in _cut((size, None) for size in sizes))


class MakeFurtherDisks(flow.Step[Built]):
    """Make the further disks, with file systems in them. Undo destroys them."""

    name = "further-disks"

    def __init__(self, home: Home, server: Server) -> None:
        self._home = home
        self._server = server

    def run(self, state: Built) -> None:
        session = self._home.session
        for disk in self._server.disks:
            record = vdi.new_record(
                self._home.sr.ref,
                disk.size,
                disk.name,
                disk.kind,
                {INSTANCE_KEY: self._server.uuid, DISK_TYPE_KEY: disk.kind},
            )
            ref = vdi.create(session, record)
            state.disks[disk.device] = Attached(ref, disk.device)
            if disk.format:
                file_system.put(session, ref, disk.size, disk.format, disk.label)

    def undo(self, state: Built) -> None:
        for disk in self._server.disks:
            made = state.disks.get(disk.device)
            if made is not None and made.vdi is not None:
                vdi.destroy(self._home.session, made.vdi)
                del state.disks[disk.device]

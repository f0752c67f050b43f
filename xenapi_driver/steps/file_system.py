# SPDX-License-Identifier: Apache-2.0
"""New file systems, made here on sparse files and sent to disks in one request.

Nothing is plugged anywhere, so that it works on any SR and wherever nova-compute runs.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from nova import utils

from xenapi_driver import exceptions
from xenapi_driver.formats import mbr, pieces
from xenapi_driver.steps import programs
from xenapi_driver.xapi import streams
from xenapi_driver.xapi.client import Client


@dataclass(frozen=True)
class _Maker:
    """A program that makes a file system on a file.

    :ivar words: the program and its options
    :ivar label: the option for the label that follows
    :ivar longest: characters that a label may have
    :ivar partition: type of the partition that holds it
    :ivar package: where Debian has the program
    """

    words: tuple[str, ...]
    label: str
    longest: int
    partition: int
    package: str


def _ext(kind: str) -> _Maker:
    # Its default, to punch holes where zeros belong, also marks the inode tables as
    # zeroed: the guest need not do it, which would make the disk grow.
    words = ("mke2fs", "-q", "-F", "-t", kind)
    return _Maker(words, "-L", 16, mbr.LINUX, "e2fsprogs")


_MAKERS = {
    "swap": _Maker(("mkswap",), "-L", 15, mbr.LINUX_SWAP, "util-linux"),
    "ext2": _ext("ext2"),
    "ext3": _ext("ext3"),
    "ext4": _ext("ext4"),
    "xfs": _Maker(("mkfs.xfs", "-q", "-f"), "-L", 12, mbr.LINUX, "xfsprogs"),
    "vfat": _Maker(("mkfs.vfat", "-F", "32"), "-n", 11, mbr.FAT32, "dosfstools"),
    "ntfs": _Maker(("mkfs.ntfs", "-q", "-Q", "-F"), "-L", 32, mbr.NTFS, "ntfs-3g"),
}
KINDS = tuple(_MAKERS)


def check(kind: str) -> None:
    """Refuse a file system that cannot be made on this machine.

    :raises exceptions.NotSupportedYet: there is no such
    :raises exceptions.UnfitHost: its program is not installed
    """
    if kind not in _MAKERS:
        raise exceptions.NotSupportedYet(
            f"The driver makes no file system {kind}: choose one of "
            f"{', '.join(KINDS)}."
        )
    maker = _MAKERS[kind]
    purpose = f"makes the file system {kind}"
    programs.check(maker.words[0], maker.package, purpose)


def put(session: Client, vdi: str, size: int, kind: str, label: str) -> None:
    """Give a new, empty disk one partition with a file system, in one request. Blocks.

    :param size: bytes of the disk
    :param kind: one of ``KINDS``
    :param label: cut where it is too long
    :raises exceptions.UnfitHost: the file system could not be made here
    :raises errors.XapiError: the host refused
    """
    maker = _MAKERS[kind]
    with utils.tempdir(prefix="xenapi-driver-") as folder:
        path = Path(folder) / "file-system"
        with open(path, "wb") as file:
            file.truncate(size - mbr.START)
        name = label[: maker.longest]
        programs.run(*maker.words, maker.label, name, str(path))
        head = mbr.table(size, maker.partition, secrets.token_bytes(4))
        content = pieces.Pieces(path, mbr.START, head)
        streams.import_disk(
            session,
            vdi,
            streams.Content(content, content.length, in_pieces=True),
        )

# SPDX-License-Identifier: Apache-2.0
"""auto_disk_config: the root's partition and file system fill the flavor's disk."""

from __future__ import annotations

from pathlib import Path

from xenapi_driver.steps import programs
from xenapi_driver.steps.root_disk import Change, NotChanged, checked, partitions

_KINDS = ("ext3", "ext4")  # others are left to the guest


def grow(device: Path) -> None:
    """Extend the only partition, and the ext3 or ext4 in it, to the end of a disk.

    :raises NotChanged: the disk is of another kind, or damaged
    :raises programs.ProgramFailed: it broke off half way
    """
    found = partitions(device)
    if [one.number for one in found] != [1]:
        raise NotChanged(f"it has {len(found)} partitions, not one with the number 1")
    place = checked(device, found[0], _KINDS)
    # It keeps its start, its type and its flags; a GPT's second copy moves along.
    words = ("--no-reread", "--no-tell-kernel", "-q", "-N", "1", str(device))
    programs.run("sfdisk", *words, text=", +\n")
    size = partitions(device)[0].size
    programs.run("resize2fs", place, f"{size}s", bounded=True)


GROWTH = Change(
    "auto_disk_config",
    grow,
    (
        ("sfdisk", "fdisk"),
        ("blkid", "util-linux"),
        ("e2fsck", "e2fsprogs"),
        ("resize2fs", "e2fsprogs"),
    ),
)

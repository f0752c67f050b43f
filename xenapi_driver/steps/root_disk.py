# SPDX-License-Identifier: Apache-2.0
"""Changes to the root disk's content before the first boot.

All of it is done by programs that read and write the plugged disk as a file. Nothing is
mounted: what an image holds never reaches the kernel of nova-compute's machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oslo_log import log as logging

from xenapi_driver import exceptions, flow
from xenapi_driver.steps import programs
from xenapi_driver.steps.build import ROOT_DEVICE, Built, Server
from xenapi_driver.xapi.home import Home
from xenapi_driver.xapi.plugged import Place, plugged

LOG = logging.getLogger(__name__)

SECTOR = 512
# e2fsck(8): no errors; corrected; corrected, and a mounted root wants a reboot.
_CLEAN = (0, 1, 2, 3)


class NotChanged(Exception):
    """The disk is left as it is; the text says why."""


@dataclass(frozen=True)
class Change:
    """Something that is done to a root disk.

    :ivar name: of what asks for it, for messages
    :ivar apply: does it to the block device; raises NotChanged where it cannot be done
        and the server works all the same
    :ivar programs: that it needs, and their Debian packages
    """

    name: str
    apply: Callable[[Path], None]
    programs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Partition:
    """A partition; in sectors."""

    number: int
    start: int
    size: int


class ChangeRootDisk(flow.Step[Built]):
    """Plug the root disk into the machine of nova-compute and change it there."""

    name = "change-root"

    def __init__(
        self,
        home: Home,
        server: Server,
        place: Place | None,
        changes: Sequence[Change],
    ) -> None:
        """:param place: where disks are plugged, None where they cannot be

        :raises exceptions.NotSupportedYet: they cannot be
        :raises exceptions.UnfitHost: a program that is needed is missing
        """
        if place is None:
            raise exceptions.NotSupportedYet(
                f"{server.name} is to have its root disk changed before it starts "
                f"({', '.join(one.name for one in changes)}), for which the disk is "
                "plugged into the machine of nova-compute, and that is no VM of this "
                "pool: build it with OS-DCF:diskConfig MANUAL, and let cloud-init do "
                "it."
            )
        for change in changes:
            for name, package in change.programs:
                programs.check(name, package, f"changes root disks ({change.name})")
        self._home = home
        self._server = server
        self._place = place
        self._changes = changes

    def run(self, state: Built) -> None:
        root = state.disks[ROOT_DEVICE].vdi or ""
        with plugged(self._home.session, self._place, root) as device:
            for change in self._changes:
                try:
                    change.apply(device)
                except NotChanged as exc:
                    LOG.warning(
                        "The root disk of %(name)s stays as it is, without %(change)s: "
                        "%(reason)s.",
                        {
                            "name": self._server.name,
                            "change": change.name,
                            "reason": exc,
                        },
                    )


def partitions(device: Path) -> list[Partition]:
    """Return the disk's partitions.

    :raises NotChanged: there is no table of them
    """
    try:
        told = programs.run("sfdisk", "-J", str(device), bounded=True)
    except programs.ProgramFailed as exc:
        raise NotChanged("it has no partition table") from exc
    found = json.loads(told)["partitiontable"].get("partitions", [])
    return [
        Partition(int(number[1]), one["start"], one["size"])
        for one in found
        if (number := re.search(r"(\d+)\Z", one["node"]))
    ]


def checked(device: Path, partition: Partition, kinds: Sequence[str]) -> str:
    """Return where e2fsprogs find a partition's file system, which has no errors.

    :param kinds: that it may be of, of ext2, ext3, ext4
    :raises NotChanged: another one, or a damaged one
    """
    place = f"{device}?offset={partition.start * SECTOR}"
    kind = _kind(device, partition)
    if kind not in kinds:
        wanted = ", ".join(kinds)
        raise NotChanged(
            f"its partition holds {kind or 'nothing known'}, not one of {wanted}"
        )
    try:
        programs.run("e2fsck", "-f", "-p", place, accept=_CLEAN, bounded=True)
    except programs.ProgramFailed as exc:
        raise NotChanged(f"its file system has errors ({exc.said})") from exc
    return place


def _kind(device: Path, partition: Partition) -> str:
    words: tuple[str, ...] = ("-p", "-o", "value", "-s", "TYPE")
    place = ("-O", str(partition.start * SECTOR), "-S", str(partition.size * SECTOR))
    # 2: nothing that it knows.
    words = (*words, *place, str(device))
    return programs.run("blkid", *words, accept=(0, 2), bounded=True).strip()

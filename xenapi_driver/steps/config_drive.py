# SPDX-License-Identifier: Apache-2.0
"""The config drive: what a server is told of itself, on a CD labelled config-2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nova import utils

from xenapi_driver import flow
from xenapi_driver.formats import vhd
from xenapi_driver.steps.build import (
    CONFIG_DRIVE_DEVICE,
    DISK_TYPE_KEY,
    INSTANCE_KEY,
    MIB,
    Attached,
    Built,
    Server,
)
from xenapi_driver.xapi import streams, vdi
from xenapi_driver.xapi.home import Home

# Also the VDI's name, by which clean-up tools know it.
LABEL = "config-2"
# More than most contents, so that all are alike.
_SIZE = 64 * MIB


@dataclass(frozen=True)
class Content:
    """What makes the drive's image.

    :ivar write: writes it to a path
    :ivar is_cd: it is an ISO 9660 image, not a disk's
    """

    write: Callable[[Path], None]
    is_cd: bool = True


class MakeConfigDrive(flow.Step[Built]):
    """Make the drive here and send it in one request. Undo destroys it.

    It is a VHD on the way, which every host reads, and so needs no plug.
    """

    name = "config-drive"

    def __init__(self, home: Home, server: Server, content: Content) -> None:
        self._home = home
        self._server = server
        self._content = content

    def run(self, state: Built) -> None:
        with utils.tempdir(prefix="xenapi-driver-") as folder:
            path = Path(folder) / "drive"
            self._content.write(path)
            self._send(state, path)

    def _send(self, state: Built, path: Path) -> None:
        session = self._home.session
        size = max(_SIZE, -(-path.stat().st_size // MIB) * MIB)
        record = vdi.new_record(
            self._home.sr.ref,
            size,
            LABEL,
            "config drive",
            {INSTANCE_KEY: self._server.uuid, DISK_TYPE_KEY: "configdrive"},
        )
        ref = vdi.create(session, record)
        state.disks[CONFIG_DRIVE_DEVICE] = self._attached(ref)
        with open(path, "rb") as file:
            length, _ = vhd.sparse(file, size)
            streams.import_disk(
                session,
                ref,
                streams.Content(lambda: vhd.sparse(file, size)[1], length, "vhd"),
            )

    def _attached(self, ref: str) -> Attached:
        if self._content.is_cd:
            return Attached(ref, CONFIG_DRIVE_DEVICE, mode="RO", type="CD")
        # A disk's sectors are not a CD's, and an HVM guest has no read-only disks.
        return Attached(ref, CONFIG_DRIVE_DEVICE)

    def undo(self, state: Built) -> None:
        made = state.disks.pop(CONFIG_DRIVE_DEVICE, None)
        if made is not None and made.vdi is not None:
            vdi.destroy(self._home.session, made.vdi)

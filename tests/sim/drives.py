# SPDX-License-Identifier: Apache-2.0
"""Disks that a simulated host plugs into a VM, and the loop devices that show them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.clients import XmlClient, vbd_record, vdi_record
from xenapi_driver.sim import Simulator

MIB = 1024**2
DISK = 8 * MIB


def loops(folder: Path) -> list[str]:
    """Return the loop devices that stand on files below a folder."""
    told = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True)
    # Other programs of the machine may come and go with theirs.
    return [line for line in told.stdout.splitlines() if f"({folder}/" in line]


def with_loops(folder: Path) -> Iterator[None]:
    """Skip where this user or machine has no loop devices; see that none stay."""
    if os.geteuid() != 0:
        pytest.skip("needs root: loop devices")
    known = os.path.exists("/dev/loop-control") and shutil.which("losetup")
    if not known or subprocess.run(["losetup", "-f"], capture_output=True).returncode:
        pytest.skip("missing: loop devices")
    yield
    assert loops(folder) == []


class Drives:
    """The calls that the tests make of a host to plug disks into one VM.

    :ivar vm: reference of that VM
    """

    def __init__(self, sim: Simulator, vm: str) -> None:
        self.sim = sim
        self.vm = vm
        self.client = XmlClient(sim.handle)
        self.call = self.client.call
        self.sr = self.call("SR.get_by_uuid", sim.default_sr_uuid)
        self.store = sim.world.stores[self.sr]

    def disk(self) -> str:
        """Return a new disk with ``before`` at its begin."""
        vdi = self.call("VDI.create", vdi_record(self.sr, virtual_size=str(DISK)))
        self.store.write(self.call("VDI.get_uuid", vdi), 0, b"before")
        return vdi

    def drive(self, vdi: str, **changes: object) -> str:
        """Return a drive of the VM that is not plugged."""
        fields = {"userdevice": "autodetect", "bootable": False, **changes}
        return self.call("VBD.create", vbd_record(self.vm, vdi, **fields))

    def plug(self, vdi: str, **changes: object) -> str:
        """Plug a disk into the VM."""
        vbd = self.drive(vdi, **changes)
        self.call("VBD.plug", vbd)
        return vbd

    def read(self, vdi: str, offset: int, length: int) -> bytes:
        """Read from a disk's files."""
        return self.store.read(self.call("VDI.get_uuid", vdi), offset, length)

    def attached(self, vbd: str) -> bool:
        return self.call("VBD.get_currently_attached", vbd)

# SPDX-License-Identifier: Apache-2.0
"""What tests of snapshots share: a server that is written to, and independent eyes."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
import uuid
from typing import Any

from nova import objects

from tests import breaking, builders, fixtures
from tests.dom0.glance_server import Image
from tests.sim import vhd_judges
from tests.sim.clients import wait_until

SIZE = 16 * builders.MIB


class Snapshots:
    """Servers with small disks on a rig, written to, snapshotted and read back.

    :ivar said: what the driver told Nova: (task state, expected state)
    """

    def __init__(self, rig: fixtures.Rig) -> None:
        self.rig = rig
        self.said: list[tuple[str, str | None]] = []

    def server(self, image_id: str = "", **changes: Any) -> Server:
        """Build a server whose disk is as large as its image."""
        image_id = image_id or self.rig.image_id
        instance = builders.instance(image_id, root_gb=0, **changes)
        instance.auto_disk_config = changes.get("auto_disk_config", False)
        self.rig.spawn(instance)
        return Server(self.rig, instance)

    def image(self) -> Image:
        """Make an image that waits for its data, as Nova does."""
        return self.rig.images.image(identity=str(uuid.uuid4()))

    def take(self, server: Server, image: Image | None = None) -> Image:
        """Snapshot as the compute manager does; return the image."""
        image = image or self.image()
        self.rig.driver.snapshot(
            self.rig.context, server.instance, image.identity, self.tell
        )
        return image

    def tell(self, task_state: str, expected_state: str | None = None) -> None:
        """Take what Nova's manager is told."""
        self.said.append((task_state, expected_state))


def snapshotting(snapshots: Snapshots, server: Server) -> breaking.Operation:
    """Return the snapshot of a server that goes on writing; it is looked at afterwards.

    The image holds what the disk held, or nothing.
    """

    rig = snapshots.rig

    def settle(image: Image) -> None:
        if image.status != "active":
            time.sleep(0.2)
        # A plugin goes on when its toolstack was restarted and forgot it.
        wait_until(lambda: not rig.sim.world.dom0.processes_alive())
        if image.data is not None:
            assert unpacked(rig, image)[1] == server.written
        assert (image.status == "active") == (image.data is not None)
        server.write(6 * builders.MIB, b"and goes on writing")
        assert rig.sim.settle_storage()
        assert server.read_back == server.written

    return breaking.Operation(
        snapshots.image, lambda image: snapshots.take(server, image), settle
    )


class Server:
    """A server and its root disk."""

    def __init__(self, rig: fixtures.Rig, instance: objects.Instance) -> None:
        self.rig = rig
        self.instance = instance
        self.content = bytearray(builders.CONTENT.ljust(SIZE, b"\0"))

    @property
    def vm(self) -> dict[str, Any]:
        """Its VM's record."""
        (vm,) = self.rig.host.records("VM", name_label=self.instance.name)
        return vm

    @property
    def disk(self) -> dict[str, Any]:
        """Its root disk's record."""
        for ref in self.vm["VBDs"]:
            vbd = self.rig.host.record("VBD", ref)
            if vbd["userdevice"] == "0":
                return self.rig.host.record("VDI", vbd["VDI"])
        raise AssertionError("it has no root disk")

    @property
    def chain(self) -> list[str]:
        """UUIDs of its disk's VHDs, leaf first."""
        found = [self.disk]
        while parent := found[-1]["sm_config"].get("vhd-parent"):
            (record,) = self.rig.host.records("VDI", uuid=parent)
            found.append(record)
        return [record["uuid"] for record in found]

    def write(self, offset: int, data: bytes) -> None:
        """Write as its guest does.

        Whole pages of 4 KiB where the parent has data: libvhdi takes all of the eight
        sectors of a byte of the bitmap for written when one of them is.
        """
        disk = self.disk
        self.rig.sim.world.stores[disk["SR"]].write(disk["uuid"], offset, data)
        self.content[offset : offset + len(data)] = data

    @property
    def written(self) -> str:
        """SHA-256 of what its disk should hold."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def read_back(self) -> str:
        """SHA-256 of what libvhdi finds on its disk."""
        folder = self.rig.sim.sr_path
        return vhd_judges.libvhdi_digest(*(folder / f"{one}.vhd" for one in self.chain))


def unpacked(rig: fixtures.Rig, image: Image) -> tuple[int, str]:
    """Return how many VHDs an image has, and the SHA-256 of its content by libvhdi."""
    folder = rig.folder / f"image-{image.identity}"
    folder.mkdir(exist_ok=True)
    assert image.data is not None
    with tarfile.open(fileobj=io.BytesIO(image.data), mode="r:gz") as tar:
        tar.extractall(folder, filter="data")
    names = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    return len(names), vhd_judges.libvhdi_digest(*names)

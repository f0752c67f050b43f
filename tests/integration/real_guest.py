# SPDX-License-Identifier: Apache-2.0
"""A server whose guest really runs: built through the APIs, booted from its disks."""

from __future__ import annotations

import hashlib
import random
import socket
from typing import Any

from demo.failure import expect
from demo.host import Host
from tests.integration import emulator, guest_image, made_images
from tests.integration.made_images import MIB, Image
from tests.integration.rows import GIB, Matrix

NETWORK = "10.98.0.0/24"
DISK, SWAP, EPHEMERAL = 1, 64, 1  # GiB, MiB, GiB
FLAVOR = {"ram": 256, "vcpus": 1, "disk": DISK, "swap": SWAP, "ephemeral": EPHEMERAL}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RealGuest:
    """A guest on a node of the matrix."""

    def __init__(self, matrix: Matrix, place: str) -> None:
        self.matrix = matrix
        self.place = place
        self.host: Host = matrix.hosts[place]
        self.log = matrix.log_of(place)
        self.folder = matrix.folder / "guest"
        self.folder.mkdir()
        self.words = random.randbytes(MIB)

    def upload(self) -> str:
        """Make the image; its id."""
        disk = guest_image.make(self.folder / "made", self.words)
        vhd = self.folder / "0.vhd"
        made_images.to_vhd(disk, vhd)
        packed = made_images.pack(self.folder, {"0.vhd": vhd})
        wish = {"auto_disk_config": "True"}
        image = Image(packed, "vhd", "ovf", disk, properties=wish)
        return self.matrix.api.upload("guest", image)[0]

    def network(self) -> str:
        """Make a network with a subnet; its id."""
        api = self.matrix.api.sdk.network
        made = api.create_network(name="guest")
        api.create_subnet(
            network_id=made.id, ip_version=4, cidr=NETWORK, enable_dhcp=False
        )
        return str(made.id)

    def run(self) -> None:
        """Build it, boot it, compare what it tells with what the APIs say.

        :raises DemoFailure: something was not as it must be
        """
        api = self.matrix.api
        image = self.upload()
        flavor = api.sdk.compute.create_flavor(name="guest", **FLAVOR).id
        network = self.network()
        server = api.create(
            "guest",
            self.place,
            image_id=image,
            flavor_id=flavor,
            networks=[{"uuid": network}],
            config_drive=True,
        )
        self.matrix.booted[self.place][image] = "guest"
        try:
            shown = api.wait_server(server, "ACTIVE", self.log)
            (port,) = api.sdk.network.ports(device_id=server)
            self.look(shown, port)
        finally:
            api.delete([server], self.log)

    def look(self, shown: Any, port: Any) -> None:
        vm = self.host.vm(shown.instance_name) or {"VBDs": []}
        drives = []
        for number in sorted(
            self.host.call("VBD.get_userdevice", ref) for ref in vm["VBDs"]
        ):
            # A copy: what a guest writes must not get into what the host holds. By
            # the host itself, as libvhdi errs where a guest wrote every other sector.
            drives.append(self.folder / f"drive-{number}.raw")
            self.host.save(self.host.drive(vm, number), drives[-1])
        address = port.fixed_ips[0]["ip_address"]
        card = emulator.Card(port.mac_address, address, NETWORK, free_port())
        with emulator.booted(drives, card, self.folder) as guest:
            told = guest_image.told(guest.wait_for("guest: ready"))
            self.hold(told, shown, address)

    def hold(self, told: dict[str, str], shown: Any, address: str) -> None:
        """Compare what the guest told with what it must see."""
        wanted = {
            "disk": str(DISK * GIB // 512),
            "words": hashlib.md5(self.words).hexdigest(),
            "uuid": shown.id,
            "name": str(shown.name),
            "address": f"{address}/24",
        }
        seen = {key: told.get(key) for key in wanted}
        expect(seen == wanted, f"the guest to tell {wanted}", seen, self.log)
        # What swap, tables of file systems and the space before partitions take.
        whole = {
            "partition": DISK << 21,  # in sectors
            "filesystem": DISK << 20,
            "swap": SWAP << 10,
            "ephemeral": EPHEMERAL << 20,
        }
        for key, size in whole.items():
            share = int(told.get(key, 0)) / size
            expect(0.9 < share < 1, f"{key} of nearly {size}", told, self.log)



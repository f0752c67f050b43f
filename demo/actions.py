# SPDX-License-Identifier: Apache-2.0
"""What the main job does, through the public APIs as any user of the cloud."""

from __future__ import annotations

from collections.abc import Callable

from demo import image
from demo.failure import DemoFailure
from demo.step import Job
from demo.waiting import until

FLAVOR = {"name": "demo.small", "ram": 256, "vcpus": 1, "disk": 1}
SUBNET = "10.99.0.0/24"


def upload_image(job: Job) -> None:
    made = image.make(job.cloud.layout.state / "image")
    job.content = made.content
    job.image_id = job.api.image.create_image(
        name="demo-ext4",
        filename=str(made.path),
        disk_format="vhd",
        container_format="ovf",
        # Our image needs no PV drivers: a guest with its own kernel and devices.
        properties={"vm_mode": "hvm", "os_type": "linux"},
        visibility="public",
        wait=True,
    ).id


def create_surroundings(job: Job) -> None:
    job.flavor_id = job.api.compute.create_flavor(**FLAVOR).id
    network = job.api.network.create_network(name="demo")
    job.api.network.create_subnet(
        network_id=network.id, ip_version=4, cidr=SUBNET, enable_dhcp=False
    )
    job.network_id = network.id


def wait_status(job: Job, name: str, wanted: str) -> None:
    """Wait for a server's status; ERROR ends the wait with the server's fault."""
    server_id = job.servers[name]

    def reached() -> bool:
        server = job.api.compute.get_server(server_id)
        if server.status == "ERROR":
            fault = (server.fault or {}).get("message", "no fault given")
            raise DemoFailure(f"{name} {wanted}", f"ERROR: {fault}", job.log())
        # Nova sets the status before it has finished: the task tells.
        return server.status == wanted and server.task_state is None

    until(reached, f"{name} {wanted}", job.log())


def boot(name: str) -> Callable[[Job], None]:
    def act(job: Job) -> None:
        server = job.api.compute.create_server(
            name=name,
            image_id=job.image_id,
            flavor_id=job.flavor_id,
            networks=[{"uuid": job.network_id}],
        )
        job.servers[name] = server.id
        wait_status(job, name, "ACTIVE")
        shown = job.api.compute.get_server(server.id)
        job.instance_names[name] = shown.instance_name

    return act


def stop(job: Job) -> None:
    job.api.compute.stop_server(job.servers["demo-1"])
    wait_status(job, "demo-1", "SHUTOFF")


def halt_guest(job: Job) -> None:
    """What a user does inside: nobody asks Nova, which has to hear of it."""
    job.cloud.host.halt_guest(job.instance_names["demo-1"])
    wait_status(job, "demo-1", "SHUTOFF")


def start(job: Job) -> None:
    job.api.compute.start_server(job.servers["demo-1"])
    wait_status(job, "demo-1", "ACTIVE")


def reboot(kind: str) -> Callable[[Job], None]:
    def act(job: Job) -> None:
        job.api.compute.reboot_server(job.servers["demo-1"], kind)
        wait_status(job, "demo-1", "ACTIVE")

    return act


def delete(name: str) -> Callable[[Job], None]:
    def act(job: Job) -> None:
        server = job.servers[name]
        job.api.compute.delete_server(server)

        def gone() -> bool:
            found = job.api.compute.find_server(server, ignore_missing=True)
            if found is not None and found.status == "ERROR":
                raise DemoFailure(f"{name} deleted", "ERROR", job.log())
            return found is None

        until(gone, f"{name} deleted", job.log())

    return act


def nothing(job: Job) -> None:
    """The last step only looks."""

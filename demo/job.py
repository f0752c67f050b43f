# SPDX-License-Identifier: Apache-2.0
"""The main job, as the list of its steps.

Each step does one thing through the public APIs and then looks, at the API and
on the host, whether it came true. The steps run in the order of ``STEPS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import openstack

from demo import image, leftovers
from demo.cloud import Cloud
from demo.failure import DemoFailure, expect
from demo.waiting import until

# The bars of the project: XenAPI requests that a step may take at most.
SPAWN_BAR = 12
DESTROY_BAR = 6
FLAVOR = {"name": "demo.small", "ram": 256, "vcpus": 1, "disk": 1}
SUBNET = "10.99.0.0/24"


@dataclass
class Job:
    """What one step hands to the next."""

    cloud: Cloud
    api: openstack.connection.Connection
    before: dict[str, Any] = field(default_factory=dict)
    content: str = ""
    image_id: str = ""
    flavor_id: str = ""
    network_id: str = ""
    servers: dict[str, str] = field(default_factory=dict)
    instance_names: dict[str, str] = field(default_factory=dict)

    def log(self, process: str = "nova-compute") -> Any:
        return self.cloud.layout.log_of(process)


class Step(NamedTuple):
    """One line of the table.

    ``act`` is timed and its XenAPI requests are counted; ``look`` proves it,
    and returns the words that tell what it saw. ``bar`` limits the requests.
    """

    name: str
    act: Callable[[Job], None]
    look: Callable[[Job], str]
    bar: int | None = None


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


def look_at_image(job: Job) -> str:
    found = job.api.image.get_image(job.image_id)
    log = job.log("glance")
    expect(found.status == "active", "the image to be active", found.status, log)
    return f"{found.size >> 10} KiB, {image.SIZE >> 20} MiB virtual"


def create_surroundings(job: Job) -> None:
    job.flavor_id = job.api.compute.create_flavor(**FLAVOR).id
    network = job.api.network.create_network(name="demo")
    job.api.network.create_subnet(
        network_id=network.id, ip_version=4, cidr=SUBNET, enable_dhcp=False
    )
    job.network_id = network.id


def look_at_surroundings(job: Job) -> str:
    job.before = job.cloud.host.admin("inventory")
    return f"the host is counted: {len(job.before['VM'])} VMs"


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


def running_vm(job: Job, name: str) -> dict[str, Any]:
    """The VM record of a server that runs on the host.

    :raises DemoFailure: there is none, or it does not run
    """
    vm = job.cloud.host.vm(job.instance_names[name])
    if vm is None:
        raise DemoFailure(f"a VM for {name} on the host", "none", job.log())
    state = vm["power_state"]
    expect(state == "Running", f"{name}'s VM Running", state, job.log())
    return vm


def allocation(job: Job, name: str) -> dict[str, Any]:
    """What Placement holds for a server, over all providers."""
    answer = job.api.placement.get(f"/allocations/{job.servers[name]}")
    total: dict[str, Any] = {}
    for provider in answer.json()["allocations"].values():
        total.update(provider["resources"])
    return total


def look_at_boot(name: str) -> Callable[[Job], str]:
    def look(job: Job) -> str:
        vm = running_vm(job, name)
        server = job.servers[name]
        for port in job.api.network.ports(device_id=server):
            until_up = f"the port of {name} ACTIVE"
            log = job.log("network-agent")
            until(lambda port=port: port_status(job, port.id) == "ACTIVE", until_up, log)
            plugged = job.cloud.host.admin("ports")
            expect(port.id in plugged, f"{name}'s VIF plugged", plugged, job.log())
        held = allocation(job, name)
        wanted = {"VCPU": 1, "MEMORY_MB": FLAVOR["ram"], "DISK_GB": FLAVOR["disk"]}
        expect(held == wanted, f"an allocation {wanted}", held, job.log("placement"))
        disk = job.cloud.host.root_disk(vm)
        content = image.read_back(disk, job.cloud.layout.state / "image" / "read")
        expect(
            content == job.content,
            "the root disk to hold the image's file, read by libvhdi and debugfs",
            f"{len(content)} other characters in {disk.name}",
            job.log(),
        )
        return "VM runs, disk content, port, allocation"

    return look


def port_status(job: Job, port_id: str) -> str:
    return str(job.api.network.get_port(port_id).status)


def stop(job: Job) -> None:
    job.api.compute.stop_server(job.servers["demo-1"])
    wait_status(job, "demo-1", "SHUTOFF")


def look_at_stop(job: Job) -> str:
    vm = job.cloud.host.vm(job.instance_names["demo-1"])
    state = vm["power_state"] if vm else "no VM"
    expect(state == "Halted", "demo-1's VM Halted", state, job.log())
    return "VM halted"


def start(job: Job) -> None:
    job.api.compute.start_server(job.servers["demo-1"])
    wait_status(job, "demo-1", "ACTIVE")


def reboot(kind: str) -> Callable[[Job], None]:
    def act(job: Job) -> None:
        job.api.compute.reboot_server(job.servers["demo-1"], kind)
        wait_status(job, "demo-1", "ACTIVE")

    return act


def look_at_run(job: Job) -> str:
    running_vm(job, "demo-1")
    return "VM runs"


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


def look_at_delete(name: str) -> Callable[[Job], str]:
    def look(job: Job) -> str:
        vm = job.cloud.host.vm(job.instance_names[name])
        expect(vm is None, f"no VM of {name}", "it is there", job.log())
        held = allocation(job, name)
        expect(not held, f"no allocation of {name}", held, job.log("placement"))
        return "no VM, no allocation"

    return look


def nothing(job: Job) -> None:
    """The last step only looks."""


def look_at_leftovers(job: Job) -> str:
    return leftovers.check(job.cloud, job.before, job.image_id)


STEPS = (
    Step("upload an image", upload_image, look_at_image),
    Step("flavor, network", create_surroundings, look_at_surroundings),
    Step("boot demo-1", boot("demo-1"), look_at_boot("demo-1")),
    # The image is cached by now.
    Step("boot demo-2 (cached)", boot("demo-2"), look_at_boot("demo-2"), SPAWN_BAR),
    Step("stop demo-1", stop, look_at_stop),
    Step("start demo-1", start, look_at_run),
    Step("reboot demo-1", reboot("SOFT"), look_at_run),
    Step("hard reboot demo-1", reboot("HARD"), look_at_run),
    Step("delete demo-1", delete("demo-1"), look_at_delete("demo-1"), DESTROY_BAR),
    Step("delete demo-2", delete("demo-2"), look_at_delete("demo-2"), DESTROY_BAR),
    Step("the host is clean", nothing, look_at_leftovers),
)

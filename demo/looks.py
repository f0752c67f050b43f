# SPDX-License-Identifier: Apache-2.0
"""How each step is proved: at the APIs and on the host itself.

Every function returns the words that tell what it saw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from demo import image, leftovers
from demo.actions import FLAVOR
from demo.failure import DemoFailure, expect
from demo.step import Job
from demo.waiting import until


def look_at_image(job: Job) -> str:
    found = job.api.image.get_image(job.image_id)
    log = job.log("glance")
    expect(found.status == "active", "the image to be active", found.status, log)
    return f"{found.size >> 10} KiB, {image.SIZE >> 20} MiB virtual"


def look_at_surroundings(job: Job) -> str:
    job.before = job.cloud.host.admin("inventory")
    return f"the host is counted: {len(job.before['VM'])} VMs"


def running_vm(job: Job, name: str) -> dict[str, Any]:
    """The VM record of a server that was started anew and runs on the host.

    :raises DemoFailure: there is none, it does not run, or it is still the
        domain that an earlier step saw
    """
    vm = job.cloud.host.vm(job.instance_names[name])
    if vm is None:
        raise DemoFailure(f"a VM for {name} on the host", "none", job.log())
    state, domid = vm["power_state"], vm["domid"]
    expect(state == "Running", f"{name}'s VM Running", state, job.log())
    earlier = job.domids.get(name)
    expect(domid != earlier, f"{name} in a new domain", f"{domid} again", job.log())
    job.domids[name] = domid
    return vm


def allocation(job: Job, name: str) -> dict[str, Any]:
    """What Placement holds for a server, over all providers."""
    answer = job.api.placement.get(f"/allocations/{job.servers[name]}")
    total: dict[str, Any] = {}
    for provider in answer.json()["allocations"].values():
        total.update(provider["resources"])
    return total


def look_at_ports(job: Job, name: str) -> None:
    """Neutron has every port of the server up, and dom0 has its VIF plugged."""

    def ports() -> list[Any]:
        return list(job.api.network.ports(device_id=job.servers[name]))

    def up() -> bool:
        return all(port.status == "ACTIVE" for port in ports())

    expect(len(ports()) == 1, f"one port of {name}", len(ports()), job.log())
    until(up, f"the port of {name} ACTIVE", job.log("network-agent"))
    plugged = job.cloud.host.admin("ports")
    for port in ports():
        expect(port.id in plugged, f"{name}'s VIF plugged", plugged, job.log())


def look_at_boot(name: str) -> Callable[[Job], str]:
    def look(job: Job) -> str:
        vm = running_vm(job, name)
        look_at_ports(job, name)
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


def look_at_stop(job: Job) -> str:
    vm = job.cloud.host.vm(job.instance_names["demo-1"])
    state = vm["power_state"] if vm else "no VM"
    expect(state == "Halted", "demo-1's VM Halted", state, job.log())
    return "VM halted"


def look_at_run(job: Job) -> str:
    vm = running_vm(job, "demo-1")
    return f"VM runs, as domain {vm['domid']} now"


def look_at_delete(name: str) -> Callable[[Job], str]:
    def look(job: Job) -> str:
        vm = job.cloud.host.vm(job.instance_names[name])
        expect(vm is None, f"no VM of {name}", "it is there", job.log())
        held = allocation(job, name)
        expect(not held, f"no allocation of {name}", held, job.log("placement"))
        return "no VM, no allocation"

    return look


def look_at_leftovers(job: Job) -> str:
    return leftovers.check(job.cloud, job.before, job.image_id)

# SPDX-License-Identifier: Apache-2.0
"""Which servers are on this host, and what the host has to give."""

from __future__ import annotations

from dataclasses import dataclass

from xenapi_driver import exceptions
from xenapi_driver.xapi import host, vm
from xenapi_driver.xapi.home import Home
from xenapi_driver.xapi.host_metrics import HostMetricsRecord

GIB = 2**30
MIB = 2**20


def power_state(home: Home, name: str, uuid: str) -> tuple[str, int | None]:
    """Return XAPI's power state of the server and its domain id (None if halted).

    :raises exceptions.ServerNotFound: the host answered, and it is not there
    """
    record = vm.find_server(home.session, name, uuid)
    if record is None:
        raise exceptions.ServerNotFound(f"Server {name} has no VM on the host.")
    return record.power_state, record.domid if record.domid >= 0 else None


@dataclass(frozen=True)
class Resources:
    """What the host has, and how much of it is taken.

    ``cpu_info`` is the dict that Nova stores as JSON; ``supported`` are
    (architecture, hypervisor type, VM mode) triples.
    """

    vcpus: int
    vcpus_used: int
    memory_mb: int
    memory_mb_used: int
    local_gb: int
    local_gb_used: int
    disk_available_least: int
    cpu_info: dict
    hypervisor_version: int
    supported: list[tuple[str, str, str]]


def resources(home: Home) -> Resources:
    """Read the host, its SR and its VMs, in six requests."""
    record = home.host
    now = home.session.records
    total = now[HostMetricsRecord][record.metrics].memory_total
    free = host.free_memory(home.session, record.ref)
    storage = home.sr
    running = [
        guest
        for guest in now[vm.VmRecord].values()
        if guest.resident_on == record.ref and not guest.is_control_domain
    ]
    return Resources(
        vcpus=int(record.cpu_info["cpu_count"]),
        vcpus_used=sum(guest.vcpus_max for guest in running),
        memory_mb=total // MIB,
        memory_mb_used=(total - free) // MIB,
        local_gb=storage.physical_size // GIB,
        local_gb_used=storage.physical_utilisation // GIB,
        disk_available_least=(storage.physical_size - storage.virtual_allocation)
        // GIB,
        cpu_info=_cpu_info(record),
        hypervisor_version=_version(record),
        supported=_supported(record),
    )


def _cpu_info(record: host.HostRecord) -> dict:
    cpu = record.cpu_info
    sockets = int(cpu.get("socket_count", 1)) or 1
    threads = int(cpu.get("threads_per_core", 1)) or 1
    return {
        "arch": "x86_64",
        "model": cpu.get("modelname", ""),
        "vendor": cpu.get("vendor", ""),
        "topology": {
            "sockets": sockets,
            "cores": max(1, int(cpu["cpu_count"]) // (sockets * threads)),
            "threads": threads,
        },
        "features": cpu.get("flags", "").split(),
    }


def _version(record: host.HostRecord) -> int:
    """Return the product version as Nova compares it: major, minor, patch."""
    software = record.software_version
    text = software.get("product_version") or software.get("platform_version", "0")
    numbers = [int(part) for part in text.split(".")[:3] if part.isdigit()]
    major, minor, patch = (numbers + [0, 0, 0])[:3]
    return major * 1_000_000 + minor * 1_000 + patch


def _supported(record: host.HostRecord) -> list[tuple[str, str, str]]:
    """Return what guests the capabilities ``<abi>-<version>-<arch>`` allow."""
    found = set()
    for text in record.capabilities:
        abi, _, rest = text.partition("-")
        arch = rest.rpartition("-")[2]
        if abi == "hvm":
            arch = {"x86_32p": "i686", "x86_32": "i686"}.get(arch, arch)
            found.add((arch, "xen", "hvm"))
    return sorted(found)

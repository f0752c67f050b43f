# SPDX-License-Identifier: Apache-2.0
"""What our host has to give and what of it is taken, from records alone."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.xapi import memory, pool, release
from xenapi_driver.xapi.host import HostRecord
from xenapi_driver.xapi.host_metrics import HostMetricsRecord
from xenapi_driver.xapi.pci import PciRecord
from xenapi_driver.xapi.sr import SrRecord
from xenapi_driver.xapi.tables import Snapshot, Table

LOG = logging.getLogger(__name__)

GIB = 2**30
MIB = 2**20

# Dom0's driver of a device that is set aside for guests.
SET_ASIDE = "pciback"

# As Nova's nova.objects.fields.Architecture has them, by the names of Xen.
_ARCHITECTURES = {"x86_64": "x86_64", "x86_32": "i686", "x86_32p": "i686"}

# Domain, bus, device, function, as Nova parses an address.
_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_ID = re.compile(r"[0-9a-f]{1,4}")


@dataclass(frozen=True)
class Resources:
    """What the host has, and how much of it is taken.

    :ivar memory_mb: all of the host's, Xen's and dom0's share too
    :ivar memory_mb_apart: of that, what Xen and the VMs that are no servers of
        Nova's take: what ``reserved_host_memory_mb`` must cover at least
    :ivar disk_available_least: GiB left if all disks grew to their size; below 0
        where more was promised than there is
    :ivar cpu_info: what Nova stores as JSON
    :ivar featuresets: words of processor features; an HVM guest has what is in all
    :ivar supported: (architecture, hypervisor type, VM mode) triples
    :ivar pci_devices: dicts of Nova's form
    :ivar booted: seconds since 1970, None where the host does not say
    """

    vcpus: int
    vcpus_used: int
    memory_mb: int
    memory_mb_used: int
    memory_mb_apart: int
    local_gb: int
    local_gb_used: int
    disk_available_least: int
    cpu_info: dict[str, Any]
    featuresets: tuple[str, ...]
    hypervisor_version: int
    supported: tuple[tuple[str, str, str], ...]
    pci_devices: tuple[dict[str, Any], ...]
    booted: float | None

    @property
    def architectures(self) -> frozenset[str]:
        """Those of guests that the host runs."""
        return frozenset(arch for arch, _type, _mode in self.supported)


def resources(
    snapshot: Snapshot,
    host_ref: str,
    sr_uuid: str,
    vcpus_of: Callable[[int], int] = int,
) -> Resources:
    """Return what the host, its SR and its VMs say at one moment; no request.

    :param sr_uuid: of the SR of servers' disks
    :param vcpus_of: how many of the host's processors are for servers
    :raises exceptions.UnfitHost: the host or the SR is not there (any more)
    """
    host, total, storage = _found(snapshot, host_ref, sr_uuid)
    guests = memory.guests(snapshot, host_ref)
    used = memory.used(snapshot, host)
    # Both of the SR's are -1 before its first scan.
    size = max(storage.physical_size, 0)
    return Resources(
        vcpus=vcpus_of(int(host.cpu_info["cpu_count"])),
        vcpus_used=sum(
            guest.vcpus_max for guest in guests if not guest.is_control_domain
        ),
        memory_mb=total // MIB,
        memory_mb_used=used // MIB,
        memory_mb_apart=memory_mb_apart(snapshot, host),
        local_gb=size // GIB,
        local_gb_used=max(storage.physical_utilisation, 0) // GIB,
        disk_available_least=(size - storage.virtual_allocation) // GIB,
        cpu_info=_cpu_info(host),
        featuresets=_featuresets(snapshot, host),
        hypervisor_version=_version(host),
        supported=_supported(host, _runs_pv(snapshot, host)),
        pci_devices=tuple(pci_devices(snapshot, host_ref)),
        booted=_booted(host),
    )


def _found(
    snapshot: Snapshot, host_ref: str, sr_uuid: str
) -> tuple[HostRecord, int, SrRecord]:
    """Return the host, the bytes of memory that it has, and the SR."""
    host = snapshot[HostRecord].get(host_ref)
    if host is None:
        raise exceptions.UnfitHost(
            "Our host is not in its pool any more: point [xenserver] connection_url "
            "at the host that this service manages, and restart the service."
        )
    metrics = snapshot[HostMetricsRecord].get(host.metrics)
    if metrics is None:
        raise exceptions.UnfitHost(
            f"Host {host.hostname} does not say how much memory it has: restart its "
            "toolstack."
        )
    storage = snapshot[SrRecord].by_uuid(sr_uuid)
    if storage is None:
        raise exceptions.UnfitHost(
            f"SR {sr_uuid}, which held the servers' disks, is gone: bring it back, or "
            "set [xenserver] sr_matching_filter to another and restart this service."
        )
    return host, metrics.memory_total, storage


def memory_mb_apart(snapshot: Snapshot, host: HostRecord) -> int:
    """Return what Xen and the VMs that are no servers of Nova's take, rounded up."""
    guests = memory.guests(snapshot, host.ref)
    others = sum(guest.memory_needed for guest in guests if not guest.nova_uuid)
    return -(-(host.memory_overhead + others) // MIB)


def _cpu_info(host: HostRecord) -> dict[str, Any]:
    cpu = host.cpu_info
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


def _featuresets(snapshot: Snapshot, host: HostRecord) -> tuple[str, ...]:
    """Return what bounds a guest's features.

    The first is what the host can let a guest have, by whatever means; the others
    are what it and its pool give to a guest that starts.
    """
    told = [host.cpu_info.get("features_hvm"), host.cpu_info.get("features_hvm_host")]
    told.append(pool.only(snapshot).cpu_info.get("features_hvm_host"))
    return tuple(text for text in told if text)


def _version(host: HostRecord) -> int:
    """Return the product version as Nova compares it: major, minor, patch."""
    software = host.software_version
    text = software.get("product_version") or software.get("platform_version", "0")
    numbers = [int(part) for part in text.split(".")[:3] if part.isdigit()]
    major, minor, patch = (numbers + [0, 0, 0])[:3]
    return major * 1_000_000 + minor * 1_000 + patch


def _runs_pv(snapshot: Snapshot, host: HostRecord) -> bool:
    return release.abilities(host, pool.only(snapshot), secure_boot=False).pv


def _supported(host: HostRecord, pv: bool) -> tuple[tuple[str, str, str], ...]:
    """Return what guests the capabilities ``<abi>-<version>-<arch>`` allow.

    :param pv: the release runs paravirtual guests; Xen says so of dom0's sake alone
    """
    found = {("x86_64", "xen", "xen")} if pv else set()
    for text in host.capabilities:
        abi, _, rest = text.partition("-")
        arch = _ARCHITECTURES.get(rest.rpartition("-")[2])
        if abi == "hvm" and arch is not None:
            found.add((arch, "xen", "hvm"))
    return tuple(sorted(found))


# PCI devices


def pci_devices(snapshot: Snapshot, host_ref: str) -> list[dict[str, Any]]:
    """Return the host's devices that are set aside for guests, as Nova has them.

    Which of them servers can have is decided by ``[pci] device_spec`` in Nova.
    """
    table = snapshot[PciRecord]
    found = []
    for record in table.owned_by(host_ref):
        if record.driver_name != SET_ASIDE:
            continue
        device = _pci_device(record, table)
        if device is None:
            LOG.debug(
                "PCI device %(address)s is not reported: its vendor is given as "
                "%(vendor)r and its product as %(product)r.",
                {
                    "address": record.pci_id,
                    "vendor": record.vendor_id,
                    "product": record.device_id,
                },
            )
        else:
            found.append(device)
    return sorted(found, key=lambda device: str(device["address"]))


def _pci_device(record: PciRecord, table: Table[PciRecord]) -> dict[str, Any] | None:
    address = record.pci_id.lower()
    vendor, product = _pci_id(record.vendor_id), _pci_id(record.device_id)
    if vendor is None or product is None or not _ADDRESS.fullmatch(address):
        return None
    device = {
        "address": address,
        "vendor_id": vendor,
        "product_id": product,
        "dev_type": "type-PF" if record.virtual_functions else "type-PCI",
        "label": f"label_{vendor}_{product}",
        "dev_id": "pci_" + re.sub("[:.]", "_", address),
        "numa_node": None,
    }
    # Many hosts do not tell which functions are virtual: those are plain devices.
    parent = table.get(record.physical_function or "")
    if parent is not None:
        device.update(dev_type="type-VF", parent_addr=parent.pci_id.lower())
    return device


def _pci_id(text: str) -> str | None:
    """Return a vendor or product in four digits, None for what is none."""
    digits = text.strip().lower().removeprefix("0x")
    return digits.zfill(4) if _ID.fullmatch(digits) else None


# How long it has been up


def _booted(host: HostRecord) -> float | None:
    try:
        return float(host.other_config["boot_time"])
    except (KeyError, ValueError):
        return None


def uptime(booted: float, now: float | None = None) -> str:
    """Return what uptime(1) says first: the time (UTC), and how long it is up.

    XAPI's records have neither the users nor the load that it says next.

    :param booted: seconds since 1970, by the host's clock
    :param now: likewise, by our clock, which may be behind
    """
    now = time.time() if now is None else now
    minutes = int(max(now - booted, 0.0)) // 60
    days, minutes = divmod(minutes, 24 * 60)
    hours, minutes = divmod(minutes, 60)
    words = []
    if days:
        words.append(f"{days} day" if days == 1 else f"{days} days")
    words.append(f"{hours:2}:{minutes:02}" if hours else f"{minutes} min")
    clock = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    return f" {clock:%H:%M:%S} up {', '.join(words)}"


# Placement


@dataclass(frozen=True)
class Reserved:
    """What the operator keeps from servers, by the options of Nova."""

    cpus: int
    memory_mb: int
    disk_gb: int


def inventories(
    found: Resources, reserved: Reserved, ratios: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return placement's inventory of each class; what the host lacks is left out.

    :param ratios: allocation ratio by resource class
    """
    totals = {
        "VCPU": (found.vcpus, reserved.cpus),
        "MEMORY_MB": (found.memory_mb, reserved.memory_mb),
        "DISK_GB": (found.local_gb, reserved.disk_gb),
    }
    return {
        name: {
            "total": total,
            # Placement refuses the whole inventory where more is reserved.
            "reserved": min(kept, total),
            "min_unit": 1,
            "max_unit": total,
            "step_size": 1,
            "allocation_ratio": ratios[name],
        }
        for name, (total, kept) in totals.items()
        if total > 0
    }

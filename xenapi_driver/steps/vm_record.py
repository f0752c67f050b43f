# SPDX-License-Identifier: Apache-2.0
"""The complete record from which a server's VM is created."""

from __future__ import annotations

from typing import Any

from xenapi_driver.steps import xenstore_data
from xenapi_driver.steps.build import VM_INSTANCE_KEY, Server
from xenapi_driver.steps.guest import Guest

# In VM.other_config: devices of the host that the VM gets.
PCI_KEY = "pci"


def vm_record(
    server: Server, host_ref: str, kernel: str = "", ramdisk: str = ""
) -> dict[str, Any]:
    """Return the complete ``VM.create`` record of ``server``.

    All four memory values are equal: OpenStack's servers do not balloon.
    ``affinity`` names our host, because a halted VM has no ``resident_on`` and
    the other members of a pool must not take it for theirs.

    :param kernel: path in dom0 of the kernel that boots; "" where the disk has it
    :param ramdisk: likewise
    """
    memory, guest = server.memory_bytes, server.guest
    return {
        "name_label": server.name,
        "name_description": "",
        "user_version": 0,
        "is_a_template": False,
        "affinity": host_ref,
        "memory_static_max": memory,
        "memory_static_min": 0,
        "memory_dynamic_max": memory,
        "memory_dynamic_min": memory,
        "memory_target": memory,
        "VCPUs_params": _vcpus_params(guest),
        "VCPUs_max": server.vcpus,
        "VCPUs_at_startup": server.vcpus,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "destroy",
        **_boot(server, kernel, ramdisk),
        "domain_type": guest.domain_type,
        "platform": _platform(guest),
        "PCI_bus": "",
        "other_config": {VM_INSTANCE_KEY: server.uuid, **_devices(guest)},
        "recommendations": "",
        "xenstore_data": _xenstore_data(server),
        "ha_restart_priority": "",
        "tags": [],
        "blocked_operations": {},
        # Left out it means True today, an extra PCI device for Windows Update.
        "has_vendor_device": False,
    }


def _xenstore_data(server: Server) -> dict[str, str]:
    found = {**xenstore_data.VSS, **server.guest.xenstore_data}
    for port in server.network.ports:
        found.update(port.xenstore_data)
    return found


def _vcpus_params(guest: Guest) -> dict[str, str]:
    params = {}
    if guest.vcpu_weight is not None or guest.vcpu_cap:
        # A weight without a cap was ignored by some hosts.
        params["cap"] = str(guest.vcpu_cap)
    if guest.vcpu_weight is not None:
        params["weight"] = str(guest.vcpu_weight)
    if guest.cpus:
        params["mask"] = ",".join(str(cpu) for cpu in guest.cpus)
    return params


def _boot(server: Server, kernel: str, ramdisk: str) -> dict[str, Any]:
    """Return what boots: the firmware, a kernel from dom0, or one from the disk."""
    guest = server.guest
    hvm = guest.domain_type == "hvm"
    order = {"order": "dc", "firmware": guest.firmware}
    return {
        "HVM_boot_policy": "BIOS order" if hvm else "",
        "HVM_boot_params": order if hvm else {},
        "PV_bootloader": "" if hvm or kernel else "pygrub",
        "PV_kernel": kernel,
        "PV_ramdisk": ramdisk,
        "PV_args": server.boot.arguments if server.boot is not None else "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
    }


def _platform(guest: Guest) -> dict[str, str]:
    hvm = guest.domain_type == "hvm"
    platform = {
        "acpi": "true",
        "apic": "true",
        "pae": "true",
        "nx": "false" if guest.domain_type == "pv" else "true",
        # Linux would think that it is on Hyper-V.
        "viridian": "true" if guest.windows and hvm else "false",
        "timeoffset": "0",
    }
    if guest.cores_per_socket is not None:
        platform["cores-per-socket"] = str(guest.cores_per_socket)
    if guest.device_id is not None:
        platform["device_id"] = f"{guest.device_id:04}"
    if guest.vga is not None:
        platform["vga"] = guest.vga
    if guest.video_mb is not None:
        platform["videoram"] = str(guest.video_mb)
    if guest.uefi:
        platform["device-model"] = "qemu-upstream-uefi"
        platform["secureboot"] = guest.secure_boot
    return platform


def _devices(guest: Guest) -> dict[str, str]:
    if not guest.pci:
        return {}
    return {PCI_KEY: ",".join(f"0/{address}" for address in guest.pci)}

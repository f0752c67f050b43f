# SPDX-License-Identifier: Apache-2.0
"""Steps that make a VM, give it its disks, and start it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from xenapi_driver import flow
from xenapi_driver.steps.build import VM_INSTANCE_KEY, Built, Server
from xenapi_driver.steps.guest import Guest
from xenapi_driver.xapi import errors, vbd, vm
from xenapi_driver.xapi.client import NULL_REF
from xenapi_driver.xapi.home import Home


def vm_record(server: Server, host_ref: str) -> dict[str, Any]:
    """Return the complete ``VM.create`` record of ``server``.

    All four memory values are equal: OpenStack's servers do not balloon.
    ``affinity`` names our host, because a halted VM has no ``resident_on`` and
    the other members of a pool must not take it for theirs.
    """
    memory = server.memory_bytes
    guest = server.guest
    params: dict[str, str] = {}
    if guest.vcpu_weight is not None:
        # A weight without a cap was ignored by some hosts.
        params = {"weight": str(guest.vcpu_weight), "cap": "0"}
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
        "VCPUs_params": params,
        "VCPUs_max": server.vcpus,
        "VCPUs_at_startup": server.vcpus,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "destroy",
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "dc", "firmware": guest.firmware},
        "domain_type": "hvm",
        "platform": _platform(guest),
        "PCI_bus": "",
        "other_config": {VM_INSTANCE_KEY: server.uuid},
        "recommendations": "",
        "xenstore_data": {"vm-data/allowvssprovider": "false"},
        "ha_restart_priority": "",
        "tags": [],
        "blocked_operations": {},
        # Left out it means True today, an extra PCI device for Windows Update.
        "has_vendor_device": False,
    }


def _platform(guest: Guest) -> dict[str, str]:
    platform = {
        "acpi": "true",
        "apic": "true",
        "pae": "true",
        "nx": "true",
        "viridian": "true" if guest.windows else "false",
        "timeoffset": "0",
    }
    if guest.firmware == "uefi":
        platform["device-model"] = "qemu-upstream-uefi"
    return platform


class CreateVm(flow.Step[Built]):
    """Create the halted VM. Undo destroys it with its VBDs and VIFs."""

    name = "create-vm"

    def __init__(self, home: Home, server: Server) -> None:
        self._home = home
        self._server = server

    def run(self, state: Built) -> None:
        record = vm_record(self._server, self._home.host.ref)
        state.vm = vm.create(self._home.session, record)

    def undo(self, state: Built) -> None:
        if state.vm is not None:
            vm.destroy(self._home.session, state.vm)
            state.vm = None


class AttachDisks(flow.Step[Built]):
    """Give the VM its disks and drives; the VBDs go with the VM."""

    name = "attach-disks"

    def __init__(self, home: Home) -> None:
        self._home = home

    def run(self, state: Built) -> None:
        for disk in state.disks.values():
            vbd.create(
                self._home.session,
                {
                    "VM": state.vm,
                    "VDI": disk.vdi or NULL_REF,
                    "userdevice": disk.device,
                    "bootable": disk.bootable,
                    "mode": disk.mode,
                    "type": disk.type,
                    "unpluggable": False,
                    "empty": disk.vdi is None,
                    "other_config": dict(disk.other_config),
                    "qos_algorithm_type": "",
                    "qos_algorithm_params": {},
                },
            )


class StartPaused(flow.Step[Built]):
    """Start the VM paused on our host and wait until its network is there.

    The guest must not run before that, or its first DHCP request is lost.
    Undo stops it.
    """

    name = "start-paused"

    def __init__(
        self,
        home: Home,
        until_plugged: Callable[[], AbstractContextManager | None],
    ) -> None:
        """:param until_plugged: returns what blocks at its end until the ports are
        plugged, or None where there is nothing to wait for
        """
        self._home = home
        self._until_plugged = until_plugged

    def run(self, state: Built) -> None:
        with self._until_plugged() or contextlib.nullcontext():
            vm.start_on(self._home.session, state.vm, self._home.host.ref, paused=True)

    def undo(self, state: Built) -> None:
        if state.vm is None:
            return
        try:
            vm.hard_shutdown(self._home.session, state.vm)
        except (errors.VmBadPowerState, errors.HandleInvalid):
            # It never started, or is gone: there is nothing to stop.
            return


class Unpause(flow.Step[Built]):
    """Let the guest run."""

    name = "unpause"

    def __init__(self, home: Home) -> None:
        self._home = home

    def run(self, state: Built) -> None:
        vm.unpause(self._home.session, state.vm)

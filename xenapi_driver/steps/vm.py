# SPDX-License-Identifier: Apache-2.0
"""Steps that make a VM, give it its disks, and start it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

from xenapi_driver import flow
from xenapi_driver.steps import vm_record, xenstore_data
from xenapi_driver.steps.build import Built, Server
from xenapi_driver.xapi import errors, vbd, vm
from xenapi_driver.xapi.client import NULL_REF
from xenapi_driver.xapi.home import Home


class CreateVm(flow.Step[Built]):
    """Create the halted VM. Undo destroys it with its VBDs and VIFs."""

    name = "create-vm"

    def __init__(self, home: Home, server: Server) -> None:
        self._home = home
        self._server = server

    def run(self, state: Built) -> None:
        record = vm_record.vm_record(
            self._server, self._home.host.ref, state.kernel, state.ramdisk
        )
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


class ForgetHostname(flow.Step[Built]):
    """Let the guest have its name from xenstore at this boot only."""

    name = "forget-hostname"

    def __init__(self, home: Home) -> None:
        self._home = home

    def run(self, state: Built) -> None:
        # It is in the guest's xenstore already, and in the record for later boots.
        vm.remove_from_xenstore_data(
            self._home.session, state.vm, xenstore_data.HOSTNAME_KEY
        )


class Unpause(flow.Step[Built]):
    """Let the guest run."""

    name = "unpause"

    def __init__(self, home: Home) -> None:
        self._home = home

    def run(self, state: Built) -> None:
        vm.unpause(self._home.session, state.vm)

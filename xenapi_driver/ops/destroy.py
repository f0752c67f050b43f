# SPDX-License-Identifier: Apache-2.0
"""Remove a server, whatever is left of it."""

from __future__ import annotations

from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.steps.build import INSTANCE_KEY, VOLUME_KEY
from xenapi_driver.xapi import errors, vbd, vdi, vm
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)


def destroy(home: Home, name: str, instance_uuid: str, disks_too: bool = True) -> None:
    """Stop and remove the server's VM and, if asked, its disks.

    What is already gone counts as removed, so that it can run twice, and after a
    build that failed anywhere.

    A VM of that name which is not the server's is left alone.

    :param name: the VM's name label
    :raises exceptions.StopFailed: the VM may still run; nothing was removed
    :raises errors.XapiError: something is still there and the host will not let go
    """
    try:
        record = vm.find_server(home.session, name, instance_uuid)
        # A build that broke off may have left a disk beside its VM.
        disks = _own_disks(home, record) or _orphans(home, name, instance_uuid)
        if record is not None and record.power_state != "Halted":
            _stop_hard(home, record.ref)
    except errors.XapiError as exc:
        # A host that is away may run it, too: Nova must keep its ports.
        raise exceptions.StopFailed(str(exc)) from exc
    if record is None:
        LOG.info("It has no VM on the host.", instance_uuid=instance_uuid)
    else:
        vm.destroy(home.session, record.ref)
    if disks_too:
        for ref in disks:
            vdi.destroy(home.session, ref)


def _stop_hard(home: Home, ref: str) -> None:
    """Halt the VM at once; one that is halted or gone counts as stopped."""
    try:
        vm.hard_shutdown(home.session, ref)
    except (errors.VmBadPowerState, errors.HandleInvalid) as exc:
        LOG.debug("VM was stopped meanwhile: %s", exc)


def _own_disks(home: Home, record: vm.VmRecord | None) -> list[str]:
    """Return the VDIs that go with the VM, if there is one: no volumes, no CDs."""
    if record is None:
        return []
    return [
        v.vdi
        for v in vbd.of_vm(home.session, record.ref)
        if v.vdi is not None and v.type == "Disk" and VOLUME_KEY not in v.other_config
    ]


def _orphans(home: Home, name: str, instance_uuid: str) -> list[str]:
    """Return disks of the server that outlived its VM."""
    return [
        v.ref
        for v in vdi.find_by_name(home.session, name)
        if v.other_config.get(INSTANCE_KEY) == instance_uuid
    ]

# SPDX-License-Identifier: Apache-2.0
"""Remove a server, whatever is left of it."""

from __future__ import annotations

from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.images import kernels
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
        disks = _own_disks(home, record, instance_uuid)
        # A build that broke off may have left a disk beside its VM.
        disks += [
            ref for ref in _orphans(home, instance_uuid) if ref not in disks
        ]
        if record is not None and record.power_state != "Halted":
            _stop_hard(home, record.ref)
    except errors.XapiError as exc:
        # A host that is away may run it, too: Nova must keep its ports.
        raise exceptions.StopFailed(str(exc)) from exc
    if record is None:
        LOG.info("It has no VM on the host.", instance_uuid=instance_uuid)
    else:
        if disks_too:
            # While the VM still tells which they are.
            kernels.remove(home.session, [record.pv_kernel, record.pv_ramdisk])
        vm.destroy(home.session, record.ref)
    if disks_too:
        for ref in disks:
            vdi.destroy(home.session, ref)


def remove_orphans(home: Home, name: str, instance_uuid: str) -> None:
    """Remove the disks of a server that has no VM; with one, nothing.

    :param name: the server's, which is its disks' name label
    """
    if vm.find_server(home.session, name, instance_uuid) is None:
        for ref in _orphans(home, instance_uuid):
            vdi.destroy(home.session, ref)


def _stop_hard(home: Home, ref: str) -> None:
    """Halt the VM at once; one that is halted or gone counts as stopped."""
    try:
        vm.hard_shutdown(home.session, ref)
    except (errors.VmBadPowerState, errors.HandleInvalid) as exc:
        LOG.debug("VM was stopped meanwhile: %s", exc)


def _own_disks(home: Home, record: vm.VmRecord | None, uuid: str) -> list[str]:
    """Return the VDIs that go with the VM, if there is one: no volumes.

    Of what is in its CD drives only what was made for it. A disk of another server,
    which an operator plugged into this one to repair it, stays.
    """
    if record is None:
        return []
    known = home.session.records[vdi.VdiRecord]
    found = []
    for drive in vbd.of_vm(home.session, record.ref):
        disk = known.get(drive.vdi or "")
        if disk is None or VOLUME_KEY in drive.other_config:
            continue
        # Disks of old, or added by hand, say nothing of a server.
        nobodys = uuid if drive.type == "Disk" else None
        if disk.other_config.get(INSTANCE_KEY, nobodys) == uuid:
            found.append(disk.ref)
    return found


def _orphans(home: Home, instance_uuid: str) -> list[str]:
    """Return disks that were made for the server and are in no VM.

    A snapshot of its disk may be on its way to an image, which comes to its end.
    """
    return [
        disk.ref
        for disk in home.session.records[vdi.VdiRecord].values()
        if disk.other_config.get(INSTANCE_KEY) == instance_uuid
        and disk.managed
        and not disk.is_a_snapshot
        and not disk.vbds
    ]

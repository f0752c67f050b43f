# SPDX-License-Identifier: Apache-2.0
"""Find a server that is on this host; start, stop, reboot, pause and set it aside."""

from __future__ import annotations

from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.xapi import errors, vm
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)

# What a guest without drivers or agent answers to a request for a clean stop, or
# one that did not finish: a hard stop is the way then.
CLEAN_STOP_FAILED = (
    "VM_MISSING_PV_DRIVERS",
    "VM_OLD_PV_DRIVERS",
    "VM_LACKS_FEATURE",
    "VM_LACKS_FEATURE_SHUTDOWN",
    "VM_SHUTDOWN_TIMEOUT",
    "VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT",
    "TASK_CANCELLED",
    "OPERATION_NOT_ALLOWED",
    # The guest stopped or was paused meanwhile.
    "VM_BAD_POWER_STATE",
)

# What the host tells whoever tries to start a server that is deleted softly.
SET_ASIDE = "deleted in OpenStack, where restoring the server starts it again"


def find(home: Home, name: str, uuid: str) -> vm.VmRecord:
    """Return the server's VM: of its name, and with its UUID in other_config.

    :raises exceptions.ServerNotFound: the host answered, and it is not there
    """
    record = vm.find_server(home.session, name, uuid)
    if record is None:
        raise exceptions.ServerNotFound(f"Server {name} has no VM on the host.")
    return record


def power_on(home: Home, name: str, uuid: str) -> None:
    """Start the server; one that runs counts as started."""
    record = find(home, name, uuid)
    if record.power_state == "Running":
        return
    if record.power_state == "Paused":
        vm.unpause(home.session, record.ref)
        return
    if record.power_state == "Suspended":
        # Its memory is kept; a start would be refused.
        vm.resume_on(home.session, record.ref, home.host.ref)
        return
    vm.start_on(home.session, record.ref, home.host.ref, paused=False)


def power_off(home: Home, name: str, uuid: str, timeout: int = 0) -> None:
    """Halt the server; one that is halted counts as stopped.

    :param timeout: seconds the guest has for a clean stop; 0 stops it hard
    """
    record = find(home, name, uuid)
    if record.power_state == "Halted":
        return
    if timeout and record.power_state == "Running":
        try:
            vm.clean_shutdown(home.session, record.ref, timeout=timeout)
            return
        except errors.XapiFailure as exc:
            if exc.code not in CLEAN_STOP_FAILED:
                raise
            LOG.info("Its guest did not stop by itself: %s", exc, instance_uuid=uuid)
    try:
        vm.hard_shutdown(home.session, record.ref)
    except errors.VmBadPowerState as exc:
        LOG.debug("Its guest stopped meanwhile: %s", exc, instance_uuid=uuid)


def reboot(home: Home, name: str, uuid: str, hard: bool) -> None:
    """Reboot the server; one that is halted is started.

    A soft reboot that the guest cannot carry out becomes a hard one.
    """
    record = find(home, name, uuid)
    if record.power_state == "Halted":
        vm.start_on(home.session, record.ref, home.host.ref, paused=False)
        return
    if record.power_state == "Suspended":
        # The memory image is dropped, as a reset would.
        vm.hard_shutdown(home.session, record.ref)
        vm.start_on(home.session, record.ref, home.host.ref, paused=False)
        return
    if not hard and record.power_state == "Running":
        try:
            vm.clean_reboot(home.session, record.ref)
            return
        except errors.XapiFailure as exc:
            if exc.code not in CLEAN_STOP_FAILED:
                raise
            LOG.info("Its guest did not reboot by itself: %s", exc, instance_uuid=uuid)
    try:
        vm.hard_reboot(home.session, record.ref)
    except errors.VmBadPowerState as exc:
        LOG.debug("Its guest stopped meanwhile: %s", exc, instance_uuid=uuid)
        vm.start_on(home.session, record.ref, home.host.ref, paused=False)


def pause(home: Home, name: str, uuid: str) -> None:
    """Stop the server's processors; its memory stays."""
    vm.pause(home.session, find(home, name, uuid).ref)


def unpause(home: Home, name: str, uuid: str) -> None:
    """Let the server's processors go on."""
    vm.unpause(home.session, find(home, name, uuid).ref)


def soft_delete(home: Home, name: str, uuid: str) -> None:
    """Halt the server and lock it, so that no operator or host start runs it.

    :raises exceptions.ServerNotFound: it has no VM
    """
    record = find(home, name, uuid)
    try:
        # First, or a start could slip in between.
        vm.lock_start(home.session, record, SET_ASIDE)
        if record.power_state != "Halted":
            vm.hard_shutdown(home.session, record.ref)
    except errors.VmBadPowerState as exc:
        LOG.debug("Its guest stopped meanwhile: %s", exc, instance_uuid=uuid)
    except BaseException:
        vm.unlock_start(home.session, vm.get(home.session, record.ref))
        raise


def restore(home: Home, name: str, uuid: str) -> None:
    """Unlock the server and start it; locked again where it does not start.

    :raises exceptions.ServerNotFound: it has no VM
    """
    record = find(home, name, uuid)
    vm.unlock_start(home.session, record)
    if record.power_state != "Halted":
        return
    try:
        vm.start_on(home.session, record.ref, home.host.ref, paused=False)
    except BaseException:
        vm.lock_start(home.session, vm.get(home.session, record.ref), SET_ASIDE)
        raise

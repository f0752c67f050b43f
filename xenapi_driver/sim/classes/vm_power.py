# SPDX-License-Identifier: Apache-2.0
"""Class VM: starting, stopping and what a running guest takes."""

import contextlib
import time

from xenapi_driver.sim import guests, states
from xenapi_driver.sim.classes import vdi
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.schema import NULL


def _require(call: Call, ref: str, operation: str) -> Row:
    row = call.db.row("VM", ref)
    states.require_state(ref, row, operation)
    return row


def _choose_host(call: Call, ref: str) -> str:
    """Return a host that can take the VM, its affinity first.

    :raises Failure: NO_HOSTS_AVAILABLE
    """
    affinity = call.db.row("VM", ref)["affinity"]
    hosts = sorted(call.db.refs("host"), key=lambda host: host != affinity)
    for host in hosts:
        with contextlib.suppress(Failure):
            guests.assert_can_boot(call.world, ref, host)
            return host
    raise Failure("NO_HOSTS_AVAILABLE")


@message("VM.start")
def start(call: Call, ref: str, paused: bool, force: bool) -> None:
    """Start on a host of the pool's choice."""
    _require(call, ref, "start")
    call.check_cancelled()
    guests.start(call.world, ref, _choose_host(call, ref), paused)


@message("VM.start_on")
def start_on(call: Call, ref: str, host: str, paused: bool, force: bool) -> None:
    """Start on this host."""
    _require(call, ref, "start_on")
    call.check_cancelled()
    call.db.row("host", host)
    guests.start(call.world, ref, host, paused)


@message("VM.pause")
def pause(call: Call, ref: str) -> None:
    """Hold the guest."""
    _require(call, ref, "pause")
    call.db.update("VM", ref, power_state="Paused")


@message("VM.unpause")
def unpause(call: Call, ref: str) -> None:
    """Let the guest go on."""
    _require(call, ref, "unpause")
    guests.wake(call.world, ref)
    call.db.update("VM", ref, power_state="Running")


@message("VM.hard_shutdown")
def hard_shutdown(call: Call, ref: str) -> None:
    """Take the domain away at once; breaks into other operations."""
    _require(call, ref, "hard_shutdown")
    _power_off(call, ref)


def _power_off(call: Call, ref: str) -> None:
    """Take the domain away, or the image of a suspended guest."""
    guests.stop(call.world, ref)
    image = call.db.row("VM", ref)["suspend_VDI"]
    if call.db.exists("VDI", image):
        call.db.update("VM", ref, suspend_VDI=NULL)
        vdi.destroy(call, image)


@message("VM.hard_reboot")
def hard_reboot(call: Call, ref: str) -> None:
    """Take the domain away and build a new one."""
    row = _require(call, ref, "hard_reboot")
    host = row["resident_on"]
    guests.stop(call.world, ref)
    guests.start(call.world, ref, host, False)


def _ask_guest(call: Call, ref: str, operation: str) -> bool:
    """Wait until the guest does what it is asked; False: it went off meanwhile.

    :raises Failure: no agent, a silent guest, or a cancelled task
    """
    db = call.db
    row = _require(call, ref, operation)
    if states.has_drivers(db, row):
        return True
    if not guests.silent(row):
        raise Failure("VM_LACKS_FEATURE", ref)
    timeout = call.world.behaviour.shutdown_timeout
    end = time.monotonic() + timeout
    key = call.task or db.new_ref()
    db.update("VM", ref, current_operations={key: operation})
    try:
        while time.monotonic() < end and not call.world.closing.is_set():
            call.check_cancelled()
            if not db.exists("VM", ref):
                return False
            if db.row("VM", ref)["power_state"] != "Running":
                return False
            db.changed.wait(min(0.2, max(0.0, end - time.monotonic())))
    finally:
        if db.exists("VM", ref):
            db.update("VM", ref, current_operations={})
    raise Failure("VM_SHUTDOWN_TIMEOUT", ref, f"{timeout:g}")


@message("VM.clean_shutdown", blocking=True)
def clean_shutdown(call: Call, ref: str) -> None:
    """Ask the guest to power off and wait for it."""
    with call.db.changed:
        if _ask_guest(call, ref, "clean_shutdown"):
            guests.stop(call.world, ref)


@message("VM.clean_reboot", blocking=True)
def clean_reboot(call: Call, ref: str) -> None:
    """Ask the guest to restart and wait for it."""
    with call.db.changed:
        if _ask_guest(call, ref, "clean_reboot"):
            host = call.db.row("VM", ref)["resident_on"]
            guests.stop(call.world, ref)
            guests.start(call.world, ref, host, False)


@message("VM.shutdown", blocking=True)
def shutdown(call: Call, ref: str) -> None:
    """Ask the guest to power off; if it does not, take the domain away."""
    with call.db.changed:
        row = _require(call, ref, "shutdown")
        if row["power_state"] == "Running":
            try:
                _ask_guest(call, ref, "clean_shutdown")
            except Failure as failure:
                if failure.code == "TASK_CANCELLED":
                    raise
        if call.db.row("VM", ref)["power_state"] != "Halted":
            _power_off(call, ref)


@message("VM.suspend")
def suspend(call: Call, ref: str) -> None:
    """Write the guest's memory to a disk and take the domain away."""
    db = call.db
    row = _require(call, ref, "suspend")
    if not states.has_drivers(db, row):
        raise Failure("VM_LACKS_FEATURE", ref)
    image = {
        "name_label": "Suspend image",
        "name_description": "Suspend image",
        "SR": _suspend_sr(call, ref, row),
        "type": "suspend",
        "virtual_size": row["memory_static_max"],
    }
    vdi_ref = vdi.create(call, {**image, "sm_config": {}})
    guests.stop(call.world, ref, "Suspended")
    db.update("VM", ref, suspend_VDI=vdi_ref)


def _suspend_sr(call: Call, ref: str, row: Row) -> str:
    """Return where the image goes: the VM's choice, the pool's, the host's.

    :raises Failure: VM_NO_SUSPEND_SR
    """
    db = call.db
    pool = db.row("pool", db.refs("pool")[0])
    host = db.row("host", row["resident_on"])
    for sr in (row["suspend_SR"], pool["suspend_image_SR"], host["suspend_image_sr"]):
        if db.exists("SR", sr):
            return str(sr)
    raise Failure("VM_NO_SUSPEND_SR", ref)


def _resume(call: Call, ref: str, host: str, paused: bool) -> None:
    image = call.db.row("VM", ref)["suspend_VDI"]
    if not call.db.exists("VDI", image):
        raise Failure("VM_HAS_NO_SUSPEND_VDI", ref)
    guests.start(call.world, ref, host, paused)
    call.db.update("VM", ref, suspend_VDI=NULL)
    vdi.destroy(call, image)


@message("VM.resume")
def resume(call: Call, ref: str, paused: bool, force: bool) -> None:
    """Go on from a suspend image on a host of the pool's choice."""
    _require(call, ref, "resume")
    _resume(call, ref, _choose_host(call, ref), paused)


@message("VM.resume_on")
def resume_on(call: Call, ref: str, host: str, paused: bool, force: bool) -> None:
    """Go on from a suspend image on this host."""
    _require(call, ref, "resume_on")
    call.db.row("host", host)
    _resume(call, ref, host, paused)


@message("VM.set_VCPUs_number_live")
def set_vcpus_number_live(call: Call, ref: str, number: int) -> None:
    """Change the processors of a running guest."""
    row = _require(call, ref, "changing_VCPUs_live")
    if not 0 < number <= row["VCPUs_max"]:
        text = "VCPU values must satisfy: 0 < VCPUs \u2264 VCPUs_max"
        raise Failure("INVALID_VALUE", text, str(row["VCPUs_max"]))
    call.db.update("VM_metrics", row["metrics"], VCPUs_number=number)
    call.db.update("VM", ref, VCPUs_at_startup=number)


@message("VM.send_trigger", "VM.send_sysrq", "VM.call_plugin")
def not_simulated(call: Call, ref: str, *arguments: object) -> None:
    """Check the power state as a host does; more is not simulated."""
    _require(call, ref, call.method.removeprefix("VM."))
    raise Failure("NOT_IMPLEMENTED", call.method)


@message("VM.power_state_reset")
def power_state_reset(call: Call, ref: str) -> None:
    """Write a VM down as halted; refused while its domain is there."""
    row = call.db.row("VM", ref)
    host = row["resident_on"]
    if row["power_state"] in ("Running", "Paused"):
        if host == call.world.coordinator:
            raise Failure("DOMAIN_EXISTS", ref)
        metrics = call.db.row("host", host)["metrics"]
        if call.db.row("host_metrics", metrics)["live"]:
            raise Failure("HOST_IS_LIVE", host)
    guests.stop(call.world, ref)


@message("VM.get_possible_hosts")
def get_possible_hosts(call: Call, ref: str) -> list[str]:
    """Return the hosts that could start the VM."""
    found = []
    for host in call.db.refs("host"):
        try:
            guests.assert_can_boot(call.world, ref, host)
        except Failure:
            # That host is not one of them: this is the answer, not a fault.
            continue
        found.append(host)
    return found


@message("VM.assert_can_boot_here")
def assert_can_boot_here(call: Call, ref: str, host: str) -> None:
    """Make the checks of a start."""
    call.db.row("host", host)
    guests.assert_can_boot(call.world, ref, host)


@message("VM.assert_agile")
def assert_agile(call: Call, ref: str) -> None:
    """Refuse a VM that uses a local SR."""
    for vbd in call.db.row("VM", ref)["VBDs"]:
        disk = call.db.row("VBD", vbd)["VDI"]
        if disk != NULL:
            sr = call.db.row("VDI", disk)["SR"]
            if not call.db.row("SR", sr)["shared"]:
                raise Failure("HOST_CANNOT_SEE_SR", NULL, sr)

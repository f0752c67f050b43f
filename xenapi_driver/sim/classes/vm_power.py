# SPDX-License-Identifier: Apache-2.0
"""Class VM: starting, stopping, suspending and what a guest is asked for."""

import json
import time

from xenapi_driver.sim.classes import vdi, vm_placement
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.pools import forwarding
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.storage import disks
from xenapi_driver.sim.vms import (
    guest_agent,
    guests,
    history,
    memory,
    operations,
    states,
)


@message("VM.start")
def start(call: Call, ref: str, paused: bool, force: bool) -> None:
    """Start on a host of the pool's choice."""
    with operations.under_way(call, ref, "start") as row:
        guests.assert_well_formed(ref, row)
        _start(call, ref, vm_placement.choose(call, ref), paused)


@message("VM.start_on")
def start_on(call: Call, ref: str, host: str, paused: bool, force: bool) -> None:
    """Start on this host."""
    with operations.under_way(call, ref, "start_on"):
        call.db.row("host", host)
        _start(call, ref, host, paused)


def _start(call: Call, ref: str, host: str, paused: bool) -> None:
    guests.start(call.world, ref, host, paused)
    where = history.on_host(call.db, ref)
    history.tell(call.db, ref, "VM_STARTED", f"started {where}")


@message("VM.pause")
def pause(call: Call, ref: str) -> None:
    """Hold the guest."""
    with operations.under_way(call, ref, "pause"):
        call.db.update("VM", ref, power_state="Paused")
        history.tell(call.db, ref, "VM_PAUSED", "paused")


@message("VM.unpause")
def unpause(call: Call, ref: str) -> None:
    """Let the guest go on."""
    with operations.under_way(call, ref, "unpause"):
        call.db.update("VM", ref, power_state="Running")
        guest_agent.booted(call.world, ref)
        history.tell(call.db, ref, "VM_UNPAUSED", "unpaused")


@message("VM.hard_shutdown")
def hard_shutdown(call: Call, ref: str) -> None:
    """Take the domain away at once; breaks into other operations."""
    with operations.under_way(call, ref, "hard_shutdown"):
        power_off(call, ref)


def power_off(call: Call, ref: str, how: str = "shutdown forcibly") -> None:
    """Take the domain away, or the image of a suspended guest."""
    guests.stop(call.world, ref)
    _drop_image(call, ref)
    history.tell(call.db, ref, "VM_SHUTDOWN", how)


def _drop_image(call: Call, ref: str) -> None:
    image = call.db.row("VM", ref)["suspend_VDI"]
    call.db.update("VM", ref, suspend_VDI=NULL)
    if call.db.exists("VDI", image):
        vdi.destroy(call, image)


@message("VM.hard_reboot")
def hard_reboot(call: Call, ref: str) -> None:
    """Take the domain away and build a new one."""
    with operations.under_way(call, ref, "hard_reboot"):
        _reboot(call, ref, "rebooted forcibly")


def _reboot(call: Call, ref: str, how: str) -> None:
    guests.reboot(call.world, ref)
    history.tell(call.db, ref, "VM_REBOOTED", how)


def _ask_guest(call: Call, ref: str, row: Row) -> bool:
    """Wait until the guest does what it is asked; False: it went off meanwhile.

    :raises Failure: a silent guest, or a cancelled task
    """
    db = call.db
    if not guest_agent.silent(row):
        return True
    timeout = call.world.behaviour.shutdown_timeout
    end = time.monotonic() + timeout
    domid = row["domid"]
    while time.monotonic() < end and not call.world.closing.is_set():
        call.check_cancelled()
        if not db.exists("VM", ref) or db.row("VM", ref)["domid"] != domid:
            return False
        db.changed.wait(min(0.2, max(0.0, end - time.monotonic())))
    raise Failure("VM_SHUTDOWN_TIMEOUT", ref, f"{timeout:g}")


@message("VM.clean_shutdown", blocking=True)
def clean_shutdown(call: Call, ref: str) -> None:
    """Ask the guest to power off and wait for it."""
    with operations.under_way(call, ref, "clean_shutdown") as row:
        if _ask_guest(call, ref, row):
            power_off(call, ref, "shutdown")


@message("VM.clean_reboot", blocking=True)
def clean_reboot(call: Call, ref: str) -> None:
    """Ask the guest to restart and wait for it."""
    with operations.under_way(call, ref, "clean_reboot") as row:
        if _ask_guest(call, ref, row):
            _reboot(call, ref, "rebooted")


@message("VM.shutdown", blocking=True)
def shutdown(call: Call, ref: str) -> None:
    """Ask the guest to power off; if it does not, take the domain away."""
    with call.db.changed:
        row = states.require(call.db, ref, "shutdown")
        if row["power_state"] == "Running":
            try:
                clean_shutdown(call, ref)
            except Failure as failure:
                if failure.code == "TASK_CANCELLED":
                    raise
        if call.db.row("VM", ref)["power_state"] != "Halted":
            hard_shutdown(call, ref)


@message("VM.suspend")
def suspend(call: Call, ref: str) -> None:
    """Write the guest's memory to a disk and take the domain away."""
    with operations.under_way(call, ref, "suspend"):
        to_image(call, ref)
        history.tell(call.db, ref, "VM_SUSPENDED", "suspended")


def to_image(call: Call, ref: str) -> None:
    """Put a guest with a domain into a suspend image.

    :raises Failure: VM_NO_SUSPEND_SR, or there is no room for the image
    """
    db = call.db
    row = db.row("VM", ref)
    size = memory.image_size(row)
    sr = _suspend_sr(call, ref, row)
    image = {
        "name_label": "Suspend image",
        "name_description": "Suspend image",
        "SR": sr,
        "type": "suspend",
        "virtual_size": size,
        "sm_config": {"vmhint": row["uuid"], "initial_allocation": str(size)},
    }
    where = vdi.create(call, image)
    booted = _domain(call, row)
    try:
        with disks.backend_errors():
            store = disks.store_of(call.world, sr)
            store.write(db.row("VDI", where)["location"], 0, booted.encode())
    except Failure:
        vdi.destroy(call, where)
        raise
    disks.scan(call.world, sr)
    guests.stop(call.world, ref, "Suspended")
    db.update("VM", ref, suspend_VDI=where, last_booted_record=booted)


def _domain(call: Call, row: Row) -> str:
    """Return the text that is kept of a domain while it is an image."""
    metrics = call.db.row("VM_metrics", row["metrics"])
    return json.dumps(
        {
            "suspended": True,
            "uuid": row["uuid"],
            "domid": row["domid"],
            "hvm": row["domain_type"] == "hvm",
            "vcpus": metrics["VCPUs_number"],
            "memory_dynamic_min": row["memory_dynamic_min"],
            "memory_dynamic_max": row["memory_dynamic_max"],
            "shadow_multiplier": row["HVM_shadow_multiplier"],
            "xsdata": row["xenstore_data"],
        }
    )


def _suspend_sr(call: Call, ref: str, row: Row) -> str:
    """Return where the image goes: the VM's choice, the pool's, the host's.

    What the host does not see is passed over.

    :raises Failure: VM_NO_SUSPEND_SR
    """
    db = call.db
    pool = db.row("pool", db.refs("pool")[0])
    host = db.row("host", row["resident_on"])
    for sr in (row["suspend_SR"], pool["suspend_image_SR"], host["suspend_image_sr"]):
        if db.exists("SR", sr) and guests.sees(db, row["resident_on"], sr):
            return str(sr)
    raise Failure("VM_NO_SUSPEND_SR", ref)


def from_image(call: Call, ref: str, host: str, paused: bool) -> None:
    """Let a suspended guest go on.

    :raises Failure: VM_HAS_NO_SUSPEND_VDI, or a check of its start
    """
    if not call.db.exists("VDI", call.db.row("VM", ref)["suspend_VDI"]):
        raise Failure("VM_HAS_NO_SUSPEND_VDI", ref)
    guests.resume(call.world, ref, host, paused)
    _drop_image(call, ref)


@message("VM.resume")
def resume(call: Call, ref: str, paused: bool, force: bool) -> None:
    """Go on from a suspend image on a host of the pool's choice."""
    with operations.under_way(call, ref, "resume"):
        from_image(call, ref, vm_placement.choose(call, ref), paused)
        where = history.on_host(call.db, ref)
        history.tell(call.db, ref, "VM_RESUMED", f"resumed {where}")


@message("VM.resume_on")
def resume_on(call: Call, ref: str, host: str, paused: bool, force: bool) -> None:
    """Go on from a suspend image on this host."""
    with operations.under_way(call, ref, "resume_on"):
        call.db.row("host", host)
        from_image(call, ref, host, paused)
        where = history.on_host(call.db, ref)
        history.tell(call.db, ref, "VM_RESUMED", f"resumed {where}")


@message("VM.power_state_reset")
def power_state_reset(call: Call, ref: str) -> None:
    """Write a VM down as halted; refused while its domain can be there."""
    db = call.db
    row = states.require(db, ref, "power_state_reset")
    host = row["resident_on"]
    if row["power_state"] in ("Running", "Paused") and db.exists("host", host):
        if host == call.world.coordinator:
            raise Failure("DOMAIN_EXISTS", ref)
        if forwarding.is_alive(call.world, host):
            raise Failure("HOST_IS_LIVE", host)
    guests.stop(call.world, ref)
    db.update("VM", ref, current_operations={}, scheduled_to_be_resident_on=NULL)
    _drop_image(call, ref)

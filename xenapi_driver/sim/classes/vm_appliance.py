# SPDX-License-Identifier: Apache-2.0
"""Class VM_appliance: VMs that are started and stopped together, in an order."""

from collections.abc import Callable
from itertools import groupby

from xenapi_driver.sim.classes import vm_power
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row

_STOPPED = "Halted"


@computed("VM_appliance", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what a client may ask of the appliance now."""
    if row["current_operations"] or not row["VMs"]:
        return []
    states = {db.row("VM", vm)["power_state"] for vm in row["VMs"]}
    found = ["start"] if _STOPPED in states else []
    if states != {_STOPPED}:
        found += ["clean_shutdown", "hard_shutdown", "shutdown"]
    return found


def _require(call: Call, ref: str, operation: str) -> Row:
    """Refuse what the appliance does not take now; return its row."""
    row = call.db.row("VM_appliance", ref)
    for key, other in row["current_operations"].items():
        code = "OTHER_OPERATION_IN_PROGRESS"
        raise Failure(code, "VM_appliance", ref, other, key)
    if not row["VMs"]:
        raise Failure("OPERATION_NOT_ALLOWED", "Appliance has no VMs.")
    if operation not in allowed_operations(call.db, ref, row):
        raise Failure("OPERATION_NOT_ALLOWED", "No VM is in a state for this.")
    return row


def _groups(call: Call, vms: list[str], descending: bool) -> list[list[str]]:
    """Return VMs by their order, those of the same order together."""

    def place(vm: str) -> int:
        return int(call.db.row("VM", vm)["order"])

    members = sorted(vms, key=place, reverse=descending)
    return [list(group) for _, group in groupby(members, key=place)]


def _each(call: Call, ref: str, descending: bool, act: Callable[[str], None]) -> None:
    """Do something with all members, and show the appliance doing it meanwhile.

    :raises Failure: OPERATION_PARTIALLY_FAILED; members further on were left alone
    """
    db = call.db
    operation = call.method.removeprefix("VM_appliance.")
    with db.changed:
        row = _require(call, ref, operation)
        groups = _groups(call, row["VMs"], descending)
        key = call.task or f"DummyRef:|{db.new_uuid()}|{call.method}"
        db.update("VM_appliance", ref, current_operations={key: operation})
    try:
        for group in groups:
            failed = [vm for vm in group if not _done(call, act, vm)]
            if failed:
                raise Failure("OPERATION_PARTIALLY_FAILED", call.method, *failed)
    finally:
        with db.changed:
            if db.exists("VM_appliance", ref):
                db.update("VM_appliance", ref, current_operations={})


def _done(call: Call, act: Callable[[str], None], vm: str) -> bool:
    call.check_cancelled()
    try:
        act(vm)
    except Failure as failure:
        if failure.code == "TASK_CANCELLED":
            raise
        return False
    return True


@message("VM_appliance.start", blocking=True)
def start(call: Call, ref: str, paused: bool) -> None:
    """Start the members that are halted, the lowest order first."""

    def act(vm: str) -> None:
        if call.db.row("VM", vm)["power_state"] == _STOPPED:
            vm_power.start(call, vm, paused, False)

    _each(call, ref, False, act)


@message(
    "VM_appliance.clean_shutdown",
    "VM_appliance.hard_shutdown",
    "VM_appliance.shutdown",
    blocking=True,
)
def stop(call: Call, ref: str) -> None:
    """Stop the members that are not halted, the highest order first."""
    name = call.method.removeprefix("VM_appliance.")

    def act(vm: str) -> None:
        if call.db.row("VM", vm)["power_state"] != _STOPPED:
            _STOPS[name](call, vm)

    _each(call, ref, True, act)


_STOPS: dict[str, Callable[[Call, str], None]] = {
    "clean_shutdown": vm_power.clean_shutdown,
    "hard_shutdown": vm_power.hard_shutdown,
    "shutdown": vm_power.shutdown,
}


@message("VM_appliance.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove the appliance; its members stay."""
    for vm in list(call.db.row("VM_appliance", ref)["VMs"]):
        call.db.update("VM", vm, appliance="OpaqueRef:NULL")
    call.db.destroy("VM_appliance", ref)

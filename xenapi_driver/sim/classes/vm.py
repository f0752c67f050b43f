# SPDX-License-Identifier: Apache-2.0
"""Class VM: records of guests, templates and control domains."""

from typing import Any

from xenapi_driver.sim.classes import vdi
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.vms import guests, memory, states, vm_copies
from xenapi_driver.sim.world import now

# Constructor fields that are accepted and ignored (quirks of the data model).
_IGNORED = (
    "blocked_operations",
    "protection_policy",
    "is_snapshot_from_vmpp",
    "snapshot_schedule",
    "is_vmss_snapshot",
)
_HA_PRIORITIES = ("", "restart", "best-effort")
# The virtual hardware that brings the vendor's device.
_VENDOR_PLATFORM = 2


@computed("VM", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what a client may ask of the VM now."""
    return states.allowed_operations(db, row)


@message("VM.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Make a record. Nothing but types is checked: a start checks the rest."""
    db = call.db
    for name in _IGNORED:
        record.pop(name, None)
    record["other_config"].setdefault("mac_seed", db.new_uuid())
    image = db.exists("VDI", record["suspend_VDI"])
    if record["power_state"] != "Suspended" or not image:
        record["power_state"] = "Halted"
    if record["domain_type"] == "unspecified":
        record["domain_type"] = "hvm" if record["HVM_boot_policy"] else "pv"
    elif record["domain_type"] != "pv" and not record["HVM_boot_policy"]:
        record["HVM_boot_policy"] = "BIOS order"
    record["memory_overhead"] = memory.overhead(record)
    record["metrics"] = guests.new_metrics(db)
    record["domid"] = -1
    if record["has_vendor_device"]:
        record["hardware_platform_version"] = max(
            _VENDOR_PLATFORM, record["hardware_platform_version"]
        )
    return db.create("VM", record)


@message("VM.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove the record with its VBDs, VIFs and metrics; disks stay."""
    db = call.db
    row = states.require(db, ref, "destroy")
    image = row["suspend_VDI"]
    if db.exists("VDI", image):
        db.update("VM", ref, suspend_VDI=NULL)
        vdi.destroy(call, image)
    vm_copies.discard(call, ref)


# Templates


@message("VM.set_is_a_template")
def set_is_a_template(call: Call, ref: str, value: bool) -> None:
    """Turn a halted VM into a template, or a template into a VM."""
    db = call.db
    row = db.row("VM", ref)
    if not value:
        if db.exists("VM_metrics", row["metrics"]):
            db.update("VM_metrics", row["metrics"], install_time=now())
        db.update("VM", ref, is_a_template=False)
        return
    if not row["is_a_template"]:
        states.require(db, ref, "make_into_template")
    if db.exists("VM_appliance", row["appliance"]):
        raise Failure("VM_IS_PART_OF_AN_APPLIANCE", ref, row["appliance"])
    if db.exists("VMSS", row["snapshot_schedule"]):
        code = "VM_ASSIGNED_TO_SNAPSHOT_SCHEDULE"
        raise Failure(code, ref, row["snapshot_schedule"])
    if db.exists("VM_metrics", row["metrics"]):
        db.destroy("VM_metrics", row["metrics"])
    db.update("VM", ref, is_a_template=True, metrics=NULL)


@message("VM.set_is_default_template")
def set_is_default_template(call: Call, ref: str, value: bool) -> None:
    """Count a template among those that came with the host, or no longer."""
    config = dict(call.db.row("VM", ref)["other_config"])
    if value:
        set_is_a_template(call, ref, True)
    else:
        config.pop("default_template", None)
    call.db.update("VM", ref, is_default_template=value, other_config=config)


# Setters


@message("VM.set_ha_restart_priority")
def set_ha_restart_priority(call: Call, ref: str, value: str) -> None:
    """Choose what becomes of the guest when its host dies, where HA is on."""
    if value not in _HA_PRIORITIES:
        raise Failure("INVALID_VALUE", "ha_restart_priority", value)
    call.db.update("VM", ref, ha_restart_priority=value)


@message("VM.set_start_delay", "VM.set_shutdown_delay", "VM.set_order")
def set_order(call: Call, ref: str, value: int) -> None:
    """Set the VM's place in the start of an appliance; delays in seconds."""
    name = call.method.removeprefix("VM.set_")
    if value < 0:
        text = f"{name} must be non-negative"
        raise Failure("INVALID_VALUE", text, str(value))
    call.db.update("VM", ref, **{name: value})


@message("VM.set_has_vendor_device")
def set_has_vendor_device(call: Call, ref: str, value: bool) -> None:
    """Add or remove the device that brings drivers by Windows Update."""
    row = call.db.row("VM", ref)
    if row["power_state"] != "Halted":
        state = row["power_state"].lower()
        raise Failure("VM_BAD_POWER_STATE", ref, "halted", state)
    version = row["hardware_platform_version"]
    if value:
        version = max(_VENDOR_PLATFORM, version)
    call.db.update(
        "VM", ref, has_vendor_device=value, hardware_platform_version=version
    )


@message("VM.set_suspend_VDI")
def set_suspend_vdi(call: Call, ref: str, value: str) -> None:
    """Point a suspended guest to an identical copy of its image."""
    row = call.db.row("VM", ref)
    if row["power_state"] != "Suspended":
        state = row["power_state"].lower()
        raise Failure("VM_BAD_POWER_STATE", ref, "suspended", state)
    call.db.row("VDI", value)
    old = row["suspend_VDI"]
    if old != value and not _same_content(call, old, value):
        raise Failure("SUSPEND_VDI_REPLACEMENT_IS_NOT_IDENTICAL", old, value)
    call.db.update("VM", ref, suspend_VDI=value)


def _same_content(call: Call, one: str, other: str) -> bool:
    if not call.db.exists("VDI", one):
        return False
    rows = [call.db.row("VDI", ref) for ref in (one, other)]
    if rows[0]["virtual_size"] != rows[1]["virtual_size"]:
        return False
    contents = []
    for row in rows:
        store = call.world.stores.get(row["SR"])
        if store is None:
            return False
        pieces = store.data(row["location"])
        contents.append(sorted((at, bytes(data)) for at, data in pieces if any(data)))
    return contents[0] == contents[1]


@message("VM.set_appliance")
def set_appliance(call: Call, ref: str, value: str) -> None:
    """Make the VM part of an appliance, or of none."""
    row = call.db.row("VM", ref)
    if value != NULL:
        call.db.row("VM_appliance", value)
        if row["is_control_domain"]:
            text = "Control domains cannot be assigned to appliances."
            raise Failure("OPERATION_NOT_ALLOWED", text)
        if row["is_a_template"]:
            raise Failure("VM_IS_TEMPLATE", ref, "set_appliance")
    call.db.update("VM", ref, appliance=value)


@message("VM.set_snapshot_schedule")
def set_snapshot_schedule(call: Call, ref: str, value: str) -> None:
    """Have snapshots of the VM made by a schedule, or by none."""
    row = call.db.row("VM", ref)
    if value != NULL:
        call.db.row("VMSS", value)
        if row["is_a_template"]:
            raise Failure("VM_IS_TEMPLATE", ref, "set_snapshot_schedule")
    call.db.update("VM", ref, snapshot_schedule=value)


@message("VM.set_groups")
def set_groups(call: Call, ref: str, value: list[str]) -> None:
    """Put the VM into one group, or into none."""
    if len(value) > 1:
        raise Failure("TOO_MANY_GROUPS")
    for group in value:
        call.db.row("VM_group", group)
    call.db.update("VM", ref, groups=value)


@message(
    "VM.set_other_config",
    "VM.set_platform",
    "VM.set_blocked_operations",
    "VM.set_actions_after_crash",
    "VM.set_ha_always_run",
)
def set_plainly(call: Call, ref: str, value: Any) -> None:
    """Set a field whose setter the model writes by hand, but which needs no check."""
    call.db.update("VM", ref, **{call.method.removeprefix("VM.set_"): value})


@message(
    "VM.add_to_other_config",
    "VM.add_to_platform",
    "VM.add_to_blocked_operations",
)
def add_to(call: Call, ref: str, key: str, value: str) -> None:
    """Add a key to a map."""
    call.db.add_to_map("VM", ref, call.method.removeprefix("VM.add_to_"), {key: value})


@message(
    "VM.remove_from_other_config",
    "VM.remove_from_platform",
    "VM.remove_from_blocked_operations",
)
def remove_from(call: Call, ref: str, key: str) -> None:
    """Remove a key from a map."""
    name = call.method.removeprefix("VM.remove_from_")
    call.db.remove_from_map("VM", ref, name, key)


# Operations as such


@message("VM.update_allowed_operations")
def update_allowed_operations(call: Call, ref: str) -> None:
    """Do nothing: they are worked out when they are read."""


@message("VM.assert_operation_valid")
def assert_operation_valid(call: Call, ref: str, operation: str) -> None:
    """Refuse an operation that would be refused."""
    if operation in states.STATES:
        states.require(call.db, ref, operation)


@message("VM.query_services")
def query_services(call: Call, ref: str) -> dict[str, str]:
    """Refuse: no VM here does a host's work."""
    raise Failure("NOT_SYSTEM_DOMAIN", ref)


@message("VM.get_cooperative")
def get_cooperative(call: Call, ref: str) -> bool:
    """Return whether the guest gives memory back; nobody asks any more."""
    return True


@message("VM.update_snapshot_metadata")
def update_snapshot_metadata(
    call: Call, ref: str, snapshot_of: str, time: str, transportable: str
) -> None:
    """Write down what an imported snapshot is one of."""
    call.db.update(
        "VM",
        ref,
        is_a_snapshot=True,
        snapshot_of=snapshot_of,
        snapshot_time=time,
        transportable_snapshot_id=transportable,
    )

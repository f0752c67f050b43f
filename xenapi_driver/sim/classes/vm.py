# SPDX-License-Identifier: Apache-2.0
"""Class VM: records of guests, templates and control domains."""

from typing import Any

from xenapi_driver.sim import memory, states
from xenapi_driver.sim.classes import vdi
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.wire import Timestamp
from xenapi_driver.sim.world import now

# Constructor fields that are accepted and ignored (quirks of the data model).
_IGNORED = (
    "blocked_operations",
    "protection_policy",
    "is_snapshot_from_vmpp",
    "snapshot_schedule",
    "is_vmss_snapshot",
)
_VCPUS = "VCPU values must satisfy: 0 < VCPUs_at_startup \u2264 VCPUs_max"


@computed("VM", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what a client may ask of the VM now."""
    return states.allowed_operations(db, ref, row)


@message("VM.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Make a record. Nothing but types is checked: a start checks the rest."""
    db = call.db
    for name in _IGNORED:
        record.pop(name, None)
    record["other_config"].setdefault("mac_seed", db.new_uuid())
    record["power_state"] = "Halted"
    if record["domain_type"] == "unspecified":
        record["domain_type"] = "hvm" if record["HVM_boot_policy"] else "pv"
    elif record["domain_type"] != "pv" and not record["HVM_boot_policy"]:
        record["HVM_boot_policy"] = "BIOS order"
    record["memory_overhead"] = memory.overhead(record)
    record["metrics"] = new_metrics(db)
    record["domid"] = -1
    if record["has_vendor_device"]:
        record["hardware_platform_version"] = max(
            2, record["hardware_platform_version"]
        )
    return db.create("VM", record)


def new_metrics(db: Registry) -> str:
    """Make the metrics object of a VM."""
    values = {"VCPUs_utilisation": {"0": 0.0}, "current_domain_type": "unspecified"}
    return db.create("VM_metrics", values)


@message("VM.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove the record with its VBDs, VIFs and metrics; disks stay."""
    db = call.db
    row = db.row("VM", ref)
    states.require_state(ref, row, "destroy")
    if row["is_default_template"]:
        raise Failure("VM_CANNOT_DELETE_DEFAULT_TEMPLATE", ref)
    image = row["suspend_VDI"]
    if db.exists("VDI", image):
        db.update("VM", ref, suspend_VDI=NULL)
        vdi.destroy(call, image)
    for cls, name in (("VBD", "VBDs"), ("VIF", "VIFs"), ("console", "consoles")):
        for device in list(row[name]):
            db.destroy(cls, device)
    for cls, name in (("VM_metrics", "metrics"), ("VM_guest_metrics", "guest_metrics")):
        if db.exists(cls, row[name]):
            db.destroy(cls, row[name])
    for snapshot in list(row["snapshots"]):
        db.update("VM", snapshot, snapshot_of=NULL)
    db.destroy("VM", ref)


def _copy(call: Call, source: str, name: str, extra: dict[str, Any]) -> str:
    """Make a VM like ``source``: record and VIFs, no disks yet."""
    db = call.db
    row = db.row("VM", source)
    model = db.schema.classes["VM"].fields
    kept = {
        field: row[field]
        for field, about in model.items()
        if about.qualifier != "D" and field not in _IGNORED
    }
    config = {**row["other_config"], "mac_seed": db.new_uuid()}
    config.pop("default_template", None)
    new = db.create(
        "VM",
        {
            **kept,
            "name_label": name,
            "other_config": config,
            "power_state": "Halted",
            "suspend_VDI": NULL,
            "metrics": new_metrics(db),
            "domid": -1,
            "memory_overhead": row["memory_overhead"],
            **extra,
        },
    )
    for ref in row["VIFs"]:
        _copy_row(db, "VIF", ref, {"VM": new})
    return new


def _copy_row(db: Registry, cls: str, ref: str, extra: dict[str, Any]) -> str:
    row = db.row(cls, ref)
    model = db.schema.classes[cls].fields
    kept = {name: row[name] for name in model if model[name].qualifier != "D"}
    return db.create(cls, {**kept, "currently_attached": False, **extra})


def _copy_disks(call: Call, source: str, new: str, operation: str, sr: str) -> None:
    db = call.db
    for ref in db.row("VM", source)["VBDs"]:
        row = db.row("VBD", ref)
        disk = row["VDI"]
        if row["type"] == "Disk" and not row["empty"]:
            if operation == "snapshot":
                disk = vdi.snapshot(call, disk, {})
            elif operation == "copy":
                target = sr if sr != NULL else db.row("VDI", disk)["SR"]
                disk = vdi.copy(call, disk, target, NULL, NULL)
            else:
                disk = vdi.clone(call, disk, {})
        _copy_row(db, "VBD", ref, {"VM": new, "VDI": disk, "device": ""})


@message("VM.clone")
def clone(call: Call, ref: str, name: str) -> str:
    """Make a VM like this one on copy-on-write disks."""
    row = call.db.row("VM", ref)
    states.require_state(ref, row, "clone")
    new = _copy(call, ref, name, {})
    _copy_disks(call, ref, new, "clone", NULL)
    return new


@message("VM.copy")
def copy(call: Call, ref: str, name: str, sr: str) -> str:
    """Make a VM like this one on full copies of its disks."""
    row = call.db.row("VM", ref)
    states.require_state(ref, row, "copy")
    if sr != NULL:
        call.db.row("SR", sr)
    new = _copy(call, ref, name, {})
    _copy_disks(call, ref, new, "copy", sr)
    return new


@message("VM.snapshot")
def snapshot(call: Call, ref: str, name: str, ignore_vdis: list[str]) -> str:
    """Keep record and disks as they are now."""
    row = call.db.row("VM", ref)
    states.require_state(ref, row, "snapshot")
    stamp = now()
    extra = {
        "is_a_template": True,
        "is_a_snapshot": True,
        "snapshot_of": ref,
        "snapshot_time": Timestamp(stamp),
        "other_config": dict(row["other_config"]),
    }
    new = _copy(call, ref, name, extra)
    _copy_disks(call, ref, new, "snapshot", NULL)
    return new


@message("VM.provision")
def provision(call: Call, ref: str) -> None:
    """Turn a clone of a template into a VM."""
    row = call.db.row("VM", ref)
    states.require_state(ref, row, "provision")
    if not row["is_a_template"]:
        raise Failure("PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
    call.db.update("VM", ref, is_a_template=False)


@message("VM.set_is_a_template")
def set_is_a_template(call: Call, ref: str, value: bool) -> None:
    """Turn a halted VM into a template or back."""
    if value:
        states.require_state(ref, call.db.row("VM", ref), "make_into_template")
    call.db.update("VM", ref, is_a_template=value)


@message("VM.set_VCPUs_max", "VM.set_VCPUs_at_startup")
def set_vcpus(call: Call, ref: str, value: int) -> None:
    """Change the number of processors of a halted VM."""
    row = call.db.row("VM", ref)
    name = call.method.removeprefix("VM.set_")
    if name == "VCPUs_max":
        states.require_state(ref, row, "changing_VCPUs")
    after = {**row, name: value}
    if not 0 < after["VCPUs_at_startup"] <= after["VCPUs_max"]:
        raise Failure("INVALID_VALUE", _VCPUS, str(value))
    overhead = memory.overhead(after)
    call.db.update("VM", ref, **{name: value}, memory_overhead=overhead)


def _set_memory(call: Call, ref: str, operation: str, **limits: int) -> None:
    """Change some of the four limits; they must stay in order."""
    row = call.db.row("VM", ref)
    states.require_state(ref, row, operation)
    after = {**row, **limits}
    order = [
        after[f"memory_{name}"]
        for name in ("static_min", "dynamic_min", "dynamic_max", "static_max")
    ]
    if order != sorted(order):
        raise Failure("MEMORY_CONSTRAINT_VIOLATION_ORDER")
    call.db.update(
        "VM",
        ref,
        **limits,
        memory_target=after["memory_dynamic_max"],
        memory_overhead=memory.overhead(after),
    )


@message("VM.set_memory_limits")
def set_memory_limits(
    call: Call, ref: str, static_min: int, static_max: int, low: int, high: int
) -> None:
    """Set all four limits of a halted VM."""
    _set_memory(
        call,
        ref,
        "changing_memory_limits",
        memory_static_min=static_min,
        memory_static_max=static_max,
        memory_dynamic_min=low,
        memory_dynamic_max=high,
    )


@message("VM.set_memory")
def set_memory(call: Call, ref: str, value: int) -> None:
    """Set the memory of a halted VM."""
    _set_memory(
        call,
        ref,
        "changing_memory_limits",
        memory_static_max=value,
        memory_dynamic_min=value,
        memory_dynamic_max=value,
    )


@message("VM.set_memory_dynamic_range")
def set_memory_dynamic_range(call: Call, ref: str, low: int, high: int) -> None:
    """Set the range in which a guest's memory may move, live too."""
    _set_memory(
        call,
        ref,
        "changing_dynamic_range",
        memory_dynamic_min=low,
        memory_dynamic_max=high,
    )


@message("VM.set_memory_static_range")
def set_memory_static_range(call: Call, ref: str, low: int, high: int) -> None:
    """Set the outer limits of a halted VM."""
    _set_memory(
        call,
        ref,
        "changing_static_range",
        memory_static_min=low,
        memory_static_max=high,
    )


@message(
    "VM.set_memory_static_max",
    "VM.set_memory_static_min",
    "VM.set_memory_dynamic_max",
    "VM.set_memory_dynamic_min",
)
def set_one_limit(call: Call, ref: str, value: int) -> None:
    """Set one limit."""
    name = call.method.removeprefix("VM.set_")
    moving = "dynamic" in name
    operation = "changing_dynamic_range" if moving else "changing_memory_limits"
    _set_memory(call, ref, operation, **{name: value})


@message("VM.compute_memory_overhead")
def compute_memory_overhead(call: Call, ref: str) -> int:
    """Return the bytes that the VM costs beyond its own memory."""
    return memory.overhead(call.db.row("VM", ref))


@message("VM.set_HVM_shadow_multiplier")
def set_hvm_shadow_multiplier(call: Call, ref: str, value: float) -> None:
    """Change the share of shadow memory of a halted VM."""
    row = call.db.row("VM", ref)
    states.require_state(ref, row, "changing_shadow_memory")
    if value < 1.0:
        raise Failure("INVALID_VALUE", "multiplier", f"{value:g}")
    overhead = memory.overhead({**row, "HVM_shadow_multiplier": value})
    call.db.update("VM", ref, HVM_shadow_multiplier=value, memory_overhead=overhead)


@message("VM.set_domain_type")
def set_domain_type(call: Call, ref: str, value: str) -> None:
    """Choose how the guest is virtualised from its next start on."""
    policy = "" if value == "pv" else "BIOS order"
    call.db.update("VM", ref, domain_type=value, HVM_boot_policy=policy)


@message("VM.set_HVM_boot_policy")
def set_hvm_boot_policy(call: Call, ref: str, value: str) -> None:
    """Choose the kind of guest in the older way."""
    kind = "hvm" if value else "pv"
    call.db.update("VM", ref, domain_type=kind, HVM_boot_policy=value)


@message(
    "VM.set_other_config",
    "VM.set_platform",
    "VM.set_blocked_operations",
    "VM.set_actions_after_crash",
    "VM.set_has_vendor_device",
    "VM.set_start_delay",
    "VM.set_shutdown_delay",
    "VM.set_order",
    "VM.set_ha_restart_priority",
    "VM.set_bios_strings",
    "VM.set_NVRAM",
)
def set_plainly(call: Call, ref: str, value: Any) -> None:
    """Set a field whose setter the model writes by hand, but which needs no check."""
    call.db.update("VM", ref, **{call.method.removeprefix("VM.set_"): value})


@message(
    "VM.add_to_other_config",
    "VM.add_to_platform",
    "VM.add_to_blocked_operations",
    "VM.add_to_NVRAM",
)
def add_to(call: Call, ref: str, key: str, value: str) -> None:
    """Add a key to a map."""
    call.db.add_to_map("VM", ref, call.method.removeprefix("VM.add_to_"), {key: value})


@message(
    "VM.remove_from_other_config",
    "VM.remove_from_platform",
    "VM.remove_from_blocked_operations",
    "VM.remove_from_NVRAM",
)
def remove_from(call: Call, ref: str, key: str) -> None:
    """Remove a key from a map."""
    name = call.method.removeprefix("VM.remove_from_")
    call.db.remove_from_map("VM", ref, name, key)


@message("VM.update_allowed_operations")
def update_allowed_operations(call: Call, ref: str) -> None:
    """Do nothing: they are worked out when they are read."""


@message("VM.assert_operation_valid")
def assert_operation_valid(call: Call, ref: str, operation: str) -> None:
    """Refuse an operation that would be refused."""
    if operation in states.STATES:
        states.require_state(ref, call.db.row("VM", ref), operation)

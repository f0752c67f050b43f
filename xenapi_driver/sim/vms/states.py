# SPDX-License-Identifier: Apache-2.0
"""What a VM may do when, and the refusals that follow; in XAPI's order of checks.

Blocked by its owner, power state, other operations under way, template or snapshot,
control domain, what the guest can do ("XAPI today", sections 6 and 8).
"""

from functools import lru_cache
from typing import NamedTuple

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Registry, Row

_HALTED = ("Halted",)
_RUNNING = ("Running",)
_ANY = ("Halted", "Paused", "Suspended", "Running")

# Power states in which an operation is allowed, in the order of XAPI's error texts;
# the operations in the order in which a client is told of them.
STATES: dict[str, tuple[str, ...]] = {
    "create_vtpm": _HALTED,
    "sysprep": _RUNNING,
    "destroy": ("Halted", "Suspended"),
    "metadata_export": _ANY,
    "export": ("Halted", "Suspended"),
    "make_into_template": _HALTED,
    "changing_NVRAM": _HALTED,
    "changing_VCPUs_live": _RUNNING,
    "changing_shadow_memory": _HALTED,
    "changing_static_range": _HALTED,
    "changing_dynamic_range": ("Halted", "Running"),
    "migrate_send": ("Halted", "Suspended", "Running"),
    "pool_migrate": _RUNNING,
    "resume_on": ("Suspended",),
    "resume": ("Suspended",),
    "suspend": _RUNNING,
    "hard_reboot": ("Paused", "Running"),
    "hard_shutdown": ("Paused", "Suspended", "Running"),
    "clean_reboot": _RUNNING,
    "clean_shutdown": _RUNNING,
    "unpause": ("Paused",),
    "pause": _RUNNING,
    "start_on": _HALTED,
    "start": _HALTED,
    "provision": _HALTED,
    "revert": _ANY,
    "checkpoint": ("Suspended", "Running"),
    "copy": _HALTED,
    "clone": _HALTED,
    "snapshot": _ANY,
    "changing_VCPUs": _HALTED,
    "changing_memory_limits": _HALTED,
    "changing_memory_live": _RUNNING,
    "awaiting_memory_live": _RUNNING,
    "changing_shadow_memory_live": _RUNNING,
    "data_source_op": _RUNNING,
    "get_boot_record": ("Paused", "Suspended", "Running"),
    "shutdown": ("Paused", "Suspended", "Running"),
    "send_sysrq": _RUNNING,
    "send_trigger": _RUNNING,
    "call_plugin": _RUNNING,
    "csvm": ("Suspended",),
    "query_services": _ANY,
    "reverting": _ANY,
    "power_state_reset": _ANY,
    "update_allowed_operations": _ANY,
    "assert_operation_valid": _ANY,
}
_NOT_LISTED = {
    "changing_VCPUs",
    "changing_memory_limits",
    "changing_memory_live",
    "awaiting_memory_live",
    "changing_shadow_memory_live",
    "data_source_op",
    "get_boot_record",
    "shutdown",
    "send_sysrq",
    "send_trigger",
    "call_plugin",
    "csvm",
    "query_services",
    "reverting",
    "power_state_reset",
    "update_allowed_operations",
    "assert_operation_valid",
}
_LISTED = [name for name in STATES if name not in _NOT_LISTED]
# A snapshot only ever does these, and can be cloned with a suspend image, too.
_FOR_SNAPSHOTS = {
    "destroy",
    "metadata_export",
    "export",
    "hard_shutdown",
    "revert",
    "copy",
    "clone",
}
_NOT_FOR_TEMPLATES = {
    "create_vtpm",
    "make_into_template",
    "start",
    "start_on",
    "snapshot",
    "checkpoint",
    "suspend",
    "resume",
    "resume_on",
}
_NOT_FOR_DEFAULT_TEMPLATES = {"destroy", "migrate_send"}
_FOR_DOM0 = {
    "metadata_export",
    "changing_static_range",
    "changing_dynamic_range",
    "changing_memory_limits",
    "changing_memory_live",
    "awaiting_memory_live",
    "data_source_op",
    "update_allowed_operations",
    "assert_operation_valid",
}
_ALSO_ON_RUNNING_DOM0 = {
    "changing_static_range",
    "changing_memory_limits",
    "changing_VCPUs",
}
_NO_DOM0 = "This operation is not allowed on a control domain"
# What a guest must be able to do; any of the features is enough, drivers imply all.
_FEATURES: dict[str, tuple[str, ...]] = {
    "clean_shutdown": ("feature-shutdown", "feature-poweroff"),
    "clean_reboot": ("feature-shutdown", "feature-reboot"),
    "changing_VCPUs_live": ("feature-vcpu-hotplug",),
    "suspend": ("feature-suspend",),
    "checkpoint": ("feature-suspend",),
    "pool_migrate": ("feature-suspend",),
    "migrate_send": ("feature-suspend",),
}
_STOPS = {"clean_shutdown", "hard_shutdown", "suspend", "pause"}
_MOVES = {"suspend", "checkpoint", "pool_migrate", "migrate_send"}
# What a device of the host's own does not survive.
_MOVES_MEMORY = {"suspend", "checkpoint", "pool_migrate", "migrate_send"}
_FREEZES_DISKS = {"suspend", "checkpoint", "snapshot"}
# Operations that get along with each other.
_TOGETHER = (
    {"clone", "copy", "export"},
    {"snapshot", "checkpoint"},
    {"get_boot_record"},
)
_DURING_MIGRATION = {"metadata_export", "clean_shutdown", "clean_reboot"}


class Situation(NamedTuple):
    """What of a VM decides on its operations.

    :ivar kind: vm, template, default_template or snapshot
    :ivar lacks: operations that its guest cannot do
    :ivar ongoing: operations under way
    """

    state: str
    kind: str
    dom0: bool
    lacks: frozenset[str]
    ongoing: tuple[str, ...]
    blocked: frozenset[str]
    nested: bool
    immobile: bool
    resets: bool
    has_pci: bool
    has_vgpu: bool


def situation(db: Registry, row: Row) -> Situation:
    """Look at a VM."""
    kind = "vm"
    if row["is_a_snapshot"]:
        kind = "snapshot"
    elif row["is_a_template"]:
        marked = row["other_config"].get("default_template") == "true"
        default = row["is_default_template"] or marked
        kind = "default_template" if default else "template"
    metrics: Row = {}
    live = row["power_state"] in ("Running", "Paused")
    if live and db.exists("VM_metrics", row["metrics"]):
        metrics = db.row("VM_metrics", row["metrics"])
    return Situation(
        row["power_state"],
        kind,
        row["is_control_domain"],
        _lacks(db, row),
        tuple(sorted(row["current_operations"].values())),
        frozenset(row["blocked_operations"]),
        bool(metrics.get("nested_virt")),
        bool(metrics.get("nomigrate")),
        _resets(db, row),
        live and bool(row["attached_PCIs"]),
        live and bool(row["VGPUs"]),
    )


def _lacks(db: Registry, row: Row) -> frozenset[str]:
    """Return what the running guest cannot do for want of drivers."""
    if row["power_state"] != "Running" or not booted_hvm(db, row):
        return frozenset()
    if has_drivers(db, row):
        return frozenset()
    other: dict[str, str] = {}
    if db.exists("VM_guest_metrics", row["guest_metrics"]):
        other = db.row("VM_guest_metrics", row["guest_metrics"])["other"]
    return frozenset(
        operation
        for operation, names in _FEATURES.items()
        if not any(other.get(name) == "1" for name in names)
    )


def booted_hvm(db: Registry, row: Row) -> bool:
    """Return whether the guest needs drivers of its own for what others can anyway.

    What counts is how it was started, not what the next start will be.
    """
    if db.exists("VM_metrics", row["metrics"]):
        current = db.row("VM_metrics", row["metrics"])["current_domain_type"]
        if current != "unspecified":
            return bool(current == "hvm")
    return bool(row["domain_type"] == "hvm")


def _resets(db: Registry, row: Row) -> bool:
    """Return whether a disk is as new at each start."""
    for ref in row["VBDs"]:
        disk = db.row("VBD", ref)["VDI"]
        if db.exists("VDI", disk) and db.row("VDI", disk)["on_boot"] == "reset":
            return True
    return False


def _states(now: Situation, operation: str) -> tuple[str, ...]:
    """Return the power states in which an operation is allowed."""
    if now.kind == "snapshot" and operation in ("clone", "copy"):
        return ("Halted", "Suspended")
    if now.dom0 and operation in _ALSO_ON_RUNNING_DOM0:
        return ("Halted", "Running")
    return STATES[operation]


def _in_the_way(now: Situation, operation: str) -> bool:
    """Return whether an operation has to wait for the ones under way."""
    if not now.ongoing:
        return False
    if operation == "hard_shutdown":
        return operation in now.ongoing
    if operation == "hard_reboot":
        return bool({"hard_shutdown", "hard_reboot"}.intersection(now.ongoing))
    together = {operation, *now.ongoing}
    if any(together <= group for group in _TOGETHER):
        return False
    migrates = set(now.ongoing) <= {"migrate_send", "pool_migrate"}
    return not (migrates and operation in _DURING_MIGRATION)


def _refusal(now: Situation, operation: str) -> tuple[str, ...] | None:
    """Return code and parameters; "{0}" stands for the VM."""
    if operation in now.blocked:
        return ("OPERATION_BLOCKED", "{0}", "{1}")
    allowed = _states(now, operation)
    if now.state not in allowed:
        expected = ", ".join(state.lower() for state in allowed)
        return ("VM_BAD_POWER_STATE", "{0}", expected, now.state.lower())
    if _in_the_way(now, operation):
        return ("OTHER_OPERATION_IN_PROGRESS", "VM", "{0}", now.ongoing[0], "{2}")
    return _kind_refusal(now, operation) or _guest_refusal(now, operation)


def _kind_refusal(now: Situation, operation: str) -> tuple[str, ...] | None:
    """Refuse what templates, snapshots and control domains never do."""
    if "template" in now.kind:
        default = now.kind == "default_template"
        barred = default and operation in _NOT_FOR_DEFAULT_TEMPLATES
        if barred or operation in _NOT_FOR_TEMPLATES:
            return ("VM_IS_TEMPLATE", "{0}", operation)
    if now.kind == "snapshot" and operation not in _FOR_SNAPSHOTS:
        return ("VM_IS_SNAPSHOT", "{0}", operation)
    if operation == "provision" and now.kind == "vm" and not now.dom0:
        return ("PROVISION_ONLY_ALLOWED_ON_TEMPLATE",)
    if operation == "revert" and now.kind != "snapshot":
        return ("VM_REVERT_FAILED", "{0}", "OpaqueRef:NULL")
    if now.dom0 and operation not in _FOR_DOM0:
        return ("OPERATION_NOT_ALLOWED", _NO_DOM0)
    return None


def _guest_refusal(now: Situation, operation: str) -> tuple[str, ...] | None:
    """Refuse what this guest or its disks cannot do."""
    if operation in _MOVES and now.immobile:
        return ("VM_IS_IMMOBILE", "{0}")
    if now.nested and operation in {*_MOVES, "changing_dynamic_range"}:
        return ("VM_IS_USING_NESTED_VIRT", "{0}")
    if operation in _MOVES_MEMORY and now.has_pci:
        return ("VM_HAS_PCI_ATTACHED", "{0}")
    if operation in _MOVES_MEMORY and now.has_vgpu:
        return ("VM_HAS_VGPU", "{0}")
    if operation in now.lacks:
        return ("VM_LACKS_FEATURE", "{0}")
    if operation in _FREEZES_DISKS and now.resets:
        return ("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION",)
    return None


def require(db: Registry, vm: str, operation: str, strict: bool = True) -> Row:
    """Refuse an operation that is not allowed now; return the VM's row.

    :param strict: False: try it also with a guest that does not say it can
    :raises Failure: VM_BAD_POWER_STATE and its like
    """
    row = db.row("VM", vm)
    refused = _refusal(situation(db, row), operation)
    if refused is None or (not strict and refused[0] == "VM_LACKS_FEATURE"):
        return row
    text = row["blocked_operations"].get(operation, "")
    ongoing = next(iter(row["current_operations"]), "")
    raise Failure(*(part.format(vm, text, ongoing) for part in refused))


@lru_cache(maxsize=1024)
def _allowed(now: Situation) -> tuple[str, ...]:
    return tuple(name for name in _LISTED if _refusal(now, name) is None)


def allowed_operations(db: Registry, row: Row) -> list[str]:
    """Return what a client may ask of the VM now."""
    return list(_allowed(situation(db, row)))


def has_drivers(db: Registry, row: Row) -> bool:
    """Return whether the guest's drivers were seen."""
    metrics = row["guest_metrics"]
    if not db.exists("VM_guest_metrics", metrics):
        return False
    return bool(db.row("VM_guest_metrics", metrics)["PV_drivers_detected"])


def can_hotplug(db: Registry, row: Row) -> bool:
    """Return whether the guest would notice a device that comes or goes."""
    if row["is_control_domain"] or not booted_hvm(db, row):
        return True
    return has_drivers(db, row)


def require_staying(vm: str, row: Row) -> None:
    """Refuse to plug or unplug devices of a guest that is about to stop.

    :raises Failure: OPERATION_NOT_ALLOWED
    """
    for operation in row["current_operations"].values():
        if operation in _STOPS:
            text = f"Current operation on VM:{vm} is {operation}"
            raise Failure("OPERATION_NOT_ALLOWED", text)

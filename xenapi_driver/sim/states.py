# SPDX-License-Identifier: Apache-2.0
"""What is allowed in which power state, and the refusals that follow."""

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Registry, Row

_HALTED = ("Halted",)
_RUNNING = ("Running",)

# Power states in which an operation is allowed, in the order of XAPI's error texts.
STATES: dict[str, tuple[str, ...]] = {
    "create_vtpm": _HALTED,
    "destroy": ("Halted", "Suspended"),
    "metadata_export": ("Halted", "Paused", "Suspended", "Running"),
    "export": ("Halted", "Suspended"),
    "make_into_template": _HALTED,
    "provision": _HALTED,
    "changing_NVRAM": _HALTED,
    "changing_VCPUs": _HALTED,
    "changing_memory_limits": _HALTED,
    "changing_shadow_memory": _HALTED,
    "changing_static_range": _HALTED,
    "changing_dynamic_range": ("Halted", "Running"),
    "changing_VCPUs_live": _RUNNING,
    "migrate_send": ("Halted", "Suspended", "Running"),
    "start_on": _HALTED,
    "start": _HALTED,
    "copy": _HALTED,
    "clone": _HALTED,
    "sysprep": _RUNNING,
    "pool_migrate": _RUNNING,
    "suspend": _RUNNING,
    "resume": ("Suspended",),
    "resume_on": ("Suspended",),
    "hard_reboot": ("Paused", "Running"),
    "hard_shutdown": ("Paused", "Suspended", "Running"),
    "shutdown": ("Paused", "Suspended", "Running"),
    "clean_reboot": _RUNNING,
    "clean_shutdown": _RUNNING,
    "pause": _RUNNING,
    "unpause": ("Paused",),
    "send_sysrq": _RUNNING,
    "send_trigger": _RUNNING,
    "call_plugin": _RUNNING,
    "snapshot": ("Halted", "Paused", "Suspended", "Running"),
}
# What a client is told, most of the states above.
_LISTED = [
    name
    for name in STATES
    if name not in ("changing_VCPUs", "changing_memory_limits", "shutdown")
    and not name.startswith(("send_", "call_"))
]
_NOT_FOR_SNAPSHOTS = {"provision", "changing_NVRAM"}
_NOT_FOR_TEMPLATES = {
    "create_vtpm",
    "make_into_template",
    "start",
    "start_on",
    "snapshot",
}
_NOT_FOR_DEFAULT_TEMPLATES = {"destroy", "migrate_send"}
_WITH_AGENT = {
    "sysprep",
    "changing_VCPUs_live",
    "suspend",
    "clean_reboot",
    "clean_shutdown",
    "pool_migrate",
}
_NEVER_FOR_DOM0 = {"start", "destroy", "hard_shutdown", "clean_shutdown", "pause"}


def require_state(vm: str, row: Row, operation: str) -> None:
    """Refuse an operation that the VM's power state, kind or owner forbids.

    :raises Failure: VM_BAD_POWER_STATE and its like
    """
    if operation in row["blocked_operations"]:
        text = row["blocked_operations"][operation]
        raise Failure("OPERATION_BLOCKED", vm, text)
    allowed = STATES[operation]
    if row["power_state"] not in allowed:
        expected = ", ".join(state.lower() for state in allowed)
        actual = row["power_state"].lower()
        raise Failure("VM_BAD_POWER_STATE", vm, expected, actual)
    if row["is_control_domain"] and operation in _NEVER_FOR_DOM0:
        raise Failure("OPERATION_NOT_ALLOWED", "This VM is a control domain.")
    if row["is_a_template"] and operation in _NOT_FOR_TEMPLATES:
        code = "VM_IS_SNAPSHOT" if row["is_a_snapshot"] else "VM_IS_TEMPLATE"
        raise Failure(code, vm, operation)
    for other in row["current_operations"].values():
        if other != operation and not operation.startswith("hard_"):
            raise Failure("OTHER_OPERATION_IN_PROGRESS", "VM", vm, other, "")


def require_not_blocked(vm: str, row: Row, operation: str) -> None:
    """Refuse what blocked_operations holds."""
    if operation in row["blocked_operations"]:
        raise Failure("OPERATION_BLOCKED", vm, row["blocked_operations"][operation])


def has_drivers(db: Registry, row: Row) -> bool:
    """Return whether the guest's drivers were seen."""
    metrics = row["guest_metrics"]
    if not db.exists("VM_guest_metrics", metrics):
        return False
    return bool(db.row("VM_guest_metrics", metrics)["PV_drivers_detected"])


def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what a client may ask of the VM now."""
    if row["is_control_domain"]:
        return ["metadata_export", "changing_static_range", "changing_dynamic_range"]
    template = row["is_a_template"]
    found = []
    for name in _LISTED:
        if row["power_state"] not in STATES[name]:
            continue
        if template and name in _NOT_FOR_TEMPLATES:
            continue
        if row["is_a_snapshot"] and name in _NOT_FOR_SNAPSHOTS:
            continue
        if name == "provision" and not template:
            continue
        if name in _NOT_FOR_DEFAULT_TEMPLATES and row["is_default_template"]:
            continue
        if name in _WITH_AGENT and not has_drivers(db, row):
            continue
        if name in row["blocked_operations"]:
            continue
        found.append(name)
    return found

# SPDX-License-Identifier: Apache-2.0
"""Class task: tasks that callers make, follow, cancel and remove."""

from xenapi_driver.sim import tasks
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.world import now

# What can be stopped half way ("XAPI today", section 3).
_CANCELLABLE = (
    "Async.VM.clean_shutdown",
    "Async.VM.shutdown",
    "Async.VM.clean_reboot",
    "Async.VDI.copy",
    "Async.VDI.pool_migrate",
    "Async.VM.clone",
    "Async.VM.copy",
    "Async.VM.migrate_send",
    "Async.VM.pool_migrate",
    "Async.VM.snapshot",
    "Async.VM.start",
    "Async.VM.start_on",
    "Async.host.evacuate",
)


@computed("task", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return cancel while that helps."""
    pending = row["status"] == "pending" and row["name_label"] in _CANCELLABLE
    return ["cancel", "destroy"] if pending else []


@message("task.create")
def create(call: Call, label: str, description: str) -> str:
    """Make a task for the caller's own use; it stays pending until set."""
    tasks.sweep(call.world)
    return call.db.create(
        "task",
        {
            "name_label": label,
            "name_description": description,
            "created": now(),
            "status": "pending",
            "type": "<none/>",
            "resident_on": call.world.coordinator,
            "session": call.session,
            "backtrace": "()",
        },
    )


@message("task.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove a task; a pending one is marked and goes when it is done."""
    row = call.db.row("task", ref)
    if row["status"] != "pending":
        call.db.destroy("task", ref)
        return
    label = f"DummyRef:|{call.db.new_uuid()}|task.destroy"
    operations = {**row["current_operations"], label: "destroy"}
    call.db.update("task", ref, current_operations=operations)


@message("task.cancel")
def cancel(call: Call, ref: str) -> None:
    """Ask a task to stop; it does so where its work looks."""
    row = call.db.row("task", ref)
    if row["status"] != "pending":
        return
    call.world.cancelled.add(ref)
    label = f"DummyRef:|{call.db.new_uuid()}|task.cancel"
    operations = {**row["current_operations"], label: "cancel"}
    call.db.update("task", ref, current_operations=operations)


@message("task.set_status")
def set_status(call: Call, ref: str, value: str) -> None:
    """Set the state of a task of one's own; success completes the progress."""
    call.db.update("task", ref, status=value)
    if value == "success":
        call.db.update("task", ref, progress=1.0)
    marked = call.db.row("task", ref)["current_operations"].values()
    if value != "pending" and "destroy" in marked:
        call.db.destroy("task", ref)


@message("task.set_progress")
def set_progress(call: Call, ref: str, value: float) -> None:
    """Set how much is done."""
    call.db.update("task", ref, progress=value)


@message("task.set_result")
def set_result(call: Call, ref: str, value: str) -> None:
    """Set the result text."""
    call.db.update("task", ref, result=value)


@message("task.set_error_info")
def set_error_info(call: Call, ref: str, value: list[str]) -> None:
    """Set the error description."""
    call.db.update("task", ref, error_info=value)


@message("task.set_other_config")
def set_other_config(call: Call, ref: str, value: dict[str, str]) -> None:
    """Replace other_config."""
    call.db.update("task", ref, other_config=value)


@message("task.add_to_other_config")
def add_to_other_config(call: Call, ref: str, key: str, value: str) -> None:
    """Add a key to other_config."""
    call.db.add_to_map("task", ref, "other_config", {key: value})


@message("task.remove_from_other_config")
def remove_from_other_config(call: Call, ref: str, key: str) -> None:
    """Remove a key from other_config."""
    call.db.remove_from_map("task", ref, "other_config", key)

# SPDX-License-Identifier: Apache-2.0
"""Class VMSS: schedules by which snapshots of VMs are made and dropped."""

import re
from typing import Any

from xenapi_driver.sim.classes import vm_snapshot
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.vms import vm_copies
from xenapi_driver.sim.world import now

_MOST_KEPT = 10
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_HOUR = re.compile(r"\d|1\d|2[0-3]")
_MINUTE = re.compile(r"0|15|30|45")
_KEYS = {
    "hourly": ("min",),
    "daily": ("hour", "min"),
    "weekly": ("hour", "min", "days"),
}


def _check(kept: int, frequency: str, schedule: dict[str, str]) -> dict[str, str]:
    """Return the schedule with what was left out.

    :raises Failure: INVALID_VALUE
    """
    if not 1 <= kept <= _MOST_KEPT:
        text = f"{kept} not within 1..{_MOST_KEPT}"
        raise Failure("INVALID_VALUE", "retained_snapshots", text)
    full = {"hour": "0", "min": "0", "days": "Monday", **schedule}
    for key, value in full.items():
        days = value.split(",")
        good = {
            "hour": bool(_HOUR.fullmatch(value)),
            "min": bool(_MINUTE.fullmatch(value)),
            "days": all(day.strip() in _DAYS for day in days),
        }.get(key, False)
        if not good:
            raise Failure("INVALID_VALUE", f"schedule:{key}", value)
    return {key: full[key] for key in _KEYS[frequency]}


@message("VMSS.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Make a schedule that no VM follows yet."""
    record["schedule"] = _check(
        record["retained_snapshots"], record["frequency"], record["schedule"]
    )
    if record["type"] == "snapshot_with_quiesce":
        raise Failure("INVALID_VALUE", "type", record["type"])
    return call.db.create("VMSS", record)


@message("VMSS.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove the schedule; the snapshots stay."""
    for vm in list(call.db.row("VMSS", ref)["VMs"]):
        call.db.update("VM", vm, snapshot_schedule=NULL)
    call.db.destroy("VMSS", ref)


def _change(call: Call, ref: str, **values: Any) -> None:
    after = {**call.db.row("VMSS", ref), **values}
    schedule = _check(
        after["retained_snapshots"], after["frequency"], after["schedule"]
    )
    call.db.update("VMSS", ref, **{**values, "schedule": schedule})


@message("VMSS.set_retained_snapshots", "VMSS.set_frequency", "VMSS.set_schedule")
def change(call: Call, ref: str, value: Any) -> None:
    """Change how often, when, and how many are kept."""
    _change(call, ref, **{call.method.removeprefix("VMSS.set_"): value})


@message("VMSS.add_to_schedule")
def add_to_schedule(call: Call, ref: str, key: str, value: str) -> None:
    """Set one part of the time."""
    schedule = call.db.row("VMSS", ref)["schedule"]
    _change(call, ref, schedule={**schedule, key: value})


@message("VMSS.remove_from_schedule")
def remove_from_schedule(call: Call, ref: str, key: str) -> None:
    """Go back to the usual for one part of the time."""
    schedule = call.db.row("VMSS", ref)["schedule"]
    _change(call, ref, schedule={k: v for k, v in schedule.items() if k != key})


@message("VMSS.set_type")
def set_type(call: Call, ref: str, value: str) -> None:
    """Choose between snapshots with and without memory."""
    if value == "snapshot_with_quiesce":
        raise Failure("INVALID_VALUE", "type", value)
    call.db.update("VMSS", ref, type=value)


@message("VMSS.set_last_run_time")
def set_last_run_time(call: Call, ref: str, value: str) -> None:
    """Write down when snapshots were made."""
    call.db.update("VMSS", ref, last_run_time=value)


@message("VMSS.snapshot_now", blocking=True)
def snapshot_now(call: Call, ref: str) -> str:
    """Make a snapshot of each VM and drop what is too old; return the new ones."""
    with call.db.changed:
        row = call.db.row("VMSS", ref)
        made = [_one(call, row, vm) for vm in list(row["VMs"])]
        call.db.update("VMSS", ref, last_run_time=now())
    return ",".join(made)


def _one(call: Call, schedule: dict[str, Any], vm: str) -> str:
    db = call.db
    stamp = str(now())
    name = f"[Scheduled snapshot] {db.row('VM', vm)['name_label']} {stamp}"
    if schedule["type"] == "checkpoint":
        new = vm_snapshot.checkpoint(call, vm, name)
    else:
        new = vm_snapshot.snapshot(call, vm, name, [])
    db.update("VM", new, is_vmss_snapshot=True)
    kept = [ref for ref in db.row("VM", vm)["snapshots"] if _scheduled(call, ref)]
    for old in kept[: -schedule["retained_snapshots"]]:
        vm_copies.discard_all(call, old)
    return new


def _scheduled(call: Call, ref: str) -> bool:
    return bool(call.db.row("VM", ref)["is_vmss_snapshot"])

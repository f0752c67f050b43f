# SPDX-License-Identifier: Apache-2.0
"""Async calls: a task object and a thread that carries the call out."""

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from xenapi_driver.sim.doors.wire import value_xml
from xenapi_driver.sim.failure import ConnectionCut, Failure
from xenapi_driver.sim.messages import Call
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.world import World, now, stamp

# Finished tasks are kept this many seconds, and no more than so many of them.
KEEP_SECONDS = 65 * 60
KEEP_TASKS = 200

# How often the work of a host's lower half, with the guest's domain, can be stopped
# half way. A task says so of itself.
_CANCEL_POINTS = {
    "VBD.plug": 2,
    "VBD.unplug": 2,
    "VIF.plug": 2,
    "VIF.unplug": 2,
    "VM.clean_reboot": 14,
    "VM.clean_shutdown": 8,
    "VM.hard_reboot": 14,
    "VM.hard_shutdown": 8,
    "VM.pause": 2,
    "VM.pool_migrate": 10,
    "VM.resume": 6,
    "VM.resume_on": 6,
    "VM.shutdown": 8,
    "VM.start": 6,
    "VM.start_on": 6,
    "VM.suspend": 8,
    "VM.unpause": 2,
}


def start(call: Call, name: str, work: Callable[[Call], Any]) -> str:
    """Begin ``work`` in a thread and return its task's reference."""
    db = call.db
    sweep(call.world)
    ref = db.create(
        "task",
        {
            "name_label": name,
            "created": now(),
            "status": "pending",
            "type": "<none/>",
            "resident_on": call.world.coordinator,
            "session": call.session,
            "other_config": dict(call.place.labels),
            "backtrace": "()",
        },
    )
    call.world.log(f"task {short(call.db, ref)} {name} begins")
    inner = dataclasses.replace(call, task=ref)
    threading.Thread(
        target=_carry_out, args=(inner, work), name=f"sim-{name}", daemon=True
    ).start()
    return ref


def _carry_out(call: Call, work: Callable[[Call], Any]) -> None:
    try:
        value = work(call)
        _note_cancel_points(call)
    except Failure as failure:
        status = "cancelled" if failure.code == "TASK_CANCELLED" else "failure"
        finish(call.world, call.task, status, error=failure.description)
    except ConnectionCut as exc:
        # Nobody holds a connection to a task; to its caller it just failed.
        finish(call.world, call.task, "failure", error=["INTERNAL_ERROR", str(exc)])
    except Exception as exc:
        # A fault of the simulator itself: the waiting client has to learn of it.
        finish(call.world, call.task, "failure", error=["INTERNAL_ERROR", repr(exc)])
        raise
    else:
        finish(call.world, call.task, "success", result=value_xml(value))


def _note_cancel_points(call: Call) -> None:
    points = _CANCEL_POINTS.get(call.method)
    with call.db.changed:
        if points is None or not call.db.exists("task", call.task):
            return
        old = call.db.row("task", call.task)["other_config"]
        noted = {**old, "debug_info:cancel_points_seen": str(points)}
        call.db.update("task", call.task, other_config=noted)


def sweep(world: World) -> None:
    """Remove finished tasks that are old, and the oldest where there are many."""
    db = world.db
    with db.changed:
        done = [
            (max(str(row["finished"]), str(row["created"])), ref)
            for ref, row in db.rows("task")
            if row["status"] not in ("pending", "cancelling")
        ]
        done.sort(key=lambda pair: pair[0])
        surplus = db.count("task") - KEEP_TASKS + 1
        oldest = stamp(time.time() - KEEP_SECONDS)
        for number, (finished, ref) in enumerate(done):
            if number < surplus or finished < oldest:
                db.destroy("task", ref)
        world.own_tasks.intersection_update(db.refs("task"))


def finish(
    world: World,
    ref: str,
    status: str,
    *,
    result: str = "",
    error: list[str] | None = None,
) -> None:
    """End a task, and remove it if somebody asked for that meanwhile."""
    db = world.db
    with db.changed:
        world.cancelled.discard(ref)
        if not db.exists("task", ref):
            return
        row = db.row("task", ref)
        marked = "destroy" in row["current_operations"].values()
        words = " ".join([status, *(error or [])])
        world.log(f"task {short(db, ref)} {row['name_label']} {words}")
        db.update(
            "task",
            ref,
            status=status,
            progress=1.0,
            finished=now(),
            result=result,
            error_info=error or [],
            current_operations={},
        )
        if marked or (ref in world.own_tasks and not world.behaviour.keeps_own_tasks):
            db.destroy("task", ref)


def set_progress(call: Call, fraction: float) -> None:
    """Report how much of a task is done, 0 to 1."""
    if call.task and call.db.exists("task", call.task):
        row = call.db.row("task", call.task)
        tenths = int(fraction * 10)
        if tenths > int(row["progress"] * 10):
            name = f"{short(call.db, call.task)} {row['name_label']}"
            call.world.log(f"task {name} {tenths * 10} %")
        call.db.update("task", call.task, progress=fraction)


def short(db: Registry, ref: str) -> str:
    """Return the beginning of a task's uuid, enough to tell it from others."""
    return str(db.row("task", ref)["uuid"])[:8]

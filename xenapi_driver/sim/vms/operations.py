# SPDX-License-Identifier: Apache-2.0
"""Operations on VMs while they are under way: shown, waited for, broken off.

A VM's ``current_operations`` holds what is being done with it, by the task that does
it. What cannot be done meanwhile waits, as on a real host ("XAPI today", section 6).
"""

import contextlib
import time
from collections.abc import Iterator

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.vms import states

# Seconds between looks at whether a task was cancelled.
_LOOK = 0.2
# Operations that a busy VM refuses at once.
_IMPATIENT = {"call_plugin", "get_boot_record", "data_source_op"}


def begin(call: Call, vm: str, operation: str, strict: bool = True) -> Row:
    """Wait until the VM can do it, and return its row; the caller holds the lock.

    :param strict: as :func:`states.require` has it
    :raises Failure: it is not allowed, the VM stayed busy, the task was cancelled
    """
    patience = 0.0 if operation in _IMPATIENT else call.world.behaviour.busy_timeout
    end = time.monotonic() + patience
    while True:
        call.check_cancelled()
        try:
            return states.require(call.db, vm, operation, strict)
        except Failure as failure:
            left = end - time.monotonic()
            if failure.code != "OTHER_OPERATION_IN_PROGRESS" or left <= 0:
                raise
            if call.world.closing.is_set():
                raise
        call.db.changed.wait(min(_LOOK, left))


@contextlib.contextmanager
def under_way(
    call: Call, vm: str, operation: str, strict: bool = True
) -> Iterator[Row]:
    """Show a VM doing something for as long as the block takes, with the lock held.

    :raises Failure: what :func:`begin` raises; TASK_CANCELLED if somebody pulled the
        plug before the block was reached
    """
    with call.db.changed, meanwhile(call, vm, operation, strict) as row:
        yield row


@contextlib.contextmanager
def meanwhile(
    call: Call, vm: str, operation: str, strict: bool = True
) -> Iterator[Row]:
    """Do the same without the lock: the block takes it where it needs it."""
    db = call.db
    key = call.task or f"DummyRef:|{db.new_uuid()}|{call.method}"
    with db.changed:
        row = begin(call, vm, operation, strict)
        state = row["power_state"]
        _set(call, vm, {**row["current_operations"], key: operation})
    try:
        with db.changed:
            _take_time(call)
            if db.row("VM", vm)["power_state"] != state:
                raise Failure("TASK_CANCELLED", call.task)
        yield row
    finally:
        with db.changed:
            if db.exists("VM", vm):
                now = db.row("VM", vm)["current_operations"]
                _set(call, vm, {k: op for k, op in now.items() if k != key})


def _set(call: Call, vm: str, operations: dict[str, str]) -> None:
    call.db.update("VM", vm, current_operations=operations)


def _take_time(call: Call) -> None:
    """Let the operation last as long as it was told to; the lock is free meanwhile."""
    end = time.monotonic() + call.world.behaviour.operation_delay
    while (left := end - time.monotonic()) > 0 and not call.world.closing.is_set():
        call.db.changed.wait(min(_LOOK, left))
        call.check_cancelled()

# SPDX-License-Identifier: Apache-2.0
"""Long calls: started as ``Async.``, awaited by events, always tidied away."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oslo_log import log as logging

from xenapi_driver.xapi import errors, events, wire_xml
from xenapi_driver.xapi.client import Client

LOG = logging.getLogger(__name__)

# Without news for so long, the task is asked itself: its deletion, or the whole
# event loop, may have got lost.
_QUIET_SECONDS = 30.0
# How long a cancelled task gets to end before we go on without it.
_CANCEL_SECONDS = 10.0


def run(
    session: Client,
    method: str,
    args: Sequence[Any],
    *,
    progress: Callable[[float], None] | None = None,
    timeout: float | None = None,
) -> Any:
    """Start ``method``, wait until its task has ended, and return its value.

    A caller that is interrupted (time-out, exception in ``progress``, killed
    thread) cancels the task. The task is destroyed on the host in any case.

    :param method: with its ``Async.`` prefix
    :param progress: called with 0.0 to 1.0 as the host reports it
    :param timeout: seconds; None waits for ever
    :raises XapiFailure: the host refused the call, or the task failed
    :raises TaskCancelled: somebody cancelled it
    :raises TaskTimeout: not finished in time
    :raises TaskLost: the host forgot it; the outcome is unknown
    """
    call = method.removeprefix("Async.")
    ref = str(session.call(method, *args))
    return follow(session, ref, call, progress=progress, timeout=timeout)


def follow(
    session: Client,
    ref: str,
    call: str,
    *,
    progress: Callable[[float], None] | None = None,
    timeout: float | None = None,
    quiet: float | None = None,
) -> Any:
    """Wait until a task that was begun elsewhere has ended and return its value.

    All else is as in :func:`run`: its cancellation, its removal, its errors.

    :param call: what to name it in errors
    :param quiet: seconds without news after which the task is asked itself
    """
    try:
        with session.events.watch(ref) as watch:
            try:
                deadline = None if timeout is None else time.monotonic() + timeout
                seconds = _QUIET_SECONDS if quiet is None else quiet
                waiting = _Waiting(ref, call, watch, seconds, deadline)
                record = _ended(session, waiting, progress)
            except errors.TaskLost:
                raise
            except BaseException:
                _cancel(session, ref, watch)
                raise
    finally:
        _destroy(session, ref)
    return _outcome(session, record, call)


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """For what we wait, and how long."""

    ref: str
    call: str
    watch: events.Watch
    quiet: float
    deadline: float | None


def _ended(
    session: Client, waiting: _Waiting, progress: Callable[[float], None] | None
) -> Mapping[str, Any]:
    deadline = waiting.deadline
    reported = -1.0
    while True:
        patience = waiting.quiet
        if deadline is not None:
            patience = min(patience, deadline - time.monotonic())
            if patience <= 0:
                raise errors.TaskTimeout("TASK_CANCELLED", (), waiting.call)
        change = waiting.watch.next(patience)
        if isinstance(change, events.Gone):
            raise errors.TaskLost(waiting.call)
        if change is None:
            if deadline is not None and time.monotonic() >= deadline:
                continue
            change = _asked(session, waiting.ref, waiting.call)
        if change["status"] not in ("pending", "cancelling"):
            return change
        if progress is not None and float(change["progress"]) > reported:
            reported = float(change["progress"])
            progress(reported)


def _asked(session: Client, ref: str, call: str) -> Mapping[str, Any]:
    try:
        record: Mapping[str, Any] = session.call("task.get_record", ref)
    except errors.HandleInvalid as exc:
        raise errors.TaskLost(call) from exc
    return record


def _outcome(session: Client, record: Mapping[str, Any], call: str) -> Any:
    status = record["status"]
    if status == "success":
        return wire_xml.task_result(record["result"])
    described = record["error_info"]
    if not described and status == "cancelled":
        described = ["TASK_CANCELLED"]
    raise session.failure(described, call)


def _cancel(session: Client, ref: str, watch: events.Watch) -> None:
    """Ask the task to stop and give it a moment to do so."""
    try:
        session.call("task.cancel", ref)
    except errors.XapiError as exc:
        LOG.warning("A task could not be cancelled: %s", exc)
        return
    deadline = time.monotonic() + _CANCEL_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        change = watch.next(left)
        if change is None or isinstance(change, events.Gone):
            return
        if change["status"] not in ("pending", "cancelling"):
            return


def _destroy(session: Client, ref: str) -> None:
    try:
        session.call("task.destroy", ref)
    except errors.HandleInvalid:
        LOG.debug("The host had removed a task of ours already.")
    except errors.XapiError as exc:
        # It is deleted by the host itself after an hour.
        LOG.warning("A finished task stays on the host: %s", exc)

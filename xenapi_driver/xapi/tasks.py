# SPDX-License-Identifier: Apache-2.0
"""Long calls: started as ``Async.``, awaited by events, always tidied away."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from oslo_log import log as logging

from xenapi_driver.xapi import errors, events, lost, task, wire_xml
from xenapi_driver.xapi.client import Client
from xenapi_driver.xapi.task import TaskRecord

LOG = logging.getLogger(__name__)

# Without news for so long, the task is asked itself: its deletion, or the whole
# event loop, may have got lost.
_QUIET_SECONDS = 30.0
# How long a cancelled task gets to end before we go on without it.
_CANCEL_SECONDS = 10.0


class Beginner(Client, Protocol):
    """A session that can begin a task and say what it sent."""

    def begin(
        self, method: str, args: Sequence[Any], label: str = ""
    ) -> tuple[str, lost.Sent]:
        """Begin a task; see :meth:`Session.begin`."""


def run(
    session: Beginner,
    method: str,
    args: Sequence[Any],
    *,
    progress: Callable[[float], None] | None = None,
    timeout: float | None = None,
    label: str = "",
) -> Any:
    """Start ``method``, wait until its task has ended, and return its value.

    A caller that is interrupted (time-out, exception in ``progress``, killed
    thread) cancels the task. The task is destroyed on the host in any case.

    :param method: with its ``Async.`` prefix
    :param progress: called with 0.0 to 1.0 as the host reports it
    :param timeout: seconds; None waits for ever
    :param label: of :meth:`Session.label`, where the work is to know its task
    :raises XapiFailure: the host refused the call, or the task failed
    :raises TaskCancelled: somebody cancelled it
    :raises TaskTimeout: not finished in time
    :raises TaskLost: the host forgot it; the outcome is unknown
    """
    try:
        ref, sent = session.begin(method, args, label)
    except lost.AlreadyDone as exc:
        return exc.value
    try:
        value = follow(session, ref, sent.work, progress=progress, timeout=timeout)
        session.made.add(value)
        return value
    except errors.TaskLost:
        value = lost.outcome_of_lost_task(session, sent)
        if value is None:
            raise
        LOG.info("%s had been carried out when its task was lost.", sent.work)
        return value


def follow(
    session: Client,
    ref: str,
    call: str,
    *,
    progress: Callable[[float], None] | None = None,
    timeout: float | None = None,
    quiet: float | None = None,
) -> Any:
    """Wait until a task has ended and return its value; the task is destroyed.

    Raises as :func:`run` does.

    :param call: what the task does, for messages
    :param quiet: seconds without news after which the task is asked itself
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    heard = True
    try:
        with session.events.watch(TaskRecord, ref) as watch:
            try:
                seconds = _QUIET_SECONDS if quiet is None else quiet
                waiting = _Waiting(ref, call, watch, seconds, deadline)
                record = _ended(session, waiting, progress)
            except errors.TaskLost:
                raise
            except (errors.HostUnreachable, errors.ConnectionLost):
                # It was asked for as long as a call may last: two more of them
                # would only keep the caller.
                heard = False
                raise
            except BaseException:
                _cancel(session, ref, watch)
                raise
    finally:
        if heard:
            _destroy(session, ref)
    return outcome(session, record, call)


def heard(
    session: Client,
    watch: events.Watch,
    ref: str,
    call: str,
    *,
    timeout: float,
    quiet: float,
) -> Any:
    """Wait until a task of the host's own has ended, and return its value.

    The host removes it itself, so that it costs no request.

    :param watch: on the task, entered when its reference became known
    :param quiet: seconds without news after which the task is asked itself
    :raises XapiFailure: the task failed
    :raises TaskTimeout: not finished in time
    :raises TaskLost: it was gone before its end was seen
    """
    waiting = _Waiting(ref, call, watch, quiet, time.monotonic() + timeout)
    return outcome(session, _ended(session, waiting, None), call)


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
) -> TaskRecord:
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
            if change.ended:
                session.events.doubt()  # what it did was not told yet either
        record: TaskRecord = change
        if task.CALL_LABEL in record.other_config:
            session.labels_are_kept = True
        if record.ended:
            return record
        if progress is not None and record.progress > reported:
            reported = record.progress
            progress(reported)


def _asked(session: Client, ref: str, call: str) -> TaskRecord:
    try:
        return task.get(session, ref)
    except errors.HandleInvalid as exc:
        raise errors.TaskLost(call) from exc


def outcome(session: Client, record: TaskRecord, call: str) -> Any:
    """Return the value of a task that has ended.

    :raises XapiFailure: it failed
    :raises TaskCancelled: it was cancelled
    """
    if record.status == "success":
        return wire_xml.task_result(record.result)
    described = record.error_info
    if not described and record.status == "cancelled":
        described = ("TASK_CANCELLED",)
    raise session.failure(described, call)


def _cancel(session: Client, ref: str, watch: events.Watch) -> None:
    """Ask the task to stop and give it a moment to do so."""
    try:
        task.cancel(session, ref)
    except errors.XapiError as exc:
        LOG.warning("A task could not be cancelled: %s", exc)
        return
    deadline = time.monotonic() + _CANCEL_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        change = watch.next(left)
        if change is None or isinstance(change, events.Gone) or change.ended:
            return


def _destroy(session: Client, ref: str) -> None:
    try:
        task.destroy(session, ref)
    except errors.XapiError as exc:
        # It is deleted by the host itself after an hour.
        LOG.warning("A finished task stays on the host: %s", exc)


def clear_leftovers(session: Client, originator: str, run: str) -> int:
    """Cancel and destroy tasks of ours that nobody waits for; return how many.

    They are an earlier process's, which ended in the middle of its work.

    :param originator: the label by which ours are known
    :param run: what the labels of this session's calls begin with
    """
    found = 0
    for record in session.records[TaskRecord].values():
        label = record.other_config.get(task.CALL_LABEL, "")
        begun = record.other_config.get(task.ORIGINATOR_LABEL) == originator
        made = record.name_description.startswith(f"{originator} ")
        own = label.startswith(run) or record.name_description.endswith(run)
        if own or not (begun or made):
            continue
        found += 1
        try:
            if not record.ended:
                task.cancel(session, record.ref)
            task.destroy(session, record.ref)
        except errors.XapiFailure as exc:
            # A host may not let a task be cancelled; it ends by itself.
            LOG.info("A task of an earlier run stays: %s", exc)
    return found

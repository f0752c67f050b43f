# SPDX-License-Identifier: Apache-2.0
"""What became of a call whose answer was lost: looked up, never guessed.

A call that changes something is sent again only where the host certainly did not
begin it. Each request carries a label, which the host puts into the task that it
makes of the call; so a task under way is found, and where there is none the
records tell whether the work was done.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Protocol

from oslo_log import log as logging

from xenapi_driver.xapi import effects, errors
from xenapi_driver.xapi.events import EventLoop, Gone
from xenapi_driver.xapi.made import Made
from xenapi_driver.xapi.tables import Snapshot
from xenapi_driver.xapi.task import CALL_LABEL, TaskRecord

LOG = logging.getLogger(__name__)

ASYNC = "Async."
_SOON = 0.2  # seconds between two looks at the tables
# How long work may go on below a toolstack that was restarted and forgot it.
_FORGOTTEN_SECONDS = 5.0
_AGAIN_SECONDS = 2.0  # what must be left for sending it again


@dataclasses.dataclass(frozen=True)
class Sent:
    """A call that was sent.

    :ivar method: with ``Async.``, where it has that
    :ivar args: without the session
    :ivar label: what the host's task of it carries
    :ivar before: the tables as they were, None where they were not followed yet
    """

    method: str
    args: Sequence[Any]
    label: str
    before: Snapshot | None

    @property
    def work(self) -> str:
        """What is to be done, whoever waits for it."""
        return self.method.removeprefix(ASYNC)


@dataclasses.dataclass(frozen=True)
class Done:
    """The call was carried out, or is under way as a task.

    :ivar value: what the call would have returned
    """

    value: str


class AlreadyDone(Exception):
    """The work of an ``Async.`` call was done, and its task is no more.

    :ivar value: what the task would have resulted in
    """

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self.value = value


class Labels(Protocol):
    """What is to be known of the host: whether it keeps our labels."""

    events: EventLoop
    labels_are_kept: bool
    made: Made


def find_out(session: Labels, sent: Sent, deadline: float) -> Done | None:
    """Return what became of a call; None when it certainly was not begun.

    :param deadline: by time.monotonic()
    :raises AlreadyDone: see there
    :raises errors.OutcomeUnknown: it cannot be told
    :raises errors.XapiError: the host was not heard until the deadline
    """
    if sent.before is None:
        raise errors.OutcomeUnknown(sent.method)
    while True:
        left = deadline - time.monotonic()
        now = session.events.barrier(max(left, 0.1))
        task = _labelled(now, sent.label)
        if task is not None and sent.method.startswith(ASYNC):
            LOG.info("%s had been begun; waiting for its task.", sent.method)
            return Done(task.ref)
        if task is None or task.ended:
            return _by_records(session, sent, sent.before, now)
        if not _ended_in_time(session.events, task.ref, deadline):
            raise errors.OutcomeUnknown(sent.method)


def _by_records(
    session: Labels, sent: Sent, before: Snapshot, now: Snapshot
) -> Done | None:
    """Judge a call that has no task (any more)."""
    found = _outcome(session, sent, before, now)
    if isinstance(found, str):
        return _done(sent, found)
    if sent.method.startswith(ASYNC):
        begun_is_seen = session.labels_are_kept  # as its task, which stays
    else:
        # Without labels it might be under way still.
        begun_is_seen = found is effects.NOT_DONE and (
            session.labels_are_kept or effects.at_once(sent.method)
        )
    if begun_is_seen:
        return None
    raise errors.OutcomeUnknown(sent.method)


def _outcome(
    session: Labels, sent: Sent, before: Snapshot, now: Snapshot
) -> str | effects.Unknown | None:
    while True:
        taken = session.made.refs()
        found = effects.outcome(sent.work, sent.args, before, now, taken)
        # Or else another thread has just found that it was its own.
        if not isinstance(found, str) or session.made.add(found):
            return found


def _done(sent: Sent, value: str) -> Done:
    LOG.info("%s had been carried out.", sent.method)
    if sent.method.startswith(ASYNC):
        raise AlreadyDone(value)
    return Done(value)


def shown_later(session: Labels, sent: Sent, deadline: float) -> Done | None:
    """Return what became of a call whose toolstack was restarted meanwhile.

    It has forgotten its tasks, so that none means nothing, and the work of one may
    go on below it: that it shows is waited for. Then a call that the host would
    refuse a second time may be sent again: None.

    :raises AlreadyDone: see there
    :raises errors.OutcomeUnknown: it does not show
    :raises errors.XapiError: the host was not heard
    """
    before = sent.before
    shown = min(deadline, time.monotonic() + _FORGOTTEN_SECONDS)
    while before is not None:
        found = _outcome(session, sent, before, session.events.snapshot())
        if isinstance(found, str):
            return _done(sent, found)
        if found is not effects.NOT_DONE:
            break
        if time.monotonic() > shown:
            in_time = time.monotonic() + _AGAIN_SECONDS < deadline
            if effects.guarded(sent.work) and in_time:
                return None
            break
        time.sleep(_SOON)
    raise errors.OutcomeUnknown(sent.method)


def outcome_of_lost_task(session: Labels, sent: Sent) -> str | None:
    """Return the value of a task that the host forgot; None where it is unknown.

    A toolstack that restarts forgets its tasks; their work may be done.

    :raises errors.XapiError: the host was not heard in time
    """
    if sent.before is None:
        return None
    now = session.events.barrier()
    found = _outcome(session, sent, sent.before, now)
    return found if isinstance(found, str) else None


def _labelled(now: Snapshot, label: str) -> TaskRecord | None:
    for record in now[TaskRecord].values():
        if record.other_config.get(CALL_LABEL) == label:
            return record
    return None


def _ended_in_time(events: EventLoop, ref: str, deadline: float) -> bool:
    with events.watch(TaskRecord, ref) as watch:
        while (left := deadline - time.monotonic()) > 0:
            change = watch.next(left)
            if isinstance(change, Gone) or (change is not None and change.ended):
                return True
            if ref not in events.snapshot()[TaskRecord]:
                return True
    return False

# SPDX-License-Identifier: Apache-2.0
"""What befalls a server without Nova's doing, told to Nova as lifecycle events.

:func:`transitions` judges two records of one VM. :class:`Settling` keeps the changes
until it is clear what they come to. :class:`Lifecycle` is the thread around them: the
session's event loop puts changes in, the thread tells Nova, one event after another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from nova import context as nova_context
from nova import objects
from nova.virt import event as virt_event
from oslo_log import log as logging

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.host import HostRecord
from xenapi_driver.xapi.vm import VmRecord

LOG = logging.getLogger(__name__)

# Seconds that a change waits for the next one, so that a storm becomes one event.
SETTLE_SECONDS = 0.1
# The same for a halt: a guest that reboots may be halted for a moment, and Nova
# would stop it for good.
HALT_SECONDS = 0.5
# How long the end of the service waits for an event that Nova is being told.
STOP_SECONDS = 1.0

# What a server has come to; a running one is told by what it was.
_STATES = {
    "Halted": virt_event.EVENT_LIFECYCLE_STOPPED,
    "Paused": virt_event.EVENT_LIFECYCLE_PAUSED,
    "Suspended": virt_event.EVENT_LIFECYCLE_SUSPENDED,
}


def is_server(record: VmRecord, host_ref: str) -> bool:
    """Tell whether the VM is a server that belongs to the host."""
    return record.is_server and record.home == host_ref


def transitions(old: VmRecord, new: VmRecord, host_ref: str) -> tuple[int, ...]:
    """Return what happened between two records of one VM, as Nova names it.

    :param host_ref: our host; what befalls others' VMs is not ours to tell
    :returns: ``EVENT_LIFECYCLE_`` constants, in the order to be told
    """
    found = []
    # Only the host that it leaves tells of a move: Nova's source waits for that.
    if is_server(old, host_ref) and _moved(old, new):
        found.append(virt_event.EVENT_LIFECYCLE_MIGRATION_COMPLETED)
    if is_server(new, host_ref) and old.power_state != new.power_state:
        if new.power_state in _STATES:
            found.append(_STATES[new.power_state])
        elif old.power_state == "Halted":
            found.append(virt_event.EVENT_LIFECYCLE_STARTED)
        else:
            found.append(virt_event.EVENT_LIFECYCLE_RESUMED)
    return tuple(found)


def _moved(old: VmRecord, new: VmRecord) -> bool:
    return None not in (old.resident_on, new.resident_on) and (
        old.resident_on != new.resident_on
    )


def strayed(old: VmRecord, new: VmRecord, host_ref: str) -> bool:
    """Tell whether a server of our host has begun to run on another one."""
    return (
        is_server(new, host_ref)
        and new.resident_on not in (None, host_ref)
        and new.resident_on != old.resident_on
    )


@dataclasses.dataclass
class _Waiting:
    """A server that has changed.

    :ivar old: as it was when Nova was told of it last
    :ivar due: when to tell Nova, as time.monotonic() counts
    """

    old: VmRecord
    new: VmRecord
    due: float


class Settling:
    """The servers that have changed and of which Nova was not told yet.

    However often a server changes, it is in here once: as it was before the first
    change and as it is now. Needs a lock where several threads use it.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def note(
        self, ref: str, old: VmRecord | None, new: VmRecord | None, now: float
    ) -> None:
        """Take a change; ``old`` is None for a new VM, ``new`` for a deleted one."""
        if old is None or new is None:
            # Nova makes and deletes servers itself, and knows.
            self._waiting.pop(ref, None)
            return
        waiting = self._waiting.get(ref)
        changed = old.power_state != new.power_state
        patience = HALT_SECONDS if new.power_state == "Halted" else SETTLE_SECONDS
        if waiting is None:
            if changed or old.resident_on != new.resident_on:
                self._waiting[ref] = _Waiting(old, new, now + patience)
            return
        waiting.new = new
        if changed and new.power_state == "Halted":
            waiting.due = now + patience
        elif changed:
            # Not later than planned, or a server that flaps would never be told.
            waiting.due = min(waiting.due, now + patience)

    def next_due(self) -> float | None:
        """Return when the next server is due, None while none has changed."""
        return min((one.due for one in self._waiting.values()), default=None)

    def take(self, now: float) -> tuple[VmRecord, VmRecord] | None:
        """Remove the server that has been due the longest; return old and new.

        :returns: None while none is due
        """
        if not self._waiting:
            return None
        ref = min(self._waiting, key=lambda one: self._waiting[one].due)
        if self._waiting[ref].due > now:
            return None
        found = self._waiting.pop(ref)
        return found.old, found.new


def nova_moves(server_uuid: str, service_host: str) -> bool:
    """Tell whether Nova is at work on the server, or has given it to another host.

    Asks the database, through the conductor.
    """
    context = nova_context.get_admin_context(read_deleted="yes")
    instance = objects.Instance.get_by_uuid(context, server_uuid)
    return instance.task_state is not None or instance.host != service_host


class Lifecycle:
    """Tells Nova what the session's event loop reports of our servers.

    Nova's handler asks the conductor and may block for long, so that it runs in a
    thread of its own; the event loop's thread only leaves changes here.

    :param session: gives ``events``, ``records`` and ``host_ref``
    :param emit: the driver's ``emit_event``
    :param nova_moves: whether a server's move, by its UUID, is Nova's own doing
    """

    def __init__(
        self,
        session: Any,
        emit: Callable[[virt_event.LifecycleEvent], None],
        nova_moves: Callable[[str], bool],
    ) -> None:
        self._session = session
        self._emit = emit
        self._nova_moves = nova_moves
        self._settling = Settling()
        self._news = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(
            target=self._run, name="xapi-lifecycle", daemon=True
        )

    def start(self) -> None:
        """Begin to listen and to tell; once."""
        self._thread.start()
        self._session.events.subscribe(self._listen)

    def stop(self) -> None:
        """End, at once but for an event that Nova is being told; may run twice.

        What was not told yet stays untold: Nova compares all states as it starts.
        """
        self._session.events.unsubscribe(self._listen)
        with self._news:
            self._stopping = True
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    # In the event loop's thread

    def _listen(self, changes: Sequence[Any]) -> None:
        now = time.monotonic()
        with self._news:
            for change in changes:
                if change.kind is VmRecord:
                    self._settling.note(change.ref, change.old, change.new, now)
            self._news.notify_all()

    # In our own thread

    def _run(self) -> None:
        while True:
            due = self._next()
            if due is None:
                return
            try:
                self._tell(*due)
            except Exception:
                # Whatever it is, the other servers' events must go on.
                LOG.exception("A change of a server could not be told to Nova.",
                              instance_uuid=due[1].nova_uuid)  # fmt: skip

    def _next(self) -> tuple[VmRecord, VmRecord] | None:
        """Wait for a server to be due; None when it is time to end."""
        with self._news:
            while not self._stopping:
                now = time.monotonic()
                found = self._settling.take(now)
                if found is not None:
                    return found
                due = self._settling.next_due()
                self._news.wait(None if due is None else max(due - now, 0))
        return None

    def _tell(self, old: VmRecord, new: VmRecord) -> None:
        host_ref = self._session.host_ref
        if strayed(old, new, host_ref):
            self._warn_of_stray(new, host_ref)
        for transition in transitions(old, new, host_ref):
            self._emit(virt_event.LifecycleEvent(new.nova_uuid, transition))

    def _warn_of_stray(self, new: VmRecord, host_ref: str) -> None:
        if self._is_nova_at_work(str(new.nova_uuid)):
            return
        LOG.warning(
            "Server %(server)s (%(name)s) runs on host %(there)s now, and Nova did "
            "not move it there from %(here)s, where it goes on counting it. Migrate "
            "it back.",
            {
                "server": new.nova_uuid,
                "name": new.name_label,
                "there": self._host_name(new.resident_on),
                "here": self._host_name(host_ref),
            },
            instance_uuid=new.nova_uuid,
        )

    def _is_nova_at_work(self, server_uuid: str) -> bool:
        try:
            return self._nova_moves(server_uuid)
        except Exception as exc:
            # A warning too many is better than none; RPC may raise anything.
            LOG.debug("Nova could not say whether it moves the server: %s", exc,
                      instance_uuid=server_uuid)  # fmt: skip
            return False

    def _host_name(self, ref: str | None) -> str:
        with contextlib.suppress(errors.XapiError, KeyError):
            record = self._session.records[HostRecord][ref]
            return f"{record.hostname} ({record.uuid})"
        return "(one that the pool no longer has)"

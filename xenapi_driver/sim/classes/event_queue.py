# SPDX-License-Identifier: Apache-2.0
"""Class event, the old interface: register, next, unregister.

Each session that registered has a queue of its own. It holds a limited number of
changes: who does not come for them in time is told EVENTS_LOST, once, and goes on from
there. Numbers of events count from 0 on, over all sessions.
"""

import hashlib
import time
from dataclasses import dataclass, field

from xenapi_driver.sim.classes import event
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message

# Changes that a queue holds ("XAPI today", section 4, names no figure).
MAX_QUEUE = 500
# The host waits this long before it looks.
_BATCH = 0.2


@dataclass
class Registration:
    """What a session wants to hear of, and up to which generation it has heard."""

    since: int
    classes: set[str] = field(default_factory=set)


@message("event.register")
def register(call: Call, classes: list[str]) -> None:
    """Want to hear of classes, in addition to earlier ones; ``*`` means all."""
    queues, db = call.world.queues, call.db
    queue = queues.setdefault(call.session, Registration(db.generation))
    queue.classes |= {name.lower() for name in classes}


@message("event.unregister")
def unregister(call: Call, classes: list[str]) -> None:
    """Want to hear of classes no more."""
    queue = call.world.queues.get(call.session)
    if queue is None:
        return
    queue.classes -= {name.lower() for name in classes}
    if "*" in classes or not queue.classes:
        del call.world.queues[call.session]


@message("event.next", blocking=True)
def next_(call: Call) -> list[event.Event]:
    """Return what changed since the last call; wait until something has.

    :raises Failure: SESSION_NOT_REGISTERED, EVENTS_LOST; SESSION_INVALID when the
        session ends meanwhile
    """
    db, world = call.db, call.world
    with db.changed:
        while True:
            event.require_session(call)
            queue = world.queues.get(call.session)
            if queue is None:
                raise Failure("SESSION_NOT_REGISTERED", _track(call.session))
            wanted = event.Subscription(sorted(queue.classes))
            events = list(event.changes(db, wanted, queue.since, queue.since))
            missed, queue.since = db.generation - queue.since, db.generation
            if events and missed > MAX_QUEUE:
                raise Failure("EVENTS_LOST")
            if events:
                return [_numbered(call, one) for one in events]
            db.changed.wait()
            # Let changes that belong together arrive together.
            db.changed.wait_for(world.closing.is_set, _BATCH)


def _track(session: str) -> str:
    """Return what stands for a session where its reference must not be told."""
    digest = hashlib.md5(session.encode(), usedforsecurity=False).hexdigest()
    return f"trackid={digest}"


def _numbered(call: Call, one: event.Event) -> event.Event:
    """Return an event as this interface words it."""
    call.world.events_told += 1
    number = str(call.world.events_told - 1)
    return {**one, "id": number, "timestamp": f"{time.time():.0f}."}


@message("event.get_current_id")
def get_current_id(call: Call) -> int:
    """Return the number of the next event."""
    return call.world.events_told

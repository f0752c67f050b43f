# SPDX-License-Identifier: Apache-2.0
"""Class event: what changed since a token."""

import time
from collections.abc import Iterator
from typing import Any

from xenapi_driver.sim.doors.wire import WireInt
from xenapi_driver.sim.failure import ConnectionCut, Failure, handle_invalid
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Registry

# A round trip sees a bunch of changes: the host waits this long before it looks.
_BATCH = 0.05

_MESSAGE = "message"

Event = dict[str, Any]


class Subscription:
    """Classes and objects that a caller wants to hear of; any case of class."""

    def __init__(self, wanted: list[str]) -> None:
        self._all = "*" in wanted
        self._classes = {text.lower() for text in wanted if "/" not in text}
        self._objects = set()
        for text in wanted:
            cls, slash, ref = text.partition("/")
            if slash:
                self._objects.add((cls.lower(), ref))

    def wants(self, cls: str, ref: str) -> bool:
        """Return whether this object matters."""
        low = cls.lower()
        return self._all or low in self._classes or (low, ref) in self._objects


def _parse_token(token: str) -> int:
    if token == "":
        return 0
    first, comma, second = token.partition(",")
    if not comma or not first.isdigit() or not second.isdigit() or int(first) >> 63:
        raise Failure("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
    return int(first)


def token_of(generation: int) -> str:
    """Return the token that stands for a generation."""
    return f"{generation:020d},{0:020d}"


def _event(number: int, cls: str, operation: str, ref: str) -> Event:
    return {
        "id": str(number),
        "timestamp": "0.0",
        "class": cls.lower(),
        "operation": operation,
        "ref": ref,
    }


def changes(
    db: Registry, wanted: Subscription, since: int, looked: int
) -> Iterator[Event]:
    """Yield the events after a generation, one an object, oldest change first.

    :param looked: the generation up to which there is known to be nothing; what was
        changed before is not looked at again
    """
    found: list[tuple[int, Event]] = []
    for cls, gone in db.deleted_since(looked):
        if (
            gone.created <= since
            and _tells(db, cls, since)
            and wanted.wants(cls, gone.ref)
        ):
            event = _event(gone.deleted, cls, "del", gone.ref)
            found.append((gone.deleted, event))
    for cls, ref, stamp in db.changed_since(looked):
        if _tells(db, cls, since) and wanted.wants(cls, ref):
            operation = "add" if stamp.created > since else "mod"
            event = _event(stamp.modified, cls, operation, ref)
            event["snapshot"] = db.record(cls, ref)
            found.append((stamp.modified, event))
    found.sort(key=lambda pair: pair[0])
    yield from (event for _, event in found)


def _tells(db: Registry, cls: str, since: int) -> bool:
    """Return whether objects of the class make events.

    Messages are no part of the database: a first, full read leaves them out.
    """
    model = db.schema.classes[cls]
    return model.events and (model.stored or cls == _MESSAGE and since > 0)


def _counts(db: Registry) -> dict[str, WireInt]:
    # A host counts what its database has of each class: no messages, as it keeps none.
    return {
        cls.lower(): WireInt(0 if cls == _MESSAGE else db.count(cls))
        for cls in db.schema.classes
    }


def require_session(call: Call) -> None:
    """End a wait when the session or the host ends.

    :raises Failure: SESSION_INVALID
    :raises ConnectionCut: the coordinator is off
    """
    if call.world.coordinator in call.world.dark:
        raise ConnectionCut("The host is off.")
    if call.world.closing.is_set() or not call.db.exists("session", call.session):
        raise Failure("SESSION_INVALID", call.session)


@message("event.from", blocking=True)
def from_(call: Call, classes: list[str], token: str, timeout: float) -> dict[str, Any]:
    """Return the changes since ``token``, waiting up to ``timeout`` seconds for one.

    A negative time-out waits for ever; logging out ends the wait.
    """
    db = call.db
    wanted = Subscription(classes)
    since = _parse_token(token)
    if since > db.generation:
        # The token comes from another life of the database: read all again.
        since = 0
    deadline, looked = time.monotonic() + timeout, since
    with db.changed:
        while True:
            require_session(call)
            db.settle()
            events = list(changes(db, wanted, since, looked))
            looked = db.generation
            left = deadline - time.monotonic()
            if events or 0 <= timeout and left <= 0:
                break
            db.changed.wait(None if timeout < 0 else left)
            # Let changes that belong together arrive together.
            db.changed.wait_for(call.world.closing.is_set, _BATCH)
        return {
            "events": events,
            "valid_ref_counts": _counts(db),
            "token": token_of(db.generation),
        }


@message("event.inject")
def inject(call: Call, cls: str, ref: str) -> str:
    """Make a modification event; the token returned lies just before it."""
    if cls not in call.db.schema.classes or not call.db.exists(cls, ref):
        raise handle_invalid(cls, ref)
    before = token_of(call.db.generation)
    call.db.touch(cls, ref)
    return before

# SPDX-License-Identifier: Apache-2.0
"""What the modules of XAPI's classes need of a session, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.events import EventLoop
from xenapi_driver.xapi.made import Made
from xenapi_driver.xapi.requests import RequestCounter
from xenapi_driver.xapi.tables import R, Snapshot
from xenapi_driver.xapi.transport import Transport

NULL_REF = "OpaqueRef:NULL"

Found = TypeVar("Found")


class Client(Protocol):
    """A logged-in session, as the verbs see it."""

    host_ref: str
    events: EventLoop
    labels_are_kept: bool
    made: Made
    signature: str
    requests: RequestCounter

    @property
    def records(self) -> Snapshot:
        """The tables of records; see :attr:`Session.records`."""

    def call(self, method: str, *args: Any) -> Any:
        """Run a short call; see :meth:`Session.call`."""

    def task(
        self,
        method: str,
        *args: Any,
        progress: Callable[[float], None] | None = None,
        timeout: float | None = None,
        label: str = "",
    ) -> Any:
        """Run a long call; see :meth:`Session.task`."""

    def label(self) -> str:
        """Return a new label for a task; see :meth:`Session.label`."""

    def door(self, host_ref: str | None = None) -> Transport:
        """Return an unopened way to a host; see :meth:`Session.door`."""

    def reference(self) -> str:
        """Return the session's reference, a secret; see :meth:`Session.reference`."""

    def failure(self, description: Sequence[object], method: str) -> errors.XapiFailure:
        """Make the exception for an ErrorDescription."""


def existing(session: Client, kind: type[R], ref: str) -> R:
    """Return an object's record.

    :raises HandleInvalid: there is no such object (any more)
    """
    record = session.records[kind].get(ref)
    if record is None:
        params = (kind.XAPI_CLASS, ref)
        raise errors.HandleInvalid(
            "HANDLE_INVALID", params, f"{kind.XAPI_CLASS}.get_record"
        )
    return record


def or_none(ref: str) -> str | None:
    """Return the reference, None for XAPI's null."""
    return None if ref in ("", NULL_REF) else ref


def only(xapi_class: str, name: str, found: Sequence[Found]) -> Found | None:
    """Return the one object in ``found``, None when it is empty.

    :raises NotUnique: there are several
    """
    if len(found) > 1:
        raise errors.NotUnique(xapi_class, name, len(found))
    return found[0] if found else None

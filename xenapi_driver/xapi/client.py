# SPDX-License-Identifier: Apache-2.0
"""What the modules of XAPI's classes need of a session, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.events import EventLoop
from xenapi_driver.xapi.requests import RequestCounter
from xenapi_driver.xapi.transport import Transport

NULL_REF = "OpaqueRef:NULL"

# Values that records are searched by; see matching().
Fields = Mapping[str, str | bool]


class Client(Protocol):
    """A logged-in session, as the verbs see it."""

    host_ref: str
    pool_ref: str
    events: EventLoop
    requests: RequestCounter

    def call(self, method: str, *args: Any) -> Any:
        """Run a short call; see :meth:`Session.call`."""

    def task(
        self,
        method: str,
        *args: Any,
        progress: Callable[[float], None] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Run a long call; see :meth:`Session.task`."""

    def door(self, host_ref: str | None = None) -> Transport:
        """Return an unopened way to a host; see :meth:`Session.door`."""

    def reference(self) -> str:
        """Return the session's reference, a secret; see :meth:`Session.reference`."""

    def failure(self, description: Sequence[object], method: str) -> errors.XapiFailure:
        """Make the exception for an ErrorDescription."""


def or_none(ref: str) -> str | None:
    """Return the reference, None for XAPI's null."""
    return None if ref in ("", NULL_REF) else ref


def matching(
    session: Client, xapi_class: str, fields: Fields
) -> dict[str, dict[str, Any]]:
    """Return the records whose fields equal the values, in one request.

    :param fields: XAPI's own spelling, two underscores for a nested field, as
        in ``name__label``
    :returns: dict of reference to record
    """
    terms = ["true"]
    for name, value in fields.items():
        literal = str(value).lower() if isinstance(value, bool) else value
        # XAPI's filter language has no way to write a quote; the comparison
        # below then does it alone.
        if '"' not in literal and "\\" not in literal:
            terms.append(f'field "{name}" = "{literal}"')
    expression = " and ".join(terms[1:] or terms)
    records = session.call(f"{xapi_class}.get_all_records_where", expression)
    return {
        ref: rec
        for ref, rec in records.items()
        if all(rec[name.replace("__", "_")] == value for name, value in fields.items())
    }


def only(xapi_class: str, name: str, found: Sequence[Any]) -> Any:
    """Return the one object in ``found``, None when it is empty.

    :raises NotUnique: there are several
    """
    if len(found) > 1:
        raise errors.NotUnique(xapi_class, name, len(found))
    return found[0] if found else None

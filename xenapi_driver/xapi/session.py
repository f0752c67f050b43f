# SPDX-License-Identifier: Apache-2.0
"""One login at a host, shared by all threads over a few kept-alive connections.

What happens to a session over days is handled here and nowhere else: it expires,
connections break, the toolstack restarts, another member becomes coordinator. A
call is repeated when it only reads, or when the host certainly did not begin it:
no connection, an incomplete request, or a refusal of the session itself, which
XAPI checks before anything else.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import XenAPI
from oslo_log import log as logging

from xenapi_driver.xapi import errors, events, pool, tasks, wire
from xenapi_driver.xapi.connections import Connections
from xenapi_driver.xapi.requests import RequestCounter
from xenapi_driver.xapi.transport import Answer, Transport
from xenapi_driver.xapi.wire_json import JsonRpc
from xenapi_driver.xapi.wire_xml import XmlRpc

LOG = logging.getLogger(__name__)

_API_VERSION = "1.0"  # login's third parameter; every known XAPI ignores it

# Calls that take no session reference first.
_SESSIONLESS = frozenset({"system.listMethods", "session.login_with_password"})

# Calls that change nothing, so that a second one does no harm.
_READS = re.compile(
    r"(system\.listMethods|event\.from|host\.compute_free_memory"
    r"|\w+\.get_\w+)$"
)

# Calls that are over at once, so that they need not wait behind slow changes.
_QUICK = re.compile(r"(session|task)\.\w+$")

_FIRST_PAUSE = 0.1  # seconds before a repetition; doubles up to _LONGEST_PAUSE
_LONGEST_PAUSE = 2.0


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How a session goes about its work.

    :ivar connections: how many stay open; see :class:`Connections` for the bound
    :ivar login_seconds: how long a login may take; None: as any other call
    :ivar retry_seconds: how long a call is repeated while the host is away
    :ivar dialects: how to speak to the host, the preferred one first; the next is
        taken when a host does not know one
    """

    connections: int = 8
    login_seconds: float | None = None
    retry_seconds: float = 10.0
    dialects: tuple[wire.Dialect, ...] = (JsonRpc(), XmlRpc())


class Session:
    """A logged-in client of a host or pool; safe to use from many threads.

    :ivar host_ref: our host: the one that the URL named, even in a pool whose
        coordinator is another. Known after :meth:`login`, like the next two.
    :ivar host_uuid: its UUID
    :ivar pool_ref: its pool, which every host has
    :ivar requests: what was sent so far
    :ivar events: what the host told us; tasks wait on it
    """

    def __init__(
        self,
        transport_factory: Callable[[], Transport],
        username: str,
        password: str,
        originator: str,
        tuning: Tuning | None = None,
    ) -> None:
        tuning = tuning or Tuning()
        self._door = transport_factory
        self._coordinator: str | None = None  # address, when it is not our host
        self._username = username
        self._password = password
        self._originator = originator
        self._retry_seconds = tuning.retry_seconds
        self._login_seconds = tuning.login_seconds
        self._dialects = tuning.dialects

        self._ref: str | None = None
        self._login_lock = threading.Lock()
        self._connections = Connections(self._new_transport, tuning.connections)
        self._poller: Transport | None = None

        self.host_ref = ""
        self.host_uuid = ""
        self.pool_ref = ""
        self.requests = RequestCounter()
        self.events = events.EventLoop(self._poll)

    def __repr__(self) -> str:
        state = "logged in" if self._ref else "logged out"
        return f"<Session of {self._originator}, {state}>"

    def __enter__(self) -> Session:
        self.login()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.logout()

    @property
    def dialect(self) -> str:
        """How we speak to the host, for people; the best that it knows after login."""
        return self._dialects[0].name

    # Login and logout

    def login(self) -> None:
        """Log in, following a pool member to its coordinator; idempotent.

        :raises AuthenticationFailed: wrong user or password
        :raises HostUnreachable: no connection
        :raises CertificateRefused: not the certificate that we trust
        """
        with self._login_lock:
            if self._ref is None:
                self._ref = self._logged_in()
        if not self.host_ref:
            self._find_ourselves()

    def logout(self) -> None:
        """Log out, end the event loop, close the connections. Never raises."""
        self.events.stop()
        with self._login_lock:
            ref, self._ref = self._ref, None
        if ref is not None:
            try:
                # Also wakes a blocked event.from.
                self._once("session.logout", (ref,))
            except errors.XapiError as exc:
                LOG.debug("The session was not closed on the host: %s", exc)
        poller = self._poller
        if poller is not None:
            poller.interrupt()
        self.events.join()
        self._drop_poller()
        self._connections.drop()

    def _logged_in(self) -> str:
        """Return a new session reference, from the coordinator of the pool."""
        args = (self._username, self._password, _API_VERSION, self._originator)
        failed: errors.XapiError | None = None
        # At most: the old coordinator is gone, our own host names the new one,
        # which lets us in.
        for _attempt in range(3):
            try:
                return self._login_in_some_dialect(args)
            except errors.HostIsSlave as exc:
                failed = exc
                self._coordinator = exc.params[0]
                LOG.info("Our host follows the pool's coordinator %s.",
                         self._coordinator)  # fmt: skip
            except errors.HostUnreachable as exc:
                if self._coordinator is None:
                    raise
                failed = exc
                self._coordinator = None
            self._connections.drop()
        raise failed or errors.NotLoggedIn()

    def _login_in_some_dialect(self, args: Sequence[str]) -> str:
        """Log in, and find out what the host speaks; one request more for each no."""
        method = "session.login_with_password"
        while True:
            try:
                return str(self._once(method, args, self._login_seconds))
            except errors.NoSuchDialect as exc:
                if len(self._dialects) == 1:
                    raise
                LOG.info("%(url)s has no %(dialect)s (%(reason)s).",
                         {"url": exc.url, "dialect": self._dialects[0].name,
                          "reason": exc.reason})  # fmt: skip
                self._dialects = self._dialects[1:]

    def _find_ourselves(self) -> None:
        if self._coordinator is None:
            # A stale reference cannot be in the way: we have just logged in.
            self.host_ref = str(self.call("session.get_this_host", self._ref))
        else:
            self.host_ref = pool.member_by_address(self, self._door().addresses())
        self.host_uuid = str(self.call("host.get_uuid", self.host_ref))
        self.pool_ref = pool.ref(self)

    def _renew(self, stale: str) -> None:
        """Log in again, unless another thread has done so meanwhile."""
        with self._login_lock:
            if self._ref != stale:
                return
            LOG.info("The XAPI session is no longer valid; logging in again.")
            self._ref = self._logged_in()

    # Calls

    def call(self, method: str, *args: Any) -> Any:
        """Call ``method`` and return its value; ints come back as decimal text.

        The session reference is put first. Blocks until the host has answered.

        :raises XapiFailure: the host refused, as the subclass of the error code
        :raises ConnectionLost: not a read, and possibly carried out
        :raises HostUnreachable: no connection for ``retry_seconds``
        """
        deadline = time.monotonic() + self._retry_seconds
        pause = _FIRST_PAUSE
        stale: str | None = None
        ref: str | None = None
        renewed = False
        while True:
            failed: errors.XapiError
            try:
                if stale is not None:
                    renewed = True
                    self._renew(stale)
                    stale = None
                ref = self._ref
                if ref is None:
                    raise errors.NotLoggedIn()
                params = args if method in _SESSIONLESS else (ref, *args)
                return self._once(method, params)
            except (errors.SessionInvalid, errors.HostIsSlave):
                if renewed:
                    raise
                stale = ref
                continue
            except errors.ConnectionLost as exc:
                if exc.begun and not _READS.match(method):
                    raise
                failed = exc
            except (errors.HostUnreachable, errors.HostStillBooting) as exc:
                failed = exc
                if self._coordinator is not None:
                    # Our own host knows whether another one has taken over.
                    stale = self._ref
            if time.monotonic() + pause > deadline:
                raise failed
            LOG.warning("%(call)s is repeated. %(reason)s",
                        {"call": method, "reason": failed})  # fmt: skip
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def task(
        self,
        method: str,
        *args: Any,
        progress: Callable[[float], None] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Run an ``Async.`` method to its end and return its value.

        Blocks, on events rather than on a connection. See :func:`tasks.run`.
        """
        return tasks.run(self, method, args, progress=progress, timeout=timeout)

    def door(self, host_ref: str | None = None) -> Transport:
        """Return an unopened way to a host of the pool, for a stream.

        :param host_ref: None for the one that calls go to
        :raises HandleInvalid: there is no such host
        """
        if host_ref is None:
            return self._new_transport()
        if host_ref == self.host_ref:
            return self._door()
        return self._door().elsewhere(str(self.call("host.get_address", host_ref)))

    def reference(self) -> str:
        """Return the session's reference: a secret, for a header of a stream.

        :raises NotLoggedIn: before login and after logout
        """
        ref = self._ref
        if ref is None:
            raise errors.NotLoggedIn()
        return ref

    def methods(self) -> frozenset[str]:
        """Return the names of all calls that the host has."""
        return frozenset(self.call("system.listMethods"))

    def _poll(self, classes: Sequence[str], token: str, timeout: float) -> Any:
        """One event.from, on a connection of its own: it blocks for long."""
        while True:
            ref = self._ref
            if ref is None:
                raise errors.NotLoggedIn()
            poller = self._poller
            if poller is None:
                poller = self._poller = self._new_transport()
            # The host answers when nothing happened, well before we give up.
            seconds = min(timeout, poller.patience / 2)
            params = (ref, list(classes), token, float(seconds))
            try:
                return self._send(poller, "event.from", params)
            except (errors.SessionInvalid, errors.HostIsSlave):
                self._drop_poller()
                if self._ref is None:
                    # At logout the loop is over; it must not log in again.
                    raise errors.NotLoggedIn() from None
                self._renew(ref)
            except errors.XapiError:
                # The next one may have to go to another coordinator.
                self._drop_poller()
                raise

    def _once(
        self, method: str, params: Sequence[Any], patience: float | None = None
    ) -> Any:
        quick = bool(_READS.match(method) or _QUICK.match(method))
        with self._connections.lend(reads=quick) as transport:
            return self._send(transport, method, params, patience)

    def _send(
        self,
        transport: Transport,
        method: str,
        params: Sequence[Any],
        patience: float | None = None,
    ) -> Any:
        def carry(path: str, content_type: str, body: bytes) -> Answer:
            self.requests.add(method, len(body))
            answer = transport.request(path, content_type, body, patience)
            self.requests.answered(method, len(answer.body))
            return answer

        started = time.monotonic()
        try:
            value = self._dialects[0].exchange(carry, method, params)
        except XenAPI.Failure as exc:
            refusal = exc.details
        else:
            LOG.debug("%(call)s took %(ms)d ms.",
                      {"call": method,
                       "ms": (time.monotonic() - started) * 1000})  # fmt: skip
            return value
        # Not where it was caught: its details may hold our session's reference,
        # and an exception keeps the one that it came from.
        raise self.failure(refusal, method)

    def failure(self, description: Sequence[object], method: str) -> errors.XapiFailure:
        """Make the exception for an ErrorDescription, our secrets masked."""
        failure = errors.from_failure(
            description, method, (self._ref or "", self._password)
        )
        if isinstance(failure, errors.SessionInvalid):
            # Its parameter is the reference, which may be older than ours.
            return errors.SessionInvalid(failure.code, (errors.MASK,), method)
        return failure

    # Connections

    def _new_transport(self) -> Transport:
        transport = self._door()
        if self._coordinator is not None:
            return transport.elsewhere(self._coordinator)
        return transport

    def _drop_poller(self) -> None:
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.close()

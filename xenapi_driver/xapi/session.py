# SPDX-License-Identifier: Apache-2.0
"""One login at a host, shared by all threads over a few kept-alive connections.

What happens to a session over days is handled here and nowhere else: it expires,
connections break, the toolstack restarts, another member becomes coordinator. A
call is repeated when a second one does no harm, or when the host certainly did
not begin it: no connection, an incomplete request, or a refusal of the session
itself, which XAPI checks before anything else. Of any other call whose answer was
lost it is found out what became of it (:mod:`~xenapi_driver.xapi.lost`).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import XenAPI
from oslo_log import log as logging

from xenapi_driver.xapi import effects, errors, events, lost, pool, task, tasks, wire
from xenapi_driver.xapi.client import existing
from xenapi_driver.xapi.connections import Connections
from xenapi_driver.xapi.host import HostRecord
from xenapi_driver.xapi.made import Made
from xenapi_driver.xapi.patience import Patience, Turns, persist
from xenapi_driver.xapi.pool import PoolRecord
from xenapi_driver.xapi.records import KINDS
from xenapi_driver.xapi.requests import RequestCounter
from xenapi_driver.xapi.tables import Kind, Snapshot
from xenapi_driver.xapi.transport import Answer, Transport
from xenapi_driver.xapi.wire_json import JsonRpc
from xenapi_driver.xapi.wire_xml import XmlRpc

LOG = logging.getLogger(__name__)

_API_VERSION = "1.0"  # login's third parameter; every known XAPI ignores it

_LOGIN = "session.login_with_password"
# Calls that take no session reference first.
_SESSIONLESS = frozenset({"system.listMethods", _LOGIN})

# Calls that are over at once, so that they need not wait behind slow changes.
_QUICK = re.compile(r"(session|task|event)\.\w+$")

# How often a call logs in anew before it pauses: the toolstack may restart again.
_RENEWALS = 2
_GRACE_SECONDS = 30.0  # that an event.from may be late


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
    retry_seconds: float = 60.0
    dialects: tuple[wire.Dialect, ...] = (JsonRpc(), XmlRpc())


class Session:
    """A logged-in client of a host or pool; safe to use from many threads.

    :ivar host_ref: our host: the one that the URL named, even in a pool whose
        coordinator is another. Known after :meth:`login`; it may change when the
        host joins a pool, so it is asked for each time.
    :ivar requests: what was sent so far
    :ivar events: what the host told us; tasks wait on it
    :ivar labels_are_kept: whether the host is known to put our labels into tasks
    :ivar made: the objects that calls of ours have made
    :ivar signature: what marks a task that we make for a transfer
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
        self._logins = Turns()
        self._connections = Connections(
            self._new_transport, tuning.connections, tuning.retry_seconds
        )
        self._poller: Transport | None = None

        # What the labels of this session's calls begin with.
        self._run = uuid.uuid4().hex[:12]
        self._numbers = itertools.count(1)
        self.labels_are_kept = False
        self.made = Made()
        self.signature = f"{originator} {self._run}"

        self.host_ref = ""
        self._host_uuid = ""
        self.requests = RequestCounter()
        self.events = events.EventLoop(
            self._poll, self._inject, self._look, KINDS, tuning.retry_seconds
        )

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
        with self._logins.alone():
            if self._ref is None:
                self._ref = persist(_LOGIN, self._logged_in, self._retry_seconds)
        if not self.host_ref:
            try:
                self._find_ourselves()
            except BaseException:
                self.logout()  # nobody else would
                raise

    def logout(self) -> None:
        """Log out, end the event loop, close the connections. Never raises."""
        self.events.stop()
        with self._logins.alone():
            ref, self._ref = self._ref, None
        if ref is not None:
            # Also wakes a blocked event.from.
            self._close_on_host(ref)
        poller = self._poller
        if poller is not None:
            poller.interrupt()
        self.events.join()
        self._drop_poller()
        self._connections.drop()

    def _close_on_host(self, ref: str) -> None:
        for _attempt in range(3):
            try:
                with self._connections.lend(reads=True) as carrier:
                    seconds = self._login_seconds
                    self._send(carrier, "session.logout", (ref,), patience=seconds)
                return
            except errors.XapiError as exc:
                LOG.debug("The session was not closed on the host: %s", exc)
                if type(exc) is not errors.ConnectionLost:
                    return

    def _logged_in(self) -> str:
        """Return a new session reference, from the coordinator of the pool."""
        failed: errors.XapiError | None = None
        # At most: the old coordinator is gone, our own host names the new one,
        # which lets us in.
        for _attempt in range(3):
            try:
                return self._login_in_some_dialect()
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

    def _login_in_some_dialect(self) -> str:
        """Log in, and find out what the host speaks; one request more for each no."""
        while True:
            try:
                with self._connections.lend(reads=True) as transport:
                    return self._logged_in_at(transport)
            except errors.NoSuchDialect as exc:
                if len(self._dialects) == 1:
                    raise
                LOG.info("%(url)s has no %(dialect)s (%(reason)s).",
                         {"url": exc.url, "dialect": self._dialects[0].name,
                          "reason": exc.reason})  # fmt: skip
                self._dialects = self._dialects[1:]

    def _logged_in_at(self, transport: Transport) -> str:
        args = (self._username, self._password, _API_VERSION, self._originator)
        try:
            found = self._send(transport, _LOGIN, args, patience=self._login_seconds)
        except errors.ConnectionLost as exc:
            # Not to be taken for the loss of the call for which we log in.
            late = isinstance(exc, errors.AnswerLate)
            raise errors.HostUnreachable(exc.url, exc.reason, silent=late) from exc
        return str(found)

    def _find_ourselves(self) -> None:
        while True:
            began = (self._coordinator, self._ref)
            try:
                if self._coordinator is None:
                    found = str(self.call("session.get_this_host", self._ref))
                else:
                    found = pool.member_by_address(self, self._door().addresses())
            except (errors.HandleInvalid, errors.SessionInvalid):
                if began == (self._coordinator, self._ref):
                    raise
                continue
            # A login in between may have been at another host.
            if began == (self._coordinator, self._ref):
                self.host_ref = found
                return

    def _renew(self, stale: str, deadline: float) -> None:
        """Log in again, unless another thread has done so meanwhile."""
        with self._logins.turn(deadline, self._new_transport().url):
            if self._ref != stale:
                return
            LOG.info("The XAPI session is no longer valid; logging in again.")
            self._ref = self._logged_in()

    def _look_for_coordinator(self, deadline: float) -> None:
        """Ask our own host who leads the pool; log in there if it is another now.

        :raises HostUnreachable: our host does not answer either
        """
        with self._logins.turn(deadline, self._new_transport().url):
            known = self._coordinator
            if known is None or self._ref is None:
                return
            own = self._door()
            try:
                self._ref = self._logged_in_at(own)
                self._coordinator = None
            except errors.HostIsSlave as exc:
                if exc.params[0] == known:
                    return
                self._coordinator = exc.params[0]
                self._ref = self._logged_in()
            finally:
                own.close()
            LOG.info("The pool has another coordinator: %s.",
                     self._coordinator or "our own host")  # fmt: skip
            self._connections.drop()

    # State

    @property
    def records(self) -> Snapshot:
        """The tables of records, as new as every call of ours that returned.

        Costs no request, but waits: for the first reading of everything, and for
        the event of what we have just changed.

        :raises XapiError: the host was not heard for ``retry_seconds``
        """
        snapshot = self.events.snapshot()
        self._recognise(snapshot)
        return snapshot

    @property
    def host(self) -> HostRecord:
        """Our host.

        :raises HandleInvalid: it is in this pool no longer
        """
        self._recognise(self.events.snapshot())  # it may have another reference
        return existing(self, HostRecord, self.host_ref)

    @property
    def pool(self) -> PoolRecord:
        """Our host's pool, which every host has."""
        return pool.only(self.records)

    def _recognise(self, snapshot: Snapshot) -> None:
        """Find our host again, which has another reference in another pool."""
        hosts = snapshot[HostRecord]
        record = hosts.get(self.host_ref)
        if record is None and self._host_uuid:
            record = hosts.by_uuid(self._host_uuid)
        if record is not None:
            self.host_ref, self._host_uuid = record.ref, record.uuid

    def reference(self) -> str:
        """Return the session's reference, which is a secret.

        :raises NotLoggedIn:
        """
        if self._ref is None:
            raise errors.NotLoggedIn()
        return self._ref

    def door(self, host_ref: str | None = None) -> Transport:
        """Return an unopened transport: to where calls go, or to a host."""
        if host_ref is None or host_ref == self.host_ref and not self._coordinator:
            return self._new_transport()
        if host_ref == self.host_ref:
            return self._door()
        return self._door().elsewhere(existing(self, HostRecord, host_ref).address)

    # Calls

    def call(self, method: str, *args: Any) -> Any:
        """Call ``method`` and return its value; ints come back as decimal text.

        The session reference is put first. Blocks until the host has answered.

        :raises XapiFailure: the host refused, as the subclass of the error code
        :raises OutcomeUnknown: its answer was lost, and nothing tells what was done
        :raises HostUnreachable: no connection for ``retry_seconds``
        """
        value, _sent = self._carried_out(method, args)
        return value

    def label(self) -> str:
        """Return a new label, by which the host's task of one call is known."""
        return f"{self._run}-{next(self._numbers)}"

    def begin(
        self, method: str, args: Sequence[Any], label: str = ""
    ) -> tuple[str, lost.Sent]:
        """Begin an ``Async.`` call; return its task, and what was sent.

        Raises as :meth:`call` does.

        :raises lost.AlreadyDone: its answer was lost, and the work is done
        """
        value, sent = self._carried_out(method, args, label)
        return str(value), sent

    def _carried_out(
        self, method: str, args: Sequence[Any], label: str = ""
    ) -> tuple[Any, lost.Sent]:
        before = self.events.glance() if self.events.running else None
        sent = lost.Sent(method, args, label or self.label(), before)
        try:
            value = self._persisted(sent)
        except errors.XapiError:
            if not effects.reads(method):
                self.events.doubt()  # it may have got half way
            raise
        if effects.reads(method):
            return value, sent
        self.made.add(value)
        if before is None:
            self.events.doubt()  # the first reading may have begun meanwhile
        else:
            shows = effects.visible(method, args, value, before)
            if shows is not None:
                self.events.expect(shows)
        return value, sent

    def _persisted(self, sent: lost.Sent) -> Any:
        """Send a call until it is answered, or its deadline has passed."""
        patience = Patience(self._retry_seconds)
        deadline = patience.deadline
        stale: str | None = None
        ref: str | None = None
        renewals = 0
        unheard = False
        failed: errors.XapiError
        while True:
            try:
                if stale is not None:
                    self._renew(stale, deadline)
                    stale = None
                if unheard:
                    self._look_for_coordinator(deadline)
                    unheard = False
                ref = self._ref
                if ref is None:
                    raise errors.NotLoggedIn()
                params = sent.args if sent.method in _SESSIONLESS else (ref, *sent.args)
                return self._once(sent.method, params, sent.label)
            except (errors.SessionInvalid, errors.HostIsSlave) as exc:
                renewals += 1
                stale = ref
                if renewals <= _RENEWALS:
                    continue
                failed = exc
            except errors.ConnectionLost as exc:
                failed = exc
                if exc.begun and not effects.repeatable(sent.method):
                    done = self._found_out(sent, exc, (ref, deadline))
                    if done is not None:
                        return done.value
            except (errors.HostUnreachable, errors.HostStillBooting) as exc:
                failed = exc
                unheard = True
            patience.wait(failed, sent.method)

    def _found_out(
        self,
        sent: lost.Sent,
        cut: errors.ConnectionLost,
        when: tuple[str | None, float],
    ) -> lost.Done | None:
        """Return what became of a call; None when it may be sent again.

        :param when: the session that it was sent in, and its deadline
        """
        ref, deadline = when
        LOG.warning("Finding out whether %(call)s was carried out. %(reason)s",
                    {"call": sent.method, "reason": cut})  # fmt: skip
        try:
            done = lost.find_out(self, sent, deadline)
            if done is None and self._ref != ref and not effects.at_once(sent.work):
                done = lost.shown_later(self, sent, deadline)
        except errors.XapiError as exc:
            raise errors.OutcomeUnknown(sent.method) from exc
        if done is None and isinstance(cut, errors.AnswerLate):
            # It may still lie before the host, which has not begun it yet.
            raise errors.OutcomeUnknown(sent.method) from cut
        return done

    def task(
        self,
        method: str,
        *args: Any,
        progress: Callable[[float], None] | None = None,
        timeout: float | None = None,
        label: str = "",
    ) -> Any:
        """Run an ``Async.`` method to its end and return its value.

        Blocks, on events rather than on a connection. See :func:`tasks.run`.

        :param label: of :meth:`label`, where the work itself is to know it
        """
        return tasks.run(
            self, method, args, progress=progress, timeout=timeout, label=label
        )

    def clear_leftovers(self) -> None:
        """Remove the tasks that an earlier process of ours has left on the host."""
        count = tasks.clear_leftovers(self, self._originator, self._run)
        if count:
            LOG.info("Removed %d tasks of an earlier run.", count)

    def methods(self) -> frozenset[str]:
        """Return the names of all calls that the host has."""
        return frozenset(self.call("system.listMethods"))

    def _inject(self, snapshot: Snapshot) -> events.Token:
        """Make the host send an event; return the token before it."""
        record = pool.only(snapshot)
        while True:
            ref = self._ref
            text = self.call("event.inject", PoolRecord.XAPI_CLASS, record.ref)
            if ref == self._ref:  # else nobody knows by which login it came
                return events.Token(str(text), ref)

    def _look(self, kind: Kind, ref: str) -> Any:
        """Return an object's record as it is now, None when there is none."""
        try:
            return kind.from_xapi(ref, self.call(f"{kind.XAPI_CLASS}.get_record", ref))
        except errors.HandleInvalid:
            return None

    def _poll(
        self, classes: Sequence[str], token: events.Token, seconds: float
    ) -> events.Answer:
        """One event.from, on a connection of its own: it blocks for long."""
        deadline = time.monotonic() + self._retry_seconds
        renewed = False
        while True:
            ref = self._ref
            if ref is None:
                raise errors.NotLoggedIn()
            # Another coordinator, or a toolstack that was restarted, may count
            # its events otherwise.
            since = token.text if token.login == ref else ""
            poller = self._poller
            if poller is None:
                poller = self._poller = self._new_transport()
            # The host answers when nothing happened, well before we give up.
            seconds = min(seconds, poller.patience / 2)
            params = (ref, list(classes), since, float(seconds))
            # A host that went off says no word; only the first answer is a long one.
            late = min(poller.patience, seconds + _GRACE_SECONDS) if since else None
            try:
                found = self._send(poller, "event.from", params, patience=late)
            except (errors.SessionInvalid, errors.HostIsSlave):
                self._drop_poller()
                if self._ref is None:
                    # At logout the loop is over; it must not log in again.
                    raise errors.NotLoggedIn() from None
                if renewed:
                    raise
                self._renew(ref, deadline)
                renewed = True
                continue
            except (errors.HostUnreachable, errors.ConnectionLost):
                self._drop_poller()
                self._look_for_coordinator(deadline)
                raise
            except errors.XapiError:
                self._drop_poller()
                raise
            try:
                return events.Answer(
                    events=found["events"],
                    token=events.Token(str(found["token"]), ref),
                    counts=found.get("valid_ref_counts", {}),
                    complete=not since,
                )
            except (KeyError, TypeError, AttributeError) as exc:
                raise errors.BadAnswer(poller.url, f"no events ({exc!r})") from exc

    def _once(self, method: str, params: Sequence[Any], label: str = "") -> Any:
        quick = effects.reads(method) or _QUICK.match(method) is not None
        with self._connections.lend(reads=quick) as transport:
            return self._send(transport, method, params, label)

    def _send(
        self,
        transport: Transport,
        method: str,
        params: Sequence[Any],
        label: str = "",
        patience: float | None = None,
    ) -> Any:
        headers = task.headers(self._originator, label) if label else {}

        def carry(path: str, content_type: str, body: bytes) -> Answer:
            self.requests.add(method, len(body))
            answer = transport.request(path, content_type, body, patience, headers)
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

# SPDX-License-Identifier: Apache-2.0
"""Requests to the HTTP handlers of a host, which carry streams beside the calls.

Each has a connection of its own. The session's reference goes in a cookie, never
in a URL, which proxies and hosts write down; and only to members of the pool. The
requests are of HTTP/1.0: an answer is then neither in chunks nor followed by
another one.
"""

from __future__ import annotations

import email.message
import email.parser
import html
import ipaddress
import re
import socket
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from oslo_log import log as logging

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.client import Client
from xenapi_driver.xapi.transport import USER_AGENT, Transport

LOG = logging.getLogger(__name__)

# Called while nothing moves; what it raises ends the transfer.
Beat = Callable[[], None]

PIECE = 256 * 1024  # bytes that are read, or sent, at a time

_BEAT_SECONDS = 1.0
# A host answers a request for a disk of another SR with one redirect.
_REDIRECTS = 3
_HEAD_BYTES = 64 * 1024
_PAGE_BYTES = 64 * 1024
# A peer that is gone without a word is noticed after some 90 seconds.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))

# The web page of a refusal (XAPI, ocaml/libs/http-lib/http_svr.ml, response_*).
_REASON = re.compile("Additional information </h1>(.*)</body>", re.DOTALL)
_FAILURE = re.compile(r"([A-Z][A-Z0-9_]+): \[ (.*) \]", re.DOTALL)
_MISSING = re.compile(
    r'Db_exn\.(?:Read_missing_uuid\("(\w+)", "[^"]*"'
    r'|DBCache_NotFound\("missing row", "(\w+)"), "([^"]*)"\)'
)


class HandlerRefused(errors.XapiError):
    """A host does not do what one of its HTTP handlers was asked for.

    :ivar status: of HTTP
    :ivar reason: in the host's words
    """

    def __init__(self, request: str, status: int, reason: str) -> None:
        super().__init__(request, status, reason)
        self.request = request
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        words = f": {self.reason}" if self.reason else ""
        return f"The host refused {self.request} with HTTP status {self.status}{words}."


class Stalled(errors.ConnectionLost):
    """Nothing moved for as long as the connection has patience; it is closed."""


@dataclass(frozen=True)
class Request:
    """What is asked of a handler.

    :ivar arguments: of the URL; no secrets
    :ivar length: bytes of the body that follows, None where none does
    """

    method: str
    path: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def head(self, host: str, reference: str) -> bytes:
        """Return the bytes of its head."""
        query = urllib.parse.urlencode(self.arguments)
        target = f"{self.path}?{query}" if query else self.path
        lines = [
            f"{self.method} {target} HTTP/1.0",
            f"Host: {host}",
            f"User-Agent: {USER_AGENT}",
            f"Cookie: session_id={reference}",
            "Connection: close",
        ]
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


class Conversation:
    """A connection on which a handler has answered with the head of its answer.

    :ivar url: where it leads, without credentials
    :ivar status: of HTTP
    :ivar headers: of the answer
    """

    def __init__(self, transport: Transport, request: Request, session: Client) -> None:
        reference = session.reference()
        self.url = transport.url
        self._name = str(request)
        self._counter = session.requests
        self._patience = transport.patience
        self._socket = transport.dial()
        try:
            _keep_alive(self._socket)
            self._socket.settimeout(min(_BEAT_SECONDS, self._patience))
            host = urllib.parse.urlsplit(self.url).netloc or "localhost"
            self.write(request.head(host, reference))
            self.status, self.headers = self._answered()
        except BaseException:
            self.close()
            raise
        length = self.headers.get("Content-Length", "")
        self._left = int(length) if length.isdigit() else None

    def _answered(self) -> tuple[int, email.message.Message]:
        head = b""
        # Byte by byte: what follows the head is for who takes the socket over.
        while not head.endswith(b"\r\n\r\n"):
            byte = self._received(1, None)
            if not byte:
                raise errors.ConnectionLost(self.url, "it was closed unanswered")
            head += byte
            if len(head) > _HEAD_BYTES:
                raise errors.BadAnswer(self.url, "an answer whose head has no end")
        first, _, rest = head.decode("latin-1").partition("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
            raise errors.BadAnswer(self.url, "no HTTP")
        return int(words[1]), email.parser.HeaderParser().parsestr(rest)

    def write(self, data: bytes | memoryview, beat: Beat | None = None) -> None:
        """Send all of ``data``; blocks while the host takes no more.

        :raises ConnectionLost: cut
        :raises Stalled: the host took nothing for too long
        """
        rest = memoryview(data)
        moved = time.monotonic()
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
                moved = time.monotonic()
            except TimeoutError as exc:
                self._waited(moved, "it takes no more bytes", beat, exc)
            except OSError as exc:
                raise self._lost(exc) from exc

    def read(self, beat: Beat | None = None) -> bytes:
        """Return some bytes of the answer, at most ``PIECE``; b"" at its end.

        :raises ConnectionLost: cut, or ended before the length that was announced
        :raises Stalled: nothing came for too long
        """
        size = PIECE if self._left is None else min(PIECE, self._left)
        data = self._received(size, beat) if size else b""
        self._counter.answered(self._name, len(data))
        if self._left is not None:
            self._left -= len(data)
            if self._left and not data:
                raise errors.ConnectionLost(self.url, "it was closed in the middle")
        return data

    def whole(self, most: int) -> bytes:
        """Return the answer's body and close the connection.

        :param most: bytes that it may have
        :raises BadAnswer: it has more
        :raises ConnectionLost: cut
        """
        body = bytearray()
        try:
            while data := self.read():
                body += data
                if len(body) > most:
                    raise errors.BadAnswer(self.url, f"more than {most} bytes")
        finally:
            self.close()
        return bytes(body)

    def ended(self) -> bool:
        """Wait a moment for the host to hang up; return whether it has."""
        try:
            return not self._socket.recv(PIECE)
        except TimeoutError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Close the connection; the host meets its end."""
        self._socket.close()

    def taken_over(self) -> socket.socket:
        """Return the socket, blocking and without a time-out; it is the caller's."""
        self._socket.settimeout(None)
        return self._socket

    def _received(self, size: int, beat: Beat | None) -> bytes:
        began = time.monotonic()
        while True:
            try:
                return self._socket.recv(size)
            except TimeoutError as exc:
                self._waited(began, "nothing came", beat, exc)
            except OSError as exc:
                raise self._lost(exc) from exc

    def _waited(
        self, since: float, what: str, beat: Beat | None, exc: Exception
    ) -> None:
        if time.monotonic() - since >= self._patience:
            self.close()
            reason = f"{what} for {self._patience:g} seconds"
            raise Stalled(self.url, reason) from exc
        if beat is not None:
            beat()

    def _lost(self, exc: OSError) -> errors.ConnectionLost:
        return errors.ConnectionLost(self.url, errors.reason(exc))


def ask(session: Client, request: Request, host_ref: str | None = None) -> Conversation:
    """Ask a handler and return the answer, whose head came with status 200.

    A redirect to another member of the pool is followed. Of a request with a body
    the head alone has been sent: the host answers before it reads the rest. A
    session that is over is renewed, a coordinator that is gone is looked for, once.

    :param host_ref: whom to ask; None for the host that calls go to
    :raises HostUnreachable: no connection
    :raises CertificateRefused: the host that was asked, or redirected to, shows
        a certificate that we do not trust
    :raises ConnectionLost: cut before an answer came
    :raises HandlerRefused: another status, or a redirect out of the pool
    :raises XapiFailure: another status whose page names XAPI's error
    """
    redirects = 0
    renewed = False
    while True:
        try:
            talk = _sent(session, request, host_ref)
            if talk.status == 200:
                return talk
            page = talk.whole(_PAGE_BYTES).decode("utf-8", "replace")
            if talk.status == 302 and redirects < _REDIRECTS:
                redirects += 1
                host_ref = _member(session, request, talk.headers["Location"] or "")
                continue
            raise _refusal(session, request, talk.status, page)
        except (errors.SessionInvalid, errors.HostUnreachable) as exc:
            known = host_ref in (None, session.host_ref)
            if renewed or (isinstance(exc, errors.HostUnreachable) and not known):
                raise
            renewed = True
            LOG.info("%(request)s is repeated. %(reason)s",
                     {"request": request, "reason": exc})  # fmt: skip
            # Any call finds out where calls go now, and logs in again if need be.
            session.call("pool.get_all")


def _sent(session: Client, request: Request, host_ref: str | None) -> Conversation:
    transport = session.door(host_ref)
    size = 0
    try:
        talk = Conversation(transport, request, session)
        if talk.status == 200:
            size = request.length or 0
    finally:
        session.requests.add(str(request), size)
    return talk


def _member(session: Client, request: Request, location: str) -> str:
    """Return the host of our pool that a redirect names.

    :raises HandlerRefused: it names none
    """
    try:
        named = urllib.parse.urlsplit(location).hostname or ""
    except ValueError:
        named = ""
    for ref, record in session.call("host.get_all_records").items():
        if named and _same_address(named, str(record["address"])):
            return str(ref)
    reason = f"it sends us to {named or 'nowhere'}, which is no member of its pool"
    raise HandlerRefused(str(request), 302, reason)


def _same_address(one: str, other: str) -> bool:
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return one.lower() == other.lower()


def _refusal(
    session: Client, request: Request, status: int, page: str
) -> errors.XapiError:
    """Return the exception for an answer that is not what was asked for."""
    if status == 401:
        return session.failure(("SESSION_INVALID", errors.MASK), str(request))
    found = _REASON.search(page)
    reason = html.unescape(found[1]).strip() if found else ""
    if failure := _FAILURE.fullmatch(reason):
        description = (failure[1], *failure[2].split("; "))
        return session.failure(description, str(request))
    if missing := _MISSING.fullmatch(reason):
        described = ("HANDLE_INVALID", missing[1] or missing[2], missing[3])
        return session.failure(described, str(request))
    # Anything could stand there, also our request with its cookie.
    return HandlerRefused(
        str(request), status, reason[:300].replace(session.reference(), errors.MASK)
    )


def _keep_alive(sock: socket.socket) -> None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

# SPDX-License-Identifier: Apache-2.0
"""How the bytes of a call reach a host: HTTPS, HTTP, unix socket, in-process.

A transport is one connection, used by one thread at a time. It opens when it is
first used and stays open between requests. It never repeats a request: it says
(:class:`~xenapi_driver.xapi.errors.ConnectionLost`) whether the host can have
seen it, and the session decides.
"""

from __future__ import annotations

import dataclasses
import http.client
import io
import ipaddress
import math
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from oslo_log import log as logging

from xenapi_driver.xapi import certificates, errors
from xenapi_driver.xapi.certificates import Verify

LOG = logging.getLogger(__name__)

# Where xapi listens inside dom0, for a driver that runs there.
LOCAL_SOCKET = "/var/lib/xcp/xapi"

# XAPI tells callers apart by it, and takes at most 1024 bytes of headers in all
# ("XAPI today", sections 1.1 and 2).
USER_AGENT = "xenapi-driver"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SHORTEST_WAIT = 0.05  # seconds; a socket takes 0 for "do not wait at all"
# Bytes a second: an answer may take the longer, the more of it has come already.
_SLOWEST = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back for a request, with HTTP status 200.

    :ivar content_type: as the host gave it; "" for none
    :ivar url: who answered, without credentials
    """

    body: bytes
    content_type: str
    url: str


class Transport(Protocol):
    """One connection to a host.

    :ivar url: where it leads, without credentials
    :ivar patience: seconds that it waits for an answer
    """

    url: str
    patience: float

    def request(
        self,
        path: str,
        content_type: str,
        body: bytes,
        patience: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """POST one call and return its answer.

        :param patience: seconds for this request, a connection that has to be
            opened first included; None: the transport's own time-outs
        :param headers: more of them
        :raises HostUnreachable: no connection
        :raises CertificateRefused: the TLS peer is not the one we trust
        :raises ConnectionLost: broken under way; see its ``begun``
        :raises BadAnswer: HTTP status other than 200; see its ``status``
        """

    def dial(self) -> socket.socket:
        """Return a fresh connection to the same place, verified, the caller's own.

        The read time-out is set on it. :meth:`close` does not close it.

        :raises HostUnreachable, CertificateRefused: as for a request
        """

    def close(self) -> None:
        """Close the connection; for the thread that uses it."""

    def interrupt(self) -> None:
        """End a request that waits in another thread: it gets ConnectionLost."""

    def elsewhere(self, address: str) -> Transport:
        """Return an unopened transport to another host, otherwise the same.

        :raises HostUnreachable: there is no way there from here
        """

    def addresses(self) -> frozenset[str]:
        """Return the IP addresses of the host, empty where that means nothing."""


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds: for a connection to open, TLS included, and for an answer to come.

    A large answer gets longer, as long as it comes at 64 KiB a second at least.
    """

    connect: float = 10.0
    read: float = 120.0


class _Timely(io.RawIOBase):
    """What a connection brings until a deadline, however it trickles."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds: float) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        count: int | None = self._raw.readinto(buffer)
        self._deadline += (count or 0) / _SLOWEST
        return count

    def close(self) -> None:
        super().close()
        self._raw.close()


class _Response(http.client.HTTPResponse):
    """An answer that has to come within the time-out of its connection."""

    def __init__(self, sock: socket.socket, *args: Any, **choices: Any) -> None:
        super().__init__(sock, *args, **choices)
        seconds = sock.gettimeout()
        if seconds is not None:
            self.fp = io.BufferedReader(_Timely(self.fp.detach(), sock, seconds))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class HttpTransport:
    """HTTP/1.1 with keep-alive, in TLS when the URL says https.

    :param url: ``https://`` or ``http://``, then a name, an IPv4 address or an
        IPv6 address in brackets, and a port where it is not the usual one. A
        user and a password in it are left out.
    :raises ValueError: the URL is none of a host
    """

    def __init__(
        self, url: str, verify: Verify | None = None, timeouts: Timeouts | None = None
    ) -> None:
        parts = _understood(url)
        self._scheme = parts.scheme
        self._host = urllib.parse.unquote(parts.hostname or "")
        self._port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self._base = parts.path.rstrip("/")
        self._verify = verify or Verify()
        self._timeouts = timeouts or Timeouts()
        self._connection: http.client.HTTPConnection | None = None
        self.url = _shown(parts)
        self.patience = self._timeouts.read

    def elsewhere(self, address: str) -> Transport:
        host = f"[{address}]" if ":" in address else address
        port = "" if self._port == _DEFAULT_PORTS[self._scheme] else f":{self._port}"
        url = f"{self._scheme}://{host}{port}{self._base}"
        return HttpTransport(url, self._verify, self._timeouts)

    def addresses(self) -> frozenset[str]:
        try:
            found = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
        except OSError:
            return frozenset()
        return frozenset(str(ipaddress.ip_address(item[4][0])) for item in found)

    def request(
        self,
        path: str,
        content_type: str,
        body: bytes,
        patience: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        seconds = self.patience if patience is None else patience
        connection = self._ready(patience)
        all_headers = {"Content-Type": content_type, "User-Agent": USER_AGENT}
        all_headers.update(headers or {})
        try:
            connection.request("POST", self._base + path, body, all_headers)
        except (OSError, http.client.HTTPException) as exc:
            # Not all of the request went out, and XAPI begins nothing before
            # it has the whole body.
            self.close()
            reason = errors.reason(exc)
            raise errors.ConnectionLost(self.url, reason, begun=False) from exc
        try:
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError as exc:
            self.close()
            reason = f"no answer within {seconds:g} seconds"
            raise errors.AnswerLate(self.url, reason) from exc
        except (OSError, ValueError, http.client.HTTPException) as exc:
            # ValueError is what a TLS socket raises that interrupt() has shut.
            self.close()
            raise errors.ConnectionLost(self.url, errors.reason(exc)) from exc
        if response.will_close or response.status != http.client.OK:
            self.close()
        if response.status != http.client.OK:
            reason = f"HTTP status {response.status} {response.reason}"
            raise errors.BadAnswer(self.url, reason, response.status)
        return Answer(answer, response.getheader("Content-Type", ""), self.url)

    def dial(self) -> socket.socket:
        sock = self._connected(self._timeouts.connect)
        sock.settimeout(self.patience)
        return sock

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        # close() would pull objects away from under the other thread.
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                LOG.debug("The connection to %s was closed already.", self.url)

    def _ready(self, patience: float | None) -> http.client.HTTPConnection:
        """Return the connection, open and with the time-out of this request."""
        began = time.monotonic()
        connection = self._connection
        if connection is not None and not _still_open(connection.sock):
            self.close()
            connection = None
        if connection is None:
            limit = self._timeouts.connect
            sock = self._connected(limit if patience is None else min(limit, patience))
            connection = _Connection(self._host, self._port)
            connection.sock = sock
            self._connection = connection
        left = self.patience
        if patience is not None:
            left = max(patience - (time.monotonic() - began), _SHORTEST_WAIT)
        connection.sock.settimeout(left)
        return connection

    def _connected(self, seconds: float) -> socket.socket:
        """Return a new connection, opened within so many seconds and verified."""
        if self._scheme != "https":
            return self._dialled(max(seconds, _SHORTEST_WAIT))
        deadline = time.monotonic() + seconds

        def dial() -> socket.socket:
            sock = self._dialled(max(deadline - time.monotonic(), _SHORTEST_WAIT))
            # TLS has what is left of it.
            sock.settimeout(max(deadline - time.monotonic(), _SHORTEST_WAIT))
            return sock

        return certificates.secured(self._verify, dial, self._host, self.url)

    def _dialled(self, seconds: float) -> socket.socket:
        try:
            sock = socket.create_connection((self._host, self._port), seconds)
        except TimeoutError as exc:
            reason = f"no connection within {seconds:g} seconds"
            raise errors.HostUnreachable(self.url, reason) from exc
        except (OSError, UnicodeError) as exc:
            # UnicodeError is for names that no DNS can have.
            raise errors.HostUnreachable(self.url, errors.reason(exc)) from exc
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


class UnixTransport(HttpTransport):
    """HTTP over xapi's own socket, for a driver inside dom0."""

    def __init__(
        self, path: str = LOCAL_SOCKET, timeouts: Timeouts | None = None
    ) -> None:
        super().__init__("http://localhost/", timeouts=timeouts)
        self._socket_path = path
        self.url = f"unix://{path}"

    def elsewhere(self, address: str) -> Transport:
        # A pool member's socket cannot reach the coordinator; the network can,
        # but only with a certificate that nobody told us about.
        reason = f"this host follows the pool coordinator {address}; set its URL"
        raise errors.HostUnreachable(self.url, reason)

    def addresses(self) -> frozenset[str]:
        return frozenset()

    def _dialled(self, seconds: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(seconds)
        try:
            sock.connect(self._socket_path)
        except OSError as exc:
            sock.close()
            raise errors.HostUnreachable(self.url, errors.reason(exc)) from exc
        return sock


class InProcessTransport:
    """Hands the marshalled call to a function: a host in this process.

    :param handler: answers XML-RPC, on every path without a handler of its own
    :param json_handler: answers JSON-RPC; None: such a host has none
    """

    def __init__(
        self,
        handler: Callable[[bytes], bytes],
        json_handler: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._handler = handler
        self._json_handler = json_handler
        self.url = "in-process"
        self.patience = math.inf

    def request(
        self,
        path: str,
        content_type: str,
        body: bytes,
        patience: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        handler: Callable[[bytes], bytes] | None = self._handler
        if "json" in content_type:
            handler = self._json_handler
        if handler is None:
            status = http.client.NOT_FOUND
            raise errors.BadAnswer(self.url, f"nothing answers at {path}", status)
        try:
            return Answer(handler(body), content_type, self.url)
        except ConnectionError as exc:
            raise errors.ConnectionLost(self.url, errors.reason(exc)) from exc

    def dial(self) -> socket.socket:
        reason = "a stream needs a host on the network, and this one is in our process"
        raise errors.HostUnreachable(self.url, reason)

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def interrupt(self) -> None:
        """Do nothing: session.logout ends what waits."""

    def elsewhere(self, address: str) -> Transport:
        reason = f"the pool coordinator is {address}, and not in this process"
        raise errors.HostUnreachable(self.url, reason)

    def addresses(self) -> frozenset[str]:
        return frozenset()


def connect(
    url: str, *, verify: Verify | None = None, timeouts: Timeouts | None = None
) -> Transport:
    """Return the transport for a ``connection_url``; nothing is opened yet.

    ``unix://local`` is xapi's own socket; ``unix:///path`` another one.

    :raises ValueError: the URL is none of a host; its text is a sentence
    """
    if not url.startswith("unix://"):
        return HttpTransport(url, verify, timeouts)
    path = url.removeprefix("unix://")
    if path != "local" and not path.startswith("/"):
        raise ValueError(f"{url} is not the URL of a socket: it has no absolute path.")
    return UnixTransport(LOCAL_SOCKET if path == "local" else path, timeouts)


def _understood(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as exc:
        # Of a password with a slash in it, the reason is a part.
        why = "it has a user or a password" if "@" in url else str(exc)
        raise ValueError(f"This is not the URL of a host: {why}.") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or port == 0:
        raise ValueError(f"{_shown(parts) or 'This'} is no http(s) URL of a host.")
    return parts


def _still_open(sock: socket.socket | None) -> bool:
    """Tell whether an idle connection can carry another request.

    A host that closed it in the meantime (restart, idle limit) is found out
    here, before a call that must not be repeated is lost on it.
    """
    if sock is None:
        return False
    try:
        sock.settimeout(0.0)
        sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except (OSError, ValueError):
        return False
    # Either the end, or bytes that nobody asked for.
    return False


def _shown(parts: urllib.parse.SplitResult) -> str:
    netloc = parts.netloc.rpartition("@")[2]
    if netloc:
        return f"{parts.scheme}://{netloc}"
    return parts.geturl().rpartition("@")[2]

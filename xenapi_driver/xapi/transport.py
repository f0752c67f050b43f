# SPDX-License-Identifier: Apache-2.0
"""How the bytes of a call reach a host: HTTPS, HTTP, unix socket, in-process.

A transport is one connection, used by one thread at a time. It opens when it is
first used and stays open between requests. It never repeats a request: it says
(:class:`~xenapi_driver.xapi.errors.ConnectionLost`) whether the host can have
seen it, and the session decides.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import ipaddress
import math
import socket
import ssl
import urllib.parse
from collections.abc import Callable
from typing import Protocol

from oslo_log import log as logging

from xenapi_driver.xapi import errors

LOG = logging.getLogger(__name__)

# Where xapi listens inside dom0, for a driver that runs there.
LOCAL_SOCKET = "/var/lib/xcp/xapi"

_USER_AGENT = "xenapi-driver"
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Transport(Protocol):
    """One connection to a host.

    :ivar url: where it leads, without credentials
    :ivar patience: seconds that it waits for an answer
    """

    url: str
    patience: float

    def request(self, body: bytes) -> bytes:
        """POST one XML-RPC call and return the body of its answer.

        :raises HostUnreachable: no connection
        :raises CertificateRefused: the TLS peer is not the one we trust
        :raises ConnectionLost: broken under way; see its ``begun``
        :raises BadAnswer: HTTP status other than 200
        """

    def dial(self) -> socket.socket:
        """Return a fresh connection of its own, verified, for a stream.

        :raises HostUnreachable: no connection
        :raises CertificateRefused: the TLS peer is not the one we trust
        """

    def close(self) -> None:
        """Close the connection; for the thread that uses it."""

    def interrupt(self) -> None:
        """End a request that waits in another thread: it gets ConnectionLost."""

    def elsewhere(self, address: str) -> Transport:
        """Return an unopened transport to another host, otherwise the same."""

    def addresses(self) -> frozenset[str]:
        """Return the IP addresses of the host, empty where that means nothing."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """How the host's certificate is judged.

    Fingerprints, when there are any, decide alone: host certificates are
    self-signed by default and seldom name their address. Otherwise the CA file
    decides, and without one the system's CAs.

    :ivar fingerprints: SHA-256, hex, colons and case do not matter
    :ivar insecure: take any certificate
    """

    ca_file: str | None = None
    fingerprints: tuple[str, ...] = ()
    insecure: bool = False

    def context(self) -> ssl.SSLContext:
        """Return the TLS settings that go with this.

        :raises OSError: the CA file cannot be read, or holds no certificate
        """
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.insecure or self.fingerprints:
            # With a pin, the certificate is compared before the first byte of
            # ours is sent (HttpTransport._check_pin).
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def pinned(self) -> frozenset[str]:
        """Return the fingerprints in the form of :func:`fingerprint_of`."""
        return frozenset(
            _with_colons(text.replace(":", "").strip()) for text in self.fingerprints
        )


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds: for a connection to open, and for the next bytes of an answer."""

    connect: float = 10.0
    read: float = 120.0


def fingerprint_of(certificate: bytes) -> str:
    """Return the SHA-256 of a DER certificate: upper-case hex with colons."""
    return _with_colons(hashlib.sha256(certificate).hexdigest())


def _with_colons(digest: str) -> str:
    upper = digest.upper()
    return ":".join(upper[at : at + 2] for at in range(0, len(upper), 2))


class HttpTransport:
    """HTTP/1.1 with keep-alive, in TLS when the URL says https."""

    def __init__(
        self, url: str, verify: Verify | None = None, timeouts: Timeouts | None = None
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError(f"{_shown(parts)} is not an http or https URL of a host.")
        self._scheme = parts.scheme
        self._host = parts.hostname
        self._port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self._path = parts.path or "/"
        self._verify = verify or Verify()
        self._timeouts = timeouts or Timeouts()
        self._connection: http.client.HTTPConnection | None = None
        self.url = _shown(parts)
        self.patience = self._timeouts.read

    def elsewhere(self, address: str) -> Transport:
        host = f"[{address}]" if ":" in address else address
        port = "" if self._port == _DEFAULT_PORTS[self._scheme] else f":{self._port}"
        url = f"{self._scheme}://{host}{port}{self._path}"
        return HttpTransport(url, self._verify, self._timeouts)

    def addresses(self) -> frozenset[str]:
        try:
            found = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
        except OSError:
            return frozenset()
        return frozenset(str(ipaddress.ip_address(item[4][0])) for item in found)

    def request(self, body: bytes) -> bytes:
        connection = self._opened()
        headers = {"Content-Type": "text/xml", "User-Agent": _USER_AGENT}
        try:
            connection.request("POST", self._path, body=body, headers=headers)
        except (OSError, http.client.HTTPException) as exc:
            # Not all of the request went out, and XAPI begins nothing before
            # it has the whole body.
            self.close()
            raise errors.ConnectionLost(self.url, _reason(exc), begun=False) from exc
        try:
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError as exc:
            self.close()
            reason = f"no answer within {self._timeouts.read:g} seconds"
            raise errors.ConnectionLost(self.url, reason) from exc
        except (OSError, ValueError, http.client.HTTPException) as exc:
            # ValueError is what a TLS socket raises that interrupt() has shut.
            self.close()
            raise errors.ConnectionLost(self.url, _reason(exc)) from exc
        if response.will_close:
            self.close()
        if response.status != http.client.OK:
            self.close()
            raise errors.BadAnswer(
                self.url, f"HTTP status {response.status} {response.reason}"
            )
        return answer

    def dial(self) -> socket.socket:
        sock = self._secured(self._dialled())
        sock.settimeout(self._timeouts.read)
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

    def _opened(self) -> http.client.HTTPConnection:
        connection = self._connection
        if connection is not None:
            if connection.sock is not None and _still_open(connection.sock):
                return connection
            self.close()
        sock = self.dial()
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.sock = sock
        self._connection = connection
        return connection

    def _dialled(self) -> socket.socket:
        try:
            sock = socket.create_connection(
                (self._host, self._port), self._timeouts.connect
            )
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError as exc:
            reason = f"no connection within {self._timeouts.connect:g} seconds"
            raise errors.HostUnreachable(self.url, reason) from exc
        except OSError as exc:
            raise errors.HostUnreachable(self.url, _reason(exc)) from exc
        return sock

    def _secured(self, sock: socket.socket) -> socket.socket:
        if self._scheme != "https":
            return sock
        try:
            context = self._verify.context()
        except OSError as exc:
            sock.close()
            reason = f"the CA file {self._verify.ca_file} is of no use: {_reason(exc)}"
            raise errors.CertificateRefused(self.url, reason, None) from exc
        try:
            secured = context.wrap_socket(sock, server_hostname=self._host)
        except ssl.SSLCertVerificationError as exc:
            sock.close()
            raise errors.CertificateRefused(
                self.url, exc.verify_message, self._fingerprint_shown()
            ) from exc
        except ssl.SSLError as exc:
            sock.close()
            reason = f"it does not speak TLS as we do ({_reason(exc)})"
            raise errors.CertificateRefused(self.url, reason, None) from exc
        except OSError as exc:
            sock.close()
            raise errors.HostUnreachable(self.url, _reason(exc)) from exc
        self._check_pin(secured)
        return secured

    def _check_pin(self, sock: ssl.SSLSocket) -> None:
        if self._verify.insecure or not self._verify.fingerprints:
            return
        seen = fingerprint_of(sock.getpeercert(binary_form=True) or b"")
        if seen not in self._verify.pinned():
            sock.close()
            reason = "it is not among the fingerprints configured"
            raise errors.CertificateRefused(self.url, reason, seen)

    def _fingerprint_shown(self) -> str | None:
        """Look at the certificate once more, only to name it in a message."""
        context = Verify(insecure=True).context()
        try:
            with (
                self._dialled() as plain,
                context.wrap_socket(plain, server_hostname=self._host) as sock,
            ):
                certificate = sock.getpeercert(binary_form=True)
        except (errors.HostUnreachable, OSError):
            return None
        return fingerprint_of(certificate) if certificate else None


class UnixTransport(HttpTransport):
    """HTTP over xapi's own socket, for a driver inside dom0."""

    def __init__(
        self, path: str = LOCAL_SOCKET, timeouts: Timeouts | None = None
    ) -> None:
        super().__init__("http://localhost/", timeouts=timeouts)
        self._socket_path = path
        self.url = f"unix:{path}"

    def elsewhere(self, address: str) -> Transport:
        # A pool member's socket cannot reach the coordinator; the network can,
        # but only with a certificate that nobody told us about.
        reason = f"this host follows the pool coordinator {address}; set its URL"
        raise errors.HostUnreachable(self.url, reason)

    def addresses(self) -> frozenset[str]:
        return frozenset()

    def _dialled(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self._timeouts.connect)
        try:
            sock.connect(self._socket_path)
        except OSError as exc:
            sock.close()
            raise errors.HostUnreachable(self.url, _reason(exc)) from exc
        return sock


class InProcessTransport:
    """Hands the marshalled call to a function: a host in this process."""

    def __init__(self, handler: Callable[[bytes], bytes]) -> None:
        self._handler = handler
        self.url = "in-process"
        self.patience = math.inf

    def request(self, body: bytes) -> bytes:
        return self._handler(body)

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

    :raises ValueError: the URL is none of a host
    """
    if url.startswith("unix://"):
        path = url.removeprefix("unix://")
        return UnixTransport(LOCAL_SOCKET if path == "local" else path, timeouts)
    return HttpTransport(url, verify, timeouts)


def _still_open(sock: socket.socket) -> bool:
    """Tell whether an idle connection can carry another request.

    A host that closed it in the meantime (restart, idle limit) is found out
    here, before a call that must not be repeated is lost on it.
    """
    before = sock.gettimeout()
    try:
        sock.settimeout(0.0)
        sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        sock.settimeout(before)
        return True
    except OSError:
        return False
    # Either the end, or bytes that nobody asked for.
    return False


def _shown(parts: urllib.parse.SplitResult) -> str:
    netloc = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{netloc}" if netloc else parts.geturl()


def _reason(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLError) and exc.reason:
        return exc.reason.replace("_", " ").lower()
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__

# SPDX-License-Identifier: Apache-2.0
"""Doors on the network and on this machine: HTTP, HTTPS and a unix socket.

A thread waits for callers, and each connection has one of its own.
"""

import contextlib
import os
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from xenapi_driver.sim.doors import certificate, handlers, http
from xenapi_driver.sim.doors.connection import TCP, UNIX, Connection, Limits
from xenapi_driver.sim.doors.rpc import Peer
from xenapi_driver.sim.doors.shared_tls import SharedTls
from xenapi_driver.sim.doors.site import Site

# Seconds for the handshake of a connection.
_HANDSHAKE = 10.0

if not handlers.load():
    raise RuntimeError("The handlers of the simulator were not found.")

Talk = Callable[[socket.socket, str], None]


class _Listener:
    """A listening socket, and the connections that came from it."""

    def __init__(self, listening: socket.socket, limits: Limits, talk: Talk) -> None:
        self._listening = listening
        # A caller may be gone before he is let in.
        listening.setblocking(False)
        self._talk = talk
        self._room = threading.BoundedSemaphore(limits.connections)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._bell, self._ringer = socket.socketpair()
        self._doorman = threading.Thread(
            target=self._accept, name="sim-door", daemon=True
        )
        self._doorman.start()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector, self._listening, self._bell:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)
            while not self._closed.is_set():
                selector.select()
                # Callers beyond the limit wait in the queue of the kernel.
                if self._closed.is_set() or not self._room.acquire(timeout=0.1):
                    continue
                try:
                    sock, address = self._listening.accept()
                except OSError:
                    self._room.release()
                    continue
                self._start(sock, address)

    def _start(self, sock: socket.socket, address: object) -> None:
        name = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "local"
        with self._lock:
            self._open.add(sock)
        threading.Thread(
            target=self._serve, args=(sock, name), name=f"sim-{name}", daemon=True
        ).start()

    def _serve(self, sock: socket.socket, name: str) -> None:
        try:
            # Callers hang up, or refuse the certificate: that is theirs to tell.
            with contextlib.suppress(OSError), contextlib.closing(sock):
                self._talk(sock, name)
        finally:
            with self._lock:
                self._open.discard(sock)
            self._room.release()

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more connections and end those that are open."""
        self._closed.set()
        self._ringer.close()
        self._doorman.join()
        self.cut()


class _Door:
    """A place where one can come in, shut and opened again."""

    def __init__(self, site: Site, limits: Limits) -> None:
        self._site = site
        self._limits = limits
        self._lock = threading.Lock()
        self._listener: _Listener | None = None

    def _listen(self) -> socket.socket:
        raise NotImplementedError

    def _talk(self, sock: socket.socket, name: str) -> None:
        raise NotImplementedError

    def reopen(self) -> None:
        """Listen, at the same address as before if it was open before."""
        with self._lock:
            if self._listener is None:
                self._listener = _Listener(self._listen(), self._limits, self._talk)

    def cut(self) -> None:
        """Cut what is open; who comes again is let in."""
        with self._lock:
            if self._listener is not None:
                self._listener.cut()

    def shut(self) -> None:
        """Stop listening and cut what is open; can be called again."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def close(self) -> None:
        """End for good."""
        self.shut()

    def show(self, cert_file: Path, fingerprint: str) -> None:
        """Show another certificate to later callers, where one is shown at all."""


def _context(cert_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file)
    return context


class Server(_Door):
    """A door on TCP, open until :meth:`close`.

    :ivar url: where it is, such as ``http://127.0.0.1:49152``
    :ivar fingerprint: SHA-256 of the certificate, "" without TLS
    :ivar cert_file: certificate (and key) as PEM, None without TLS
    """

    def __init__(
        self, site: Site, host: str, port: int, certificate_dir: Path | None
    ) -> None:
        super().__init__(site, TCP)
        self.fingerprint = ""
        self.cert_file: Path | None = None
        self._context: ssl.SSLContext | None = None
        scheme = "http"
        if certificate_dir is not None:
            self.cert_file, self.fingerprint = certificate.make(certificate_dir, host)
            self._context = _context(self.cert_file)
            scheme = "https"
        self.address = (host, port)
        self.reopen()
        self.port = self.address[1]
        place = f"[{host}]" if ":" in host else host
        self.url = f"{scheme}://{place}:{self.port}"

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        listening = socket.create_server(self.address, family=family, backlog=128)
        self.address = (self.address[0], listening.getsockname()[1])
        return listening

    def show(self, cert_file: Path, fingerprint: str) -> None:
        """Show another certificate to later callers, where one is shown at all."""
        if self._context is not None:
            # A context would keep one of each kind of key and prefer some.
            self._context = _context(cert_file)
            self.cert_file, self.fingerprint = cert_file, fingerprint

    def _talk(self, sock: socket.socket, name: str) -> None:
        # An answer can be several small writes: do not wait for more.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is None:
            http.serve(Connection(sock, Peer(name)), self._site, self._limits)
            return
        sock.settimeout(_HANDSHAKE)
        # The listener keeps the socket to cut the connection: a copy is wrapped.
        with self._context.wrap_socket(sock.dup(), server_side=True) as wrapped:
            shared = SharedTls(wrapped)
            connection = Connection(shared, Peer(name), encrypted=True)
            http.serve(connection, self._site, self._limits)
            # For callers that read to the end: it is one, not a broken connection.
            shared.shutdown(socket.SHUT_WR)


class UnixServer(_Door):
    """A door on a unix socket: who can open the file is root, as in a host's dom0.

    :ivar path: of the socket, which is made for its owner alone
    """

    def __init__(self, site: Site, path: Path) -> None:
        super().__init__(site, UNIX)
        self.path = path
        self.reopen()

    def _listen(self) -> socket.socket:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_socket() and not _somebody_at(self.path):
            self.path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(self.path))
            os.chmod(self.path, 0o600)
            listening.listen(128)
        except OSError as error:
            listening.close()
            why = error.strerror or str(error)
            # What the kernel says does not name the file.
            raise OSError(error.errno, why, str(self.path)) from error
        return listening

    def _talk(self, sock: socket.socket, name: str) -> None:
        peer = Peer(name, trusted=True)
        http.serve(Connection(sock, peer), self._site, self._limits)

    def shut(self) -> None:
        """Stop listening and remove the file."""
        was_open = self._listener is not None
        super().shut()
        if was_open:
            self.path.unlink(missing_ok=True)


def _somebody_at(path: Path) -> bool:
    """Return whether a process listens there, not only a file left behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0

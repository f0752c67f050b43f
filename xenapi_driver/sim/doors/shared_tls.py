# SPDX-License-Identifier: Apache-2.0
"""A TLS socket that one thread may read while another one writes.

OpenSSL allows one thread at a time inside a connection. So nobody waits inside: the
socket does not block, and who has to wait does so outside of the lock.
"""

import contextlib
import select
import socket
import ssl
import threading
import time


class SharedTls:
    """What a :class:`Connection` needs of a socket, over TLS."""

    def __init__(self, wrapped: ssl.SSLSocket) -> None:
        wrapped.setblocking(False)
        self._wrapped = wrapped
        self._timeout: float | None = None
        self._lock = threading.Lock()

    def settimeout(self, seconds: float | None) -> None:
        """Let what follows raise TimeoutError after so long."""
        self._timeout = seconds

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are some; b"" at the end."""
        end = self._end()
        while True:
            try:
                with self._lock:
                    return self._wrapped.recv(size)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, end)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, end)

    def sendall(self, data: bytes) -> None:
        """Send all of ``data``."""
        end = self._end()
        rest = memoryview(data)
        while rest:
            try:
                with self._lock:
                    rest = rest[self._wrapped.send(rest) :]
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, end)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, end)

    def shutdown(self, how: int) -> None:
        """Tell the other side that nothing follows; end both ways if asked to."""
        with self._lock:
            # It has not said so itself yet, or is gone: ours is sent all the same.
            with contextlib.suppress(OSError, ValueError):
                self._wrapped.unwrap()
            # Not the SSLSocket's own, which drops what another thread reads from.
            socket.socket.shutdown(self._wrapped, how)

    def _end(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _wait(self, what: int, end: float | None) -> None:
        waiting = select.poll()
        waiting.register(self._wrapped, what)
        left = None if end is None else (end - time.monotonic()) * 1000
        if left is not None and (left <= 0 or not waiting.poll(left)):
            raise TimeoutError("timed out")
        if left is None:
            waiting.poll()

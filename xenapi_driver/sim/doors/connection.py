# SPDX-License-Identifier: Apache-2.0
"""One connection: reading what comes, in time and within limits, and sending."""

import contextlib
import socket
import time
from dataclasses import dataclass

from xenapi_driver.sim.doors.refusals import Refusal
from xenapi_driver.sim.doors.rpc import Peer
from xenapi_driver.sim.doors.shared_tls import SharedTls

_PIECE = 64 * 1024
# How long to wait for a refused caller to notice, seconds.
_PATIENCE = 1.0


@dataclass(frozen=True)
class Limits:
    """What a caller may ask of the door ("XAPI today", section 1.1).

    :ivar head: bytes of a request's line and headers
    :ivar pause: seconds between two pieces of a connection's first head
    :ivar total: seconds that all of it may take
    :ivar connections: at once
    """

    head: int
    pause: float | None
    total: float | None
    connections: int


TCP = Limits(head=1024, pause=10.0, total=60.0, connections=800)
UNIX = Limits(head=1024 * 1024, pause=None, total=None, connections=1024)


class Connection:
    """A connected socket with what was read too much."""

    def __init__(
        self, sock: socket.socket | SharedTls, peer: Peer, *, encrypted: bool = False
    ) -> None:
        self.socket = sock
        self.peer = peer
        self.encrypted = encrypted
        self._buffer = b""

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are some; b"" at the end."""
        if not self._buffer:
            return self.socket.recv(min(size, _PIECE))
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        self.socket.sendall(data)

    def set_timeout(self, seconds: float | None) -> None:
        """Let reading and writing raise TimeoutError after so long without progress."""
        self.socket.settimeout(seconds)

    def hang_up(self) -> None:
        """End the connection, also for who reads from it now."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def head(self, limits: Limits, *, first: bool) -> bytes:
        """Return a request up to its empty line; b"" when no request follows.

        :param first: of the connection: later ones may be as slow as they like
        :raises Refusal: 400 for half a head, 408, 431
        """
        pause, total = (limits.pause, limits.total) if first else (None, None)
        end = None if total is None else time.monotonic() + total
        data = self._buffer
        while (at := data.find(b"\r\n\r\n")) < 0 and len(data) < limits.head:
            seconds = pause
            if pause is not None and end is not None:
                seconds = min(pause, end - time.monotonic())
            piece = self._piece(seconds)
            if not piece:
                if data.strip():
                    raise Refusal(400)
                return b""
            data += piece
        if at < 0 or at + 4 > limits.head:
            raise Refusal(431)
        self._buffer = data[at + 4 :]
        return data[: at + 2]

    def _piece(self, seconds: float | None) -> bytes:
        if seconds is not None and seconds <= 0:
            raise Refusal(408)
        if seconds is None:
            return self.socket.recv(_PIECE)
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(_PIECE)
        except TimeoutError as error:
            raise Refusal(408) from error
        finally:
            self.socket.settimeout(None)

    def linger(self) -> None:
        """Wait until a refused caller has read its answer.

        Closed at once, with some of its request unread, the connection would be
        reset, and the answer lost on the way.
        """
        end = time.monotonic() + _PATIENCE
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(_PATIENCE)
            while time.monotonic() < end and self.socket.recv(_PIECE):
                pass

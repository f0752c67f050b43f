# SPDX-License-Identifier: Apache-2.0
"""How many requests and bytes a session cost: what our flows are held to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

# The event loop asks without end, whatever the driver does: counted apart.
POLL = "event.from"


class Recording(list[str]):
    """The names of the methods called, polls left out, and what they cost.

    :ivar sent: bytes of the requests' bodies
    :ivar received: bytes of the answers' bodies
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.received = 0


class RequestCounter:
    """Counts what went over the wire, repeats included.

    Bytes are those of the bodies: neither HTTP headers nor TLS are counted.

    :ivar total: requests, without polls
    :ivar sent: bytes of their bodies
    :ivar received: bytes of their answers' bodies
    :ivar polls: calls of event.from
    :ivar polls_sent: bytes of their bodies
    :ivar polls_received: bytes of their answers' bodies
    """

    def __init__(self) -> None:
        self.total = 0
        self.sent = 0
        self.received = 0
        self.polls = 0
        self.polls_sent = 0
        self.polls_received = 0
        self._lock = threading.Lock()
        self._recordings: list[Recording] = []

    def add(self, method: str, size: int = 0) -> None:
        """Count one request that goes out, of ``size`` bytes."""
        with self._lock:
            if method == POLL:
                self.polls += 1
                self.polls_sent += size
                return
            self.total += 1
            self.sent += size
            for recording in self._recordings:
                recording.append(method)
                recording.sent += size

    def answered(self, method: str, size: int) -> None:
        """Count the answer to a request, of ``size`` bytes."""
        with self._lock:
            if method == POLL:
                self.polls_received += size
                return
            self.received += size
            for recording in self._recordings:
                recording.received += size

    @contextlib.contextmanager
    def recording(self) -> Iterator[Recording]:
        """Give a list that grows by each method's name, of any thread."""
        recording = Recording()
        with self._lock:
            self._recordings.append(recording)
        try:
            yield recording
        finally:
            with self._lock:
                # By identity: two recordings may hold equal names.
                self._recordings = [
                    other for other in self._recordings if other is not recording
                ]

# SPDX-License-Identifier: Apache-2.0
"""How many requests a session sent: the figure that our flows are held to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

# The event loop asks without end, whatever the driver does: counted apart.
POLL = "event.from"


class RequestCounter:
    """Counts what went over the wire, repeats included.

    :ivar total: requests, without polls
    :ivar polls: calls of event.from
    """

    def __init__(self) -> None:
        self.total = 0
        self.polls = 0
        self._lock = threading.Lock()
        self._recordings: list[list[str]] = []

    def add(self, method: str) -> None:
        """Count one request."""
        with self._lock:
            if method == POLL:
                self.polls += 1
                return
            self.total += 1
            for names in self._recordings:
                names.append(method)

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[str]]:
        """Give a list that grows by each method's name, of any thread."""
        names: list[str] = []
        with self._lock:
            self._recordings.append(names)
        try:
            yield names
        finally:
            with self._lock:
                # By identity: two recordings may hold equal names.
                self._recordings = [
                    other for other in self._recordings if other is not names
                ]

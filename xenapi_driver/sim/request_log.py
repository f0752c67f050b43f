# SPDX-License-Identifier: Apache-2.0
"""A log that can be followed: one line a request, one a step of a task.

A line is time, who asked, what, how long it took and how it ended::

    2026-11-21T16:20:03.120Z 127.0.0.1:49152 VM.start 12.4 ms ok
    2026-11-21T16:20:03.310Z 127.0.0.1:49152 VM.get_uuid 0.1 ms HANDLE_INVALID VM ...
    2026-11-21T16:20:04.002Z task 5f0e2c61 Async.VM.copy 40 %

Arguments are never written, and session references are masked where a refusal names
one: the log holds no secret.
"""

import re
import threading
import time
from collections.abc import Callable
from typing import TextIO

from xenapi_driver.sim.failure import Failure

Write = Callable[[str], None]

_MASK = "OpaqueRef:***"
_REFERENCE = re.compile("OpaqueRef:[-0-9a-f]+")


class RequestLog:
    """Writes lines to streams, each whole and at once.

    :param streams: none: nothing is written
    """

    def __init__(self, *streams: TextIO) -> None:
        self._streams = streams
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        """Return whether anybody reads it."""
        return bool(self._streams)

    def note(self, text: str) -> None:
        """Write a line, with the time before it."""
        if not self._streams:
            return
        seconds = time.time()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        line = f"{moment}.{int(seconds % 1 * 1000):03d}Z {_printable(text)}\n"
        with self._lock:
            for stream in self._streams:
                stream.write(line)
                stream.flush()

    def request(self, who: str, what: str, seconds: float, outcome: str) -> None:
        """Write how a request ended."""
        self.note(f"{who} {what} {seconds * 1000:.1f} ms {outcome}")


def outcome_of(method: str, failure: Failure) -> str:
    """Return a refusal in one line, without secrets."""
    code, *params = failure.description
    if method.startswith("session.") and code == "INTERNAL_ERROR":
        # Its text quotes what was sent, which may be a password.
        return str(code)
    line = " ".join([code, *params])
    if code in ("SESSION_INVALID", "INTERNAL_ERROR"):
        line = _REFERENCE.sub(_MASK, line)
    return line


def _printable(text: str) -> str:
    """Keep a line one line, whatever a caller put into it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

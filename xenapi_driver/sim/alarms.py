# SPDX-License-Identifier: Apache-2.0
"""Things that happen by themselves after a while, all in one thread."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_IDLE = 3600.0
_LOG = logging.getLogger(__name__)


class Alarms:
    """Calls functions when their time has come, the earliest first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call ``action`` that much later; what is closed calls nothing any more."""
        with self._changed:
            if self._closed:
                return
            entry = (time.monotonic() + seconds, next(self._count), action)
            heapq.heappush(self._due, entry)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="sim-alarms", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Forget all that is to come."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (action := self._wait()) is not None:
            try:
                action()
            except Exception:
                # Those that are still to come must come all the same.
                _LOG.exception("What was to happen later failed.")

    def _wait(self) -> Callable[[], None] | None:
        """Return what is due next, when it is; None: closed."""
        with self._changed:
            while not self._closed:
                left = self._due[0][0] - time.monotonic() if self._due else _IDLE
                if left <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(left)
        return None

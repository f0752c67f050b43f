# SPDX-License-Identifier: Apache-2.0
"""A bounded pool of kept-alive connections, so that nobody waits for a slow call.

Some connections stay open between calls. When they are all in use, a caller waits
a moment for one of them, and then gets an extra one that is closed after use. Of
what there can be in all, a share is for calls that only read, so that many slow
changes never hold up a quick look.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.transport import Transport

# At most so many connections for each that is kept. With the default of 5 that
# is 40, of XAPI's 800 for all its clients ("XAPI today", section 1.1).
_MOST_PER_KEPT = 8
_SHARE_OF_READS = 4  # one in so many is not for changes
_MOMENT = 0.1  # seconds; a new TLS connection costs about as much as a short call


class Connections:
    """Lends transports to threads.

    :ivar most: connections that are open at once, at the very most
    :param open_transport: returns a new, unopened transport
    :param keep: how many connections stay open while nobody uses them
    :param patience: seconds that a caller waits for a connection when there are
        as many as there can be
    """

    def __init__(
        self,
        open_transport: Callable[[], Transport],
        keep: int,
        patience: float = 120.0,
    ) -> None:
        self._open = open_transport
        self._patience = patience
        self.most = keep * _MOST_PER_KEPT
        self._all = threading.BoundedSemaphore(self.most)
        self._for_changes = threading.BoundedSemaphore(
            self.most - max(1, self.most // _SHARE_OF_READS)
        )
        self._kept = threading.BoundedSemaphore(keep)
        # With one connection there is nothing to share.
        self._kept_for_changes = threading.BoundedSemaphore(
            max(1, keep - max(1, keep // _SHARE_OF_READS))
        )
        self._lock = threading.Lock()
        self._idle: list[Transport] = []
        self._generation = 0
        self._moved = time.monotonic()  # when a kept connection came or went

    @contextlib.contextmanager
    def lend(self, reads: bool) -> Iterator[Transport]:
        """Lend a connection for one exchange.

        It goes back if the exchange ended with an answer, be it a refusal. After
        any other exception it is closed: an answer may still be under way, and
        the next caller must not get it.

        :param reads: the call changes nothing, or ends quickly
        :raises ConnectionsBusy: all were in use for ``patience`` seconds
        """
        with self._place(reads), self._keeping(reads) as kept:
            transport, generation = self._taken(kept)
            answered = False
            try:
                yield transport
                answered = True
            except errors.XapiFailure:
                answered = True
                raise
            finally:
                self._back(transport, generation if kept and answered else -1)

    def drop(self) -> None:
        """Close what is idle now, and what is lent when it comes back.

        For the time when another host is to be asked. The next calls open new
        connections.
        """
        with self._lock:
            idle, self._idle = self._idle, []
            self._generation += 1
        for transport in idle:
            transport.close()

    @contextlib.contextmanager
    def _place(self, reads: bool) -> Iterator[None]:
        """Wait for a place among all connections."""
        places = [self._all] if reads else [self._for_changes, self._all]
        deadline = time.monotonic() + self._patience
        with contextlib.ExitStack() as undo:
            for place in places:
                if not place.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                    raise errors.ConnectionsBusy(self.most, self._patience)
                undo.callback(place.release)
            yield

    @contextlib.contextmanager
    def _keeping(self, reads: bool) -> Iterator[bool]:
        """Wait a moment for a kept connection; yield whether there is one.

        The moment begins when one was last taken or given back: while all of
        them are with slow calls, nobody has to find that out again.
        """
        places = [self._kept] if reads else [self._kept_for_changes, self._kept]
        deadline = self._moved + _MOMENT
        with contextlib.ExitStack() as undo:
            for place in places:
                if not place.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                    break
                undo.callback(place.release)
            else:
                undo.callback(self._note)
                self._note()
                yield True
                return
            undo.close()
            yield False

    def _note(self) -> None:
        self._moved = time.monotonic()

    def _taken(self, kept: bool) -> tuple[Transport, int]:
        with self._lock:
            generation = self._generation
            transport = self._idle.pop() if kept and self._idle else None
        return transport or self._open(), generation

    def _back(self, transport: Transport, generation: int) -> None:
        with self._lock:
            if generation == self._generation:
                self._idle.append(transport)
                return
        transport.close()

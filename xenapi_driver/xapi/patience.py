# SPDX-License-Identifier: Apache-2.0
"""How long to go on trying, and who tries when many threads need the same."""

from __future__ import annotations

import contextlib
import copy
import random
import threading
import time
from collections.abc import Callable, Iterator

from oslo_log import log as logging

from xenapi_driver.xapi import errors

LOG = logging.getLogger(__name__)

_FIRST_PAUSE = 0.1  # seconds before a repetition; doubles up to _LONGEST_PAUSE
_LONGEST_PAUSE = 2.0


class Patience:
    """A deadline, and the pauses until then: longer ones, of random length.

    :ivar deadline: by time.monotonic()
    """

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE

    def wait(self, failed: errors.XapiError, what: str) -> None:
        """Pause before ``what`` is repeated; raise ``failed`` if it is too late."""
        if time.monotonic() + self._pause > self.deadline:
            raise failed
        LOG.warning("%(what)s is repeated. %(reason)s",
                    {"what": what, "reason": failed})  # fmt: skip
        time.sleep(random.uniform(0.5, 1.0) * self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)


def persist(what: str, attempt: Callable[[], str], seconds: float) -> str:
    """Return what ``attempt`` does, made at a host that is there, if not ready yet.

    Where nobody answers at all, or never, the URL is more likely wrong: that is
    told at once.

    :param what: for messages
    :param seconds: how long it is repeated
    """
    patience = Patience(seconds)
    heard = False
    failed: errors.XapiError
    while True:
        try:
            return attempt()
        except (errors.HostUnreachable, errors.HostStillBooting) as exc:
            # A connection that was open, or a host that says so.
            heard = heard or type(exc.__cause__) is errors.ConnectionLost
            if not heard and isinstance(exc, errors.HostUnreachable):
                raise
            failed, heard = exc, True
        patience.wait(failed, what)


class Turns:
    """A lock around an attempt; who waited for one that failed does not try again.

    Two hundred threads that log in one after the other at a host that does not
    answer would each wait for all the others' time-outs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._failure: errors.XapiError | None = None

    @contextlib.contextmanager
    def turn(self, deadline: float, url: str) -> Iterator[None]:
        """Wait for one's turn, and have it.

        :param deadline: by time.monotonic()
        :param url: where the attempt leads
        :raises HostUnreachable: the attempt of another thread lasts too long
        :raises XapiError: an attempt that was waited for failed so
        """
        before = self._failures
        if not self._lock.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            raise errors.HostUnreachable(url, "logging in takes too long")
        try:
            if self._failure is not None and self._failures != before:
                raise copy.copy(self._failure).with_traceback(None)
            try:
                yield
            except errors.XapiError as exc:
                self._failures += 1
                self._failure = exc
                raise
            self._failure = None
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for as long as it takes; for the beginning and the end."""
        with self._lock:
            yield

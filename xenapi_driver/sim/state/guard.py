# SPDX-License-Identifier: Apache-2.0
"""The lock of a simulated host's database: it tells when it is about to be let go."""

import threading
from collections.abc import Callable


def _nothing() -> None:
    """Do nothing."""


class Guard:
    """A re-entrant lock, fit for :class:`threading.Condition`.

    :ivar before_release: called, with the lock still held, before others can take it:
        at the outermost release, and before a wait on the condition
    """

    def __init__(self) -> None:
        self.before_release: Callable[[], None] = _nothing
        self._lock = threading.Lock()
        self._owner = 0
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, once more if this thread has it."""
        me = threading.get_ident()
        if self._owner == me:
            self._depth += 1
            return True
        if not self._lock.acquire(blocking, timeout):
            return False
        self._owner, self._depth = me, 1
        return True

    def release(self) -> None:
        """Give it back.

        :raises RuntimeError: this thread has not got it
        """
        self.require()
        if self._depth > 1:
            self._depth -= 1
            return
        try:
            self.before_release()
        finally:
            self._owner, self._depth = 0, 0
            self._lock.release()

    def is_owned(self) -> bool:
        """Return whether this thread has the lock."""
        return self._owner == threading.get_ident()

    def require(self) -> None:
        """Insist on being held by this thread.

        :raises RuntimeError: it is not
        """
        if not self.is_owned():
            raise RuntimeError("the database's lock is not held")

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *about: object) -> None:
        self.release()

    # What a Condition asks of a re-entrant lock

    def _release_save(self) -> int:
        self.require()
        depth, self._depth = self._depth, 1
        self.release()
        return depth

    def _acquire_restore(self, depth: int) -> None:
        self.acquire()
        self._depth = depth

    def _is_owned(self) -> bool:
        return self.is_owned()

# SPDX-License-Identifier: Apache-2.0
"""Which objects a session has made itself."""

from __future__ import annotations

import threading

_REMEMBERED = 1000  # more than can be made while an answer is waited for


class Made:
    """The objects that calls of ours have made, so that none is taken for another's.

    Two threads may make disks of one name, and the answer to one be lost.
    """

    def __init__(self) -> None:
        self._refs: dict[str, None] = {}  # the oldest first
        self._lock = threading.Lock()

    def add(self, value: object) -> bool:
        """Note a call's value if it is an object; tell whether it is a new one."""
        if not isinstance(value, str) or not value.startswith("OpaqueRef:"):
            return True
        with self._lock:
            if value in self._refs:
                return False
            self._refs[value] = None
            if len(self._refs) > _REMEMBERED:
                del self._refs[next(iter(self._refs))]
            return True

    def refs(self) -> list[str]:
        """Return their references."""
        with self._lock:
            return list(self._refs)

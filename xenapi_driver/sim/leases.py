# SPDX-License-Identifier: Apache-2.0
"""Numbers that are lent: the lowest free one first, until it is given back."""

import heapq


class Leases:
    """Which holder has which number, 0 or more."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._free: list[int] = []
        self._next = 0

    @property
    def held(self) -> dict[str, int]:
        """Return who has which number."""
        return dict(self._held)

    def restore(self, held: dict[str, int]) -> None:
        """Begin with numbers that are lent already."""
        self._held = dict(held)
        self._next = max(held.values(), default=-1) + 1
        self._free = sorted(set(range(self._next)) - set(held.values()))

    def take(self, holder: str) -> int:
        """Return the holder's number; one without gets the lowest that is free."""
        if holder not in self._held:
            if self._free:
                self._held[holder] = heapq.heappop(self._free)
            else:
                self._held[holder] = self._next
                self._next += 1
        return self._held[holder]

    def give_back(self, holder: str) -> None:
        """Let somebody else have the number; without one nothing happens."""
        number = self._held.pop(holder, None)
        if number is not None:
            heapq.heappush(self._free, number)

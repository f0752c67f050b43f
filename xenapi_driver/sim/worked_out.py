# SPDX-License-Identifier: Apache-2.0
"""Fields that are worked out when they are read, and told of when they change.

A real host stores ``allowed_operations`` and writes it anew whenever something that it
depends on changes, so that a client hears of it by an event. Here such a field is
worked out when somebody reads it. What was read meanwhile is remembered: when one of
these objects changes, the value counts as stale, and the next look at events works it
out again. If it differs, the object has changed, and there is an event.

Nobody can be out of step with what nobody ever read, so nothing is worked out before.
"""

from collections.abc import Callable
from typing import Any, Protocol

from xenapi_driver.sim.failure import Failure

# Class, reference, field.
Key = tuple[str, str, str]
# Class and reference; "" for any object of the class, such as one that comes.
Source = tuple[str, str]

_NEVER = object()


class Database(Protocol):
    """What is asked of the registry here."""

    changed: Any

    def row(self, cls: str, ref: str) -> dict[str, Any]:
        """Return a raw row."""

    def value(self, cls: str, ref: str, name: str) -> Any:
        """Return a field."""

    def sources(self, cls: str, ref: str, name: str) -> set[Source]:
        """Return what a field was made of."""

    def touch(self, cls: str, ref: str) -> None:
        """Make an event."""


class _Reader:
    """The database as a field's function sees it; notes what it looks at."""

    def __init__(self, db: Database, sources: set[Source]) -> None:
        self._db = db
        self._sources = sources

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def _one(self, name: str, cls: str, ref: str, *rest: Any) -> Any:
        self._sources.add((cls, ref))
        return getattr(self._db, name)(cls, ref, *rest)

    def row(self, cls: str, ref: str) -> Any:
        """Look at one object."""
        return self._one("row", cls, ref)

    def exists(self, cls: str, ref: str) -> Any:
        """Look whether there is an object."""
        return self._one("exists", cls, ref)

    def value(self, cls: str, ref: str, name: str) -> Any:
        """Look at one field, which may be worked out as well."""
        found = self._one("value", cls, ref, name)
        self._sources.update(self._db.sources(cls, ref, name))
        return found

    def _any(self, name: str, cls: str, *rest: Any, **wanted: Any) -> Any:
        self._sources.add((cls, ""))
        return getattr(self._db, name)(cls, *rest, **wanted)

    def find(self, cls: str, **wanted: Any) -> Any:
        """Search a class."""
        return self._any("find", cls, **wanted)

    def refs(self, cls: str) -> Any:
        """Look at a whole class."""
        return self._any("refs", cls)

    def rows(self, cls: str) -> Any:
        """Look at a whole class."""
        return self._any("rows", cls)

    def count(self, cls: str) -> Any:
        """Look at a whole class."""
        return self._any("count", cls)

    def record(self, cls: str, ref: str) -> Any:
        """Refuse: a field is not made of whole records."""
        raise TypeError(f"{cls} {ref}: read the row, or one value")

    view = record


class WorkedOut:
    """The values that were worked out so far, and what they were made of.

    :param quiet: nobody is told of these values, so that no change makes an event
    """

    def __init__(self, db: Database, quiet: bool = False) -> None:
        self._db = db
        self._quiet = quiet
        self._values: dict[Key, Any] = {}
        self._stale: dict[Key, Any] = {}
        self._sources: dict[Key, set[Source]] = {}
        self._readers: dict[Source, set[Key]] = {}

    def value(self, key: Key, compute: Callable[..., Any]) -> Any:
        """Return a field's value, worked out if something that it is made of changed.

        One that differs from what was told before makes an event of its object.
        """
        found = self._values.get(key, _NEVER)
        if found is not _NEVER:
            return found
        cls, ref, _ = key
        with self._db.changed:
            sources: set[Source] = {(cls, ref)}
            reader = _Reader(self._db, sources)
            value = compute(reader, ref, self._db.row(cls, ref))
            told = self._stale.pop(key, _NEVER)
            if told is not _NEVER and told != value:
                self._db.touch(cls, ref)
            self._values[key] = value
            self._sources[key] = sources
            for source in sources:
                self._readers.setdefault(source, set()).add(key)
        return value

    def sources(self, key: Key) -> set[Source]:
        """Return what a value was made of."""
        return self._sources.get(key, set())

    def outdate(self, cls: str, ref: str) -> None:
        """Count as stale what was made of an object that changed, came or goes."""
        for source in ((cls, ref), (cls, "")):
            for key in self._readers.pop(source, ()):
                value = self._values.pop(key, _NEVER)
                if value is not _NEVER and not self._quiet:
                    self._stale[key] = value

    def forget(self, cls: str, ref: str, names: tuple[str, ...]) -> None:
        """Forget the fields of an object that went."""
        for name in names:
            key = (cls, ref, name)
            for kept in (self._values, self._stale, self._sources):
                kept.pop(key, None)

    def settle(self) -> None:
        """Work out what is stale, so that every change is known.

        What can not be worked out now, because a call that takes long has changed
        only half of what it will, stays stale.
        """
        half_way: set[Key] = set()
        while keys := [key for key in self._stale if key not in half_way]:
            for key in keys:
                try:
                    self._db.value(*key)
                except Failure:
                    half_way.add(key)

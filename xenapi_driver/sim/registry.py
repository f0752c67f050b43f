# SPDX-License-Identifier: Apache-2.0
"""The simulated host's database: objects, their relations and what changed when.

Every change takes the next generation number. An object remembers the generations
of its creation and of its last change, a table those of its deletions: that is all
``event.from`` needs. The lock is a condition that every change notifies.

Rows change through the methods of :class:`Registry` only: they keep the indexes, the
other side of relations and the order of changes true.
"""

import random
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from xenapi_driver.sim import storable
from xenapi_driver.sim.failure import Failure, handle_invalid
from xenapi_driver.sim.schema import NULL, Schema
from xenapi_driver.sim.state.guard import Guard
from xenapi_driver.sim.worked_out import Source, WorkedOut

# Deletions kept a table before the older half is forgotten ("XAPI today", 4).
MAX_DELETIONS = 512
# Fields by whose value objects are found without looking at each.
_INDEXED = ("uuid", "name_label", "domid")
# Classes that hold what others answered, whatever it is.
_ANYTHING = {"task"}

Row = dict[str, Any]
Computed = Callable[["Registry", str, Row], Any]


@dataclass
class Stamp:
    """Generations of an object's creation and last change."""

    created: int
    modified: int


@dataclass
class Deletion:
    """An object that went: its reference, when it came and when it went."""

    ref: str
    created: int
    deleted: int


@dataclass
class Table:
    """The objects of one class.

    :ivar indexes: field name to value to the references that have it
    :ivar hidden: names of fields that no client sees
    :ivar computed: fields that are worked out when they are read
    :ivar defaults: what the fields of a new object hold
    """

    rows: dict[str, Row] = field(default_factory=dict)
    stamps: dict[str, Stamp] = field(default_factory=dict)
    deletions: list[Deletion] = field(default_factory=list)
    indexes: dict[str, dict[str | int, dict[str, None]]] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    computed: tuple[tuple[str, Computed], ...] = ()
    defaults: Row = field(default_factory=dict)

    def fresh_row(self) -> Row:
        """Return a row of defaults of its own."""
        row = self.defaults.copy()
        for name in self._containers:
            row[name] = row[name].copy()
        return row

    @cached_property
    def _containers(self) -> list[str]:
        found = self.defaults.items()
        return [name for name, value in found if isinstance(value, (list, dict))]

    def enter(self, name: str, value: str | int, ref: str) -> None:
        """Note that an object has this value in an indexed field."""
        self.indexes[name].setdefault(value, {})[ref] = None

    def leave(self, name: str, value: str | int, ref: str) -> None:
        """Forget that."""
        bucket = self.indexes[name][value]
        del bucket[ref]
        if not bucket:
            del self.indexes[name][value]


class Registry:
    """All objects of one simulated pool.

    :ivar guard: the lock below ``changed``
    :ivar unsaved: class and reference of what changed since somebody emptied it;
        None: nobody does
    :ivar visited: rows that searches had to look at so far; what a search costs
    """

    def __init__(self, schema: Schema, computed: dict[tuple[str, str], Computed]):
        self.schema = schema
        self.guard = Guard()
        self.changed = threading.Condition(cast(Any, self.guard))
        self.unsaved: dict[tuple[str, str], None] | None = None
        self.generation = 1
        self.visited = 0
        self._computed = computed
        self._worked_out = WorkedOut(self)
        self._remembered = WorkedOut(self, quiet=True)
        self._tables = {name: self._table(name) for name in schema.classes}
        # Class and reference of every object, the last changed one last.
        self._order: OrderedDict[tuple[str, str], None] = OrderedDict()
        # A class that is related to itself by one field (role.subroles) is only a list.
        self._many = {one: many for one, many in schema.relations if one != many}
        self._owned: dict[str, list[tuple[str, tuple[str, str]]]] = {}
        for (cls, name), target in self._many.items():
            self._owned.setdefault(cls, []).append((name, target))
        # Object identity only, never a secret; seeded apart from `random` so that
        # tests that seed it get no equal references.
        self._random = random.Random()  # noqa: S311

    def _table(self, cls: str) -> Table:
        fields = self.schema.classes[cls].fields
        return Table(
            indexes={name: {} for name in _INDEXED if name in fields},
            hidden=tuple(n for n, about in fields.items() if about.flag == "internal"),
            computed=tuple(
                (name, compute)
                for (owner, name), compute in self._computed.items()
                if owner == cls
            ),
            defaults={name: about.initial() for name, about in fields.items()},
        )

    def new_uuid(self) -> str:
        """Return a fresh uuid."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def new_ref(self) -> str:
        """Return a fresh reference."""
        return "OpaqueRef:" + self.new_uuid()

    # reading

    def refs(self, cls: str) -> list[str]:
        """Return the references of a class."""
        return list(self._tables[cls].rows)

    def count(self, cls: str) -> int:
        """Return how many objects of a class there are."""
        return len(self._tables[cls].rows)

    def rows(self, cls: str) -> Iterator[tuple[str, Row]]:
        """Yield reference and raw row of each object of a class."""
        yield from list(self._tables[cls].rows.items())

    def exists(self, cls: str, ref: str) -> bool:
        """Return whether the reference names an object of the class."""
        return ref in self._tables[cls].rows

    def row(self, cls: str, ref: str) -> Row:
        """Return the raw row, to be read only.

        :raises Failure: HANDLE_INVALID
        """
        try:
            return self._tables[cls].rows[ref]
        except KeyError:
            raise handle_invalid(cls, ref) from None

    def value(self, cls: str, ref: str, name: str) -> Any:
        """Return one field as a client sees it."""
        row = self.row(cls, ref)
        compute = self._computed.get((cls, name))
        if compute is None:
            return row[name]
        return self._worked_out.value((cls, ref, name), compute)

    def sources(self, cls: str, ref: str, name: str) -> set[Source]:
        """Return what a field was made of that is worked out, else nothing."""
        return self._worked_out.sources((cls, ref, name))

    def remembered(self, cls: str, ref: str, name: str, compute: Computed) -> Any:
        """Return what a function makes of an object, worked out when that changes.

        :param name: no field, but a name for the value
        """
        return self._remembered.value((cls, ref, name), compute)

    def settle(self) -> None:
        """Make the events of fields that are worked out; before a look at events."""
        self._worked_out.settle()

    def record(self, cls: str, ref: str) -> Row:
        """Return the record as a client sees it."""
        row, table = self.row(cls, ref), self._tables[cls]
        record = row.copy()
        for name in table.hidden:
            del record[name]
        for name, compute in table.computed:
            record[name] = self._worked_out.value((cls, ref, name), compute)
        return record

    def by_uuid(self, cls: str, wanted: str) -> str:
        """Return the reference of a uuid.

        :raises Failure: UUID_INVALID
        """
        for ref in self._tables[cls].indexes["uuid"].get(wanted, ()):
            self.visited += 1
            return ref
        raise Failure("UUID_INVALID", cls, wanted)

    def find(self, cls: str, **wanted: Any) -> list[str]:
        """Return the references of the objects whose fields have these values.

        By uuid, name_label, domid or an owner across a relation only objects
        are looked at that have it; by other fields all of the class.
        """
        rows = self._tables[cls].rows
        candidates = self._candidates(cls, wanted)
        self.visited += len(candidates)
        return [
            ref
            for ref in candidates
            if all(rows[ref][name] == value for name, value in wanted.items())
        ]

    def _candidates(self, cls: str, wanted: Row) -> Collection[str]:
        """Return the few objects that can have the values, or all."""
        table = self._tables[cls]
        for name, value in wanted.items():
            if name in table.indexes and isinstance(value, (str, int)):
                return list(table.indexes[name].get(value, ()))
        for name, value in wanted.items():
            target = self._many.get((cls, name))
            if target and isinstance(value, str):
                owner = self._tables[target[0]].rows.get(value)
                if owner is not None:
                    return list(owner[target[1]])
        return list(table.rows)

    def stamp(self, cls: str, ref: str) -> Stamp:
        """Return an object's generations."""
        return self._tables[cls].stamps[ref]

    def deletions(self, cls: str) -> list[Deletion]:
        """Return the deletions that are still remembered, oldest first."""
        return list(self._tables[cls].deletions)

    def changed_since(self, since: int) -> Iterator[tuple[str, str, Stamp]]:
        """Yield class, reference and stamp of what changed, the last change first.

        The lock has to be held meanwhile. It costs what it yields, not what exists.
        """
        for cls, ref in reversed(self._order):
            stamp = self._tables[cls].stamps[ref]
            if stamp.modified <= since:
                return
            yield cls, ref, stamp

    def deleted_since(self, since: int) -> Iterator[tuple[str, Deletion]]:
        """Yield class and deletion of what went after a generation."""
        for cls, table in self._tables.items():
            for gone in reversed(table.deletions):
                if gone.deleted <= since:
                    break
                yield cls, gone

    # changing

    def create(self, cls: str, values: Row, ref: str | None = None) -> str:
        """Add an object; fields left out get the model's defaults."""
        with self.changed:
            ref = ref or self.new_ref()
            row = self._tables[cls].fresh_row()
            if "uuid" in row:
                row["uuid"] = self.new_uuid()
            unknown = set(values) - set(row)
            if unknown:
                raise ValueError(f"{cls} has no fields {sorted(unknown)}")
            row.update(values)
            if "name_label" in values:
                row["name_label"] = storable.shortened(values["name_label"])
            table = self._tables[cls]
            table.rows[ref] = row
            self.generation += 1
            table.stamps[ref] = Stamp(self.generation, self.generation)
            self._order[cls, ref] = None
            self._note(cls, ref)
            for name in table.indexes:
                table.enter(name, row[name], ref)
            for name, target in self._owned.get(cls, ()):
                self._link(target, row[name], ref)
            self._worked_out.outdate(cls, ref)
            self._remembered.outdate(cls, ref)
            self.changed.notify_all()
            return ref

    def update(self, cls: str, ref: str, **values: Any) -> None:
        """Change fields; what keeps its value is no change and no event.

        :raises Failure: HANDLE_INVALID; INTERNAL_ERROR, it cannot be stored
        """
        with self.changed:
            row = self.row(cls, ref)
            before = {n: row[n] for n, value in values.items() if row[n] != value}
            if not before:
                return
            if cls not in _ANYTHING:
                for name in before:
                    storable.check(values[name])
            table = self._tables[cls]
            for name, old in before.items():
                row[name] = values[name]
                if name in table.indexes:
                    table.leave(name, old, ref)
                    table.enter(name, values[name], ref)
                target = self._many.get((cls, name))
                if target:
                    self._unlink(target, old, ref)
                    self._link(target, values[name], ref)
            self.touch(cls, ref)

    def add_to_map(self, cls: str, ref: str, name: str, extra: Row) -> None:
        """Add keys to a map field.

        :raises Failure: MAP_DUPLICATE_KEY, HANDLE_INVALID
        """
        old = self.row(cls, ref)[name]
        for key in extra:
            if key in old:
                raise Failure("MAP_DUPLICATE_KEY", cls, name, ref, key)
        self.update(cls, ref, **{name: {**old, **extra}})

    def remove_from_map(self, cls: str, ref: str, name: str, key: str) -> None:
        """Remove a key from a map field; one that is not there is no fault."""
        old = self.row(cls, ref)[name]
        self.update(cls, ref, **{name: {k: v for k, v in old.items() if k != key}})

    def touch(self, cls: str, ref: str) -> None:
        """Make a modification event for an object."""
        with self.changed:
            self.row(cls, ref)
            self.generation += 1
            self._tables[cls].stamps[ref].modified = self.generation
            self._order.move_to_end((cls, ref))
            self._note(cls, ref)
            self._worked_out.outdate(cls, ref)
            self._remembered.outdate(cls, ref)
            self.changed.notify_all()

    def destroy(self, cls: str, ref: str) -> None:
        """Remove an object.

        :raises Failure: HANDLE_INVALID
        """
        with self.changed:
            row = self.row(cls, ref)
            for name, target in self._owned.get(cls, ()):
                self._unlink(target, row[name], ref)
            table = self._tables[cls]
            del table.rows[ref]
            stamp = table.stamps.pop(ref)
            del self._order[cls, ref]
            self._note(cls, ref)
            for name in table.indexes:
                table.leave(name, row[name], ref)
            self._worked_out.outdate(cls, ref)
            self._remembered.outdate(cls, ref)
            self._worked_out.forget(cls, ref, tuple(n for n, _ in table.computed))
            self.generation += 1
            table.deletions.append(Deletion(ref, stamp.created, self.generation))
            if len(table.deletions) >= MAX_DELETIONS:
                del table.deletions[: MAX_DELETIONS // 2]
            self.changed.notify_all()

    def _note(self, cls: str, ref: str) -> None:
        if self.unsaved is not None:
            self.unsaved[cls, ref] = None

    def kept_fields(self, cls: str) -> list[str]:
        """Return the fields that are facts; the others follow from other objects."""
        follow = {name for owner, name in self._many.values() if owner == cls}
        follow.update(name for name, _ in self._tables[cls].computed)
        fields = self.schema.classes[cls].fields
        return [name for name in fields if name not in follow]

    def restore(
        self, objects: Iterable[tuple[str, str, Stamp, Row]], generation: int
    ) -> None:
        """Fill an empty registry with objects in the order of their creation.

        :param generation: no smaller than any that a client has seen
        """
        stamps: list[tuple[int, tuple[str, str]]] = []
        with self.changed:
            for cls, ref, stamp, values in objects:
                row = self._tables[cls].fresh_row()
                row.update({n: v for n, v in values.items() if n in row})
                table = self._tables[cls]
                table.rows[ref], table.stamps[ref] = row, stamp
                for name in table.indexes:
                    table.enter(name, row[name], ref)
                stamps.append((stamp.modified, (cls, ref)))
            self._order.update((key, None) for _, key in sorted(stamps))
            self._restore_relations()
            self.generation = generation

    def _restore_relations(self) -> None:
        """Write down on the other side of every relation who points there."""
        for (cls, name), (owner_cls, many) in self._many.items():
            for ref, row in self._tables[cls].rows.items():
                for _, owner in self._owners((owner_cls, many), row[name]):
                    owner[many].append(ref)

    def _owners(
        self, target: tuple[str, str], value: str | list[str]
    ) -> Iterator[tuple[str, Row]]:
        """Yield the objects on the other side; a field may name one or many."""
        rows = self._tables[target[0]].rows
        for owner in [value] if isinstance(value, str) else value:
            if owner != NULL and owner in rows:
                yield owner, rows[owner]

    def forget_changes(self, since: int) -> None:
        """Make no event of what changed after a generation."""
        with self.changed:
            for table in self._tables.values():
                for stamp in table.stamps.values():
                    stamp.modified = min(stamp.modified, since)
                    stamp.created = min(stamp.created, since)
                table.deletions = [
                    gone for gone in table.deletions if gone.deleted <= since
                ]

    def _link(self, target: tuple[str, str], value: str | list[str], ref: str) -> None:
        cls, name = target
        for owner, row in self._owners(target, value):
            row[name] = [*row[name], ref]
            self.touch(cls, owner)

    def _unlink(
        self, target: tuple[str, str], value: str | list[str], ref: str
    ) -> None:
        cls, name = target
        for owner, row in self._owners(target, value):
            if ref in row[name]:
                row[name] = [item for item in row[name] if item != ref]
                self.touch(cls, owner)

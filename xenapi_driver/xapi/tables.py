# SPDX-License-Identifier: Apache-2.0
"""Records of many objects, as they were at one moment, and indexes over them.

A :class:`Table` never changes: :meth:`Table.changed` makes the next one. Whoever
holds a :class:`Snapshot` can look at it for as long as it likes, without a lock,
and everything in it is of the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, cast


class Record(Protocol):
    """What a class of records has to offer; its instances are frozen.

    :cvar XAPI_CLASS: XAPI's name of the class, such as ``"VM"``
    :cvar OWNER: the attribute with the reference of the object that it belongs
        to, such as ``"vm"`` of a VBD; empty where it belongs to none
    """

    XAPI_CLASS: ClassVar[str]
    OWNER: ClassVar[str]

    @property
    def ref(self) -> str:
        """Its reference."""

    @property
    def uuid(self) -> str:
        """Its UUID."""

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> Any:
        """Make one from XAPI's record."""


R = TypeVar("R", bound=Record)
Kind = type[Record]
# By reference; None stands for an object that is gone.
Changes = Mapping[str, R | None]


class _Index:
    """References, by something that their records say."""

    __slots__ = ("_key_of", "_refs")

    def __init__(
        self,
        key_of: Callable[[Any], str | None],
        refs: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._key_of = key_of
        self._refs = refs or {}

    def get(self, key: str) -> tuple[str, ...]:
        return self._refs.get(key, ())

    def changed(self, before: Mapping[str, Any], changes: Changes) -> _Index:
        lost: dict[str, set[str]] = {}
        won: dict[str, list[str]] = {}
        for ref, new in changes.items():
            old = before.get(ref)
            old_key = None if old is None else self._key_of(old)
            new_key = None if new is None else self._key_of(new)
            if old_key == new_key:
                continue
            if old_key is not None:
                lost.setdefault(old_key, set()).add(ref)
            if new_key is not None:
                won.setdefault(new_key, []).append(ref)
        if not lost and not won:
            return self
        refs = dict(self._refs)
        for key in lost.keys() | won.keys():
            gone = lost.get(key, ())
            left = [ref for ref in refs.get(key, ()) if ref not in gone]
            left += won.get(key, ())
            if left:
                refs[key] = tuple(left)
            else:
                del refs[key]
        return _Index(self._key_of, refs)


def _uuid(record: Any) -> str | None:
    return str(record.uuid)


def _name(record: Any) -> str | None:
    name: str | None = getattr(record, "name_label", None)
    return name


def _owner(record: Any) -> str | None:
    owner: str | None = getattr(record, record.OWNER) if record.OWNER else None
    return owner


class Table(Mapping[str, R]):
    """All records of one class by reference, and by UUID, name and owner."""

    __slots__ = ("_names", "_owners", "_records", "_uuids")

    def __init__(self) -> None:
        self._records: dict[str, R] = {}
        self._uuids = _Index(_uuid)
        self._names = _Index(_name)
        self._owners = _Index(_owner)

    def __getitem__(self, ref: str) -> R:
        return self._records[ref]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def by_uuid(self, uuid: str) -> R | None:
        """Return the record with this UUID, None when there is none."""
        refs = self._uuids.get(uuid)
        return self._records[refs[0]] if refs else None

    def named(self, name: str) -> tuple[R, ...]:
        """Return the records with this ``name_label``."""
        return tuple(self._records[ref] for ref in self._names.get(name))

    def owned_by(self, ref: str) -> tuple[R, ...]:
        """Return the records that belong to this object; see ``OWNER``."""
        return tuple(self._records[one] for one in self._owners.get(ref))

    def changed(self, changes: Changes[R]) -> Table[R]:
        """Return the table after ``changes``; this one stays as it is."""
        if not changes:
            return self
        table: Table[R] = Table()
        table._uuids = self._uuids.changed(self._records, changes)
        table._names = self._names.changed(self._records, changes)
        table._owners = self._owners.changed(self._records, changes)
        table._records = dict(self._records)
        for ref, record in changes.items():
            if record is None:
                table._records.pop(ref, None)
            else:
                table._records[ref] = record
        return table


class Snapshot:
    """One table for each class of records, all of the same moment."""

    __slots__ = ("_tables",)

    def __init__(self, kinds: Iterable[Kind] = ()) -> None:
        self._tables: dict[Kind, Table[Any]] = {kind: Table() for kind in kinds}

    def __getitem__(self, kind: type[R]) -> Table[R]:
        """Return the table of a class of records.

        :raises KeyError: the class is none of those that are followed
        """
        return cast("Table[R]", self._tables[kind])

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Return the classes of records that are followed."""
        return tuple(self._tables)

    def changed(self, changes: Mapping[Kind, Changes[Any]]) -> Snapshot:
        """Return the snapshot after ``changes``; this one stays as it is."""
        snapshot = Snapshot()
        snapshot._tables = dict(self._tables)
        for kind, of_kind in changes.items():
            snapshot._tables[kind] = self._tables[kind].changed(of_kind)
        return snapshot

# SPDX-License-Identifier: Apache-2.0
"""A file-based storage repository: a directory of ``<VDI uuid>.vhd`` files.

It does what the storage manager of a host does to an ``ext`` SR, so that what
dom0 plugins put there, or look for there, are files of the real shape.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from xenapi_driver.sim.storage import raw_link, sr_recovery, vhd
from xenapi_driver.sim.storage.vhd_chain import MAX_CHAIN, Chain

_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PLENTY = 0.75  # share of an SR that may be used before one looks closely
_MEMORY = 2.0  # seconds for which what was seen counts
CLOCK_STEP = 100_000_000  # ns that two changes may be apart and look simultaneous


class StorageError(Exception):
    """Why an SR could not do what it was asked; str() is a sentence."""


class NoSpace(StorageError):
    """The files would outgrow the size of the SR."""


class Missing(StorageError):
    """The SR holds no disk of this uuid."""


class Unimplemented(StorageError):
    """The SR cannot do this with a disk of this kind."""


class Broken(StorageError):
    """A file is no VHD that can be used, or a chain does not fit together."""


class BadSize(Broken):
    """A disk cannot have the size that was asked for."""


class ChainTooLong(Broken):
    """One more snapshot would make a chain that no host accepts."""


@dataclass(frozen=True)
class VhdInfo:
    """What a scan says of one disk; sizes in bytes, ``parent`` a uuid."""

    uuid: str
    virtual_size: int
    physical_bytes: int
    parent: str | None
    hidden: bool
    raw: bool = False


def used_bytes(path: Path, holes: bool = True) -> int:
    """Return the bytes of all files below a directory; ``holes``: with theirs."""
    total = 0
    for directory, _names, files in os.walk(path):
        for name in files:
            # A plugin may remove its staging area while we look.
            with contextlib.suppress(FileNotFoundError):
                about = os.lstat(os.path.join(directory, name))
                total += about.st_size if holes else about.st_blocks * 512
    return total


def _is_uuid(name: str) -> bool:
    return _UUID.fullmatch(name) is not None


class SizedStore(Protocol):
    """Files with a limit to the bytes that they may take."""

    size_bytes: int

    def used_bytes(self) -> int:
        """Return the bytes that are taken."""

    def seen_bytes(self) -> int | None:
        """Return about the same without a look; None: it is too long ago."""

    def expect(self, size: int) -> None:
        """Count bytes that are about to be written."""


class Content(Protocol):
    """An opened disk, whatever is below it."""

    @property
    def virtual_size(self) -> int:
        """Its size in bytes."""

    @property
    def blocks(self) -> list[int]:
        """Numbers of its blocks of 2 MiB that may hold data."""

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of it."""

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes into it; it never grows."""


class SrStore:
    """The disks of one SR. Safe to share between threads.

    :param path: directory of the SR; made when it is not there
    :param size_bytes: what all its files together may take
    :param thick: a disk takes its full size from the start, as on a logical volume
    """

    format = "vhd"

    def __init__(self, path: Path, size_bytes: int, thick: bool = False) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._thick = thick
        # One operation at a time, as the SR lock of a storage manager does.
        self._lock = threading.RLock()
        self._seen = Seen()
        self._infos: dict[str, tuple[tuple[int, int, int], VhdInfo]] = {}
        path.mkdir(parents=True, exist_ok=True)
        sr_recovery.recover(path)

    def path_of(self, uuid: str) -> Path:
        """Return the file of a disk, whether or not it exists."""
        if not _is_uuid(uuid):
            raise Missing(f"{uuid!r} is no VDI uuid.")
        raw = f"{self.path}/{uuid}{raw_link.SUFFIX}"
        return Path(raw if os.path.exists(raw) else f"{self.path}/{uuid}.vhd")

    def used_bytes(self) -> int:
        """Return the bytes of all files below the SR, staged ones included."""
        if not self._thick:
            return self._seen.look(used_bytes(self.path))
        with self._lock:
            infos = self.scan().values()
            return self._seen.look(sum(info.physical_bytes for info in infos))

    def seen_bytes(self) -> int | None:
        """Return about the same without a look; None: it is too long ago."""
        return self._seen.recent()

    def expect(self, size: int) -> None:
        """Count bytes that are about to be written."""
        self._seen.add(size)

    @staticmethod
    def location(uuid: str) -> str:
        """Return the name under which a disk is kept: its uuid."""
        return uuid

    def create(self, uuid: str, virtual_size: int, raw: bool = False) -> None:
        """Make an empty disk; its size is rounded up to whole VHD blocks.

        :param raw: as a plain file, which has no snapshots and never grows
        """
        path, size = self.path_of(uuid), _size(virtual_size)
        with self._lock, _as_broken(uuid):
            Room(self).take(vhd.overhead(size) + (size if self._thick else 0))
            if raw and not path.exists():
                raw_link.create(path.with_suffix(raw_link.SUFFIX), size)
            else:
                _create(path, size)

    def _require_vhd(self, uuid: str) -> None:
        if self.path_of(uuid).suffix == raw_link.SUFFIX:
            raise Unimplemented(f"{uuid} is a raw disk.")

    def clone(self, uuid: str, leaf_uuid: str, parent_uuid: str) -> str | None:
        """Put two empty leaves, ``uuid`` and ``leaf_uuid``, on the disk's data.

        The file of ``uuid`` becomes the hidden, read-only ``parent_uuid``. A
        leaf that holds nothing yet has nothing to keep: then the new leaf is put
        on its parent beside it, so that repeated clones do not grow the chain.

        :returns: ``parent_uuid``, or None when no new parent was needed
        :raises ChainTooLong: the chain would exceed what a host accepts
        """
        source, leaf = self.path_of(uuid), self.path_of(leaf_uuid)
        base = self.path_of(parent_uuid)
        self._require_vhd(uuid)
        with self._lock, self.open(uuid) as chain:
            size = chain.virtual_size
            own = chain.links[0]
            if own.footer.hidden:
                raise Broken(f"{uuid} is a base copy.")
            Room(self).take(2 * vhd.overhead(size) + (size if self._thick else 0))
            if not own.blocks and len(chain.links) > 1:
                _create(leaf, size, chain.links[1].path)
                return None
            if len(chain.links) >= MAX_CHAIN:
                raise ChainTooLong(f"The chain of {uuid} is {MAX_CHAIN} disks deep.")
            if base.exists() or leaf.exists():
                raise Broken(f"{parent_uuid} or {leaf_uuid} exists already.")
            sr_recovery.put_on_base(source, base)
            _create(leaf, size, base)
            return parent_uuid

    def freeze(self, uuid: str, parent_uuid: str) -> str | None:
        """Keep what a disk holds now, for :meth:`reset` to go back to.

        :returns: ``parent_uuid``, or None when its leaf was empty anyway
        """
        self._require_vhd(uuid)
        with self._lock, self.open(uuid) as chain:
            if len(chain.links) > 1 and not chain.links[0].blocks:
                return None
            if len(chain.links) >= MAX_CHAIN:
                raise ChainTooLong(f"The chain of {uuid} is {MAX_CHAIN} disks deep.")
            Room(self).take(vhd.overhead(chain.virtual_size))
            sr_recovery.put_on_base(self.path_of(uuid), self.path_of(parent_uuid))
            return parent_uuid

    def reset(self, uuid: str) -> None:
        """Drop what was written since :meth:`freeze`."""
        self._require_vhd(uuid)
        with self._lock, self.open(uuid) as chain:
            if len(chain.links) < 2:
                raise Broken(f"{uuid} has nothing to go back to.")
            vhd.create(self._staged(uuid), chain.virtual_size, chain.links[1].path)
            self.replace(uuid)

    def copy(self, uuid: str, new_uuid: str, dest: SrStore | None = None) -> None:
        """Write the content of a disk, as its guest sees it, into a new one."""
        store = dest or self
        self.stage(uuid, new_uuid, store)
        try:
            store.publish(new_uuid)
        finally:
            store.discard(new_uuid)

    def stage(self, uuid: str, new_uuid: str, dest: SrStore) -> None:
        """Write a copy that is no disk yet: ``dest`` must publish or discard it.

        No lock is held: opened files stay readable whatever happens to the chain.
        """
        with self.open(uuid) as source:
            dest.stage_data(new_uuid, source.virtual_size, parts(source))

    def stage_data(
        self, uuid: str, size: int, content: Iterable[tuple[int, bytes]]
    ) -> None:
        """Write a disk of this content that is no disk yet, as :meth:`stage` does."""
        with _as_broken(uuid):
            room = Room(self)
            room.take(vhd.overhead(_size(size)))
            try:
                if self.path_of(uuid).suffix == raw_link.SUFFIX:
                    raw_link.create(self._staged(uuid), _size(size))
                else:
                    vhd.create(self._staged(uuid), _size(size))
                with Chain(self._staged(uuid), writable=True) as chain:
                    for offset, data in content:
                        room.take(len(data))
                        chain.write(offset, data)
            except BaseException:
                self.discard(uuid)
                raise

    def publish(self, uuid: str) -> None:
        """Make a staged copy a disk, which scans then find."""
        target = self.path_of(uuid)
        with self._lock:
            if target.exists():
                raise Broken(f"{uuid} exists already.")
            self._staged(uuid).rename(target)

    def replace(self, uuid: str) -> None:
        """Put a staged disk in the place of one that there is."""
        with self._lock:
            self._staged(uuid).replace(self.path_of(uuid))

    def discard(self, uuid: str) -> None:
        """Remove a staged copy; one that was published stays."""
        self._staged(uuid).unlink(missing_ok=True)

    def _staged(self, uuid: str) -> Path:
        path = self.path_of(uuid)
        # A raw one keeps its ending, by which its format is known.
        kept = path.suffix if path.suffix == raw_link.SUFFIX else ""
        return path.with_name(f"{uuid}.copying{kept}")

    def resize(self, uuid: str, new_size: int) -> None:
        """Grow a disk, rounded up to whole VHD blocks.

        :raises BadSize: it would shrink, or is larger than a VHD can be
        """
        size = _size(new_size)
        with self._lock, self.open(uuid) as chain:
            if size < vhd.round_size(chain.virtual_size):
                raise BadSize(f"{uuid} cannot shrink to {new_size} bytes.")
            if size <= chain.virtual_size:
                return
            self._require_vhd(uuid)
            # A few first blocks may move to make room for a larger table.
            growth = size - chain.virtual_size if self._thick else vhd.BLOCK_SIZE
            Room(self).take(vhd.overhead(size) + growth)
            self.grow(uuid, size)

    def grow(self, uuid: str, size: int) -> None:
        """Make one file larger: its table moves, so that is done with a copy."""
        try:
            shutil.copyfile(self.path_of(uuid), self._staged(uuid))
            with vhd.VhdFile(self._staged(uuid), writable=True) as disk:
                disk.grow(size)
            self.replace(uuid)
        finally:
            self.discard(uuid)

    def destroy(self, uuid: str) -> None:
        """Remove a disk; base copies that it leaves behind are the collector's.

        :raises Broken: other disks are based on it
        """
        with self._lock:
            parents = self._parents()
            if uuid not in parents:
                raise Missing(f"There is no disk {uuid}.")
            if uuid in parents.values():
                raise Broken(f"Other disks are based on {uuid}.")
            self.path_of(uuid).unlink()

    def _parents(self) -> dict[str, str | None]:
        """Return the uuid of each disk's parent; of broken disks that are there too."""
        found: dict[str, str | None] = {}
        for uuid in self._uuids():
            found[uuid] = None
            # A broken file must not keep others from being destroyed.
            with contextlib.suppress(Broken, Missing):
                found[uuid] = self._info(uuid).parent
        return found

    def scan(self) -> dict[str, VhdInfo]:
        """Return every disk by uuid; files with other names are no disks.

        :raises Broken: a file is no valid VHD or its parent is not there
        """
        with self._lock:
            found = {}
            for uuid in self._uuids():
                with contextlib.suppress(Missing):
                    found[uuid] = self._info(uuid)
            for info in found.values():
                if info.parent is not None and info.parent not in found:
                    raise Broken(f"uuid={info.uuid}: parent {info.parent} is missing")
            # A plain file cannot say of itself that it is a base copy.
            for parent in {info.parent for info in found.values()}:
                if parent is not None and found[parent].raw:
                    found[parent] = replace(found[parent], hidden=True)
            return found

    def _uuids(self) -> list[str]:
        with os.scandir(self.path) as entries:
            names = [entry.name for entry in entries]
        # Both endings have four characters.
        disks = [name[:-4] for name in names if name.endswith((".vhd", ".raw"))]
        return sorted(name for name in disks if _is_uuid(name))

    def info(self, uuid: str) -> VhdInfo:
        """Return what a scan says of one disk.

        :raises Missing: there is none
        :raises Broken: its file is no valid VHD
        """
        self.path_of(uuid)
        with self._lock:
            return self._info(uuid)

    def _info(self, uuid: str) -> VhdInfo:
        try:
            about = os.stat(self.path_of(uuid))
        except FileNotFoundError:
            raise Missing(f"There is no disk {uuid}.") from None
        seal = about.st_ino, about.st_mtime_ns, about.st_size
        known = self._infos.get(uuid)
        if known is not None and known[0] == seal:
            return known[1]
        if self.path_of(uuid).suffix == raw_link.SUFFIX:
            taken = about.st_size if self._thick else about.st_blocks * 512
            return VhdInfo(uuid, about.st_size, taken, None, False, raw=True)
        info = self._read_info(uuid)
        # Times are not exact: what was written just now may change unnoticed.
        if time.time_ns() - about.st_mtime_ns > CLOCK_STEP:
            self._infos[uuid] = seal, info
        return info

    def _read_info(self, uuid: str) -> VhdInfo:
        with self._file(uuid) as disk:
            parent = disk.parent_path
            return VhdInfo(
                uuid=uuid,
                virtual_size=disk.footer.size,
                physical_bytes=self._taken(disk),
                parent=parent.stem if parent else None,
                hidden=disk.footer.hidden,
            )

    def _taken(self, disk: vhd.VhdFile) -> int:
        """Return the bytes that a disk takes; a base copy was shrunk to its data."""
        if self._thick and not disk.footer.hidden:
            return disk.footer.size + vhd.overhead(disk.footer.size)
        return disk.path.stat().st_size

    def virtual_size(self, uuid: str) -> int:
        """Return the size of a disk as its guest sees it."""
        with self.open(uuid) as chain:
            return chain.virtual_size

    def data(self, uuid: str) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of the blocks that are not all zeros."""
        with self.open(uuid) as chain:
            yield from parts(chain)

    def read(self, uuid: str, offset: int, length: int) -> bytes:
        """Return bytes of the disk as its guest sees them."""
        with self._lock, self.open(uuid) as chain:
            return chain.read(offset, length)

    def write(self, uuid: str, offset: int, data: bytes) -> None:
        """Write bytes into a disk as its guest does; never into its parents."""
        with self._lock:
            # Asked first: opening it to write needs rights that nobody has.
            if self._info(uuid).hidden:
                raise Broken(f"{uuid} is a base copy.")
            self._write(uuid, offset, data)

    def _write(self, uuid: str, offset: int, data: bytes) -> None:
        with self.open(uuid, writable=True) as chain:
            first, last = offset // vhd.BLOCK_SIZE, offset + len(data)
            touched = set(range(first, -(-last // vhd.BLOCK_SIZE)))
            fresh = len(touched.difference(chain.links[0].blocks))
            if fresh and not self._thick:
                Room(self).take(fresh * (vhd.BLOCK_SIZE + vhd.PAGE))
            chain.write(offset, data)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from changing the SR."""
        with self._lock:
            yield

    @contextlib.contextmanager
    def open(self, uuid: str, writable: bool = False) -> Iterator[Chain]:
        """Open a disk as its guest sees it.

        :raises Missing: there is no such disk
        :raises Broken: a file of its chain is damaged or missing
        """
        path = self.path_of(uuid)
        with _as_broken(uuid):
            with self._lock:
                if not path.exists():
                    raise Missing(f"There is no disk {uuid}.")
                chain = Chain(path, writable)
            with chain:
                yield chain

    @contextlib.contextmanager
    def _file(self, uuid: str) -> Iterator[vhd.VhdFile]:
        with _as_broken(uuid):
            try:
                disk = vhd.VhdFile(self.path_of(uuid))
            except FileNotFoundError:
                raise Missing(f"There is no disk {uuid}.") from None
            with disk:
                yield disk


class Room:
    """What is left of an SR when a piece of work begins, and while it goes on.

    Looking at all files takes long where there are many, so that what was seen a
    moment ago will do as long as there is plenty of room.
    """

    def __init__(self, store: SizedStore) -> None:
        self._store = store
        self._used = -1

    def take(self, size: int) -> None:
        """Count bytes that are about to be written.

        :raises NoSpace: they do not fit any more
        """
        store = self._store
        if self._used < 0:
            seen = store.seen_bytes()
            if seen is not None and seen + size < store.size_bytes * _PLENTY:
                store.expect(size)
                return
            self._used = store.used_bytes()
        if self._used + size > store.size_bytes:
            raise NoSpace(
                f"{size} bytes more do not fit:"
                f" {self._used} of {store.size_bytes} are used."
            )
        self._used += size
        store.expect(size)


class Seen:
    """How many bytes an SR took when somebody last looked at all of its files."""

    def __init__(self) -> None:
        self._at, self._bytes = float("-inf"), 0

    def look(self, size: int) -> int:
        """Remember what was seen just now, and return it."""
        self._at, self._bytes = time.monotonic(), size
        return size

    def add(self, size: int) -> None:
        """Count what is about to be written."""
        self._bytes += size

    def recent(self) -> int | None:
        """Return the bytes, None when it is too long ago."""
        return self._bytes if time.monotonic() - self._at < _MEMORY else None


def parts(disk: Content) -> Iterator[tuple[int, bytes]]:
    """Yield offset and content of the blocks of a disk that are not all zeros."""
    for block in disk.blocks:
        offset = block * vhd.BLOCK_SIZE
        data = disk.read(offset, min(vhd.BLOCK_SIZE, disk.virtual_size - offset))
        if data.strip(b"\0"):
            yield offset, data


def _size(virtual_size: int) -> int:
    size = vhd.round_size(virtual_size)
    if not 0 < size <= vhd.MAX_VIRTUAL_SIZE:
        raise BadSize(f"A disk cannot have {virtual_size} bytes.")
    return size


def _create(path: Path, size: int, parent: Path | None = None) -> None:
    try:
        vhd.create(path, size, parent)
    except FileExistsError:
        raise Broken(f"{path.stem} exists already.") from None


@contextlib.contextmanager
def _as_broken(uuid: str) -> Iterator[None]:
    """Turn what the VHD reader objects to into the SR's words."""
    try:
        yield
    except vhd.BadVhd as error:
        raise Broken(f"uuid={uuid}: {error}") from error

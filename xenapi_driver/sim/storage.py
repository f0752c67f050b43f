# SPDX-License-Identifier: Apache-2.0
"""A file-based storage repository: a directory of ``<VDI uuid>.vhd`` files.

It does what the storage manager of a host does to an ``ext`` SR, so that what
dom0 plugins put there, or look for there, are files of the real shape.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid as uuidlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xenapi_driver.sim import vhd
from xenapi_driver.sim.vhd_chain import MAX_CHAIN, Chain


class StorageError(Exception):
    """Why an SR could not do what it was asked; str() is a sentence."""


class NoSpace(StorageError):
    """The files would outgrow the size of the SR."""


class Missing(StorageError):
    """The SR holds no disk of this uuid."""


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
    try:
        return str(uuidlib.UUID(name)) == name
    except ValueError:
        return False


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
        path.mkdir(parents=True, exist_ok=True)

    def path_of(self, uuid: str) -> Path:
        """Return the file of a disk, whether or not it exists."""
        if not _is_uuid(uuid):
            raise Missing(f"{uuid!r} is no VDI uuid.")
        return self.path / f"{uuid}.vhd"

    def used_bytes(self) -> int:
        """Return the bytes of all files below the SR, staged ones included."""
        if not self._thick:
            return used_bytes(self.path)
        with self._lock:
            return sum(info.physical_bytes for info in self.scan().values())

    @staticmethod
    def location(uuid: str) -> str:
        """Return the name under which a disk is kept: its uuid."""
        return uuid

    def create(self, uuid: str, virtual_size: int) -> None:
        """Make an empty disk; its size is rounded up to whole VHD blocks."""
        path, size = self.path_of(uuid), _size(virtual_size)
        with self._lock, _as_broken(uuid):
            self._require(vhd.overhead(size) + (size if self._thick else 0))
            _create(path, size)

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
        with self._lock, self._open(uuid) as chain:
            size = chain.virtual_size
            own = chain.links[0]
            if own.footer.hidden:
                raise Broken(f"{uuid} is a base copy.")
            self._require(2 * vhd.overhead(size) + (size if self._thick else 0))
            if not own.blocks and len(chain.links) > 1:
                _create(leaf, size, chain.links[1].path)
                return None
            if len(chain.links) >= MAX_CHAIN:
                raise ChainTooLong(f"The chain of {uuid} is {MAX_CHAIN} disks deep.")
            if base.exists() or leaf.exists():
                raise Broken(f"{parent_uuid} or {leaf_uuid} exists already.")
            source.rename(base)
            with vhd.VhdFile(base, writable=True) as parent:
                parent.hide()
            base.chmod(0o444)
            _create(source, size, base)
            _create(leaf, size, base)
            return parent_uuid

    def copy(self, uuid: str, new_uuid: str, dest: SrStore | None = None) -> None:
        """Write the content of a disk, as its guest sees it, into a new one."""
        store = dest or self
        self.stage(uuid, new_uuid, store)
        try:
            store.publish(new_uuid)
        finally:
            store.discard(new_uuid)

    def stage(self, uuid: str, new_uuid: str, dest: SrStore) -> None:
        """Write a copy that is no disk yet: ``dest`` must publish or discard it."""
        # The source's lock is not held: opened files stay readable whatever
        # happens to the chain meanwhile.
        with self._open(uuid) as source, dest._lock, _as_broken(new_uuid):
            size = source.virtual_size
            need = len(source.blocks) * (vhd.BLOCK_SIZE + vhd.PAGE)
            dest._require(vhd.overhead(size) + need)
            try:
                _copy_blocks(source, dest._staged(new_uuid))
            except BaseException:
                dest.discard(new_uuid)
                raise

    def stage_data(
        self, uuid: str, size: int, parts: Iterable[tuple[int, bytes]]
    ) -> None:
        """Write a disk of this content that is no disk yet, as :meth:`stage` does."""
        with self._lock, _as_broken(uuid):
            self._require(vhd.overhead(_size(size)))
            try:
                vhd.create(self._staged(uuid), _size(size))
                with Chain(self._staged(uuid), writable=True) as chain:
                    for offset, data in parts:
                        self._require(len(data))
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

    def discard(self, uuid: str) -> None:
        """Remove a staged copy; one that was published stays."""
        self._staged(uuid).unlink(missing_ok=True)

    def _staged(self, uuid: str) -> Path:
        return self.path_of(uuid).with_suffix(".copying")

    def resize(self, uuid: str, new_size: int) -> None:
        """Grow a disk, rounded up to whole VHD blocks.

        :raises BadSize: it would shrink, or is larger than a VHD can be
        """
        size = _size(new_size)
        with self._lock, self._open(uuid) as chain:
            if size < vhd.round_size(chain.virtual_size):
                raise BadSize(f"{uuid} cannot shrink to {new_size} bytes.")
            if size <= chain.virtual_size:
                return
            # A few first blocks may move to make room for a larger table.
            growth = size - chain.virtual_size if self._thick else vhd.BLOCK_SIZE
            self._require(vhd.overhead(size) + growth)
            with vhd.VhdFile(self.path_of(uuid), writable=True) as leaf:
                leaf.grow(size)

    def destroy(self, uuid: str) -> list[str]:
        """Remove a disk and the base copies that nothing needs any more.

        :returns: uuids of the disks that vanished, this one first
        :raises Broken: other disks are based on it
        """
        with self._lock:
            parents = self._parents()
            if uuid not in parents:
                raise Missing(f"There is no disk {uuid}.")
            if uuid in parents.values():
                raise Broken(f"Other disks are based on {uuid}.")
            gone = []
            victim: str | None = uuid
            while victim is not None:
                self.path_of(victim).unlink()
                parent = parents.pop(victim)
                gone.append(victim)
                victim = parent if self._is_garbage(parent, parents) else None
            return gone

    def _is_garbage(self, uuid: str | None, parents: dict[str, str | None]) -> bool:
        if uuid not in parents or uuid in parents.values():
            return False
        with self._file(uuid) as disk:
            return disk.footer.hidden

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
            return found

    def _uuids(self) -> list[str]:
        files = self.path.glob("*.vhd")
        return sorted(file.stem for file in files if _is_uuid(file.stem))

    def _info(self, uuid: str) -> VhdInfo:
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
        with self._open(uuid) as chain:
            return chain.virtual_size

    def data(self, uuid: str) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of the blocks that are not all zeros."""
        with self._open(uuid) as chain:
            for block in chain.blocks:
                offset = block * vhd.BLOCK_SIZE
                length = min(vhd.BLOCK_SIZE, chain.virtual_size - offset)
                content = chain.read(offset, length)
                if content.strip(b"\0"):
                    yield offset, content

    def read(self, uuid: str, offset: int, length: int) -> bytes:
        """Return bytes of the disk as its guest sees them."""
        with self._lock, self._open(uuid) as chain:
            return chain.read(offset, length)

    def write(self, uuid: str, offset: int, data: bytes) -> None:
        """Write bytes into a disk as its guest does; never into its parents."""
        with self._lock:
            # Asked first: opening it to write needs rights that nobody has.
            if self._info(uuid).hidden:
                raise Broken(f"{uuid} is a base copy.")
            self._write(uuid, offset, data)

    def _write(self, uuid: str, offset: int, data: bytes) -> None:
        with self._open(uuid, writable=True) as chain:
            first, last = offset // vhd.BLOCK_SIZE, offset + len(data)
            touched = set(range(first, -(-last // vhd.BLOCK_SIZE)))
            fresh = len(touched.difference(chain.links[0].blocks))
            if fresh and not self._thick:
                self._require(fresh * (vhd.BLOCK_SIZE + vhd.PAGE))
            chain.write(offset, data)

    def _require(self, size: int) -> None:
        used = self.used_bytes()
        if used + size > self.size_bytes:
            raise NoSpace(
                f"{size} bytes more do not fit: {used} of {self.size_bytes} are used."
            )

    @contextlib.contextmanager
    def _open(self, uuid: str, writable: bool = False) -> Iterator[Chain]:
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


def _copy_blocks(source: Chain, target: Path) -> None:
    """Write a flat VHD of what ``source`` reads as; blocks of zeros are left out."""
    vhd.create(target, source.virtual_size)
    with Chain(target, writable=True) as copy:
        for block in source.blocks:
            offset = block * vhd.BLOCK_SIZE
            data = source.read(
                offset, min(vhd.BLOCK_SIZE, source.virtual_size - offset)
            )
            if data.strip(b"\0"):
                copy.write(offset, data)

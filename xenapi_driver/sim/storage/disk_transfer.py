# SPDX-License-Identifier: Apache-2.0
"""Whole disks in and out of an SR as streams, without holding the database."""

from __future__ import annotations

import contextlib
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from xenapi_driver.sim import tasks
from xenapi_driver.sim.classes import vdi as vdi_class
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call
from xenapi_driver.sim.storage import (
    disks,
    qcow2_reader,
    qcow2_stream,
    shown_disks,
    vhd,
    vhd_stream,
)
from xenapi_driver.sim.storage.sr_kinds import Store
from xenapi_driver.sim.storage.vhd_store import (
    Content,
    Room,
    SrStore,
    StorageError,
)

STEP = 1 << 20
# Offset and length that go before each piece of a raw stream in pieces.
_PIECE = struct.Struct("<QI")
_LONGEST_PIECE = 64 << 20
# How long an ended transfer may take to let its disk go.
_LET_GO_SECONDS = 1.0

Put = Callable[[bytes], None]


class Source(Protocol):
    """Where a stream comes from.

    :ivar length: bytes that were announced; None: until the end
    """

    length: int | None

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are some."""

    def exactly(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""


@dataclass
class Gauge:
    """Reports progress of a task, and ends the work of one that was cancelled.

    :ivar total: bytes there will be
    """

    call: Call
    total: int
    done: int = 0
    _reported: float = 0.0

    def add(self, size: int) -> None:
        """Count bytes that were moved.

        :raises Failure: TASK_CANCELLED
        """
        self.done += size
        self.call.check_cancelled()
        if time.monotonic() - self._reported > 0.1:
            self._reported = time.monotonic()
            # It is complete when the disk is, not when its last byte was sent.
            share = min(0.99, self.done / max(1, self.total))
            tasks.set_progress(self.call, share)


@dataclass(frozen=True)
class Place:
    """A disk in the files of its SR."""

    store: Store
    name: str
    uuid: str


def place_of(call: Call, vdi: str) -> Place:
    """Return where a disk is; what its guest wrote so far is in the files.

    :raises Failure: SR_HAS_NO_PBDS, SR_OPERATION_NOT_SUPPORTED, SR_BACKEND_FAILURE_46
    """
    with call.db.changed:
        row = call.db.row("VDI", vdi)
        store = disks.store_of(call.world, row["SR"])
        with disks.backend_errors():
            shown_disks.sync(call.world, store.path_of(row["location"]))
        return Place(store, row["location"], row["uuid"])


def io_error() -> Failure:
    """Return what a task says of a stream or device that failed."""
    return Failure("VDI_IO_ERROR", "Device I/O errors")


# in


@contextlib.contextmanager
def held(call: Call, vdi: str) -> Iterator[Place]:
    """Have a disk for oneself: nobody removes, grows, clones or coalesces it meanwhile.

    :raises Failure: VDI_IN_USE, VDI_READONLY, and as :func:`place_of`
    """
    # A transfer is answered before it has let its disk go: the caller's next may come
    # in between, as after the empty one by which clients find the host to go to.
    uuid, deadline = call.db.row("VDI", vdi)["uuid"], time.monotonic() + _LET_GO_SECONDS
    while uuid in call.world.held_disks and time.monotonic() < deadline:
        time.sleep(0.01)
    with call.db.changed:
        row = vdi_class.require_unused(call, vdi, "import")
        if row["read_only"]:
            raise Failure("VDI_READONLY", vdi)
        place = place_of(call, vdi)
        call.world.held_disks.add(place.uuid)
    try:
        yield place
    finally:
        call.world.held_disks.discard(place.uuid)


@contextlib.contextmanager
def written(place: Place) -> Iterator[Callable[[int, bytes], None]]:
    """Open a disk to be written.

    :raises Failure: VDI_IO_ERROR where something cannot be written
    """
    room = Room(place.store)
    try:
        with place.store.open(place.name, writable=True) as disk:

            def write(offset: int, data: bytes) -> None:
                """Write; what is there already takes no room."""
                if offset < 0 or offset + len(data) > disk.virtual_size:
                    raise io_error()
                if disk.read(offset, len(data)) != data:
                    room.take(len(data))
                    disk.write(offset, data)

            yield write
    except (StorageError, vhd.BadVhd) as error:
        raise io_error() from error


def receive_raw(call: Call, place: Place, source: Source) -> None:
    """Write a stream of plain content into a disk, from its first byte on.

    :raises Failure: VDI_IO_ERROR, TASK_CANCELLED
    """
    gauge = Gauge(call, source.length or 0)
    offset = 0
    with written(place) as write:
        while data := source.exactly(vhd.BLOCK_SIZE):
            write(offset, data)
            offset += len(data)
            gauge.add(len(data))
    if source.length is not None and offset < source.length:
        raise io_error()


def receive_pieces(call: Call, place: Place, source: Source) -> None:
    """Write pieces that each say where they belong; one without length ends them.

    :raises Failure: VDI_IO_ERROR, TASK_CANCELLED
    """
    gauge = Gauge(call, source.length or 0)
    with written(place) as write:
        while True:
            head = source.exactly(_PIECE.size)
            if len(head) < _PIECE.size:
                raise io_error()
            offset, length = _PIECE.unpack(head)
            if not length:
                return
            if length > _LONGEST_PIECE:
                raise io_error()
            data = source.exactly(length)
            if len(data) < length:
                raise io_error()
            write(offset, data)
            gauge.add(_PIECE.size + length)


def receive_vhd(call: Call, place: Place, source: Source) -> None:
    """Expand a VHD into a disk; what it does not hold stays as it is.

    :raises Failure: VDI_IO_ERROR, TASK_CANCELLED
    """
    gauge = Gauge(call, source.length or 0)
    with written(place) as write:
        for offset, data in vhd_stream.Reader(source.exactly).parts():
            write(offset, data)
            gauge.add(len(data))
        while source.read(STEP):
            pass


def receive_qcow2(call: Call, place: Place, source: Source) -> None:
    """Expand a QCOW2 image into a disk; what it does not hold stays as it is.

    Its tables may lie anywhere, so that all of it is put down first.

    :raises Failure: VDI_IO_ERROR, TASK_CANCELLED
    """
    gauge = Gauge(call, source.length or 0)
    with tempfile.TemporaryFile(dir=call.world.dom0.root / "tmp") as file:
        while data := source.read(STEP):
            file.write(data)
            gauge.add(len(data))
        if source.length is not None and gauge.done < source.length:
            raise io_error()
        try:
            with written(place) as write:
                for offset, part in qcow2_reader.Image(file).parts():
                    call.check_cancelled()
                    write(offset, part)
        except qcow2_reader.BadQcow2 as error:
            raise io_error() from error


# out


@contextlib.contextmanager
def opened(place: Place) -> Iterator[Content]:
    """Open a disk to be read.

    :raises Failure: SR_BACKEND_FAILURE_46
    """
    with disks.backend_errors(), place.store.open(place.name) as disk:
        yield disk


def send_raw(call: Call, disk: Content, put: Put) -> None:
    """Write the whole content of a disk, zeros included."""
    gauge = Gauge(call, disk.virtual_size)
    held = set(disk.blocks)
    zeros = bytes(STEP)
    for offset in range(0, disk.virtual_size, STEP):
        length = min(STEP, disk.virtual_size - offset)
        known = offset // vhd.BLOCK_SIZE in held
        put(disk.read(offset, length) if known else zeros[:length])
        gauge.add(length)


def send_vhd(call: Call, disk: Content, put: Put, base: Place | None) -> None:
    """Write a disk as a VHD; with ``base`` only what differs from that disk."""
    if base is None:
        _send_vhd(call, disk, put, disk.blocks, None)
        return
    with opened(base) as older:
        blocks = vhd_stream.differing(disk, older)
    _send_vhd(call, disk, put, blocks, _named(base))


def _named(base: Place) -> vhd_stream.Parent:
    store = base.store
    if not isinstance(store, SrStore):
        raise Failure("VDI_INCOMPATIBLE_TYPE", base.uuid, "raw")
    path = store.path_of(base.name)
    with vhd.VhdFile(path) as file:
        return vhd_stream.Parent(file.footer.uuid, path.name)


def _send_vhd(
    call: Call,
    disk: Content,
    put: Put,
    blocks: list[int],
    parent: vhd_stream.Parent | None,
) -> None:
    gauge = Gauge(call, vhd_stream.size_of(disk, blocks))

    def counted(data: bytes) -> None:
        put(data)
        gauge.add(len(data))

    vhd_stream.write(disk, blocks, counted, parent)


def send_qcow2(call: Call, disk: Content, put: Put) -> None:
    """Write a disk as a QCOW2 image."""
    gauge = Gauge(call, len(disk.blocks) * vhd.BLOCK_SIZE)

    def counted(data: bytes) -> None:
        put(data)
        gauge.add(len(data))

    qcow2_stream.write(disk, counted)

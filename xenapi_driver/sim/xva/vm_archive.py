# SPDX-License-Identifier: Apache-2.0
"""VM archives (XVA): a tar of ``ova.xml`` and the content of the disks."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.storage import disk_transfer, disks
from xenapi_driver.sim.storage.disk_transfer import Gauge, Source
from xenapi_driver.sim.xva import ova, tar_stream, xva_disks
from xenapi_driver.sim.xva.ova_import import Choices, Import

Put = Callable[[bytes], None]
_GZIP = b"\x1f\x8b"
_STEP = 1 << 20


# out


def records(call: Call, vms: list[str], wishes: ova.Wishes) -> bytes:
    """Return an archive of the records alone."""
    with call.db.changed:
        objects = ova.collect(call.db, vms, wishes)
        return ova.archive_of_records(ova.describe(call.db, objects, wishes))


def send(call: Call, vm: str, put: Put, keep_state: bool) -> None:
    """Write an archive of a VM with its disks.

    :param keep_state: with its power state and, when suspended, its memory
    :raises Failure: TASK_CANCELLED, or what the SR says
    """
    wishes = ova.Wishes(keep_state=keep_state)
    db = call.db
    with db.changed:
        objects = ova.collect(db, [vm], wishes)
        head = tar_stream.member(ova.NAME, ova.describe(db, objects, wishes))
        vdis = {ref: name for ref, (cls, name) in objects.items() if cls == "VDI"}
        chosen = [ref for ref in vdis if _is_content(call, ref, vm)]
        total = sum(db.row("VDI", ref)["virtual_size"] for ref in chosen)
    # Whoever reads may take long: the lock is not held meanwhile.
    put(head)
    gauge = Gauge(call, total)
    for ref in chosen:
        place = disk_transfer.place_of(call, ref)
        with disk_transfer.opened(place) as disk:
            xva_disks.write(disk, f"{vdis[ref]}/", put, gauge.add)
    put(tar_stream.end())


def _is_content(call: Call, vdi: str, vm: str) -> bool:
    """Return whether a disk is the VM's own; CDs are looked up again."""
    db = call.db
    kinds = [
        db.row("VBD", vbd)["type"]
        for vbd in db.row("VDI", vdi)["VBDs"]
        if db.row("VBD", vbd)["VM"] == vm
    ]
    return not kinds or any(kind != "CD" for kind in kinds)


class Gzip:
    """Compresses what is put in."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._work = zlib.compressobj(1, zlib.DEFLATED, 31)

    def put(self, data: bytes) -> None:
        """Write more."""
        if packed := self._work.compress(data):
            self._put(packed)

    def finish(self) -> None:
        """Write what was kept back."""
        self._put(self._work.flush())


# in


class _Unpacked:
    """A stream that is unpacked if it is compressed."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ready = source.exactly(2)
        self._work = None
        if self._ready == _GZIP:
            self._work = zlib.decompressobj(31)
            self._ready = self._work.decompress(self._ready)

    def exactly(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end.

        :raises BadArchive: it is compressed and damaged
        """
        while len(self._ready) < size:
            data = self._source.read(max(_STEP, size - len(self._ready)))
            if not data:
                break
            try:
                self._ready += self._work.decompress(data) if self._work else data
            except zlib.error as error:
                raise tar_stream.BadArchive(str(error)) from error
        found, self._ready = self._ready[:size], self._ready[size:]
        return found


def receive(call: Call, source: Source, choices: Choices) -> list[str]:
    """Make the VMs of an archive, with disks; return them.

    :raises Failure: IMPORT_ERROR and its kinds, TASK_CANCELLED, what an SR says;
        nothing of the archive is left
    """
    files = _files(source)
    work = Import(call, _items(files), choices)
    try:
        vms = work.run()
        _tell(call)
        gauge = Gauge(call, source.length or 0)
        _fill(work, files, gauge)
        with call.db.changed:
            for ref in work.filled.values():
                row = call.db.row("VDI", ref)
                disks.note(call.world, row["SR"], row["location"])
        return vms
    except tar_stream.BadArchive as error:
        work.undo()
        raise _refusal(error) from error
    except BaseException:
        work.undo()
        raise


def receive_records(call: Call, source: Source, choices: Choices, dry: bool) -> object:
    """Make the VMs of an archive without content; their disks must be here.

    :param dry: only see whether that would work
    :raises Failure: IMPORT_ERROR and its kinds, UUID_INVALID, DUPLICATE_VM
    """
    try:
        items = _items(_files(source))
        while source.read(_STEP):
            pass
    except tar_stream.BadArchive as error:
        raise _refusal(error) from error
    work = Import(call, items, choices)
    with call.db.changed:
        try:
            vms = work.run()
        except BaseException:
            work.undo()
            raise
        if not dry:
            _tell(call)
            return vms
        work.undo()
        return []


def _refusal(error: tar_stream.BadArchive) -> Failure:
    if "checksum" in str(error):
        return Failure("IMPORT_ERROR_SOME_CHECKSUMS_FAILED")
    return Failure("IMPORT_ERROR_PREMATURE_EOF")


def _files(source: Source) -> Iterator[tuple[str, bytes]]:
    yield from tar_stream.read(_Unpacked(source).exactly)


def _items(files: Iterator[tuple[str, bytes]]) -> list[ova.Item]:
    try:
        name, data = next(files)
    except StopIteration:
        raise Failure("IMPORT_ERROR_PREMATURE_EOF") from None
    except tar_stream.BadArchive as error:
        raise _refusal(error) from error
    if name != ova.NAME:
        raise Failure("IMPORT_ERROR_UNEXPECTED_FILE", ova.NAME, name)
    return ova.parse(data)


def _tell(call: Call) -> None:
    """Let clients know that the objects are there, if not yet their content."""
    if call.task and call.db.exists("task", call.task):
        with call.db.changed:
            config = call.db.row("task", call.task)["other_config"]
            config = {**config, "object_creation": "complete"}
            call.db.update("task", call.task, other_config=config)


def _fill(work: Import, files: Iterator[tuple[str, bytes]], gauge: Gauge) -> None:
    """Write the content of the disks, one after the other."""
    call, at = work.call, ""
    with contextlib.ExitStack() as stack:
        write: Callable[[int, bytes], None] | None = None
        for folder, offset, data in xva_disks.parts(files):
            if folder != at:
                stack.close()
                at, write = folder, None
                if work.filled.get(folder, NULL) != NULL:
                    held = disk_transfer.held(call, work.filled[folder])
                    place = stack.enter_context(held)
                    write = stack.enter_context(disk_transfer.written(place))
            if write is not None:
                write(offset, data)
            gauge.add(len(data))
    for item in work.items:
        if item.id in work.filled and item.record["read_only"]:
            call.db.update("VDI", work.filled[item.id], read_only=True)

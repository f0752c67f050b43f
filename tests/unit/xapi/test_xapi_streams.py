# SPDX-License-Identifier: Apache-2.0
"""Disks and VMs in and out of the embedded host, in good times and in bad."""

import hashlib
import io
import random
import threading
import tracemalloc

import pytest

from tests.sim.clients import vm_record
from tests.unit.xapi import embedded
from xenapi_driver.sim.storage import disk_transfer
from xenapi_driver.xapi import errors, handlers, streams, tasks

MIB = 1 << 20
SIZE = 8 * MIB
# Data at the start, over a block's border, and at the end.
CONTENT = (
    random.Random(4).randbytes(300_000)
    + bytes(2 * MIB - 300_000 - 10)
    + b"over the border of a block"
    + bytes(SIZE - 2 * MIB - 16 - 512)
    + b"z" * 512
)
IMPORT, EXPORT = "PUT /import_raw_vdi", "GET /export_raw_vdi"


class Interrupted(BaseException):
    """As the end of a greenlet, this is no Exception."""


@pytest.fixture
def sim(place):
    return place[0]


@pytest.fixture
def session(place):
    return place[1]


@pytest.fixture
def disk(session):
    return embedded.make_disk(session, SIZE)


@pytest.fixture
def full(session, disk):
    put(session, disk)
    return disk


@pytest.fixture(autouse=True)
def tidy(sim, session, monkeypatch):
    """After each test: no task, no VBD, no disk held, no socket."""
    opened = []
    # What hangs here does not end before its rule is gone.
    monkeypatch.setattr(tasks, "_CANCEL_SECONDS", 0.5)

    class Watched(handlers.Conversation):
        def __init__(self, *args):
            opened.append(self)
            super().__init__(*args)

    monkeypatch.setattr(handlers, "Conversation", Watched)
    yield
    sim.faults.clear()
    assert embedded.soon(lambda: not session.call("task.get_all"))
    assert all(talk._socket.fileno() == -1 for talk in opened)
    assert embedded.soon(lambda: not sim.world.held_disks)
    assert session.call("VBD.get_all_records_where", 'field "type" = "Disk"') == {}


def put(session, disk, data=CONTENT, kind="raw", **kwargs):
    content = streams.Content(io.BytesIO(data), len(data), kind)
    return streams.import_disk(session, disk, content, **kwargs)


def get(session, disk, **kwargs):
    file = io.BytesIO()
    with streams.export_disk(session, disk, **kwargs) as export:
        export.save(file)
    return file.getvalue()


def of_digest(data):
    return {"sha256": hashlib.sha256(data).hexdigest()}


# bytes in are bytes out


def test_raw_content_goes_in_and_out(session, disk):
    done = put(session, disk, digests=("sha256",))
    assert (done.value, done.size) == (disk, SIZE)
    assert done.digests == of_digest(CONTENT)
    file = io.BytesIO()
    with streams.export_disk(session, disk, digests=("sha256", "md5")) as export:
        result = export.save(file)
    assert file.getvalue() == CONTENT
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert result.digests == {**of_digest(CONTENT), "md5": md5}


@pytest.mark.parametrize("kind", ["vhd", "qcow2"])
def test_images_go_out_and_in(session, full, kind):
    image = get(session, full, format=kind)
    assert image[:4] == {"vhd": b"cone", "qcow2": b"QFI\xfb"}[kind]
    other = embedded.make_disk(session, SIZE)
    put(session, other, image, kind)
    assert get(session, other) == CONTENT


def test_a_base_leaves_out_what_it_has(session, full):
    newer = session.call("VDI.clone", full, {})
    put(session, newer, b"news" + CONTENT[4:MIB])
    whole = get(session, newer, format="vhd")
    part = get(session, newer, format="vhd", base=full)
    assert len(part) < len(whole)


def test_any_pieces_will_do(session, disk):
    pieces = [CONTENT[:1], b"", CONTENT[1 : 3 * MIB], CONTENT[3 * MIB :]]
    content = streams.Content(iter(pieces), SIZE)
    assert streams.import_disk(session, disk, content).size == SIZE
    assert get(session, disk) == CONTENT


def test_progress_ends_at_one(session, disk):
    told = []
    put(session, disk, progress=lambda *at: told.append(at))
    shares, sizes = [share for share, _ in told], [size for _, size in told]
    assert shares == sorted(shares) and sizes == sorted(sizes)
    assert told[-1] == (1.0, SIZE)
    assert all(share < 1 for share in shares[:-1])
    assert any(0 < share < 0.9 for share in shares)


def test_a_transfer_is_three_requests(session, disk):
    with session.requests.recording() as names:
        put(session, disk)
    assert names == ["task.create", IMPORT, "task.destroy"]
    assert SIZE < names.sent < SIZE + 2000
    with session.requests.recording() as names:
        get(session, disk)
    assert names == ["task.create", EXPORT, "task.destroy"]
    assert SIZE < names.received < SIZE + 4000


def test_memory_is_bounded(session):
    size = 96 * MIB
    disk = embedded.make_disk(session, size)
    piece = bytes(MIB)
    content = streams.Content((piece for _ in range(96)), size)
    tracemalloc.start()
    try:
        streams.import_disk(session, disk, content, digests=("sha1",))
        with streams.export_disk(session, disk) as export:
            assert sum(len(data) for data in export) == size
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The host's own memory is in this figure too.
    assert most < 32 * MIB


def test_the_source_waits_for_the_host(sim, session):
    size = 64 * MIB
    disk = embedded.make_disk(session, size)
    given, sizes = [], []

    def source():
        for _ in range(64):
            given.append(1)
            yield bytes(MIB)

    def stop(_share, size):
        if size in sizes:  # nothing has moved for a while
            raise Interrupted
        sizes.append(size)

    sim.faults.add(IMPORT, action="hang", bytes=MIB)
    with pytest.raises(Interrupted):
        streams.import_disk(
            session, disk, streams.Content(source(), size), progress=stop
        )
    assert 1 < len(given) < 40


# bad times


def failed(session, disk, *args, **kwargs):
    with pytest.raises(errors.XapiError) as caught:
        put(session, disk, *args, **kwargs)
    return caught.value


@pytest.mark.parametrize("at", [1, MIB, SIZE - 1])
def test_a_cut_import_is_the_tasks_error(sim, session, disk, at):
    sim.faults.add(IMPORT, action="cut", bytes=at)
    failure = failed(session, disk)
    assert isinstance(failure, errors.XapiFailure)
    assert failure.call == IMPORT


@pytest.mark.parametrize("at", [1, MIB, SIZE - 1])
@pytest.mark.parametrize("kind", ["raw", "vhd"])
def test_a_cut_export_is_no_success(sim, session, full, at, kind):
    sim.faults.add(
        EXPORT, action="cut", bytes=min(at, 2 * MIB) if kind == "vhd" else at
    )
    got = bytearray()
    with (
        pytest.raises(errors.XapiError),
        streams.export_disk(session, full, format=kind) as export,
    ):
        for data in export:
            got += data
    assert export.result is None
    assert len(got) < SIZE


@pytest.mark.parametrize("name", [IMPORT, EXPORT])
def test_cut_before_the_answer(sim, session, full, name):
    sim.faults.add(name, action="cut")
    with pytest.raises(errors.ConnectionLost):
        (put if name == IMPORT else get)(session, full)


def test_an_export_whose_last_bytes_are_lost(sim, session, full, monkeypatch):
    read = handlers.Conversation.read

    def cut(talk, beat=None):
        assert embedded.soon(lambda: statuses(session) == {"success"})
        monkeypatch.setattr(handlers.Conversation, "read", read)
        raise errors.ConnectionLost(talk.url, "reset")

    monkeypatch.setattr(handlers.Conversation, "read", cut)
    # So small that the host can send all of it at once.
    small = embedded.make_disk(session, 2 * MIB)
    with pytest.raises(errors.ConnectionLost, match="reset"):
        get(session, small, format="qcow2")


def statuses(session):
    return {task["status"] for task in session.call("task.get_all_records").values()}


@pytest.mark.parametrize("name", [IMPORT, EXPORT])
def test_an_expired_session_is_renewed(sim, session, full, name):
    before = session.reference()
    sim.faults.add(name, action="expire")
    assert put(session, full).size == SIZE
    assert get(session, full) == CONTENT
    assert session.reference() != before


def test_a_session_gone_on_the_host_is_renewed(sim, session, full):
    (gone,) = sim.world.db.refs("session")
    sim.world.db.destroy("session", gone)
    assert handlers.ask(session, handlers.Request("GET", "/host_rrd")).whole(MIB << 6)
    assert session.reference() != gone


def test_a_session_that_expires_half_way(sim, session, disk):
    sim.faults.add(IMPORT, action="expire", bytes=MIB)
    failure = failed(session, disk)
    assert isinstance(failure, errors.XapiFailure)
    assert "OpaqueRef" not in str(failure)


@pytest.mark.parametrize("name", [IMPORT, EXPORT])
@pytest.mark.parametrize("at", [-1, MIB])
def test_a_restart_of_the_toolstack(sim, session, full, name, at):
    sim.faults.add(name, action="restart", bytes=at)
    with pytest.raises((errors.TaskLost, errors.ConnectionLost, errors.XapiFailure)):
        (put if name == IMPORT else get)(session, full)
    put(session, full)
    assert get(session, full) == CONTENT


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("action", ["cut", "restart"])
def test_a_task_whose_answer_is_lost(sim, session, disk, action, after):
    sim.faults.add("task.create", action=action, after=after)
    assert put(session, disk).size == SIZE


def test_a_task_that_is_forgotten_at_once(session, disk, monkeypatch):
    ask = handlers.ask

    def late(*args):
        monkeypatch.setattr(handlers, "ask", ask)
        (task,) = session.call("task.get_all")
        session.call("task.set_status", task, "failure")
        session.call("task.destroy", task)
        return ask(*args)

    monkeypatch.setattr(handlers, "ask", late)
    assert put(session, disk).size == SIZE


@pytest.mark.parametrize("name", [IMPORT, EXPORT])
@pytest.mark.parametrize("at", [-1, MIB])
def test_a_host_that_hangs_is_given_up(sim, full, name, at, session):
    (server,) = sim.machines.all[0].doors
    with embedded.log_in(server, read=1.5) as hasty:
        sim.faults.add(name, action="hang", bytes=at)
        with pytest.raises(errors.ConnectionLost, match=r"1\.5 seconds"):
            # Larger than what sockets hold on their way.
            (put if name == IMPORT else get)(hasty, full)
        sim.faults.clear()


@pytest.mark.parametrize("name", [IMPORT, EXPORT])
def test_a_caller_that_is_interrupted_cancels(sim, session, full, name):
    def stop(_share, size):
        if size > MIB:
            raise Interrupted

    with pytest.raises(Interrupted):
        (put if name == IMPORT else get)(session, full, progress=stop)


def test_a_reader_that_leaves_cancels(session, full):
    with streams.export_disk(session, full) as export:
        next(iter(export))
    assert export.result is None


def test_a_task_that_somebody_cancels(sim, session, disk):
    def cancel():
        (task,) = embedded.soon(lambda: session.call("task.get_all"))
        session.call("task.cancel", task)
        going.set()

    going = threading.Event()

    def source():
        yield CONTENT[:MIB]
        threading.Thread(target=cancel).start()
        assert going.wait(5)
        yield CONTENT[MIB:]

    with pytest.raises(errors.TaskCancelled):
        streams.import_disk(session, disk, streams.Content(source(), SIZE))


@pytest.mark.parametrize("given", [SIZE - 1, SIZE + 1])
def test_a_source_of_another_length(session, disk, given):
    content = streams.Content([bytes(given)], SIZE)
    with pytest.raises(streams.SourceMismatch, match=str(given)):
        streams.import_disk(session, disk, content)


def test_a_source_that_fails(session, disk):
    def source():
        yield bytes(MIB)
        raise OSError("the disk of the source is broken")

    with pytest.raises(OSError, match="of the source"):
        streams.import_disk(session, disk, streams.Content(source(), SIZE))


@pytest.mark.parametrize("kind", ["vhd", "qcow2"])
def test_a_damaged_image(session, full, kind):
    image = bytearray(get(session, full, format=kind))
    image[:64] = bytes(64)
    assert failed(session, full, bytes(image), kind).code == "VDI_IO_ERROR"


def test_a_stream_larger_than_the_disk(session, disk):
    assert failed(session, disk, CONTENT + b"more" * MIB).code == "VDI_IO_ERROR"


def test_a_full_sr(tmp_path, sim):
    with embedded.host(tmp_path / "small", sr_size_bytes=8 * MIB) as (_, session):
        disk = embedded.make_disk(session, 64 * MIB)
        data = random.Random(1).randbytes(32 * MIB)
        assert isinstance(failed(session, disk, data), errors.XapiFailure)
        assert session.call("task.get_all") == []


def test_a_disk_that_is_not_there(session, disk):
    session.call("VDI.destroy", disk)
    assert isinstance(failed(session, disk), errors.HandleInvalid)
    with pytest.raises(errors.HandleInvalid):
        get(session, disk)


def test_unknown_formats_are_refused_here(session, disk):
    with pytest.raises(ValueError, match="vdi is no format"):
        put(session, disk, b"", "vdi")
    with pytest.raises(ValueError, match="base"):
        get(session, disk, base=disk)


@pytest.mark.parametrize("kind", ["raw", "vhd"])
def test_a_success_that_lacks_its_end_is_none(session, full, kind, monkeypatch):
    def half(_call, _disk, put, *_base):
        put(CONTENT[: SIZE // 2])

    monkeypatch.setattr(disk_transfer, f"send_{kind}", half)
    with pytest.raises(streams.ExportShort, match=str(SIZE // 2)):
        get(session, full, format=kind)


def test_a_host_that_has_seen_enough(session, disk, monkeypatch):
    def first(_call, _place, source):
        source.exactly(MIB)

    monkeypatch.setattr(disk_transfer, "receive_raw", first)
    assert put(session, disk, digests=("sha256",)).digests == of_digest(CONTENT)


def test_a_host_that_works_on_can_be_left(sim, session, disk):
    told = []

    def stop(_share, size):
        told.append(size)
        # A second beat, now that all is sent: the host is at work.
        if told.count(SIZE) > 1:
            raise Interrupted

    sim.faults.add(IMPORT, action="hang", bytes=SIZE)
    with pytest.raises(Interrupted):
        put(session, disk, progress=stop)


def test_a_vm_goes_out_and_in(session, tmp_path):
    vm = session.call("VM.create", vm_record(name_label="web-1"))
    with streams.export_vm(session, vm, digests=("sha256",)) as export:
        pieces = list(export)
    archive = b"".join(pieces)
    assert export.result.digests == of_digest(archive)
    sr = session.call("pool.get_default_SR", session.pool.ref)
    content = streams.Content(io.BytesIO(archive), len(archive))
    (made,) = streams.import_vm(session, sr, content).value
    assert made != vm
    assert session.call("VM.get_name_label", made) == "web-1"


def test_an_archive_that_is_cut(sim, session):
    vm = session.call("VM.create", vm_record())
    with streams.export_vm(session, vm) as export:
        archive = b"".join(export)
    sim.faults.add("GET /export", action="cut", bytes=1000)
    with pytest.raises(errors.XapiError), streams.export_vm(session, vm) as export:
        list(export)
    sr = session.call("pool.get_default_SR", session.pool.ref)
    before = set(session.call("VM.get_all"))
    content = streams.Content(io.BytesIO(archive[:1000]), 1000)
    with pytest.raises(errors.XapiFailure):
        streams.import_vm(session, sr, content)
    assert set(session.call("VM.get_all")) == before

# SPDX-License-Identifier: Apache-2.0
"""Which host a stream goes to, and to whom the session is shown."""

import io
import socket
import threading

import pytest

from tests.sim.clients import vdi_record
from tests.unit.xapi import embedded
from xenapi_driver.sim import Simulator
from xenapi_driver.xapi import errors, handlers, streams
from xenapi_driver.xapi.session import Session
from xenapi_driver.xapi.transport import InProcessTransport, UnixTransport

PLACES = ("127.0.0.1", "127.0.0.2")
MIB = 1 << 20
DATA = b"all of it" * 100_000
IMPORT, EXPORT = "PUT /import_raw_vdi", "GET /export_raw_vdi"


@pytest.fixture(params=["http", "https"])
def tls(request):
    return request.param == "https"


@pytest.fixture
def sim(tmp_path):
    sim = Simulator(tmp_path / "host", hosts=2, addresses=PLACES)
    yield sim
    sim.close()


@pytest.fixture
def doors(sim, tls):
    first = sim.serve(PLACES[0], tls=tls)
    return first, sim.serve(PLACES[1], first.port, tls=tls, machine=1)


@pytest.fixture
def session(doors):
    with embedded.log_in(*doors) as session:
        yield session


def disk_of_the_other(session):
    """Return a disk on an SR that our own host has not."""
    (other,) = set(session.call("host.get_all")) - {session.host_ref}
    for ref, record in session.call("SR.get_all_records").items():
        hosts = [session.call("PBD.get_host", pbd) for pbd in record["PBDs"]]
        if record["type"] == "ext" and hosts == [other]:
            return session.call("VDI.create", vdi_record(ref, virtual_size=str(MIB)))
    raise AssertionError("The other host has no SR of its own.")


def put(session, disk):
    content = streams.Content(io.BytesIO(DATA), len(DATA))
    return streams.import_disk(session, disk, content)


def test_a_redirect_to_the_host_that_has_the_sr_is_followed(sim, session):
    disk = disk_of_the_other(session)
    with session.requests.recording() as names:
        put(session, disk)
    assert names.count(IMPORT) == 2
    with streams.export_disk(session, disk) as export:
        data = b"".join(export)
    assert data.rstrip(b"\0") == DATA
    assert session.call("task.get_all") == []


def test_our_own_host_is_asked_first(sim, doors):
    with embedded.log_in(doors[1], doors[0]) as session:
        master = session.call("pool.get_master", session.pool.ref)
        assert session.host_ref != master
        sr = next(
            sr
            for sr, record in session.call("SR.get_all_records").items()
            for pbd in record["PBDs"]
            if record["type"] == "ext"
            and session.call("PBD.get_host", pbd) == session.host_ref
        )
        disk = session.call("VDI.create", vdi_record(sr, virtual_size=str(MIB)))
        with session.requests.recording() as names:
            put(session, disk)
    assert names.count(IMPORT) == 1


def test_the_other_host_must_be_trusted_too(sim, doors, tls):
    if not tls:
        return
    with embedded.log_in(doors[0]) as session:
        disk = disk_of_the_other(session)
        with pytest.raises(errors.CertificateRefused) as caught:
            put(session, disk)
        assert doors[1].fingerprint in str(caught.value)
        assert session.call("task.get_all") == []


class Impostor:
    """A member of the pool that sends everybody to the same place.

    :ivar heads: of the requests that it got
    """

    def __init__(self, address, location):
        self.heads = []
        self._location = location
        self._listening = socket.create_server(address)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            with sock:
                self.heads.append(sock.recv(65536).decode())
                answer = f"HTTP/1.1 302 Found\r\nLocation: {self._location}\r\n\r\n"
                sock.sendall(answer.encode())

    def close(self):
        # Wakes the thread, which close() alone does not.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)


@pytest.fixture
def lured(sim):
    """A function that has the pool's second host send us elsewhere."""
    door = sim.serve(PLACES[0])
    made = []

    def lure(location):
        made.append(Impostor((PLACES[1], door.port), location))
        with embedded.log_in(door) as session:
            disk = disk_of_the_other(session)
            with pytest.raises(handlers.HandlerRefused) as caught:
                put(session, disk)
            assert session.call("task.get_all") == []
        return str(caught.value), made[0].heads

    yield lure
    for one in made:
        one.close()


@pytest.mark.parametrize(
    "location",
    [
        "https://192.0.2.7/import_raw_vdi",
        "https://[2001:db8::7]/",
        "/here",
        "",
        "http://[",
    ],
)
def test_nobody_outside_the_pool_is_asked(lured, location):
    said, heads = lured(location)
    assert "no member of its pool" in said
    assert len(heads) == 1


def test_a_circle_ends(lured):
    said, heads = lured(f"https://{PLACES[1]}/import_raw_vdi")
    assert "302" in said
    assert len(heads) == 3


def test_the_session_is_in_a_cookie_alone(sim, monkeypatch):
    heads = []
    written = handlers.Request.head

    def spied(request, *args):
        heads.append(written(request, *args))
        return heads[-1]

    monkeypatch.setattr(handlers.Request, "head", spied)
    with embedded.log_in(sim.serve(PLACES[0])) as session:
        handlers.ask(session, handlers.Request("GET", "/host_rrd")).close()
        (first, *others) = heads[0].decode().splitlines()
        assert session.reference() not in first
        assert f"Cookie: session_id={session.reference()}" in others


def test_a_host_that_is_gone_is_looked_for_again(sim, session, doors, tls):
    doors[0].shut()
    threading.Timer(0.5, doors[0].reopen).start()
    handlers.ask(session, handlers.Request("GET", "/host_rrd")).close()


def test_refusals_are_told(sim, session):
    with pytest.raises(handlers.HandlerRefused, match="GET /nowhere.*403"):
        handlers.ask(session, handlers.Request("GET", "/nowhere"))
    missing = handlers.Request("GET", "/export_raw_vdi", {"vdi": "gone"})
    with pytest.raises(errors.HandleInvalid) as caught:
        handlers.ask(session, missing)
    assert caught.value.params == ("VDI", "gone")
    sim.faults.add(EXPORT, ["OPERATION_NOT_ALLOWED", "not now", "nor then"])
    with pytest.raises(errors.OperationNotAllowed) as refused:
        handlers.ask(session, missing)
    assert refused.value.params == ("not now", "nor then")


def test_there_are_no_streams_in_process(sim):
    session = Session(lambda: InProcessTransport(sim.handle), "root", "secret", "t")
    with session, pytest.raises(errors.HostUnreachable, match="on the network"):
        handlers.ask(session, handlers.Request("GET", "/host_rrd"))


def test_streams_go_through_the_local_socket_too(sim, tmp_path):
    path = tmp_path / "xapi"
    sim.serve_unix(path)
    with Session(lambda: UnixTransport(str(path)), "root", "", "t") as session:
        sr = session.call("pool.get_default_SR", session.pool.ref)
        disk = session.call("VDI.create", vdi_record(sr, virtual_size=str(MIB)))
        assert put(session, disk).size == len(DATA)

# SPDX-License-Identifier: Apache-2.0
"""Connections are few, kept, shared fairly, and gone at the end."""

import contextlib
import os
import subprocess
import sys
import threading
import time
import xmlrpc.client

import pytest

from tests import embedded
from tests.unit.xapi.embedded import soon
from xenapi_driver.sim import Simulator
from xenapi_driver.xapi import errors
from xenapi_driver.xapi.connections import Connections
from xenapi_driver.xapi.session import Session, Tuning
from xenapi_driver.xapi.transport import Answer

LOGIN = "session.login_with_password"


class Carrier:
    """A transport without a host, that knows whether it is open."""

    url = "http://host"
    patience = 1.0

    def __init__(self):
        self.open = True

    def request(self, path, content_type, body, patience=None):
        return Answer(b"", content_type, self.url)

    def close(self):
        self.open = False


class Opened(list):
    """All transports that a pool asked for."""

    def __call__(self):
        self.append(Carrier())
        return self[-1]

    @property
    def still(self):
        return sum(carrier.open for carrier in self)


@pytest.fixture
def opened():
    return Opened()


def borrowed(pool, count, reads=True):
    """Borrow so many at once; they go back when the stack is closed."""
    stack = contextlib.ExitStack()
    return stack, [
        stack.enter_context(pool.lend(reads=reads)) for _number in range(count)
    ]


def test_one_after_the_other_needs_one_connection(opened):
    pool = Connections(opened, keep=3)
    for number in range(20):
        with pool.lend(reads=bool(number % 2)):
            pass
    assert (len(opened), opened.still) == (1, 1)


def test_kept_connections_stay_and_extra_ones_are_closed(opened):
    pool = Connections(opened, keep=3)
    stack, carriers = borrowed(pool, 10)
    assert len(set(carriers)) == 10
    stack.close()
    assert opened.still == 3
    stack, carriers = borrowed(pool, 3)
    assert len(opened) == 10
    stack.close()
    pool.drop()
    assert opened.still == 0


def test_nobody_gets_more_than_the_bound(opened):
    pool = Connections(opened, keep=1, patience=0.2)
    assert pool.most == 8
    stack, _carriers = borrowed(pool, 8)
    with pytest.raises(errors.ConnectionsBusy, match="8 connections .* 0.2 seconds"):
        borrowed(pool, 1)
    stack.close()
    borrowed(pool, 8)[0].close()


def test_changes_leave_a_quarter_to_reads(opened):
    pool = Connections(opened, keep=2, patience=0.2)
    changes, _carriers = borrowed(pool, 12, reads=False)
    with pytest.raises(errors.ConnectionsBusy):
        borrowed(pool, 1, reads=False)
    reads, _carriers = borrowed(pool, 4)
    with pytest.raises(errors.ConnectionsBusy):
        borrowed(pool, 1)
    reads.close()
    changes.close()
    borrowed(pool, 12, reads=False)[0].close()


def test_reads_keep_a_kept_connection_for_themselves(opened):
    pool = Connections(opened, keep=4)
    with pool.lend(reads=True) as first:
        pass
    changes, _carriers = borrowed(pool, 20, reads=False)
    for _time in range(5):
        with pool.lend(reads=True) as again:
            pass
    # One that was opened for the changes may be given to the reads, but only one.
    assert again.open
    assert first.open
    assert len(opened) <= 21
    changes.close()


def test_who_waits_a_moment_gets_what_comes_back(opened):
    pool = Connections(opened, keep=1)
    got = []

    def borrow():
        with pool.lend(reads=True) as carrier:
            got.append(carrier)

    with pool.lend(reads=True) as first:
        thread = threading.Thread(target=borrow)
        thread.start()
    thread.join(5)
    assert got == [first]


@pytest.mark.parametrize(
    ("failure", "kept"),
    [
        (errors.XapiFailure("TOO_BUSY", (), "VM.start"), True),
        (errors.ConnectionLost("http://host", "cut"), False),
        (errors.BadAnswer("http://host", "no JSON"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_an_answer_gives_a_connection_back(opened, failure, kept):
    pool = Connections(opened, keep=2)
    with pytest.raises(type(failure)), pool.lend(reads=True):
        raise failure
    assert opened.still == kept
    # The place of a closed one is free again.
    borrowed(pool, pool.most)[0].close()


def test_transport_that_cannot_be_made_costs_no_place():
    def fail():
        raise errors.HostUnreachable("http://host", "no way")

    pool = Connections(fail, keep=1, patience=0.1)
    for _time in range(pool.most + 1):
        with pytest.raises(errors.HostUnreachable):
            borrowed(pool, 1)


def test_dropped_while_lent_is_closed_when_it_comes_back(opened):
    pool = Connections(opened, keep=2)
    with pool.lend(reads=True) as carrier:
        pool.drop()
        assert carrier.open
    assert not carrier.open
    with pool.lend(reads=True) as other:
        assert other is not carrier


# On the embedded host


def sockets():
    """Return how many sockets this process has."""
    found = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{entry}").startswith("socket:")
    return found


class Counted:
    """A way to a host, which knows how many were open at once."""

    def __init__(self, door):
        self._door = door
        self._lock = threading.Lock()
        self.now = self.most = 0

    def __call__(self):
        carrier = self._door()
        ready, close = carrier._ready, carrier.close

        def opened(patience):
            was = carrier._connection is not None
            connection = ready(patience)
            with self._lock:
                self.now += not was
                self.most = max(self.most, self.now)
            return connection

        def closed():
            with self._lock:
                self.now -= carrier._connection is not None
            close()

        carrier._ready, carrier.close = opened, closed
        return carrier


@pytest.fixture
def calm(tmp_path):
    """An embedded host; what it and its clients took is given back at the end."""
    threads, before = set(threading.enumerate()), sockets()
    sim = Simulator(tmp_path)
    yield sim
    sim.close()
    assert soon(lambda: not set(threading.enumerate()) - threads)
    assert soon(lambda: sockets() <= before)


@pytest.mark.parametrize("tls", [False, True])
def test_quick_reads_pass_a_hundred_slow_changes(calm, tls):
    door = Counted(embedded.through(calm.serve(tls=tls)))
    keep = 5
    ended, took = [], []

    with Session(door, "root", "secret", "test", Tuning(connections=keep)) as session:
        vm = session.call("VM.get_all")[0]
        calm.faults.add("VM.set_name_description", action="hang", times=-1)

        def change():
            session.call("VM.set_name_description", vm, "")
            ended.append(1)

        def read():
            begun = time.monotonic()
            session.call("VM.get_uuid", vm)
            took.append(time.monotonic() - begun)

        slow = [threading.Thread(target=change) for _number in range(100)]
        quick = [threading.Thread(target=read) for _number in range(100)]
        for thread in (*slow, *quick):
            thread.start()
        for thread in quick:
            thread.join(60)
        assert len(took) == 100
        assert not ended
        # Far from the read time-out, of which each slow call would take all.
        assert max(took) < 30
        assert door.most <= 8 * keep + 1  # and the one for events
        calm.faults.clear()
        for thread in slow:
            thread.join(60)
        assert len(ended) == 100
        assert door.now <= keep + 1
    assert door.now == 0


def test_interrupted_exchange_closes_its_connection(calm):
    door = Counted(embedded.through(calm.serve()))
    pool = Connections(door, keep=1)
    arguments = ("root", "secret", "1.0", "test")
    body = xmlrpc.client.dumps(arguments, LOGIN).encode()
    calm.faults.add(LOGIN, action="hang")
    caught, lent = [], []

    def ask():
        try:
            with pool.lend(reads=False) as carrier:
                lent.append(carrier)
                carrier.request("/", "text/xml", body)
        except errors.ConnectionLost as exc:
            caught.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    assert soon(lambda: not calm.faults.rules())
    lent[0].interrupt()
    thread.join(10)
    assert caught
    assert door.now == 0
    ask()
    assert (len(caught), door.now) == (1, 1)
    pool.drop()
    assert door.now == 0


def test_slow_login_is_given_up(calm):
    server = calm.serve()
    calm.faults.add(LOGIN, delay=1.0)
    tuning = Tuning(login_seconds=0.2, retry_seconds=0.0)
    session = Session(embedded.through(server), "root", "secret", "test", tuning)
    with pytest.raises(errors.HostUnreachable, match="within 0.2 seconds"):
        session.login()
    with session:
        assert session.call("VM.get_all")


def test_bytes_are_counted_with_requests(calm):
    server = calm.serve()
    with Session(embedded.through(server), "root", "secret", "test") as session:
        counter = session.requests
        sent, received = counter.sent, counter.received
        with counter.recording() as names:
            session.call("VM.get_all_records")
        assert names == ["VM.get_all_records"]
        assert (names.sent, names.received) == (
            counter.sent - sent,
            counter.received - received,
        )
        # A session reference goes out, and a record of some KiB comes back.
        assert 60 < names.sent < 400
        assert names.received > 2000
        session.call("VM.get_all")
        assert names == ["VM.get_all_records"]
        assert names.sent < counter.sent - sent
        assert counter.polls_sent == counter.polls_received == 0


UNDER_EVENTLET = """
import eventlet
eventlet.monkey_patch()
import sys, threading
url, fingerprint = sys.argv[1:]
from xenapi_driver.xapi import certificates, transport
from xenapi_driver.xapi.session import Session, Tuning

verify = certificates.Verify(fingerprints=(fingerprint,))
way = lambda: transport.connect(url, verify=verify)
with Session(way, "root", "secret", "t", Tuning(connections=2)) as session:
    vm = session.call("VM.get_all")[0]
    ended = []
    def change():
        session.call("VM.set_name_description", vm, "")
        ended.append("change")
    def read():
        session.call("VM.get_uuid", vm)
        ended.append("read")
    threads = [threading.Thread(target=do) for do in [change] * 20 + [read] * 20]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert sorted(ended) == ["change"] * 20 + ["read"] * 20, ended
print("done")
"""


def test_connections_are_shared_in_eventlet_mode(calm):
    pytest.importorskip("eventlet", reason="missing: eventlet")
    server = calm.serve(tls=True)
    calm.faults.add("VM.set_name_description", action="hang", times=-1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", UNDER_EVENTLET,
         server.url, server.fingerprint],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as client:  # fmt: skip
        try:
            # All reads come through while the changes hang.
            assert soon(lambda: calm.requests.by_method.get("VM.get_uuid") == 20, 60)
            calm.faults.clear()
            said, complained = client.communicate(timeout=60)
        finally:
            client.kill()
    assert said.strip() == "done", complained

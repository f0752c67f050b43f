# SPDX-License-Identifier: Apache-2.0
"""One session for all threads, that outlives expiry and cut connections."""

import threading

import pytest

from tests.unit.xapi import fake_xapi
from xenapi_driver.xapi import errors, transport
from xenapi_driver.xapi.session import Session, Tuning
from xenapi_driver.xapi.wire_xml import XmlRpc


@pytest.fixture
def session(fake):
    door = transport.InProcessTransport(fake.handle)
    with Session(lambda: door, "root", "secret", "test") as session:
        fake.calls.clear()
        yield session


@pytest.fixture
def door(fake):
    door = fake_xapi.HttpDoor(fake)
    yield door
    door.close()


@pytest.fixture
def http_session(fake, door):
    tuning = Tuning(connections=3, retry_seconds=1.0, dialects=(XmlRpc(),))
    session = Session(
        lambda: transport.HttpTransport(door.url), "root", "secret", "test", tuning
    )
    session.login()
    fake.calls.clear()
    yield session
    session.logout()


def test_login_knows_host_and_pool(session):
    assert session.host_ref == "OpaqueRef:host"
    assert session.host_uuid == "host-uuid"
    assert session.pool.ref == "OpaqueRef:pool"


def test_login_twice_is_one_login(session, fake):
    session.login()
    assert fake.logins == 1


def test_calls_need_a_login(fake):
    session = Session(
        lambda: transport.InProcessTransport(fake.handle), "root", "secret", "test"
    )
    with pytest.raises(errors.NotLoggedIn):
        session.call("VM.get_all")


def test_wrong_password(fake):
    session = Session(
        lambda: transport.InProcessTransport(fake.handle), "root", "wrong-one", "t"
    )
    with pytest.raises(errors.AuthenticationFailed) as caught:
        session.login()
    assert "wrong-one" not in str(caught.value)


def test_call_puts_the_session_first_and_ints_as_text(session, fake):
    fake.methods["VDI.resize"] = ""
    session.call("VDI.resize", "OpaqueRef:vdi", 2**33)
    ((_name, args),) = fake.calls
    assert args[1:] == ("OpaqueRef:vdi", "8589934592")
    assert args[0] in fake.sessions


def test_methods_are_listed_without_session_or_envelope(session, fake):
    fake.methods["system.listMethods"] = ["VM.start", "VM.get_all"]
    assert session.methods() == {"VM.start", "VM.get_all"}


def test_host_that_is_no_xapi_host_is_named(http_session, fake, door):
    fake.handle = lambda _body: b"<html>hello</html>"
    with pytest.raises(errors.BadAnswer, match=door.url):
        http_session.call("VM.get_all")


def test_refusal_hides_the_session(session, fake):
    def refuse():
        (ref,) = fake.sessions
        raise fake_xapi.Refused("INTERNAL_ERROR", f"in {ref}")

    fake.methods["VM.get_all"] = refuse
    with pytest.raises(errors.XapiFailure) as caught:
        session.call("VM.get_all")
    assert "OpaqueRef:session" not in str(caught.value)
    assert "OpaqueRef:session" not in repr(session)


def test_expired_session_is_renewed_once_for_any_call(session, fake):
    fake.methods["VM.start"] = "done"
    fake.expire()
    assert session.call("VM.start", "OpaqueRef:vm") == "done"
    assert fake.names() == ["VM.start", "session.login_with_password", "VM.start"]


def test_session_that_stays_invalid_is_given_up(session, fake):
    def refuse(*_args):
        raise fake_xapi.Refused("SESSION_INVALID", "OpaqueRef:x")

    fake.methods["VM.start"] = refuse
    with pytest.raises(errors.SessionInvalid) as caught:
        session.call("VM.start", "OpaqueRef:vm")
    assert "OpaqueRef:x" not in repr(caught.value)
    assert fake.names().count("VM.start") == 2


def test_many_threads_renew_one_session_once(http_session, fake):
    fake.methods["VM.get_all"] = []
    fake.expire()
    threads = [
        threading.Thread(target=http_session.call, args=("VM.get_all",))
        for _number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.logins == 2


def test_read_is_repeated_on_a_cut_connection(http_session, fake, door):
    fake.methods["VM.get_all"] = ["OpaqueRef:vm"]
    door.misbehave = ["close"]
    assert http_session.call("VM.get_all") == ["OpaqueRef:vm"]


def test_change_is_not_repeated_when_it_may_have_begun(http_session, fake, door):
    fake.methods["VM.start"] = ""
    door.misbehave = ["close after"]
    with pytest.raises(errors.ConnectionLost):
        http_session.call("VM.start", "OpaqueRef:vm")
    assert fake.names() == ["VM.start"]


def test_change_is_repeated_while_nobody_listens(http_session, fake, door):
    fake.methods["VM.start"] = "done"
    port = door.port
    door.close()
    reopened = []

    def reopen():
        reopened.append(fake_xapi.HttpDoor(fake, port=port))

    timer = threading.Timer(0.25, reopen)
    timer.start()
    try:
        assert http_session.call("VM.start", "OpaqueRef:vm") == "done"
        http_session.logout()
    finally:
        timer.join()
        reopened[0].close()
        door.close = lambda: None
    assert fake.names().count("VM.start") == 1


def test_unreachable_host_is_given_up_in_time():
    session = Session(
        lambda: transport.HttpTransport("http://127.0.0.1:1"), "root", "s", "t"
    )
    with pytest.raises(errors.HostUnreachable):
        session.login()


def test_requests_are_counted_and_recorded(session, fake):
    fake.methods["VM.get_all"] = []
    before = session.requests.total
    with session.requests.recording() as names:
        session.call("VM.get_all")
    session.call("VM.get_all")
    assert names == ["VM.get_all"]
    assert session.requests.total == before + 2


def test_logout_ends_the_session_on_the_host(session, fake):
    session.logout()
    assert fake.sessions == set()
    session.logout()
    with pytest.raises(errors.NotLoggedIn):
        session.call("VM.get_all")


def test_member_is_followed_to_its_coordinator(fake):
    coordinator = fake_xapi.FakeXapi()
    coordinator.methods["PIF.get_all_records"] = {
        "OpaqueRef:pif1": {"host": "OpaqueRef:other", "IP": "192.0.2.9", "IPv6": []},
        "OpaqueRef:pif2": {"host": "OpaqueRef:mine", "IP": "127.0.0.1", "IPv6": []},
    }
    fake.coordinator = "127.0.0.2"
    door = fake_xapi.HttpDoor(fake)
    # All of 127.0.0.0/8 is loopback: a second host on the same port.
    other = fake_xapi.HttpDoor(coordinator, port=door.port, address="127.0.0.2")
    session = Session(lambda: transport.HttpTransport(door.url), "root", "secret", "t")
    try:
        session.login()
        assert session.host_ref == "OpaqueRef:mine"
        assert fake.names() == ["session.login_with_password"]
        session.logout()
        assert coordinator.sessions == set()
    finally:
        door.close()
        other.close()

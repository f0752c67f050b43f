# SPDX-License-Identifier: Apache-2.0
"""The XenAPI package's Session without a connection: as strict as with one."""

import http.client
import threading
import xmlrpc.client

import pytest
import XenAPI

from tests.sim.clients import NULL, XmlClient, vm_record
from xenapi_driver.sim import Simulator


@pytest.fixture(params=["in-process", "http"])
def session(request, sim):
    """The package's Session, both ways: what one refuses, the other does."""
    if request.param == "in-process":
        session = sim.session()
    else:
        session = XenAPI.Session(sim.serve().url)
    session.login_with_password("root", "secret", "1.0", "tests")
    yield session
    session("close")()


def test_it_is_the_package_s_own_object(sim):
    assert type(sim.session()) is XenAPI.Session


def test_records_are_read_as_off_a_wire(session):
    vm = session.xenapi.VM.create(vm_record(name_label="web"))
    record = session.xenapi.VM.get_record(vm)
    assert record["name_label"] == "web"
    assert record["memory_static_max"] == str(1024**3)
    assert isinstance(record["snapshot_time"], xmlrpc.client.DateTime)
    assert session.API_version.startswith("2.")


def test_refusals_are_the_package_s_failures(session):
    with pytest.raises(XenAPI.Failure) as caught:
        session.xenapi.VM.get_uuid(NULL)
    assert caught.value.details == ["HANDLE_INVALID", "VM", NULL]


def test_a_wrong_password_is_a_failure(sim):
    with pytest.raises(XenAPI.Failure) as caught:
        sim.session().login_with_password("root", "wrong", "1.0", "tests")
    assert caught.value.details[0] == "SESSION_AUTHENTICATION_FAILED"


def test_an_expired_session_logs_in_again(session, sim):
    before = session.handle
    XmlClient(sim.handle).raw("session.logout", before)
    assert session.xenapi.pool.get_all()
    assert session.handle != before


def test_after_logout_the_session_is_gone(session, sim):
    handle = session.handle
    session.xenapi.session.logout()
    assert not sim.world.db.exists("session", handle)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (2**31, OverflowError),
        (object, TypeError),
        ("a\x00b", xmlrpc.client.ProtocolError),
        ("x" * 301 * 1024, xmlrpc.client.ProtocolError),
    ],
)
def test_what_no_wire_carries_is_refused(session, value, error):
    with pytest.raises(error) as caught:
        session.xenapi.VM.get_by_name_label(value)
    if error is xmlrpc.client.ProtocolError:
        assert caught.value.errcode == 500


def test_nothing_is_no_text(session):
    with pytest.raises(XenAPI.Failure) as caught:
        session.xenapi.VM.get_by_name_label(None)
    assert caught.value.details[0] == "INTERNAL_ERROR"


def test_a_dead_host_hangs_up(session, sim):
    sim.act("host", what="die")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        session.xenapi.VM.get_all()


def test_a_cut_connection_is_asked_again_by_the_library(session, sim):
    sim.faults.add("VM.get_all", action="cut")
    session.xenapi.VM.get_all()
    assert sim.requests.by_method["VM.get_all"] == 2


def test_waiting_ends_when_the_event_comes(sim):
    session, other = sim.session(), sim.session()
    for one in (session, other):
        one.login_with_password("root", "secret", "1.0", "tests")
    vm = session.xenapi.VM.create(vm_record())
    token = session.xenapi.event_from(["vm"], "", 0.0)["token"]
    timer = threading.Timer(0.1, other.xenapi.VM.set_name_label, (vm, "renamed"))
    timer.start()
    events = session.xenapi.event_from(["vm"], token, 10.0)["events"]
    timer.join()
    assert [event["snapshot"]["name_label"] for event in events] == ["renamed"]


def test_a_session_on_a_supporter_names_the_coordinator(tmp_path):
    simulator = Simulator(tmp_path / "state", hosts=2)
    try:
        with pytest.raises(XenAPI.Failure) as caught:
            simulator.session(1).login_with_password("root", "secret", "1.0", "tests")
        address = simulator.machines.all[0].address
        assert caught.value.details == ["HOST_IS_SLAVE", address]
    finally:
        simulator.close()

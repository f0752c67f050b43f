# SPDX-License-Identifier: Apache-2.0
"""Tunnels to the consoles of the embedded host's VMs."""

import contextlib
import ssl

import pytest

from tests.sim.clients import vm_record
from tests.sim.vnc_viewer import Viewer
from tests.unit.xapi import embedded
from xenapi_driver.xapi import console, errors

CONNECT = "CONNECT /console"


@pytest.fixture
def sim(place):
    return place[0]


@pytest.fixture
def session(place):
    return place[1]


@pytest.fixture
def vm(session):
    vm = session.call("VM.create", vm_record(name_label="web-1"))
    session.call("VM.start", vm, False, False)
    return vm


def refused(session, found):
    with pytest.raises(console.NoConsole) as caught:
        console.connect(session, found)
    return str(caught.value)


def test_the_screen_is_seen(sim, session, vm):
    with session.requests.recording() as names:
        found = console.find(session, vm)
        sock = console.connect(session, found)
    assert names == [CONNECT]
    with contextlib.closing(sock):
        assert sock.gettimeout() is None
        assert isinstance(sock, ssl.SSLSocket) == found_tls(sim)
        viewer = Viewer(sock)
        viewer.type("root")
        assert viewer.read_until("login: root").startswith("web-1\nRunning")


def found_tls(sim):
    return sim.machines.all[0].doors[0].url.startswith("https")


def test_the_tunnel_ends_with_the_guest(session, vm):
    with contextlib.closing(
        console.connect(session, console.find(session, vm))
    ) as sock:
        viewer = Viewer(sock)
        session.call("VM.hard_shutdown", vm)
        sock.settimeout(10)
        assert viewer.is_over()


def test_a_halted_vm_has_none(session, vm):
    found = console.find(session, vm)
    session.call("VM.hard_shutdown", vm)
    assert refused(session, found) == (
        "There is no console of VM web-1: it is halted by now."
    )
    with pytest.raises(console.NoConsole, match="it is halted, and only a running"):
        console.find(session, vm)


def test_a_vm_of_another_start_has_another(session, vm):
    found = console.find(session, vm)
    session.call("VM.hard_reboot", vm)
    assert "look it up again" in refused(session, found)
    console.connect(session, console.find(session, vm)).close()


def test_a_vm_that_is_gone(session, vm):
    found = console.find(session, vm)
    session.call("VM.hard_shutdown", vm)
    session.call("VM.destroy", vm)
    assert "the VM was destroyed" in refused(session, found)
    with pytest.raises(errors.HandleInvalid):
        console.find(session, vm)


def test_a_screen_is_no_text_console(session, vm):
    with pytest.raises(console.NoConsole, match="none that speaks vt100"):
        console.find(session, vm, "vt100")


def test_one_viewer_alone(session, vm):
    session.call("pool.set_limit_console_sessions", session.pool.ref, True)
    found = console.find(session, vm)
    with contextlib.closing(console.connect(session, found)):
        assert "somebody else looks at it" in refused(session, found)


def test_an_expired_session_is_renewed(sim, session, vm):
    sim.faults.add(CONNECT, action="expire")
    console.connect(session, console.find(session, vm)).close()


def test_a_cut_connection(sim, session, vm):
    found = console.find(session, vm)
    sim.faults.add(CONNECT, action="cut")
    with pytest.raises(errors.ConnectionLost):
        console.connect(session, found)


def test_it_is_asked_for_where_the_vm_runs(tmp_path):
    places = ("127.0.0.1", "127.0.0.2")
    with embedded.host(tmp_path, hosts=2, addresses=places) as (sim, session):
        port = sim.machines.all[0].doors[0].port
        sim.serve(places[1], port, machine=1)
        (other,) = set(session.call("host.get_all")) - {session.host_ref}
        vm = session.call("VM.create", vm_record())
        session.call("VM.start_on", vm, other, False, False)
        with contextlib.closing(
            console.connect(session, console.find(session, vm))
        ) as sock:
            assert sock.getpeername()[0] == places[1]
            assert sock.recv(4) == b"RFB "

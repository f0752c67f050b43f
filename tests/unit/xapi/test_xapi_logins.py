# SPDX-License-Identifier: Apache-2.0
"""Logins and logouts in trouble: what they cost, and what they leave."""

import threading
import time

import pytest

from tests import embedded
from xenapi_driver.xapi import errors, transport
from xenapi_driver.xapi.session import Tuning


def sessions(sim):
    rows = sim.world.db.rows("session")
    return [row for _ref, row in rows if row["originator"] == "test"]


def test_a_login_that_fails_half_way_leaves_no_session(sim):
    sim.faults.add("session.get_this_host", ["TROUBLE"])
    session = embedded.session(embedded.inside(sim))
    with pytest.raises(errors.XapiFailure):
        session.login()
    assert sessions(sim) == []
    session.login()
    assert session.host.uuid == sim.host_uuid
    session.logout()


@pytest.mark.parametrize("action", ["cut", "restart", "expire"])
@pytest.mark.parametrize("method", ["session.get_this_host", "event.from"])
def test_login_outlives_trouble(sim, method, action):
    sim.faults.add(method, action=action)
    with embedded.session(embedded.inside(sim)) as session:
        assert session.host.uuid == sim.host_uuid
    assert sessions(sim) == []


@pytest.mark.parametrize("action", ["cut", "restart"])
def test_a_first_login_that_breaks_is_repeated(sim, action):
    sim.faults.add("session.login_with_password", action=action, times=2)
    with embedded.session(embedded.inside(sim)) as session:
        assert session.host.uuid == sim.host_uuid
    assert sessions(sim) == []


def test_a_logout_that_breaks_is_repeated(sim):
    session = embedded.session(embedded.inside(sim))
    session.login()
    sim.faults.add("session.logout", action="cut")
    session.logout()
    assert sessions(sim) == []


def test_logout_at_a_host_that_hangs_takes_no_longer_than_a_login(sim):
    tuning = Tuning(login_seconds=0.3)
    session = embedded.session(embedded.through(sim.serve()), tuning=tuning)
    session.login()
    sim.faults.add("session.logout", action="hang")
    thread = threading.Thread(target=session.logout, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_many_threads_do_not_wait_for_each_others_failed_logins(sim):
    """Each alone gives up after its deadline and one last attempt."""
    server = sim.serve()

    class Slow(transport.HttpTransport):
        def _dialled(self, seconds):
            if away.is_set():
                time.sleep(0.3)
                raise errors.HostUnreachable(self.url, "no route")
            return super()._dialled(seconds)

    away = threading.Event()
    session = embedded.session(
        lambda: Slow(server.url), tuning=Tuning(retry_seconds=1.0)
    )
    session.login()
    failed = []
    session._connections.drop()
    away.set()
    stale = session.reference()

    def renew():
        try:
            session._renew(stale, time.monotonic() + 1.0)
        except errors.HostUnreachable as exc:
            failed.append(exc)

    threads = [threading.Thread(target=renew) for _ in range(40)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(failed) == 40
    assert time.monotonic() - began < 5.0  # one after the other: 12 s
    away.clear()
    session.logout()


def test_events_that_are_always_refused_cause_no_flood_of_logins(sim, session, wire):
    session.records  # noqa: B018 (it listens)
    sim.faults.add("event.from", action="expire", times=-1)
    time.sleep(1.5)
    assert len(wire.arguments("session.login_with_password")) < 20

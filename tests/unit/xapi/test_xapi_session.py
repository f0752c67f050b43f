# SPDX-License-Identifier: Apache-2.0
"""One session for all threads, that outlives whatever happens to a host."""

import threading

import pytest

from tests import embedded
from tests.sim.clients import XmlClient, vm_record, wait_until
from xenapi_driver.sim import Simulator
from xenapi_driver.xapi import errors, events, transport, vm
from xenapi_driver.xapi import session as session_module
from xenapi_driver.xapi.host import HostRecord
from xenapi_driver.xapi.session import Session, Tuning

LOGIN = "session.login_with_password"
PLACES = ("127.0.0.1", "127.0.0.2")
SHORT = Tuning(connections=3, retry_seconds=1.0)


@pytest.fixture
def door(sim):
    return sim.serve()


@pytest.fixture
def far(door):
    """A session over the network."""
    with embedded.session(embedded.through(door), tuning=SHORT) as session:
        yield session


@pytest.fixture
def halted(operator):
    return operator.call("VM.create", vm_record())


def logins(wire):
    return len(wire.arguments(LOGIN))


def expire(sim, session):
    """End a session as a host does after a day without use."""
    sim.world.db.destroy("session", session.reference())


def all_at_once(count, function, *args):
    """Call a function from so many threads; return what they got."""
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(function(*args)))
        for _number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return got


# Login and logout


def test_login_knows_host_and_pool(session, operator):
    assert [session.host_ref] == operator.call("host.get_all")
    assert session.host.uuid == operator.call("host.get_uuid", session.host_ref)
    assert [session.pool.ref] == operator.call("pool.get_all")


def test_login_takes_two_requests(sim):
    with embedded.session(embedded.inside(sim)) as session:
        assert session.requests.total == 2


def test_login_twice_is_one_login(session, wire):
    session.login()
    assert logins(wire) == 1


def test_sessions_carry_their_originator(session, operator):
    assert operator.call("session.get_originator", session.reference()) == "test"


def test_calls_need_a_login(sim):
    session = embedded.session(embedded.inside(sim))
    with pytest.raises(errors.NotLoggedIn):
        session.call("VM.get_all")
    with pytest.raises(errors.NotLoggedIn):
        session.reference()
    with pytest.raises(errors.NotLoggedIn):
        session.records  # noqa: B018


def test_wrong_password(sim):
    session = embedded.session(embedded.inside(sim), "wrong-one")
    with pytest.raises(errors.AuthenticationFailed) as caught:
        session.login()
    assert "wrong-one" not in str(caught.value)


def test_unreachable_host_is_given_up_at_login():
    session = embedded.session(lambda: transport.HttpTransport("http://127.0.0.1:1"))
    with pytest.raises(errors.HostUnreachable):
        session.login()


def test_logout_ends_the_session_on_the_host(sim, session):
    ref = session.reference()
    session.logout()
    assert not sim.world.db.exists("session", ref)
    session.logout()
    with pytest.raises(errors.NotLoggedIn):
        session.call("VM.get_all")


def test_nothing_is_left_after_logout(sim, door, operator, halted):
    before = set(threading.enumerate())
    with embedded.session(embedded.through(door)) as session:
        vm.start_on(session, halted, session.host_ref)
        assert session.records
        ref = session.reference()
    wait_until(lambda: set(threading.enumerate()) <= before)
    assert not session.events.running
    assert not sim.world.db.exists("session", ref)
    assert operator.call("task.get_all") == []


def test_new_login_has_events_again(session, operator, halted):
    vm.start_on(session, halted, session.host_ref)
    session.logout()
    operator.call("VM.hard_shutdown", halted)
    session.login()
    assert vm.get(session, halted).power_state == "Halted"
    vm.start_on(session, halted, session.host_ref)
    assert vm.get(session, halted).power_state == "Running"


# Calls


def test_call_puts_the_session_first_and_ints_as_text(session, wire, halted):
    session.call("VM.set_HVM_shadow_multiplier", halted, 1.5)
    session.call("VM.set_VCPUs_max", halted, 2)
    first, second = wire.calls[-2:]
    assert first[1] == (session.reference(), halted, 1.5)
    assert second[1] == (session.reference(), halted, "2")


def test_methods_are_listed_without_session_or_envelope(session, wire):
    assert {"VM.start", "VM.get_all"} <= session.methods()
    assert wire.calls[-1] == ("system.listMethods", ())


def test_host_that_is_no_xapi_host_is_named():
    def website(_body):
        return b"<html>hello</html>"

    session = embedded.session(lambda: transport.InProcessTransport(website))
    with pytest.raises(errors.BadAnswer, match="in-process"):
        session.login()


def test_refusal_hides_the_session(sim, session):
    ref = session.reference()
    sim.faults.add("VM.get_all", ["INTERNAL_ERROR", f"in {ref}"])
    with pytest.raises(errors.XapiFailure) as caught:
        session.call("VM.get_all")
    assert "INTERNAL_ERROR" in str(caught.value)
    assert ref not in str(caught.value)
    assert ref not in repr(session)


def test_requests_are_counted_and_recorded(session):
    before = session.requests.total
    with session.requests.recording() as names:
        session.call("VM.get_all")
    session.call("VM.get_all")
    assert names == ["VM.get_all"]
    assert session.requests.total == before + 2


# Trouble


def test_expired_session_is_renewed_once_for_any_call(sim, session, halted):
    expire(sim, session)
    with session.requests.recording() as names:
        session.call("VM.start", halted, False, False)
    assert names == ["VM.start", LOGIN, "VM.start"]
    assert vm.get(session, halted).power_state == "Running"


def test_session_that_stays_invalid_is_given_up_at_the_deadline(sim, wire, halted):
    sim.faults.add("VM.start", action="expire", times=-1)
    with (
        embedded.session(wire, tuning=Tuning(retry_seconds=1.0)) as session,
        session.requests.recording() as names,
        pytest.raises(errors.SessionInvalid) as caught,
    ):
        session.call("VM.start", halted, False, False)
    assert "OpaqueRef" not in repr(caught.value)
    # Three times at once, then with pauses.
    assert 4 <= names.count("VM.start") <= 20
    assert names.count(LOGIN) <= names.count("VM.start")


def test_a_session_that_is_ended_again_and_again_is_survived(sim, session, halted):
    sim.faults.add("VM.start", action="expire", times=5)
    session.call("VM.start", halted, False, False)
    assert vm.get(session, halted).power_state == "Running"


def test_many_threads_renew_one_session_once(sim, session, wire):
    expire(sim, session)
    assert len(all_at_once(8, session.call, "VM.get_all")) == 8
    assert logins(wire) == 2


def test_read_is_repeated_on_a_cut_connection(sim, far, operator):
    sim.faults.add("VM.get_all", action="cut")
    with far.requests.recording() as names:
        assert far.call("VM.get_all") == operator.call("VM.get_all")
    assert names == ["VM.get_all"] * 2


def test_read_is_given_up_after_a_while(sim, far):
    sim.faults.add("VM.get_all", action="cut", times=-1)
    with pytest.raises(errors.ConnectionLost):
        far.call("VM.get_all")


def test_change_that_was_carried_out_is_not_repeated(sim, far, operator):
    assert far.records  # they have to be followed before
    sim.faults.add("VM.create", after=True, action="cut")
    with far.requests.recording() as names:
        ref = far.call("VM.create", vm_record(name_label="once"))
    assert operator.call("VM.get_by_name_label", "once") == [ref]
    assert names.count("VM.create") == 1


def test_change_that_is_over_at_once_is_repeated_when_nothing_was_done(
    sim, far, operator
):
    assert far.records
    sim.faults.add("VM.create", action="cut")
    ref = far.call("VM.create", vm_record(name_label="once"))
    assert operator.call("VM.get_by_name_label", "once") == [ref]


@pytest.mark.parametrize("known", [True, False], ids=["labels", "no labels"])
def test_slow_change_is_repeated_where_it_would_be_seen_at_work(
    sim, far, operator, halted, known
):
    other = operator.call("VM.create", vm_record())
    assert far.records
    if known:
        # By its task, the session knows that the host keeps labels.
        vm.start_on(far, other, far.host_ref)
    sim.faults.add("VM.start", action="cut")
    if known:
        far.call("VM.start", halted, False, False)
        assert vm.get(far, halted).power_state == "Running"
        return
    with pytest.raises(errors.OutcomeUnknown, match=r"VM\.start"):
        far.call("VM.start", halted, False, False)


def test_call_waits_for_a_connection_no_longer_than_for_a_host(sim, door, halted):
    tuning = Tuning(connections=1, retry_seconds=0.3)
    with embedded.session(embedded.through(door), tuning=tuning) as session:
        sim.faults.add("VM.clone", action="hang", times=-1)
        clone = ("VM.clone", halted, "twin")
        # As many changes as there can be at once.
        threads = [threading.Thread(target=session.call, args=clone) for _ in range(6)]
        with session.requests.recording() as names:
            for thread in threads:
                thread.start()
            wait_until(lambda: names.count("VM.clone") == 6)
        with pytest.raises(errors.ConnectionsBusy):
            session.call(*clone)
        sim.faults.clear()
        for thread in threads:
            thread.join(10)


def test_host_that_falls_silent_is_listened_to_anew(sim, far, operator, monkeypatch):
    monkeypatch.setattr(session_module, "_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(events, "_POLL_SECONDS", 0.2)
    assert far.records
    sim.faults.add("event.from", action="hang")
    wait_until(lambda: not sim.faults.rules())
    ref = operator.call("VM.create", vm_record())
    wait_until(lambda: ref in far.events.glance()[vm.VmRecord], 10)


def test_change_is_not_guessed_at_before_anything_was_read(sim, far, operator):
    sim.faults.add("VM.create", after=True, action="cut")
    with pytest.raises(errors.OutcomeUnknown):
        far.call("VM.create", vm_record(name_label="once"))
    assert len(operator.call("VM.get_by_name_label", "once")) == 1


def test_task_that_was_begun_is_found_by_its_label(sim, far, operator, halted):
    assert far.records
    sim.faults.add("Async.VM.clone", after=True, action="cut")
    sim.faults.add("VM.clone", delay=0.3)
    with far.requests.recording() as names:
        twin = far.task("Async.VM.clone", halted, "twin")
    assert operator.call("VM.get_by_name_label", "twin") == [twin]
    assert operator.call("task.get_all") == []
    assert names.count("Async.VM.clone") == 1


def test_task_that_was_not_begun_is_begun(sim, far, operator, halted):
    # From this one it is known that the host keeps labels.
    far.task("Async.VM.clone", halted, "first")
    sim.faults.add("Async.VM.clone", action="cut")
    twin = far.task("Async.VM.clone", halted, "twin")
    assert operator.call("VM.get_by_name_label", "twin") == [twin]
    assert operator.call("task.get_all") == []


def test_change_is_repeated_while_nobody_listens(far, door, operator, halted):
    door.shut()
    timer = threading.Timer(0.25, door.reopen)
    timer.start()
    try:
        far.call("VM.start", halted, False, False)
    finally:
        timer.join()
    assert operator.call("VM.get_power_state", halted) == "Running"


def test_host_that_stays_away_is_given_up(far, door):
    door.shut()
    with pytest.raises(errors.HostUnreachable):
        far.call("VM.get_all")


def test_restart_of_the_toolstack_is_survived(sim, far, operator, halted):
    assert far.records
    sim.act("host", what="restart")
    vm.start_on(far, halted, far.host_ref)
    assert vm.get(far, halted).power_state == "Running"


# Pools


@pytest.fixture
def pool(tmp_path):
    sim = Simulator(tmp_path / "host", hosts=2, addresses=PLACES)
    first = sim.serve(PLACES[0])
    yield sim, (first, sim.serve(PLACES[1], first.port, machine=1))
    sim.close()


def test_member_is_followed_to_its_coordinator(pool):
    sim, doors = pool
    with embedded.session(embedded.through(doors[1])) as session:
        assert session.host.address == PLACES[1]
        assert session.pool.master != session.host_ref
        assert len(session.records[HostRecord]) == 2
        ref = session.reference()
    assert not sim.world.db.exists("session", ref)


def test_doors_lead_to_the_host_that_is_asked_for(pool):
    _sim, doors = pool
    with embedded.session(embedded.through(doors[1])) as session:
        calls_go_to = {doors[0].url}
        assert {session.door().url, session.door(session.pool.master).url} == (
            calls_go_to
        )
        assert session.door(session.host_ref).url == doors[1].url


@pytest.mark.parametrize("number", [0, 1])
def test_new_coordinator_is_followed(pool, number):
    sim, doors = pool
    tuning = Tuning(retry_seconds=10.0)
    with embedded.session(embedded.through(doors[number]), tuning=tuning) as session:
        ours = session.host_ref
        sim.act("host", host=2, what="lead")
        ref = session.call("VM.create", vm_record())
        assert ref in session.records[vm.VmRecord]
        assert session.host_ref == ours
        assert session.host.address == PLACES[number]
        wait_until(lambda: session.pool.master == sim.world.coordinator)


def test_host_that_joins_a_pool_is_found_again(tmp_path):
    sim = Simulator(tmp_path / "host", pools=2, addresses=PLACES, compute_vm=False)
    try:
        first = sim.serve(PLACES[0])
        door = sim.serve(PLACES[1], first.port, machine=1)
        tuning = Tuning(retry_seconds=10.0)
        with embedded.session(embedded.through(door), tuning=tuning) as session:
            uuid, alone = session.host.uuid, session.host_ref
            operator = XmlClient(sim.door(1))
            operator.call("pool.join", PLACES[0], "root", "secret")
            wait_until(lambda: len(session.events.glance()[HostRecord]) == 2, 10)
            assert session.host.uuid == uuid
            assert session.host_ref != alone
    finally:
        sim.close()


def test_wrong_password_is_no_reason_to_wait(sim):
    session = Session(embedded.inside(sim), "root", "wrong", "test", SHORT)
    refused = pytest.raises(errors.AuthenticationFailed)
    with session.requests.recording() as names, refused:
        session.login()
    assert names == [LOGIN]

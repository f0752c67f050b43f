# SPDX-License-Identifier: Apache-2.0
"""The tables follow the host, and are as new as what we have done ourselves."""

import threading
import time

import pytest

from tests import embedded
from tests.sim.clients import XmlClient, vbd_record, vdi_record, vm_record, wait_until
from xenapi_driver.xapi import errors, events
from xenapi_driver.xapi.session import Session, Tuning
from xenapi_driver.xapi.task import TaskRecord
from xenapi_driver.xapi.vbd import VbdRecord
from xenapi_driver.xapi.vm import VmRecord

BAD_TOKEN = ["EVENT_FROM_TOKEN_PARSE_FAILURE", "{1}"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(events, "_READ_ALL_SECONDS", 0.2)


class Feed:
    """Remembers the changes that a listener was told.

    :ivar told: (operation, kind, reference) in order, tasks left out
    """

    def __init__(self, session):
        self.changes = []
        session.records  # noqa: B018 (what is there now is no change)
        session.events.subscribe(self)

    def __call__(self, changes):
        self.changes += [one for one in changes if one.kind is not TaskRecord]

    def of(self, ref):
        return [operation(one) for one in self.changes if one.ref == ref]


def operation(change):
    if change.old is None:
        return "add"
    return "del" if change.new is None else "mod"


@pytest.fixture
def vm(operator):
    return operator.call("VM.create", vm_record())


@pytest.fixture
def slow(sim, session, operator):
    """Events come late."""

    def begin(seconds=0.2):
        assert session.records
        sim.faults.add("event.from", delay=seconds, times=-1)
        # Let the event.from return that had begun before.
        count = session.requests.polls
        operator.call("VM.create", vm_record(name_label="another"))
        wait_until(lambda: session.requests.polls > count)

    return begin


def full_reads(wire):
    return sum(
        token == "" for _classes, token, _seconds in wire.arguments("event.from")
    )


def same(session):
    """Tell whether the tables hold what the host has."""
    ours, theirs = session.events.barrier(), embedded.snapshot(session)
    return all(dict(ours[kind]) == dict(theirs[kind]) for kind in ours.kinds)


# Reading


def test_reading_everything_takes_one_poll_and_no_request(session, wire, vm):
    with session.requests.recording() as names:
        records = session.records
    assert vm in records[VmRecord]
    assert names == []
    assert full_reads(wire) == 1
    assert same(session)


def test_reading_again_asks_nothing(session, vm):
    assert session.records
    with session.requests.recording() as names:
        for _time in range(100):
            assert vm in session.records[VmRecord]
    assert names == []


def test_records_follow_the_host(session, operator, vm):
    assert session.records
    operator.call("VM.start", vm, False, False)
    operator.call("VM.set_name_label", vm, "another")
    wait_until(lambda: session.records[VmRecord][vm].name_label == "another")
    assert session.records[VmRecord][vm].power_state == "Running"
    operator.call("VM.hard_shutdown", vm)
    operator.call("VM.destroy", vm)
    wait_until(lambda: vm not in session.records[VmRecord])
    assert same(session)


def test_snapshot_stays_as_it_was(session, operator, vm):
    before = session.records
    operator.call("VM.destroy", vm)
    wait_until(lambda: vm not in session.records[VmRecord])
    assert vm in before[VmRecord]


def test_tables_of_a_snapshot_agree(session, operator):
    sr = session.pool.default_sr
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            vm = operator.call("VM.create", vm_record())
            vdi = operator.call("VDI.create", vdi_record(sr))
            operator.call("VBD.create", vbd_record(vm, vdi))
            time.sleep(0.06)
            operator.call("VM.destroy", vm)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    seen = set()
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            records = session.records
            for vbd in records[VbdRecord].values():
                assert vbd.ref in records[VmRecord][vbd.vm].vbds
                assert vbd in records[VbdRecord].owned_by(vbd.vm)
                seen.add(vbd.ref)
            for vm in records[VmRecord].values():
                assert set(vm.vbds) <= set(records[VbdRecord])
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 1
    assert same(session)


# What we did ourselves


@pytest.mark.parametrize("seconds", [0.2, 0.7])
def test_own_writes_are_seen_at_once(session, slow, seconds):
    slow(seconds)
    vm = session.call("VM.create", vm_record())
    assert vm in session.records[VmRecord]
    session.call("VM.start", vm, True, False)
    assert session.records[VmRecord][vm].power_state == "Paused"
    session.call("VM.hard_shutdown", vm)
    twin = session.call("VM.clone", vm, "twin")
    assert session.records[VmRecord][twin].name_label == "twin"
    session.call("VM.destroy", vm)
    assert vm not in session.records[VmRecord]


def test_own_write_is_seen_among_those_of_others(sim, session, slow, operator, vm):
    slow()
    sim.faults.add("VM.add_to_other_config", delay=0.6)
    other = threading.Timer(0.1, operator.call, ("VM.set_name_label", vm, "another"))
    other.start()
    session.call("VM.add_to_other_config", vm, "key", "value")
    other.join()
    assert session.records[VmRecord][vm].other_config["key"] == "value"


def test_write_that_our_records_do_not_hold_delays_nobody(session, vm):
    assert session.records
    with session.requests.recording() as names:
        session.call("VM.set_name_description", vm, "words")
        assert vm in session.records[VmRecord]
    assert names == ["VM.set_name_description"]


def test_write_that_somebody_undoes_is_not_waited_for(session, slow, operator):
    slow()
    vm = session.call("VM.create", vm_record())
    operator.call("VM.destroy", vm)
    assert vm not in session.records[VmRecord]


def test_call_that_failed_half_way_is_looked_after(sim, session, slow, operator):
    slow()
    sim.faults.add("VM.create", ["INTERNAL_ERROR", "half way"], after=True)
    with pytest.raises(errors.XapiFailure, match="half way"):
        session.call("VM.create", vm_record(name_label="half"))
    found = session.records[VmRecord].named("half")
    assert [one.ref for one in found] == operator.call("VM.get_by_name_label", "half")


def test_doubt_holds_for_every_reader(sim, session, slow):
    slow(0.6)
    sim.faults.add("VM.create", ["INTERNAL_ERROR", "half way"], after=True)
    with pytest.raises(errors.XapiFailure, match="half way"):
        session.call("VM.create", vm_record(name_label="half"))
    first = threading.Thread(target=lambda: session.records)
    first.start()
    time.sleep(0.1)
    assert session.records[VmRecord].named("half")
    first.join()


def test_own_write_during_the_first_reading_is_seen(sim, session, vm):
    sim.faults.add("VM.set_name_label", delay=0.5)
    sim.faults.add("event.from", delay=0.3)
    sim.faults.add("event.from", delay=0.5)
    other = threading.Timer(0.1, lambda: session.records)
    other.start()
    session.call("VM.set_name_label", vm, "another")
    assert session.records[VmRecord][vm].name_label == "another"
    other.join()


def test_own_write_whose_event_is_lost(sim, session, vm):
    assert session.records
    sim.faults.add("VM.set_name_label", action="lose")
    session.call("VM.set_name_label", vm, "lost")
    assert session.records[VmRecord][vm].name_label == "lost"


def test_barrier_tells_what_others_did(session, slow, operator):
    slow()
    vm = operator.call("VM.create", vm_record())
    assert vm in session.events.barrier()[VmRecord]


def test_barrier_has_a_limit(session, slow):
    slow(2.0)
    with pytest.raises(errors.EventsLate):
        session.events.barrier(0.2)


# The feed of changes


def test_changes_are_told_in_order(session, operator, vm):
    feed = Feed(session)
    operator.call("VM.start", vm, False, False)
    wait_until(lambda: feed.of(vm))
    operator.call("VM.hard_shutdown", vm)
    wait_until(lambda: len(feed.of(vm)) > 1)
    operator.call("VM.destroy", vm)
    wait_until(lambda: "del" in feed.of(vm))
    told = [one for one in feed.changes if one.ref == vm]
    assert {operation(one) for one in told[:-1]} == {"mod"}
    assert operation(told[-1]) == "del"
    for first, second in zip(told, told[1:], strict=False):
        assert first.new == second.old
    assert told[0].old.power_state == "Halted"
    assert "Running" in [one.new.power_state for one in told[:-1]]


def test_unsubscribed_listener_is_left_alone(session, operator):
    feed = Feed(session)
    session.events.unsubscribe(feed)
    session.events.unsubscribe(feed)
    operator.call("VM.create", vm_record())
    assert session.events.barrier()
    assert feed.changes == []


def test_listener_may_read(session, operator):
    seen = []
    assert session.records
    session.events.subscribe(lambda _changes: seen.append(session.records))
    vm = operator.call("VM.create", vm_record())
    wait_until(lambda: seen)
    assert vm in seen[0][VmRecord]


def test_listener_that_fails_stops_nobody(session, operator):
    assert session.records

    def fail(_changes):
        raise RuntimeError("a listener's own fault")

    session.events.subscribe(fail)
    feed = Feed(session)
    for _time in range(2):
        vm = operator.call("VM.create", vm_record())
        wait_until(lambda ref=vm: feed.of(ref) == ["add"])


def test_what_changed_unheard_is_told_after_reading_all_again(sim, session, operator):
    refs = [operator.call("VM.create", vm_record()) for _number in range(3)]
    changed, gone, same_as_before = refs
    feed = Feed(session)
    for method in ("VM.create", "VM.destroy", "VM.set_name_label"):
        sim.faults.add(method, action="lose")
    new = operator.call("VM.create", vm_record())
    operator.call("VM.destroy", gone)
    operator.call("VM.set_name_label", changed, "another")
    assert feed.changes == []
    sim.faults.add("event.from", BAD_TOKEN)
    operator.call("VM.set_name_label", same_as_before, "vm")
    wait_until(lambda: feed.of(new))
    assert feed.of(new) == ["add"]
    assert feed.of(gone) == ["del"]
    assert feed.of(changed) == ["mod"]
    assert feed.of(same_as_before) == []
    assert same(session)


@pytest.mark.parametrize("what", ["expire", "restart"])
def test_new_session_reads_all_again(sim, session, wire, operator, what):
    feed = Feed(session)
    with sim.world.db.changed:
        gone = session.reference()
        if what == "restart":
            sim.act("host", what="restart")
        else:
            sim.world.db.destroy("session", gone)
    wait_until(lambda: full_reads(wire) == 2)
    vm = XmlClient(sim.handle).call("VM.create", vm_record())
    wait_until(lambda: feed.of(vm))
    assert feed.of(vm) == ["add"]
    assert session.reference() != gone
    assert same(session)


# Trouble


def test_missed_events_are_found_by_counting(sim, session, operator, vm):
    feed = Feed(session)
    sim.faults.add("VM.destroy", action="lose")
    operator.call("VM.destroy", vm)
    time.sleep(0.3)
    operator.call("VM.create", vm_record())  # so that the host tells its counts
    wait_until(lambda: feed.of(vm) == ["del"])
    assert same(session)


def test_everything_is_not_read_again_without_need(session, wire, operator):
    assert session.records
    for _time in range(5):
        operator.call("VM.destroy", operator.call("VM.create", vm_record()))
        time.sleep(0.1)
    assert same(session)
    assert full_reads(wire) == 1


def test_bad_token_makes_the_loop_read_all_again(sim, session, wire, operator):
    assert session.records
    sim.faults.add("event.from", BAD_TOKEN)
    operator.call("VM.create", vm_record())
    wait_until(lambda: full_reads(wire) == 2)
    assert same(session)


def test_host_that_is_not_heard_is_told_and_comes_back(sim, wire, operator, vm):
    tuning = Tuning(retry_seconds=0.6)
    with Session(wire, "root", "secret", "test", tuning) as session:
        assert session.records
        sim.faults.add("event.from", ["INTERNAL_ERROR", "no events"], times=-1)
        operator.call("VM.set_name_label", vm, "unheard")

        def is_told():
            try:
                session.records  # noqa: B018
            except errors.XapiFailure as exc:
                return "no events" in str(exc)
            return False

        wait_until(is_told)
        sim.faults.clear()

        def is_heard():
            try:
                return session.records[VmRecord][vm].name_label == "unheard"
            except errors.XapiFailure:
                return False

        wait_until(is_heard, 10)
        assert same(session)


def test_host_that_never_told_anything(sim, wire):
    sim.faults.add("event.from", ["INTERNAL_ERROR", "no events"], times=-1)
    tuning = Tuning(retry_seconds=0.3)
    with (
        Session(wire, "root", "secret", "test", tuning) as session,
        pytest.raises(errors.XapiFailure, match="no events"),
    ):
        session.records  # noqa: B018


def test_short_trouble_is_not_seen(sim, session, operator):
    assert session.records
    sim.faults.add("event.from", ["INTERNAL_ERROR", "no events"], times=2)
    vm = operator.call("VM.create", vm_record())
    wait_until(lambda: vm in session.records[VmRecord])


# Watches


def test_watch_begins_with_what_is_known(session, operator, vm):
    assert session.records
    with session.events.watch(VmRecord, vm) as watch:
        assert watch.next(5).power_state == "Halted"
        operator.call("VM.destroy", vm)
        while (change := watch.next(5)) is not events.GONE:
            assert change.ref == vm
    with session.events.watch(VmRecord, "OpaqueRef:nothing") as watch:
        assert watch.next(0.1) is None


def test_watched_object_that_went_before_we_heard_of_it(sim, session, operator):
    assert session.records
    # The loop does not look for a moment, in which the task comes and goes.
    sim.faults.add("event.from", ["INTERNAL_ERROR", "no events"], times=2)
    operator.call("VM.create", vm_record())
    ref = operator.call("task.create", "short", "")
    with session.events.watch(TaskRecord, ref) as watch:
        sim.act("host", what="restart")
        assert watch.next(10) is events.GONE


def test_readers_do_not_hang_at_logout(session, slow):
    slow(2.0)
    raised = []

    def read():
        try:
            session.events.barrier()
        except errors.XapiError as exc:
            raised.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.2)
    session.logout()
    thread.join(5)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_thread_ends_with_the_session(sim, wire):
    before = set(threading.enumerate())
    with embedded.session(wire) as session:
        assert session.records
        assert session.events.running
    assert not session.events.running
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_event_that_makes_no_sense_ends_nothing():
    told = [[{"nonsense": 1}], [{"class": "vm", "ref": "x", "operation": "add"}]]

    def poll(_classes, _token, seconds):
        if not told:
            time.sleep(seconds / 100)
        found = told.pop(0) if told else []
        return events.Answer(found, events.Token("1", "login"), {}, complete=True)

    loop = events.EventLoop(poll, None, None, [VmRecord], 10.0)
    try:
        assert dict(loop.snapshot()[VmRecord]) == {}
        assert told == []
    finally:
        loop.stop()
        loop.join()
    assert not loop.running

# SPDX-License-Identifier: Apache-2.0
"""Long calls end by events, whatever happens to the events, and leave no task."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest

from tests import embedded
from tests.sim.clients import vm_record, wait_until
from xenapi_driver.xapi import errors, task, tasks, transport, vm
from xenapi_driver.xapi.session import Tuning

START = "Async.VM.start_on"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(tasks, "_QUIET_SECONDS", 0.3)
    monkeypatch.setattr(tasks, "_CANCEL_SECONDS", 2.0)


@pytest.fixture
def halted(operator):
    return operator.call("VM.create", vm_record())


@pytest.fixture
def hanging(sim):
    """Starts of VMs do not end by themselves."""
    sim.faults.add("VM.start_on", action="hang", times=-1)


@pytest.fixture
def pool_session(sim):
    """A session whose connections can be cut, and the door."""
    server = sim.serve()
    with embedded.session(embedded.through(server)) as session:
        yield session, server


def start(session, ref, **choices):
    return session.task(START, ref, session.host_ref, False, False, **choices)


def tasks_of(operator):
    return operator.call("task.get_all")


@contextlib.contextmanager
def meanwhile(operator, act):
    """Have ``act`` called with the first task once there is one."""
    failed = []

    def run():
        try:
            wait_until(lambda: tasks_of(operator))
            act(tasks_of(operator)[0])
        except Exception as exc:
            failed.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
    assert not failed


def test_success_takes_two_requests_and_leaves_no_task(session, operator, halted):
    with session.requests.recording() as names:
        twin = session.task("Async.VM.clone", halted, "twin")
    assert names == ["Async.VM.clone", "task.destroy"]
    assert operator.call("VM.get_name_label", twin) == "twin"
    assert tasks_of(operator) == []


def test_task_that_ended_before_anybody_watched(session, operator, halted):
    for number in range(3):
        ref = operator.call("Async.VM.clone", halted, f"twin-{number}")
        wait_until(lambda ref=ref: operator.call("task.get_status", ref) == "success")
        with session.requests.recording() as names:
            twin = tasks.follow(session, ref, "VM.clone", quiet=30)
        assert operator.call("VM.get_name_label", twin) == f"twin-{number}"
        assert names == ["task.destroy"]


def test_waiting_tasks_share_one_thread(sim, session, operator, hanging):
    before = set(threading.enumerate())
    refs = [operator.call("VM.create", vm_record()) for _number in range(5)]
    threads = [threading.Thread(target=start, args=(session, ref)) for ref in refs]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(tasks_of(operator)) == 5)
    ours = [
        thread.name
        for thread in set(threading.enumerate()) - before - set(threads)
        if not thread.name.startswith("sim-")
    ]
    assert ours == ["xapi-events"]
    sim.faults.clear()
    for thread in threads:
        thread.join(10)
    states = {operator.call("VM.get_power_state", ref) for ref in refs}
    assert states == {"Running"}
    assert tasks_of(operator) == []


def test_failure_is_the_class_of_its_code(session, operator, halted):
    operator.call("VM.start", halted, False, False)
    with pytest.raises(errors.VmBadPowerState) as caught:
        vm.start_on(session, halted, session.host_ref)
    assert caught.value.call == "VM.start_on"
    assert caught.value.params == (halted, "halted", "running")
    assert tasks_of(operator) == []


def test_refused_start_leaves_nothing_to_destroy(session, halted):
    with session.requests.recording() as names, pytest.raises(errors.MethodUnknown):
        session.task("Async.VM.dance", halted)
    assert names == ["Async.VM.dance"]


def test_cancelled_by_somebody_else(session, operator, halted, hanging):
    def cancel(ref):
        operator.call("task.cancel", ref)

    with meanwhile(operator, cancel), pytest.raises(errors.TaskCancelled):
        start(session, halted)
    assert tasks_of(operator) == []


def test_progress_is_reported_and_grows(sim, session, operator, halted, hanging):
    seen = []

    def advance(ref):
        for progress in (0.25, 0.25, 0.75, 0.5):
            operator.call("task.set_progress", ref, progress)
            time.sleep(0.15)
        sim.faults.clear()

    with meanwhile(operator, advance):
        start(session, halted, progress=seen.append)
    assert seen == sorted(set(seen))
    assert {0.25, 0.75} <= set(seen)
    assert 0.5 not in seen


def test_late_task_is_cancelled_and_destroyed(session, operator, halted, hanging):
    with session.requests.recording() as names, pytest.raises(errors.TaskTimeout):
        start(session, halted, timeout=0.2)
    assert "task.cancel" in names
    assert tasks_of(operator) == []
    assert operator.call("VM.get_power_state", halted) == "Halted"


def test_interrupted_waiter_cancels_its_task(session, operator, halted, hanging):
    class Interrupted(BaseException):
        pass

    def stop(_progress):
        raise Interrupted

    with session.requests.recording() as names, pytest.raises(Interrupted):
        start(session, halted, progress=stop)
    assert "task.cancel" in names
    assert tasks_of(operator) == []


def test_vanished_task_has_an_unknown_outcome(sim, session, operator, halted, hanging):
    def restart(_ref):
        sim.act("host", what="restart")

    with (
        meanwhile(operator, restart),
        pytest.raises(errors.TaskLost, match="outcome unknown"),
    ):
        start(session, halted)


def test_what_a_vanished_task_has_done_is_found_in_the_records(sim, session, halted):
    assert session.records  # they have to be followed before
    sim.faults.add("VM.start_on", after=True, action="restart")
    assert start(session, halted) == ""
    assert vm.get(session, halted).power_state == "Running"


def test_lost_deletion_is_found_out_by_asking(sim, session, operator):
    ref = task.create(session, "ours", session.signature)
    assert ref in session.records[task.TaskRecord]
    operator.call("task.destroy", ref)  # it goes when it ends
    sim.faults.add("task.set_status", action="lose")
    operator.call("task.set_status", ref, "success")
    with session.requests.recording() as names, pytest.raises(errors.TaskLost):
        tasks.follow(session, ref, "ours", quiet=0.1)
    assert "task.get_record" in names


def test_task_ends_although_events_fail(sim, session, operator, halted):
    sim.faults.add("event.from", ["INTERNAL_ERROR", "no events today"], times=-1)
    twin = session.task("Async.VM.clone", halted, "twin")
    assert operator.call("VM.get_name_label", twin) == "twin"
    assert tasks_of(operator) == []


def test_what_a_task_did_is_seen_although_events_are_late(
    sim, session, operator, halted
):
    assert session.records
    sim.faults.add("event.from", delay=1.0)
    count = session.requests.polls
    operator.call("VM.set_name_label", halted, "another")
    wait_until(lambda: session.requests.polls > count)
    start(session, halted)
    assert vm.get(session, halted).power_state == "Running"


def test_host_that_stays_away_is_asked_for_a_task_once(sim, halted, hanging):
    session = embedded.session(embedded.inside(sim), tuning=Tuning(retry_seconds=0.5))
    with session, session.requests.recording() as names:
        before = threading.Timer(0.2, sim.act, ("host",), {"what": "die"})
        before.start()
        with pytest.raises((errors.HostUnreachable, errors.ConnectionLost)):
            start(session, halted)
        before.join()
    assert "task.get_record" in names
    assert not {"task.cancel", "task.destroy"} & set(names)


def test_expired_session_does_not_disturb_a_waiting_task(
    sim, session, wire, operator, halted, hanging
):
    def expire(_ref):
        sim.world.db.destroy("session", session.reference())
        sim.faults.clear()

    with meanwhile(operator, expire):
        start(session, halted)
    assert len(wire.arguments("session.login_with_password")) == 2
    assert operator.call("VM.get_power_state", halted) == "Running"
    assert tasks_of(operator) == []


def test_cut_connections_do_not_disturb_a_waiting_task(
    sim, pool_session, operator, halted, hanging
):
    session, server = pool_session

    def cut(_ref):
        server.cut()
        sim.faults.clear()

    with meanwhile(operator, cut):
        start(session, halted)
    assert operator.call("VM.get_power_state", halted) == "Running"
    assert tasks_of(operator) == []


def test_events_are_asked_for_shorter_than_the_read_timeout(sim, halted):
    timeouts = transport.Timeouts(read=0.4)
    wire = embedded.Wire(embedded.through(sim.serve(), timeouts))
    with embedded.session(wire) as session:
        start(session, halted)
    assert {seconds for *_more, seconds in wire.arguments("event.from")} == {0.2}


def test_tasks_of_an_earlier_run_are_cleared(sim, operator, halted, hanging):
    door = embedded.through(sim.serve())
    refs = [halted, operator.call("VM.create", vm_record())]
    with embedded.session(door) as session, embedded.session(door) as dead:
        theirs = operator.call("task.create", "not ours", "")
        dead.begin(START, (refs[0], dead.host_ref, False, False))
        with contextlib.ExitStack() as ours:
            waiting = threading.Thread(target=start, args=(session, refs[1]))
            ours.callback(waiting.join, 10)
            ours.callback(sim.faults.clear)
            waiting.start()
            wait_until(lambda: len(tasks_of(operator)) == 3)
            session.clear_leftovers()
            wait_until(lambda: len(tasks_of(operator)) == 2)
    assert tasks_of(operator) == [theirs]
    states = [operator.call("VM.get_power_state", ref) for ref in refs]
    assert states == ["Halted", "Running"]


UNDER_EVENTLET = """
import eventlet
eventlet.monkey_patch()
import sys
url, *refs = sys.argv[1:]
from xenapi_driver.xapi import transport
from xenapi_driver.xapi.session import Session

way = lambda: transport.HttpTransport(url)
with Session(way, "root", "secret", "test") as session:
    for ref in refs:
        session.task("Async.VM.start_on", ref, session.host_ref, False, False)
assert not session.events.running
print("done")
"""


def test_tasks_work_in_eventlet_mode(sim, operator):
    pytest.importorskip("eventlet", reason="missing: eventlet")
    refs = [operator.call("VM.create", vm_record()) for _number in range(3)]
    command = [sys.executable, "-W", "ignore", "-c", UNDER_EVENTLET]
    done = subprocess.run(
        [*command, sim.serve().url, *refs],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr
    states = {operator.call("VM.get_power_state", ref) for ref in refs}
    assert states == {"Running"}
    assert tasks_of(operator) == []

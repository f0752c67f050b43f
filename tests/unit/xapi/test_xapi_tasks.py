# SPDX-License-Identifier: Apache-2.0
"""Long calls end by events, whatever happens to the events, and leave no task."""

import pathlib
import subprocess
import sys
import threading
import time

import pytest

from tests.unit.xapi import fake_xapi
from xenapi_driver.xapi import errors, tasks, transport, vm
from xenapi_driver.xapi.session import Session

TASK = "OpaqueRef:task"


@pytest.fixture
def session(fake):
    door = transport.InProcessTransport(fake.handle)
    with Session(lambda: door, "root", "secret", "test") as session:
        fake.calls.clear()
        yield session


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(tasks, "_QUIET_SECONDS", 0.3)
    monkeypatch.setattr(tasks, "_CANCEL_SECONDS", 0.5)


def starts(fake, then, after=0.05):
    """Let Async.VM.start_on make a task on which ``then`` is called soon."""
    timers = []

    def begin(*_args):
        fake.set_task(TASK)
        timers.append(threading.Timer(after, then))
        timers[-1].start()
        return TASK

    fake.methods["Async.VM.start_on"] = begin


def start(session, **kwargs):
    return session.task("Async.VM.start_on", "OpaqueRef:vm", **kwargs)


def test_success_takes_two_requests_and_leaves_no_task(session, fake):
    starts(fake, lambda: fake.set_task(TASK, "success", result="<value>r</value>"))
    with session.requests.recording() as names:
        assert start(session) == "r"
    assert names == ["Async.VM.start_on", "task.destroy"]
    assert fake.tasks == {}


def test_task_that_ended_before_anybody_watched(session, fake):
    def begin(*_args):
        ref = f"{TASK}-{fake.generation}"
        fake.set_task(ref, "success", result="<value></value>")
        return ref

    fake.methods["Async.VM.start_on"] = begin
    for _time in range(3):
        assert start(session) == ""
    assert session.requests.total < 15


def test_waiting_tasks_share_one_thread(session, fake):
    count = threading.active_count()
    results = []

    def begin(vm_ref, *_args):
        fake.set_task(f"OpaqueRef:task-{vm_ref}")
        return f"OpaqueRef:task-{vm_ref}"

    fake.methods["Async.VM.start_on"] = begin
    threads = [
        threading.Thread(
            target=lambda ref: results.append(session.task("Async.VM.start_on", ref)),
            args=(str(number),),
        )
        for number in range(5)
    ]
    for thread in threads:
        thread.start()
    while len(fake.tasks) < 5:
        time.sleep(0.01)
    assert threading.active_count() == count + 6
    for ref in list(fake.tasks):
        fake.set_task(ref, "success", result=f"<value>{ref[-1]}</value>")
    for thread in threads:
        thread.join(5)
    assert sorted(results) == ["0", "1", "2", "3", "4"]


def test_failure_is_the_class_of_its_code(session, fake):
    error = ["VM_BAD_POWER_STATE", "OpaqueRef:vm", "halted", "running"]
    starts(fake, lambda: fake.set_task(TASK, "failure", error_info=error))
    with pytest.raises(errors.VmBadPowerState) as caught:
        vm.start_on(session, "OpaqueRef:vm", session.host_ref)
    assert caught.value.call == "VM.start_on"
    assert fake.tasks == {}


def test_refused_start_leaves_nothing_to_destroy(session, fake):
    with pytest.raises(errors.MethodUnknown):
        start(session)
    assert fake.names() == ["Async.VM.start_on"]


def test_cancelled_by_somebody_else(session, fake):
    starts(fake, lambda: fake.set_task(TASK, "cancelled"))
    with pytest.raises(errors.TaskCancelled):
        start(session)


def test_progress_is_reported_and_grows(session, fake):
    seen = []

    def advance():
        for progress in (0.25, 0.25, 0.75):
            fake.set_task(TASK, progress=progress)
            time.sleep(0.1)
        fake.set_task(TASK, "success", progress=1.0)

    starts(fake, advance)
    start(session, progress=seen.append)
    assert seen == sorted(set(seen))
    assert 0.75 in seen


def test_late_task_is_cancelled_and_destroyed(session, fake):
    starts(fake, lambda: None)
    with pytest.raises(errors.TaskTimeout):
        start(session, timeout=0.2)
    assert "task.cancel" in fake.names()
    assert fake.tasks == {}


def test_interrupted_waiter_cancels_its_task(session, fake):
    class Interrupted(BaseException):
        pass

    def stop(_progress):
        raise Interrupted

    starts(fake, lambda: fake.set_task(TASK, progress=0.5))
    with pytest.raises(Interrupted):
        start(session, progress=stop)
    assert "task.cancel" in fake.names()
    assert fake.tasks == {}


def test_vanished_task_has_an_unknown_outcome(session, fake):
    starts(fake, lambda: fake.drop_task(TASK))
    with pytest.raises(errors.TaskLost, match="outcome unknown"):
        start(session)


def test_lost_deletion_is_found_out_by_asking(session, fake):
    def vanish():
        with fake.changed:
            del fake.tasks[TASK]

    starts(fake, vanish)
    with pytest.raises(errors.TaskLost):
        start(session)


def test_task_ends_although_events_fail(session, fake):
    def refuse(*_args):
        raise fake_xapi.Refused("INTERNAL_ERROR", "no events today")

    fake.events = refuse
    starts(fake, lambda: fake.set_task(TASK, "success", result="<value>r</value>"))
    assert start(session) == "r"


def test_bad_token_makes_the_loop_read_all_again(session, fake):
    real, refused = fake.events, []

    def refuse_once(classes, token, timeout):
        if token and not refused:
            refused.append(token)
            raise fake_xapi.Refused("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
        return real(classes, token, timeout)

    fake.events = refuse_once
    starts(fake, lambda: fake.set_task(TASK, "success"), after=0.1)
    start(session)
    assert refused


def test_expired_session_does_not_disturb_a_waiting_task(session, fake):
    def expire():
        fake.expire()
        fake.set_task(TASK, "success", result="<value>r</value>")

    starts(fake, expire)
    assert start(session) == "r"
    assert fake.logins == 2
    assert fake.tasks == {}


def test_cut_connections_do_not_disturb_a_waiting_task(fake):
    door = fake_xapi.HttpDoor(fake)
    session = Session(lambda: transport.HttpTransport(door.url), "root", "secret", "t")
    try:
        with session:

            def cut():
                door.drop_connections()
                fake.set_task(TASK, "success", result="<value>r</value>")

            starts(fake, cut)
            assert start(session) == "r"
        assert not session.events.running
        assert fake.tasks == {}
    finally:
        door.close()


def test_events_are_asked_for_shorter_than_the_read_timeout(fake):
    door = fake_xapi.HttpDoor(fake)
    timeouts = transport.Timeouts(read=0.4)
    session = Session(
        lambda: transport.HttpTransport(door.url, None, timeouts), "root", "secret", "t"
    )
    try:
        with session:
            starts(fake, lambda: fake.set_task(TASK, "success"))
            start(session)
        asked = [args[3] for name, args in fake.calls if name == "event.from"]
        assert set(asked) == {0.2}
    finally:
        door.close()


def test_missed_deletions_make_the_loop_read_all_again(session, fake):
    fake.set_task("OpaqueRef:others")
    starts(fake, lambda: fake.set_task(TASK, "success"))
    start(session)
    with fake.changed:
        del fake.tasks["OpaqueRef:others"]
    fake.calls.clear()
    start(session)
    deadline = time.monotonic() + 5
    while "OpaqueRef:others" in session.events._known:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_logout_ends_the_thread(session, fake):
    starts(fake, lambda: fake.set_task(TASK, "success"))
    start(session)
    assert session.events.running
    session.logout()
    assert not session.events.running


def test_new_login_has_events_again(session, fake):
    starts(fake, lambda: fake.set_task(TASK, "success"))
    start(session)
    session.logout()
    session.login()
    start(session)
    assert fake.tasks == {}


UNDER_EVENTLET = """
import eventlet
eventlet.monkey_patch()
import sys, threading
sys.path.insert(0, sys.argv[1])
from tests.unit.xapi import fake_xapi
from xenapi_driver.xapi import transport
from xenapi_driver.xapi.session import Session

fake = fake_xapi.FakeXapi()
door = fake_xapi.HttpDoor(fake)

def begin(*_args):
    ref = f"OpaqueRef:task-{fake.generation}"
    fake.set_task(ref)
    threading.Timer(0.05, fake.set_task, (ref, "success")).start()
    return ref

fake.methods["Async.VM.start_on"] = begin
with Session(lambda: transport.HttpTransport(door.url), "root", "secret", "t") as s:
    for _time in range(3):
        assert s.task("Async.VM.start_on") == ""
assert not s.events.running
assert fake.tasks == {}
print("done")
"""


def test_tasks_work_in_eventlet_mode():
    pytest.importorskip("eventlet", reason="missing: eventlet")
    root = str(pathlib.Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", UNDER_EVENTLET, root],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr

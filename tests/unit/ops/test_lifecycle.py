# SPDX-License-Identifier: Apache-2.0
"""From changed records to lifecycle events: which, when, and how many."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
import time
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nova.virt import event as virt_event

from xenapi_driver.ops import lifecycle
from xenapi_driver.xapi.host import HostRecord
from xenapi_driver.xapi.vm import VmRecord

HERE, THERE, FAR = "OpaqueRef:here", "OpaqueRef:there", "OpaqueRef:far"
STARTED = virt_event.EVENT_LIFECYCLE_STARTED
STOPPED = virt_event.EVENT_LIFECYCLE_STOPPED
PAUSED = virt_event.EVENT_LIFECYCLE_PAUSED
RESUMED = virt_event.EVENT_LIFECYCLE_RESUMED
SUSPENDED = virt_event.EVENT_LIFECYCLE_SUSPENDED
MOVED = virt_event.EVENT_LIFECYCLE_MIGRATION_COMPLETED
HALT, SETTLE = lifecycle.HALT_SECONDS, lifecycle.SETTLE_SECONDS
STATES = ("Halted", "Running", "Paused", "Suspended")
# Long enough for a thread of a loaded machine; what is waited for comes at once.
SECONDS = 20


def vm(state: str, place: str = HERE, **changes: object) -> VmRecord:
    """Return a server of ours; it is on ``place`` where it has a domain."""
    resident = place if state in ("Running", "Paused") else None
    record = VmRecord(
        ref="OpaqueRef:vm",
        uuid="uuid-of-vm",
        name_label="instance-00000001",
        power_state=state,
        domid=1 if resident else -1,
        resident_on=resident,
        scheduled_on=None,
        affinity=HERE,
        vbds=(),
        vifs=(),
        other_config={"nova_uuid": "server-1"},
        memory_static_max=1,
        memory_dynamic_min=1,
        memory_overhead=1,
        vcpus_max=1,
        domain_type="hvm",
        is_a_template=False,
        is_a_snapshot=False,
        is_control_domain=False,
        guest_metrics=None,
        xenstore_data={},
        current_operations={},
        blocked_operations={},
    )
    return dataclasses.replace(record, **changes)


# Which event, judged from two records


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("Halted", "Running", STARTED),
        ("Halted", "Paused", PAUSED),
        ("Halted", "Suspended", SUSPENDED),
        ("Running", "Halted", STOPPED),
        ("Running", "Paused", PAUSED),
        ("Running", "Suspended", SUSPENDED),
        ("Paused", "Halted", STOPPED),
        ("Paused", "Running", RESUMED),
        ("Paused", "Suspended", SUSPENDED),
        ("Suspended", "Halted", STOPPED),
        ("Suspended", "Running", RESUMED),
        ("Suspended", "Paused", PAUSED),
    ],
)
def test_a_state_has_its_event(before, after, expected):
    assert lifecycle.transitions(vm(before), vm(after), HERE) == (expected,)


@pytest.mark.parametrize("state", STATES)
def test_a_state_that_stays_has_none(state):
    after = vm(state, domid=7, name_label="renamed")
    assert lifecycle.transitions(vm(state), after, HERE) == ()


@pytest.mark.parametrize(
    "foreign",
    [
        {"other_config": {}},
        {"affinity": THERE},
        {"is_a_template": True},
        {"is_a_snapshot": True},
        {"is_control_domain": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("after", [vm("Halted"), vm("Running", THERE)], ids=["", "to"])
def test_nothing_is_told_of_what_is_not_ours(foreign, after):
    before = vm("Running", **foreign)
    after = dataclasses.replace(after, **foreign)
    assert lifecycle.transitions(before, after, HERE) == ()
    assert not lifecycle.strayed(before, after, HERE)


@pytest.mark.parametrize(
    ("before", "after", "expected", "stray"),
    [
        (vm("Running"), vm("Running", THERE), (MOVED,), True),
        (vm("Running"), vm("Paused", THERE), (MOVED, PAUSED), True),
        (vm("Running", THERE), vm("Running", FAR), (MOVED,), True),
        (vm("Running", THERE), vm("Running"), (MOVED,), False),
        (vm("Halted"), vm("Running", THERE), (STARTED,), True),
        (vm("Running", THERE), vm("Halted"), (STOPPED,), False),
        (vm("Running", THERE), vm("Paused", THERE), (PAUSED,), False),
        # The one who moved it has also given it to the other host.
        (vm("Running"), vm("Running", THERE, affinity=THERE), (MOVED,), False),
        (vm("Running"), vm("Halted", affinity=THERE), (), False),
        # It comes from another host to us: that one tells.
        (vm("Running", THERE, affinity=THERE), vm("Running"), (), False),
        (vm("Paused", THERE, affinity=THERE), vm("Running"), (RESUMED,), False),
    ],
)
def test_moves(before, after, expected, stray):
    assert lifecycle.transitions(before, after, HERE) == expected
    assert lifecycle.strayed(before, after, HERE) == stray


# When, and how many


def settled(*changes: tuple[float, VmRecord | None]) -> list[tuple]:
    """Return (time, events) of what is told of one server.

    :param changes: when the server became what; the first is how it began
    """
    settling = lifecycle.Settling()
    told = []

    def tell(until: float) -> None:
        while (due := settling.next_due()) is not None and due <= until:
            old, new = settling.take(due)
            told.append((due, lifecycle.transitions(old, new, HERE)))

    for (_, old), (now, new) in itertools.pairwise(changes):
        tell(now)
        settling.note("OpaqueRef:vm", old, new, now)
    tell(1e9)
    assert len(settling) == 0
    return [(pytest.approx(when), events) for when, events in told if events]


def test_a_shutdown_is_told_once_it_has_lasted():
    assert settled((0, vm("Running")), (1, vm("Halted"))) == [(1 + HALT, (STOPPED,))]


def test_another_state_is_told_soon():
    assert settled((0, vm("Running")), (1, vm("Paused"))) == [(1 + SETTLE, (PAUSED,))]


@pytest.mark.parametrize("end", [vm("Running", domid=2), None], ids=["runs", "gone"])
def test_a_halt_that_does_not_last_is_not_told(end):
    assert settled((0, vm("Running")), (1, vm("Halted")), (1 + HALT * 0.9, end)) == []


def test_a_guest_that_reboots_again_and_again_is_never_stopped():
    beat = HALT * 0.6
    changes = [(n * beat, vm("Halted" if n % 2 else "Running")) for n in range(21)]
    assert settled(*changes) == []


def test_a_halt_is_counted_from_the_last_one():
    changes = [(0, "Running"), (1, "Halted"), (1.1, "Running"), (1.15, "Halted")]
    told = settled(*((when, vm(state)) for when, state in changes))
    assert told == [(1.15 + HALT, (STOPPED,))]


def test_a_server_that_flaps_is_told_of_in_measure():
    states = ("Running", "Paused", "Suspended")
    changes = [(n / 1000, vm(states[n % 3])) for n in range(1000)]
    told = settled(*changes)
    assert 1 / SETTLE / 2 <= len(told) <= 1 / SETTLE + 1


def test_a_halt_that_becomes_something_else_is_told_as_that():
    told = settled((0, vm("Running")), (1, vm("Halted")), (1.1, vm("Paused")))
    assert told == [(1.1 + SETTLE, (PAUSED,))]


def test_nothing_is_told_before_its_time():
    settling = lifecycle.Settling()
    settling.note("OpaqueRef:vm", vm("Running"), vm("Running", domid=2), 1.0)
    assert settling.next_due() is None
    settling.note("OpaqueRef:vm", vm("Running"), vm("Halted"), 1.0)
    assert settling.take(1.0 + HALT / 2) is None
    assert settling.take(1.0 + HALT) == (vm("Running"), vm("Halted"))
    assert settling.take(1.0 + HALT) is None


def test_what_else_changes_neither_delays_nor_tells():
    changes = [(0, vm("Running")), (1, vm("Halted"))]
    noise = [(1 + n / 100, vm("Halted", name_label=str(n))) for n in range(1, 100)]
    assert settled(*changes, *noise) == [(1 + HALT, (STOPPED,))]
    assert settled((0, vm("Running")), (1, vm("Running", name_label="new"))) == []


def test_a_new_vm_and_a_deleted_one_are_not_told():
    assert settled((0, None), (1, vm("Running"))) == []
    assert settled((0, vm("Running")), (1, None)) == []


records = st.builds(vm, st.sampled_from(STATES), st.sampled_from([HERE, THERE]))
histories = st.lists(
    st.tuples(st.floats(0, 2 * HALT), records | st.none()), min_size=1, max_size=20
)


@settings(deadline=None)
@given(records, histories)
def test_nova_ends_with_what_is_so(first, history):
    now, changes = 0.0, [(0.0, first)]
    for gap, record in history:
        now += gap
        changes.append((now, record))
    # A VM that was deleted does not come back: what follows is another one.
    last = max((n for n, (_, r) in enumerate(changes) if r is None), default=-1)
    believed = changes[last + 1][1].power_state if last + 1 < len(changes) else None
    begun = changes[last][0] if last >= 0 else -1.0
    after = {STARTED: "Running", RESUMED: "Running", STOPPED: "Halted"}
    after |= {PAUSED: "Paused", SUSPENDED: "Suspended"}
    for when, events in settled(*changes):
        if when.expected <= begun:
            continue
        for event in events:
            if event != MOVED:
                assert after[event] != believed, "told twice"
                believed = after[event]
    assert believed == (changes[-1][1] and changes[-1][1].power_state)


@settings(deadline=None)
@given(records, histories)
def test_every_change_is_told_in_time(first, history):
    settling = lifecycle.Settling()
    now, old = 0.0, first
    for gap, new in history:
        now += gap
        while settling.take(now):
            pass
        settling.note("OpaqueRef:vm", old, new, now)
        due = settling.next_due()
        assert due is None or now <= due <= now + HALT
        assert len(settling) <= 1
        old = new


# The thread


class Loop:
    """A session of our host whose events the test makes."""

    def __init__(self) -> None:
        self.host_ref = HERE
        hosts = {HERE: "host-a", THERE: "host-b"}
        self.records = {
            HostRecord: {
                ref: types.SimpleNamespace(hostname=name, uuid=f"uuid-of-{name}")
                for ref, name in hosts.items()
            }
        }
        self.listeners: list = []
        self.events = self

    def subscribe(self, listener) -> None:
        self.listeners.append(listener)

    def unsubscribe(self, listener) -> None:
        if listener in self.listeners:
            self.listeners.remove(listener)

    def tell(self, *changes: tuple[VmRecord | None, VmRecord | None]) -> None:
        """Report VMs that changed, each under a reference of its own server."""
        batch = []
        for old, new in changes:
            number = (new or old).nova_uuid
            batch.append(
                types.SimpleNamespace(kind=VmRecord, ref=number, old=old, new=new)
            )
        for listener in list(self.listeners):
            listener(batch)


class Nova:
    """What is told, and a manager that can be slow or broken."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.at_once = self.most_at_once = 0
        self.threads: set[str] = set()
        self.go_on = threading.Event()
        self.go_on.set()
        self.broken = False
        self.moves = False

    def emit(self, event) -> None:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        self.threads.add(threading.current_thread().name)
        self.go_on.wait(SECONDS)
        self.told.append((event.uuid, event.transition))
        self.at_once -= 1
        if self.broken:
            raise RuntimeError("a fault that the test put here")

    def moving(self, server_uuid: str) -> bool:
        if self.broken:
            raise RuntimeError("a fault that the test put here")
        return self.moves

    def wait(self, count: int) -> list[tuple[str, int]]:
        """Wait until so much was told, and some time for what is too much."""
        deadline = time.monotonic() + SECONDS
        while len(self.told) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(HALT * 1.5)
        return self.told


@pytest.fixture
def nova():
    return Nova()


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def running(loop, nova):
    made = lifecycle.Lifecycle(loop, nova.emit, nova.moving)
    made.start()
    yield made
    nova.go_on.set()
    made.stop()


def server(number: int, state: str, place: str = HERE) -> VmRecord:
    return vm(state, place, other_config={"nova_uuid": f"server-{number}"})


def test_events_are_told_by_a_thread_of_their_own(running, loop, nova):
    loop.tell((vm("Running"), vm("Paused")))
    assert nova.wait(1) == [("server-1", PAUSED)]
    assert nova.threads == {"xapi-lifecycle"}


def test_a_slow_nova_holds_up_nobody_and_hears_the_last_state_only(running, loop, nova):
    nova.go_on.clear()
    loop.tell((server(0, "Running"), server(0, "Paused")))
    deadline = time.monotonic() + SECONDS
    while not nova.at_once and time.monotonic() < deadline:
        time.sleep(0.01)
    began = time.monotonic()
    for number in range(1, 1001):
        loop.tell((server(number, "Running"), server(number, "Paused")))
        loop.tell((server(number, "Paused"), server(number, "Halted")))
    # The event loop's thread was not held up by Nova.
    assert time.monotonic() - began < SECONDS
    assert nova.told == []
    nova.go_on.set()
    told = nova.wait(1001)
    assert told[0] == ("server-0", PAUSED)
    assert sorted(told[1:]) == sorted((f"server-{n}", STOPPED) for n in range(1, 1001))
    assert nova.most_at_once == 1


def test_a_reading_of_everything_tells_what_differs_once(running, loop, nova):
    loop.tell(
        *((server(n, "Running"), server(n, "Halted")) for n in range(500)),
        *((server(n, "Running"), server(n, "Running")) for n in range(500, 1000)),
        (None, server(1000, "Running")),
        (server(1001, "Running"), None),
    )
    told = nova.wait(500)
    assert sorted(told) == sorted((f"server-{n}", STOPPED) for n in range(500))
    assert nova.most_at_once == 1


def test_trouble_in_nova_does_not_end_it(running, loop, nova):
    nova.broken = True
    loop.tell((server(1, "Running"), server(1, "Paused")))
    nova.wait(1)
    nova.broken = False
    loop.tell((server(2, "Running"), server(2, "Paused")))
    assert nova.wait(2)[-1] == ("server-2", PAUSED)


def test_other_classes_are_left_alone(running, loop, nova):
    for listener in loop.listeners:
        old, new = vm("Running"), vm("Paused")
        listener([types.SimpleNamespace(kind=HostRecord, ref="r", old=old, new=new)])
    assert nova.wait(0) == []


def warnings(caplog) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]


def test_a_move_by_others_is_warned_of(running, loop, nova, caplog):
    loop.tell((vm("Running"), vm("Running", THERE)))
    assert nova.wait(1) == [("server-1", MOVED)]
    (said,) = warnings(caplog)
    for name in ("server-1", "instance-00000001", "host-a", "host-b"):
        assert name in said


def test_a_host_that_is_gone_does_not_hinder_the_warning(running, loop, nova, caplog):
    loop.tell((vm("Running"), vm("Running", FAR)))
    assert nova.wait(1) == [("server-1", MOVED)]
    (said,) = warnings(caplog)
    assert "no longer has" in said


def test_a_move_of_novas_is_not_warned_of(running, loop, nova, caplog):
    nova.moves = True
    loop.tell((vm("Running"), vm("Running", THERE)))
    assert nova.wait(1) == [("server-1", MOVED)]
    assert warnings(caplog) == []


def test_a_move_is_warned_of_when_nova_cannot_be_asked(running, loop, nova, caplog):
    nova.broken = True
    loop.tell((vm("Running"), vm("Running", THERE)))
    nova.wait(1)
    assert any("did not move it" in said for said in warnings(caplog))


def test_the_end_is_prompt_and_final(running, loop, nova, monkeypatch):
    monkeypatch.setattr(lifecycle, "HALT_SECONDS", 1.0)
    loop.tell((vm("Running"), vm("Halted")))
    running.stop()
    running.stop()
    assert loop.listeners == []
    time.sleep(1.0)
    assert nova.told == []
    names = [thread.name for thread in threading.enumerate()]
    assert "xapi-lifecycle" not in names


def test_the_end_does_not_wait_for_nova_forever(running, loop, nova):
    nova.go_on.clear()
    loop.tell((vm("Running"), vm("Paused")))
    deadline = time.monotonic() + SECONDS
    while not nova.at_once and time.monotonic() < deadline:
        time.sleep(0.01)
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < SECONDS / 2

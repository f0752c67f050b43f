# SPDX-License-Identifier: Apache-2.0
"""What befalls servers on the host without Nova reaches Nova, once and soon."""

from __future__ import annotations

import logging
import threading
import time
from unittest import mock

import pytest
from nova import objects
from nova.compute import manager as compute_manager
from nova.compute import power_state, task_states, vm_states
from nova.virt import event as virt_event

from tests import builders, fixtures
from tests.sim.clients import vm_record
from xenapi_driver.ops import lifecycle

STARTED = virt_event.EVENT_LIFECYCLE_STARTED
STOPPED = virt_event.EVENT_LIFECYCLE_STOPPED
PAUSED = virt_event.EVENT_LIFECYCLE_PAUSED
RESUMED = virt_event.EVENT_LIFECYCLE_RESUMED
SUSPENDED = virt_event.EVENT_LIFECYCLE_SUSPENDED
MOVED = virt_event.EVENT_LIFECYCLE_MIGRATION_COMPLETED

# An event comes within one; a loaded machine gets more before a test fails.
SECONDS = 15
# After that nothing more comes of what was done before.
QUIET = lifecycle.HALT_SECONDS * 2


class Listener:
    """Stands where the compute manager listens.

    :ivar heard: (server's UUID, transition) in order
    """

    def __init__(self, driver) -> None:
        self.heard: list[tuple[str, int]] = []
        self._driver = driver
        self._news = threading.Condition()
        driver.register_event_listener(self._hear)

    def _hear(self, event) -> None:
        with self._news:
            self.heard.append((event.uuid, event.transition))
            self._news.notify_all()

    def wait(self, count: int) -> None:
        """Return once so many events have come; they have to come in time."""
        with self._news:
            self._news.wait_for(lambda: len(self.heard) >= count, SECONDS)
        assert len(self.heard) >= count, self.heard

    def rest(self) -> None:
        """Return once all that happened so far has been told."""
        self._driver.home.session.events.barrier()
        time.sleep(QUIET)


class Guest:
    """A VM without disks, and what an operator and its guest do to it."""

    def __init__(self, rig, instance, **changes) -> None:
        self._rig = rig
        self.instance = instance
        self.vm = rig.host.xenapi.VM
        record = {
            "name_label": instance.name,
            "affinity": rig.driver.home.session.host_ref,
            "other_config": {"nova_uuid": instance.uuid},
            "memory_dynamic_min": str(64 << 20),
            "memory_dynamic_max": str(64 << 20),
            "memory_static_max": str(64 << 20),
            "memory_static_min": str(64 << 20),
        }
        self.ref = self.vm.create(vm_record(**{**record, **changes}))
        self.uuid = self.vm.get_uuid(self.ref)

    def start(self) -> Guest:
        """Start it on the first host."""
        host = self._rig.driver.home.session.host_ref
        self.vm.start_on(self.ref, host, False, False)
        return self

    def by_itself(self, what: str) -> None:
        """Let the guest ``halt``, ``reboot`` or ``crash``."""
        self._rig.sim.act("guest", uuid=self.uuid, what=what)

    def move(self, host: str) -> None:
        """Have the pool move it."""
        self.vm.pool_migrate(self.ref, host, {"live": "true"})


@pytest.fixture
def pool(tmp_path):
    """A driver that is up, on the first of two hosts."""
    rig = fixtures.Rig(tmp_path, hosts=2)
    rig.start()
    yield rig
    rig.close()


def other_host(rig) -> str:
    here = rig.driver.home.session.host_ref
    (other,) = (ref for ref in rig.host.xenapi.host.get_all() if ref != here)
    return other


def server(rig, **changes) -> Guest:
    """Return a server that runs, of which Nova is not told yet."""
    return Guest(rig, builders.instance(""), **changes).start()


@pytest.fixture
def listener(pool):
    return Listener(pool.driver)


def quiet(listener) -> None:
    """Let everything so far be told, and forget it."""
    listener.rest()
    listener.heard.clear()


def heard_only(listener, expected: list[tuple[str, int]]) -> None:
    """Wait for these events; no others may come."""
    listener.wait(len(expected))
    listener.rest()
    assert listener.heard == expected


def test_everything_that_befalls_a_server_is_told_once(pool, listener, request):
    guest = server(pool, actions_after_crash="preserve")
    foreign = Guest(pool, builders.instance(""), other_config={}).start()
    elsewhere = Guest(pool, builders.instance(""), affinity=other_host(pool)).start()
    quiet(listener)
    steps = (
        (lambda one: one.vm.pause(one.ref), PAUSED),
        (lambda one: one.vm.unpause(one.ref), RESUMED),
        (lambda one: one.vm.suspend(one.ref), SUSPENDED),
        (lambda one: one.vm.resume(one.ref, False, False), RESUMED),
        (lambda one: one.by_itself("halt"), STOPPED),
        (lambda one: one.start(), STARTED),
        (lambda one: one.by_itself("crash"), PAUSED),
        (lambda one: one.vm.hard_shutdown(one.ref), STOPPED),
        (lambda one: one.start(), STARTED),
    )
    for number, (act, transition) in enumerate(steps, 1):
        act(foreign)
        act(elsewhere)
        began = time.monotonic()
        act(guest)
        listener.wait(number)
        took = f"{virt_event.NAMES[transition]} after {time.monotonic() - began:.3f} s"
        # For who wants to know (--junitxml): a test does not hold a machine to it.
        request.node.user_properties.append((f"event {number}", took))
    heard_only(listener, [(guest.instance.uuid, event) for _act, event in steps])


def test_a_guest_that_crashes_for_good_has_stopped(pool, listener):
    guest = server(pool, actions_after_crash="destroy")
    quiet(listener)
    guest.by_itself("crash")
    heard_only(listener, [(guest.instance.uuid, STOPPED)])


def test_a_reboot_tells_nothing(pool, listener, monkeypatch):
    guest = server(pool)
    quiet(listener)
    # So that a slow machine reboots in time.
    monkeypatch.setattr(lifecycle, "HALT_SECONDS", SECONDS)
    guest.by_itself("reboot")
    guest.vm.hard_reboot(guest.ref)
    guest.by_itself("crash")  # which restarts it
    # The same, by somebody who does it in two steps.
    guest.vm.hard_shutdown(guest.ref)
    guest.start()
    guest.vm.pause(guest.ref)
    heard_only(listener, [(guest.instance.uuid, PAUSED)])


def test_a_deletion_tells_nothing(pool, listener):
    guest = server(pool)
    guest.by_itself("halt")
    quiet(listener)
    guest.vm.destroy(guest.ref)
    heard_only(listener, [])


def warnings(caplog) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and "did not move it" in record.msg
    ]


def nova_says(**fields):
    """Replace Nova's database by one instance that is so."""
    instance = objects.Instance(**fields)
    return mock.patch.object(objects.Instance, "get_by_uuid", return_value=instance)


def test_a_move_by_the_pool_is_told_and_warned_of(pool, listener, caplog):
    guest = server(pool)
    here, there = pool.driver.home.session.host_ref, other_host(pool)
    quiet(listener)
    with nova_says(task_state=None, host="compute1"):
        guest.move(there)
        listener.wait(1)
        (said,) = warnings(caplog)
        for ref in (here, there):
            assert pool.host.record("host", ref)["uuid"] in said
        assert guest.instance.uuid in said
        # The way home is told as well, and is no reason to warn.
        guest.move(here)
        heard_only(listener, [(guest.instance.uuid, MOVED)] * 2)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(
    "nova",
    [
        {"task_state": task_states.MIGRATING, "host": "compute1"},
        {"task_state": None, "host": "compute2"},
    ],
    ids=["under way", "over"],
)
def test_a_migration_of_novas_is_not_warned_of(pool, listener, caplog, nova):
    guest = server(pool)
    quiet(listener)
    with nova_says(**nova):
        guest.move(other_host(pool))
        heard_only(listener, [(guest.instance.uuid, MOVED)])
    assert warnings(caplog) == []


def test_what_was_missed_is_told_once_it_is_read_again(pool, listener):
    guests = [server(pool) for _ in range(10)]
    quiet(listener)
    pool.sim.faults.add("event.from", ["EVENTS_LOST"], times=1)
    for guest in guests[:6]:
        guest.vm.hard_shutdown(guest.ref)
    listener.wait(6)
    listener.rest()
    expected = [(guest.instance.uuid, STOPPED) for guest in guests[:6]]
    assert sorted(listener.heard) == sorted(expected)


def test_a_restarted_toolstack_tells_what_changed_meanwhile(pool, listener):
    guest, other = server(pool), server(pool)
    quiet(listener)
    pool.sim.act("host", host=1, what="restart")
    guest.by_itself("halt")
    heard_only(listener, [(guest.instance.uuid, STOPPED)])
    assert pool.driver.get_info(other.instance).state == power_state.RUNNING


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_the_thread_lives_as_long_as_the_service(pool, listener):
    assert "xapi-lifecycle" in threads()
    guest = server(pool)
    pool.driver.cleanup_host("compute1")
    assert "xapi-lifecycle" not in threads()
    pool.driver.cleanup_host("compute1")
    pool.start()
    guest.vm.pause(guest.ref)
    listener.wait(1)
    assert listener.heard[-1] == (guest.instance.uuid, PAUSED)


def test_a_service_that_is_refused_leaves_no_thread(bare_rig):
    bare_rig.set_option("ovs_integration_bridge", "br-int")
    bare_rig.set_option("sr_matching_filter", "nonsense")
    with pytest.raises(Exception, match="nonsense"):
        bare_rig.start()
    assert "xapi-lifecycle" not in threads()


def test_events_are_dropped_while_nobody_listens(pool):
    guest = server(pool)
    guest.by_itself("halt")
    time.sleep(QUIET)
    listener = Listener(pool.driver)
    guest.start()
    heard_only(listener, [(guest.instance.uuid, STARTED)])


# What Nova's own handler makes of them


class Nova:
    """The compute manager's handler of events, its API and database replaced.

    :ivar asked: what it asked the API to do, with the instance's UUID
    """

    def __init__(self, rig, guest) -> None:
        self.asked: list[tuple[str, str]] = []
        self.guest, self.instance = guest, guest.instance
        manager = compute_manager.ComputeManager.__new__(compute_manager.ComputeManager)
        manager.driver, manager.host = rig.driver, self.instance.host
        manager.compute_api = self
        self._manager = manager
        self._handled = threading.Semaphore(0)
        rig.driver.register_event_listener(self._handle)

    def _handle(self, event) -> None:
        self._manager.handle_events(event)
        self._handled.release()

    def stop(self, _context, instance) -> None:
        """Stand for the API's stop."""
        self.asked.append(("stop", instance.uuid))

    def force_stop(self, _context, instance) -> None:
        """Stand for the API's force_stop."""
        self.asked.append(("force_stop", instance.uuid))

    def wait(self) -> None:
        """Return once one event has been handled; it has to come in time."""
        assert self._handled.acquire(timeout=SECONDS)


@pytest.fixture
def nova(pool):
    """Nova with one server, which is up and which it believes to be up."""
    instance = builders.instance(
        "",
        host="compute1",
        vm_state=vm_states.ACTIVE,
        task_state=None,
        power_state=power_state.RUNNING,
        shutdown_terminate=False,
    )
    with (
        mock.patch.object(objects.Instance, "get_by_uuid", return_value=instance),
        mock.patch.object(objects.Instance, "refresh", autospec=True),
        mock.patch.object(objects.Instance, "save", autospec=True),
    ):
        guest = Guest(pool, instance).start()
        # Nova is not there yet and does not hear of the start.
        time.sleep(QUIET)
        yield Nova(pool, guest)


def test_nova_stops_a_server_whose_guest_has_shut_down(nova):
    nova.guest.by_itself("halt")
    nova.wait()
    assert nova.asked == [("stop", nova.instance.uuid)]
    assert nova.instance.power_state == power_state.SHUTDOWN


def test_nova_notes_a_pause_and_its_end(nova):
    nova.guest.vm.pause(nova.guest.ref)
    nova.wait()
    assert nova.instance.power_state == power_state.PAUSED
    nova.guest.vm.unpause(nova.guest.ref)
    nova.wait()
    assert nova.instance.power_state == power_state.RUNNING
    assert nova.asked == []


def test_nova_stops_what_an_operator_suspends(nova):
    nova.guest.vm.suspend(nova.guest.ref)
    nova.wait()
    assert nova.asked == [("stop", nova.instance.uuid)]


def test_nova_stops_what_an_operator_starts(nova):
    nova.guest.by_itself("halt")
    nova.wait()
    nova.asked.clear()
    nova.instance.vm_state = vm_states.STOPPED
    nova.guest.start()
    nova.wait()
    assert nova.asked == [("force_stop", nova.instance.uuid)]


def test_nova_leaves_alone_what_it_is_working_on(nova):
    nova.instance.task_state = task_states.POWERING_OFF
    nova.guest.by_itself("halt")
    nova.wait()
    assert nova.asked == []
    assert nova.instance.power_state == power_state.RUNNING


def test_nova_does_nothing_about_a_move_by_others(pool, nova):
    nova.guest.move(other_host(pool))
    nova.wait()
    assert nova.asked == []
    assert nova.instance.power_state == power_state.RUNNING
    assert pool.driver.get_info(nova.instance).state == power_state.RUNNING

# SPDX-License-Identifier: Apache-2.0
"""Stop, start, reboot and pause, in every state that Nova may ask in."""

from __future__ import annotations

from unittest import mock

import pytest
from nova import exception as nova_exception
from nova.compute import power_state

from tests import builders
from tests.sim.clients import wait_until
from xenapi_driver.ops import power
from xenapi_driver.xapi import errors, vm
from xenapi_driver.xapi.session import Session

# What a host answers when the guest was quicker than the request.
HALTED = ["VM_BAD_POWER_STATE", "OpaqueRef:vm", "running", "halted"]


@pytest.fixture
def server(rig):
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    return instance


def state(rig, instance) -> int:
    return rig.driver.get_info(instance).state


@pytest.mark.parametrize("timeout", [0, 60])
def test_stop_and_start(rig, server, timeout):
    rig.driver.power_off(server, timeout=timeout)
    assert state(rig, server) == power_state.SHUTDOWN
    rig.driver.power_off(server, timeout=timeout)
    rig.driver.power_on(rig.context, server, None)
    assert state(rig, server) == power_state.RUNNING
    rig.driver.power_on(rig.context, server, None)


@pytest.mark.parametrize("kind", ["SOFT", "HARD"])
def test_reboot_gives_a_new_domain(rig, server, kind):
    before = rig.driver.get_info(server).internal_id
    rig.driver.reboot(rig.context, server, None, kind)
    assert state(rig, server) == power_state.RUNNING
    assert rig.driver.get_info(server).internal_id != before


@pytest.mark.parametrize("kind", ["SOFT", "HARD"])
@pytest.mark.parametrize("prepare", ["power_off", "pause"])
def test_reboot_works_from_other_states(rig, server, kind, prepare):
    getattr(rig.driver, prepare)(server)
    rig.driver.reboot(rig.context, server, None, kind)
    assert state(rig, server) == power_state.RUNNING


def test_pause_and_unpause(rig, server):
    rig.driver.pause(server)
    assert state(rig, server) == power_state.PAUSED
    rig.driver.unpause(server)
    assert state(rig, server) == power_state.RUNNING


def test_a_guest_that_does_not_stop_is_stopped_hard(rig, server):
    (record,) = rig.host.records("VM", name_label=server.name)
    fault = ["VM_SHUTDOWN_TIMEOUT", record["uuid"], "60"]
    rig.sim.faults.add("VM.clean_shutdown", fault)
    with mock.patch.object(power.LOG, "info") as said:
        rig.driver.power_off(server, timeout=60)
    assert state(rig, server) == power_state.SHUTDOWN
    assert said.call_args.kwargs == {"instance_uuid": server.uuid}


def suspend(rig, instance) -> None:
    session = rig.driver.home.session
    found = vm.find_server(session, instance.name, instance.uuid)
    session.call("VM.suspend", found.ref)
    assert state(rig, instance) == power_state.SUSPENDED


def test_start_of_a_suspended_server_keeps_its_memory(rig, server):
    suspend(rig, server)
    with rig.recording() as made:
        rig.driver.power_on(rig.context, server, None)
    assert state(rig, server) == power_state.RUNNING
    assert "Async.VM.resume_on" in made


def test_stop_and_reboot_of_a_suspended_server(rig, server):
    suspend(rig, server)
    rig.driver.reboot(rig.context, server, None, "HARD")
    assert state(rig, server) == power_state.RUNNING
    suspend(rig, server)
    rig.driver.power_off(server, timeout=60)
    assert state(rig, server) == power_state.SHUTDOWN


def test_a_guest_that_stops_by_itself_first_is_stopped(rig, server):
    rig.sim.faults.add("VM.clean_shutdown", HALTED)
    rig.driver.power_off(server, timeout=60)
    assert state(rig, server) == power_state.SHUTDOWN


def test_a_guest_that_stops_before_its_reboot_is_started(rig, server):
    stopped_meanwhile = vm.hard_reboot

    def stop_first(session, ref):
        vm.hard_shutdown(session, ref)
        stopped_meanwhile(session, ref)

    with mock.patch.object(vm, "hard_reboot", stop_first):
        rig.driver.reboot(rig.context, server, None, "HARD")
    assert state(rig, server) == power_state.RUNNING


def test_a_vm_that_vanishes_under_a_verb_is_not_found(rig, server):
    rig.sim.faults.add("VM.pause", ["HANDLE_INVALID", "VM", "OpaqueRef:gone"])
    with pytest.raises(nova_exception.InstanceNotFound):
        rig.driver.pause(server)


@pytest.mark.parametrize(
    ("method", "verb", "kind"),
    [
        ("VM.hard_shutdown", "power_off", nova_exception.InstancePowerOffFailure),
        ("VM.pause", "pause", nova_exception.NovaException),
    ],
)
def test_a_refusal_is_named_for_what_was_asked(rig, server, method, verb, kind):
    rig.sim.faults.add(method, ["INTERNAL_ERROR", "a fault that the test put here"])
    with pytest.raises(kind, match="put here") as caught:
        getattr(rig.driver, verb)(server)
    assert "deploy" not in str(caught.value)


def test_ports_stay_with_a_server_that_cannot_be_stopped(rig, server):
    # Nova frees a server's addresses after any error but this one.
    rig.sim.faults.add("VM.hard_shutdown", ["INTERNAL_ERROR", "put here"])
    with pytest.raises(nova_exception.InstancePowerOffFailure, match="put here"):
        rig.destroy(server)
    assert state(rig, server) == power_state.RUNNING


def test_verbs_on_a_server_that_is_gone(rig, server):
    rig.destroy(server)
    for verb in ("power_off", "pause", "unpause"):
        with pytest.raises(nova_exception.InstanceNotFound):
            getattr(rig.driver, verb)(server)


def test_a_server_on_a_host_that_is_away_keeps_its_ports(rig, server):
    """It may run on; after any other error Nova gives the ports away."""
    away = errors.HostUnreachable("https://192.0.2.10", "no route")
    unheard = mock.PropertyMock(side_effect=away)
    with (
        mock.patch.object(Session, "records", unheard),
        pytest.raises(nova_exception.InstancePowerOffFailure, match="no route"),
    ):
        rig.destroy(server)
    assert state(rig, server) == power_state.RUNNING
    rig.destroy(server)
    assert rig.driver.list_instances() == []


def test_a_host_that_cannot_be_asked_has_lost_no_server(rig, server, monkeypatch):
    """Nova takes InstanceNotFound for the truth, and SHUTDOWN for a reason to stop."""
    session = rig.driver.home.session
    monkeypatch.setattr(session.events, "_patience", 0.2)
    rig.sim.faults.add("event.from", ["INTERNAL_ERROR", "a fault"], times=-1)
    rig.host.call("VM.pause", rig.host.records("VM", name_label=server.name)[0]["uuid"])

    def unavailable() -> bool:
        try:
            rig.driver.get_info(server)
        except nova_exception.HypervisorUnavailable:
            return True
        return False

    wait_until(unavailable)
    with pytest.raises(nova_exception.HypervisorUnavailable):
        rig.driver.list_instance_uuids()
    rig.sim.faults.clear()
    wait_until(lambda: not unavailable(), 10)

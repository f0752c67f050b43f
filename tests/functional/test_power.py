# SPDX-License-Identifier: Apache-2.0
"""Stop, start, reboot and pause, in every state that Nova may ask in."""

from __future__ import annotations

import pytest
from nova import exception as nova_exception
from nova.compute import power_state

from tests import builders


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
    (vm,) = rig.host.records("VM", name_label=server.name)
    rig.sim.faults.add("VM.clean_shutdown", ["VM_SHUTDOWN_TIMEOUT", vm["uuid"], "60"])
    rig.driver.power_off(server, timeout=60)
    assert state(rig, server) == power_state.SHUTDOWN


def test_verbs_on_a_server_that_is_gone(rig, server):
    rig.destroy(server)
    for verb in ("power_off", "pause", "unpause"):
        with pytest.raises(nova_exception.InstanceNotFound):
            getattr(rig.driver, verb)(server)

# SPDX-License-Identifier: Apache-2.0
"""Hosts that are disabled, emptied, restarted, turned off and on again."""

import threading
import time

import pytest

from tests.sim.clients import XmlClient, refusal, vm_record, wait_until
from tests.sim.pools import is_live
from xenapi_driver.sim import Behaviour, Simulator
from xenapi_driver.sim.classes import host_power


@pytest.fixture
def pair(tmp_path):
    """A pool of two hosts that start fast."""
    behaviour = Behaviour(shutdown_timeout=0.2, boot_time=1.0, dead_after=60.0)
    sim = Simulator(tmp_path, hosts=2, compute_vm=False, behaviour=behaviour)
    yield sim
    sim.close()


@pytest.fixture
def client(pair):
    return XmlClient(pair.handle)


@pytest.fixture
def second(client):
    """The supporter."""
    master = client.call("pool.get_master", client.call("pool.get_all")[0])
    return next(ref for ref in client.call("host.get_all") if ref != master)


def turn_off(client, host):
    client.call("host.disable", host)
    client.call("host.shutdown", host)
    wait_until(lambda: not is_live(client, host))


def running_on(client, host):
    vm = client.call("VM.create", vm_record())
    client.call("VM.start_on", vm, host, False, False)
    return vm


@pytest.mark.parametrize("method", ["host.reboot", "host.shutdown"])
def test_a_host_goes_only_disabled_and_empty(client, second, method):
    assert refusal(client, method, second) == ["HOST_NOT_DISABLED"]
    vm = running_on(client, second)
    client.call("host.disable", second)
    assert refusal(client, method, second) == ["HOST_HAS_RESIDENT_VMS", second]
    assert is_live(client, second)
    client.call("VM.hard_shutdown", vm)


def test_a_host_that_was_restarted_takes_guests_again(client, second):
    old = client.call("host.get_other_config", second)["boot_time"]
    time.sleep(1.1 - time.time() % 1)  # boot times are whole seconds
    client.call("host.disable", second)
    client.call("host.reboot", second)
    wait_until(lambda: not is_live(client, second))
    assert refusal(client, "host.get_servertime", second) == ["HOST_OFFLINE", second]
    wait_until(lambda: is_live(client, second))
    assert client.call("host.get_enabled", second)
    assert client.call("host.get_other_config", second)["boot_time"] > old
    running_on(client, second)


def test_a_host_stays_disabled_where_that_was_asked(client, second, monkeypatch):
    # Long enough to be asked on its way out, also on a busy machine.
    monkeypatch.setattr(host_power, "_MOMENT", 1.0)
    client.call("host.disable", second, False)
    client.call("host.reboot", second)
    code = refusal(client, "host.enable", second)[0]
    assert code == "HOST_DISABLED_UNTIL_REBOOT"
    wait_until(lambda: not is_live(client, second))
    wait_until(lambda: is_live(client, second))
    assert not client.call("host.get_enabled", second)
    client.call("host.enable", second)
    running_on(client, second)


def test_a_host_that_was_turned_off_is_turned_on_from_afar(pair, client, second):
    assert refusal(client, "host.power_on", second) == ["HOST_IS_LIVE", second]
    client.call("host.set_power_on_mode", second, "wake-on-lan", {})
    turn_off(client, second)
    with pytest.raises(ConnectionError):
        XmlClient(pair.door(1))
    client.call("host.power_on", second)
    wait_until(lambda: is_live(client, second))
    running_on(client, second)


def test_a_host_without_a_way_to_turn_it_on_stays_off(client, second):
    turn_off(client, second)
    code = refusal(client, "host.power_on", second)[0]
    assert code == "HOST_POWER_ON_MODE_DISABLED"


def test_a_coordinator_that_restarts_has_forgotten_sessions(pair, client):
    first = client.call("pool.get_master", client.call("pool.get_all")[0])
    vm = client.call("VM.create", vm_record())
    client.call("host.disable", first)
    client.call("host.reboot", first)
    wait_until(lambda: not pair.machines.all[0].running)
    with pytest.raises(ConnectionError):
        client.call("VM.get_all")
    wait_until(lambda: pair.machines.all[0].running)
    assert refusal(client, "VM.get_all")[0] == "SESSION_INVALID"
    assert vm in XmlClient(pair.handle).call("VM.get_all")


def test_a_toolstack_restarts_alone(pair, client):
    first = client.call("pool.get_master", client.call("pool.get_all")[0])
    vm = running_on(client, first)
    client.call("host.restart_agent", first)
    wait_until(lambda: not pair.world.db.refs("session"))
    again = XmlClient(pair.handle)
    assert again.call("VM.get_power_state", vm) == "Running"


def test_a_second_evacuation_has_to_wait(pair, client, second):
    vms = [running_on(client, second) for _ in range(2)]
    client.call("host.disable", second)
    under_way, go_on = threading.Event(), threading.Event()
    take = pair.world.take_domid

    def wait_for_us():
        under_way.set()
        with pair.world.db.changed:
            pair.world.db.changed.wait_for(go_on.is_set, 5)
        return take()

    pair.world.take_domid = wait_for_us
    task = client.call("Async.host.evacuate", second)
    assert under_way.wait(5)
    operations = client.call("host.get_current_operations", second)
    assert operations == {task: "evacuate"}
    busy = [client.call("VM.get_current_operations", vm) for vm in vms]
    assert [list(one.values()) for one in busy if one] == [["pool_migrate"]]
    refused = refusal(client, "host.evacuate", second)
    assert refused == ["HOST_EVACUATE_IN_PROGRESS", second]
    client.call("task.cancel", task)
    go_on.set()
    client.call("pool.set_name_label", client.call("pool.get_all")[0], "wake up")
    wait_until(lambda: client.call("task.get_status", task) != "pending")
    assert client.call("task.get_status", task) == "cancelled"
    assert client.call("host.get_current_operations", second) == {}
    moved = [client.call("VM.get_resident_on", vm) != second for vm in vms]
    assert sorted(moved) == [False, True]
    pair.world.take_domid = take
    client.call("host.evacuate", second)
    assert second not in [client.call("VM.get_resident_on", vm) for vm in vms]

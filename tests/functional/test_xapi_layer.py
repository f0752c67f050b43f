# SPDX-License-Identifier: Apache-2.0
"""The XAPI layer on the embedded host, through each of its doors."""

import threading

import pytest

from tests import embedded, fixtures
from tests.sim.clients import vbd_record, vdi_record, vif_record, vm_record
from xenapi_driver.sim import Simulator
from xenapi_driver.xapi import (
    errors,
    host,
    network,
    pbd,
    plugins,
    sr,
    vbd,
    vdi,
    vif,
    vm,
)

MIB = 2**20


@pytest.fixture
def sim(tmp_path):
    simulator = Simulator(tmp_path, plugins_dir=fixtures.PLUGINS)
    yield simulator
    simulator.close()


@pytest.fixture(params=["in-process", "https"])
def session(request, sim):
    door = embedded.inside(sim)
    if request.param == "https":
        door = embedded.through(sim.serve(tls=True))
    with embedded.session(door) as session:
        yield session


def server_record(host_ref):
    size = str(64 * MIB)
    return vm_record(
        name_label="instance-1",
        affinity=host_ref,
        memory_static_max=size,
        memory_dynamic_max=size,
        memory_dynamic_min=size,
        memory_static_min=size,
        HVM_boot_params={"order": "cd"},
        other_config={"nova_uuid": "n"},
    )


def disk_record(sr_ref):
    return vdi_record(sr_ref, virtual_size=16 * MIB, other_config={"a": "b"})


def test_login_finds_host_and_pool(sim, session):
    assert session.host.uuid == sim.host_uuid
    assert session.pool.master == session.host_ref
    record = host.get(session, session.host_ref)
    assert record.enabled
    assert host.free_memory(session, record.ref) > 0


def test_default_sr_is_plugged_here(sim, session):
    record = sr.get(session, session.pool.default_sr)
    assert record.uuid == sim.default_sr_uuid
    assert pbd.of_host_sr(session, session.host_ref, record.ref).currently_attached
    assert record.free_bytes > 0
    assert record.other_config["i18n-key"] == "local-storage"
    assert record.uuid in [one.uuid for one in sr.all(session)]


def test_integration_bridge_is_made_once(session):
    assert network.find_by_bridge(session, "br-int") is None
    ref = network.create(
        session,
        {"name_label": "int", "bridge": "br-int", "managed": False, "other_config": {}},
    )
    assert network.find_by_bridge(session, "br-int").ref == ref
    network.destroy(session, ref)
    network.destroy(session, ref)
    assert network.find_by_name(session, "int") is None


def test_disk_lives_and_dies(session):
    sr_ref = session.pool.default_sr
    ref = vdi.create(session, disk_record(sr_ref))
    twin = vdi.clone(session, ref)
    vdi.set_name_label(session, twin, "twin")
    vdi.set_other_config(session, twin, {"c": "d"})
    vdi.resize(session, twin, 32 * MIB)
    copy = vdi.copy(session, twin, sr_ref)
    (found,) = [one for one in vdi.find_by_name(session, "twin") if one.ref == twin]
    assert found.virtual_size == 32 * MIB
    assert found.other_config["c"] == "d"
    assert vdi.by_uuid(session, found.uuid) == found
    sr.scan(session, sr_ref)
    assert {ref, twin, copy} <= {one.ref for one in vdi.in_sr(session, sr_ref)}
    for one in (ref, twin, copy, copy):
        vdi.destroy(session, one)
    # The host collects their base copies by itself, a little later.
    assert [one for one in vdi.in_sr(session, sr_ref) if one.managed] == []


def test_server_lives_and_dies(sim, session):
    before = sim.inventory()
    here = session.host_ref
    disk = vdi.create(session, disk_record(session.pool.default_sr))
    wire = network.find_by_bridge(session, "xenbr0")
    ref = vm.create(session, server_record(here))
    vbd.create(session, vbd_record(ref, disk))
    vif.create(session, vif_record(ref, wire.ref, MAC="fa:16:3e:00:00:01"))
    with session.requests.recording() as names:
        vm.start_on(session, ref, here, paused=True)
    assert names == ["Async.VM.start_on", "task.destroy"]
    assert vm.get(session, ref).power_state == "Paused"
    vm.unpause(session, ref)
    vm.clean_reboot(session, ref)
    vm.hard_reboot(session, ref)
    record = vm.get(session, ref)
    assert (record.power_state, record.resident_on) == ("Running", here)
    assert [one.ref for one in vm.ours(session)] == [ref]
    assert [one.vdi for one in vbd.of_vm(session, ref)] == [disk]
    assert [one.mac for one in vif.of_vm(session, ref)] == ["fa:16:3e:00:00:01"]
    with pytest.raises(errors.VmBadPowerState) as caught:
        vm.start_on(session, ref, here)
    assert caught.value.call == "VM.start_on"
    vm.clean_shutdown(session, ref, timeout=30)
    vm.destroy(session, ref)
    vm.destroy(session, ref)
    vdi.destroy(session, disk)
    assert sim.inventory() == before


def test_many_servers_start_at_once(sim, session):
    refs = [vm.create(session, server_record(session.host_ref)) for _number in range(6)]
    threads = [
        threading.Thread(target=vm.start_on, args=(session, ref, session.host_ref))
        for ref in refs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [one.power_state for one in vm.ours(session)] == ["Running"] * 6
    assert sim.inventory()["task"] == 0


def test_plugins_have_our_version(session):
    assert plugins.check_version(session).version.startswith("3.")


def test_plugin_refusal_keeps_its_code(session):
    with pytest.raises(errors.PluginError) as caught:
        plugins.call(session, "glance", "download_vhd", {})
    assert caught.value.code == "BAD_ARGUMENT"


def test_expired_session_is_renewed(sim, session):
    sim.faults.add("host.compute_free_memory", action="expire")
    assert host.free_memory(session, session.host_ref) > 0
    assert vm.ours(session) == []
    assert sim.requests.by_method["session.login_with_password"] == 2


def test_full_sr_has_its_own_class(sim, session):
    sim.faults.add("VDI.create", ["SR_BACKEND_FAILURE_44", "", "No space left", ""])
    with pytest.raises(errors.SrFull, match="no room left"):
        vdi.create(session, disk_record(session.pool.default_sr))


def test_methods_tell_what_the_host_can_do(session):
    assert {"VM.start_on", "VDI.clone", "event.from"} <= session.methods()


def test_wrong_password_is_one_sentence(sim):
    session = embedded.session(embedded.inside(sim), password="wrong")
    with pytest.raises(errors.AuthenticationFailed, match="connection_password"):
        session.login()

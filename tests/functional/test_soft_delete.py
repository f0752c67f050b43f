# SPDX-License-Identifier: Apache-2.0
"""Soft delete and restore, and the clean-up of a build that was never begun."""

from __future__ import annotations

import pytest
import XenAPI
from nova import exception as nova_exception

from tests import breaking, builders


@pytest.fixture
def server(rig):
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    return instance


def vm_of(rig, instance):
    (record,) = rig.host.records("VM", name_label=instance.name)
    return record


def start(rig, instance, verb="start"):
    ref = rig.host.xenapi.VM.get_by_uuid(vm_of(rig, instance)["uuid"])
    if verb == "start":
        rig.host.xenapi.VM.start(ref, False, False)
    else:
        place = rig.host.xenapi.host.get_all()[0]
        rig.host.xenapi.VM.start_on(ref, place, False, False)


@pytest.mark.parametrize("verb", ["start", "start_on"])
def test_nobody_starts_a_server_that_is_deleted_softly(rig, server, verb):
    with rig.recording() as made:
        rig.driver.soft_delete(server)
    assert len(made) <= 4, made
    assert vm_of(rig, server)["power_state"] == "Halted"
    with pytest.raises(XenAPI.Failure) as caught:
        start(rig, server, verb)
    assert caught.value.details[0] == "OPERATION_BLOCKED"
    assert "restoring" in caught.value.details[2]


def test_a_restored_server_runs_and_may_be_stopped_and_started(rig, server):
    rig.driver.soft_delete(server)
    with rig.recording() as made:
        rig.driver.restore(server)
    assert len(made) <= 4, made
    assert rig.driver.get_info(server).state == 1
    rig.driver.power_off(server)
    start(rig, server)
    assert vm_of(rig, server)["blocked_operations"] == {}


def test_other_locks_stay(rig, server):
    rig.host.call(
        "VM.add_to_blocked_operations", vm_of(rig, server)["uuid"], "destroy", "no"
    )
    rig.driver.soft_delete(server)
    rig.driver.restore(server)
    assert vm_of(rig, server)["blocked_operations"] == {"destroy": "no"}


def test_a_server_that_is_halted_already(rig, server):
    rig.driver.power_off(server)
    with rig.recording() as made:
        rig.driver.soft_delete(server)
        rig.driver.soft_delete(server)
    assert made == 2 * ["VM.add_to_blocked_operations"]


def test_what_does_not_stop_is_not_locked(rig, server):
    rig.sim.faults.add("VM.hard_shutdown", breaking.REFUSAL)
    with pytest.raises(nova_exception.InstancePowerOffFailure):
        rig.driver.soft_delete(server)
    assert vm_of(rig, server)["blocked_operations"] == {}
    assert vm_of(rig, server)["power_state"] == "Running"


def test_what_does_not_start_stays_locked(rig, server):
    rig.driver.soft_delete(server)
    rig.sim.faults.add("VM.start_on", breaking.REFUSAL)
    with pytest.raises(nova_exception.InstancePowerOnFailure):
        rig.driver.restore(server)
    assert set(vm_of(rig, server)["blocked_operations"]) == {"start", "start_on"}


def test_a_softly_deleted_server_is_destroyed_for_good(rig):
    rig.spawn(builders.instance(rig.image_id))
    before = rig.host.records("VDI", managed=True)
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    rig.driver.soft_delete(instance)
    rig.destroy(instance)
    assert rig.host.records("VM", name_label=instance.name) == []
    after = rig.host.records("VDI", managed=True)
    assert sorted(v["uuid"] for v in after) == sorted(v["uuid"] for v in before)


def test_without_a_vm_there_is_nothing_to_delete_softly(rig):
    for verb in (rig.driver.soft_delete, rig.driver.restore):
        with pytest.raises(nova_exception.InstanceNotFound):
            verb(builders.instance(rig.image_id))


def test_cleaning_up_after_a_build_takes_its_disks_and_no_servers(rig, server):
    broken = builders.instance(rig.image_id)
    rig.spawn(broken)
    rig.destroy(broken)
    ref = rig.host.xenapi.VDI.get_by_uuid(
        rig.host.records("VDI", name_label=f"Glance Image {rig.image_id}")[0]["uuid"]
    )
    orphan = rig.host.xenapi.VDI.clone(ref)
    rig.host.xenapi.VDI.set_name_label(orphan, broken.name)
    rig.host.xenapi.VDI.set_other_config(
        orphan, {"nova_instance_uuid": broken.uuid, "nova_disk_type": "root"}
    )
    rig.driver.home.session.events.barrier()
    for one in (broken, broken, server):
        rig.driver.failed_spawn_cleanup(one)
    assert rig.host.records("VDI", name_label=broken.name) == []
    assert rig.driver.get_info(server).state == 1
    assert len(rig.host.records("VDI", name_label=server.name)) == 1

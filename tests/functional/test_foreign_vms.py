# SPDX-License-Identifier: Apache-2.0
"""VMs that bear a server's name and are not that server: hands off."""

from __future__ import annotations

import pytest
from nova import exception as nova_exception

from tests import builders
from xenapi_driver.steps.build import Server
from xenapi_driver.steps.vm_record import vm_record
from xenapi_driver.xapi import vm as xapi_vm


@pytest.fixture
def foreign(rig):
    """A running server, and an instance of another deployment with its name."""
    owner = builders.instance(rig.image_id)
    rig.spawn(owner)
    return owner, builders.instance(rig.image_id, id=owner.id)


def add_namesake(rig, instance) -> None:
    """Create a VM as an operator would who happens to choose that name."""
    server = Server("", instance.name, "", "vhd", memory_mb=64, vcpus=1, root_gb=1)
    home = rig.driver.home
    record = {**vm_record(server, home.host.ref), "other_config": {}}
    xapi_vm.create(home.session, record)


def test_a_refused_build_does_not_destroy_the_vm_in_its_way(rig, foreign):
    owner, namesake = foreign
    assert owner.name == namesake.name
    with pytest.raises(nova_exception.InstanceExists):
        rig.spawn(namesake)
    # The compute manager destroys after every failed build.
    rig.destroy(namesake)
    assert rig.driver.get_info(owner).state == 1
    (vm,) = rig.host.records("VM", name_label=owner.name)
    assert len(vm["VBDs"]) == 1


@pytest.mark.parametrize("verb", ["get_info", "power_off", "pause", "unpause"])
def test_verbs_do_not_reach_a_namesake(rig, foreign, verb):
    owner, namesake = foreign
    with pytest.raises(nova_exception.InstanceNotFound):
        getattr(rig.driver, verb)(namesake)
    assert rig.driver.get_info(owner).state == 1


def test_a_server_is_found_beside_a_namesake(rig, foreign):
    owner, _namesake = foreign
    add_namesake(rig, owner)
    assert rig.driver.get_info(owner).state == 1
    rig.destroy(owner)
    assert len(rig.host.records("VM", name_label=owner.name)) == 1


def test_two_namesakes_refuse_a_build_as_one_does(rig, foreign):
    owner, namesake = foreign
    add_namesake(rig, owner)
    with pytest.raises(nova_exception.InstanceExists):
        rig.spawn(namesake)


def test_destroy_takes_a_disk_that_its_vm_never_got(rig):
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    (vm,) = rig.host.records("VM", name_label=instance.name)
    rig.driver.power_off(instance)
    rig.driver.home.session.call("VBD.destroy", vm["VBDs"][0])
    assert len(rig.host.records("VDI", name_label=instance.name)) == 1
    rig.destroy(instance)
    assert rig.host.records("VDI", name_label=instance.name) == []


def test_a_disk_of_another_server_outlives_the_vm_it_was_lent_to(rig):
    """An operator repairs a server's disk by plugging it into another's VM."""
    helper, patient = (builders.instance(rig.image_id) for _ in range(2))
    for instance in (helper, patient):
        rig.spawn(instance)
        rig.driver.power_off(instance)
    (lent,) = rig.host.records("VDI", name_label=patient.name)
    (vm,) = rig.host.records("VM", name_label=helper.name)
    xapi = rig.host.xenapi
    record = {
        **xapi.VBD.get_record(vm["VBDs"][0]),
        "VM": xapi.VM.get_by_uuid(vm["uuid"]),
        "VDI": xapi.VDI.get_by_uuid(lent["uuid"]),
        "userdevice": "7",
    }
    xapi.VBD.create(record)
    rig.driver.home.session.events.barrier()
    rig.destroy(helper)
    (left,) = rig.host.records("VDI", name_label=patient.name)
    assert left["uuid"] == lent["uuid"]
    assert rig.host.records("VDI", name_label=helper.name) == []
    rig.destroy(patient)
    assert rig.host.records("VDI", name_label=patient.name) == []

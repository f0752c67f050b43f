# SPDX-License-Identifier: Apache-2.0
"""Servers that boot from ISO images: their CDs, and what is left when they go."""

from __future__ import annotations

import random

import pytest
from nova import exception as nova_exception

from tests import breaking, builders

LIBRARY = {"i18n-key": "local-storage-iso"}
# Not a whole number of the blocks that disks are made of.
CD = random.Random(9).randbytes(3 * builders.MIB + 2048)
# Two requests more than a disk that is cached, one of them for the blank disk.
SPAWN_CD_ONE_VIF = 11
DESTROY_CD_ONE_VIF = 6


@pytest.fixture
def library(bare_rig):
    """A rig that is up, whose host has a library for CDs."""
    bare_rig.library = bare_rig.host.create_sr("iso", **LIBRARY)
    bare_rig.start()
    bare_rig.image_id = add_cd(bare_rig, CD)
    return bare_rig


def add_cd(rig, data, **changes):
    kinds = {"disk_format": "iso", "container_format": "bare"}
    return rig.add_image(data, **{**kinds, **changes})


def folder(rig):
    return rig.sim.world.dom0.root / "run/sr-mount" / rig.library


def cds(rig):
    return sorted(folder(rig).glob("*.img"))


def drives(rig, instance):
    """Return the VM's drives by their position, each with its disk's record."""
    (vm,) = rig.host.records("VM", name_label=instance.name)
    found = {}
    for ref in vm["VBDs"]:
        drive = rig.host.record("VBD", ref)
        found[drive["userdevice"]] = drive, rig.host.record("VDI", drive["VDI"])
    return found


def test_a_server_boots_from_the_cd_beside_a_blank_disk(library):
    before = library.sim.inventory()
    instance = builders.instance(library.image_id, root_gb=2)
    library.spawn(instance)
    (vm,) = library.host.records("VM", name_label=instance.name)
    assert vm["power_state"] == "Running"
    assert vm["HVM_boot_params"]["order"] == "dc"
    found = drives(library, instance)
    assert sorted(found) == ["0", "1"]
    (drive, cd), (other, disk) = found["1"], found["0"]
    assert (drive["type"], drive["mode"], drive["bootable"]) == ("CD", "RO", True)
    assert (other["type"], other["mode"]) == ("Disk", "RW")
    assert disk["virtual_size"] == str(2 * builders.GIB)
    assert int(disk["physical_utilisation"]) < builders.MIB, "it is not blank"
    (file,) = cds(library)
    assert file.name == f"{cd['uuid']}.img"
    assert file.read_bytes() == CD
    for one in (cd, disk):
        assert one["name_label"] == instance.name
        assert one["other_config"]["nova_instance_uuid"] == instance.uuid
    cached = f"Glance Image {instance.image_ref}"
    assert library.host.records("VDI", name_label=cached) == []
    library.destroy(instance)
    assert library.sim.inventory() == before
    assert cds(library) == []


def test_a_flavor_without_a_disk_gives_the_cd_alone(library):
    instance = builders.instance(library.image_id, root_gb=0)
    library.spawn(instance)
    assert sorted(drives(library, instance)) == ["1"]


def test_each_server_has_a_cd_of_its_own(library):
    first, second = (builders.instance(library.image_id) for _ in range(2))
    library.spawn(first)
    library.spawn(second)
    assert len(cds(library)) == 2
    library.destroy(first)
    (left,) = cds(library)
    assert left.name == f"{drives(library, second)['1'][1]['uuid']}.img"


def test_a_cd_that_an_operator_put_in_stays(library):
    instance = builders.instance(library.image_id)
    library.spawn(instance)
    (folder(library) / "tools.iso").write_bytes(bytes(2048))
    library.host.call("SR.scan", library.library)
    (tools,) = library.host.records("VDI", name_label="tools.iso")
    drive, _cd = drives(library, instance)["1"]
    api = library.host.xenapi
    vbd = api.VBD.get_by_uuid(drive["uuid"])
    api.VBD.eject(vbd)
    api.VBD.insert(vbd, api.VDI.get_by_uuid(tools["uuid"]))
    library.destroy(instance)
    assert library.host.records("VDI", name_label="tools.iso") == [
        {**tools, "VBDs": [], "physical_utilisation": tools["physical_utilisation"]}
    ]


@pytest.mark.parametrize("why", ["none", "unmarked", "unplugged"])
def test_without_a_library_nothing_is_fetched(bare_rig, why):
    if why == "unmarked":
        bare_rig.host.create_sr("iso")
    elif why == "unplugged":
        sr = bare_rig.host.create_sr("iso", **LIBRARY)
        (record,) = bare_rig.host.records("SR", uuid=sr)
        bare_rig.host.xenapi.PBD.unplug(record["PBDs"][0])
    bare_rig.start()
    before = bare_rig.sim.inventory()
    instance = builders.instance(add_cd(bare_rig, CD))
    word = "xe pbd-plug" if why == "unplugged" else "local-storage-iso"
    with pytest.raises(nova_exception.NovaException, match=word):
        bare_rig.spawn(instance)
    assert bare_rig.sim.inventory() == before
    assert bare_rig.images.served == 0


def test_a_cd_that_came_in_part_is_not_left(library):
    before = library.sim.inventory()
    image = add_cd(library, CD, size=len(CD) + 5)
    with pytest.raises(nova_exception.NovaException):
        library.spawn(builders.instance(image))
    assert library.sim.inventory() == before
    assert cds(library) == []


def test_what_a_cd_costs(library):
    instance = builders.instance(library.image_id)
    with library.recording() as made:
        library.spawn(instance, active=False)
    assert len(made) <= SPAWN_CD_ONE_VIF, made
    with library.recording() as made:
        library.destroy(instance)
    assert len(made) <= DESTROY_CD_ONE_VIF, made


@pytest.mark.parametrize("name", breaking.TROUBLES)
def test_whatever_call_breaks_no_cd_is_left(library, name):
    trouble = breaking.TROUBLES[name]
    broken = 0
    for one in breaking.break_calls(library, breaking.spawning(library), name, trouble):
        assert one.after == one.before, one
        assert cds(library) == [], one
        broken += one.failed
    assert broken or "error" not in trouble


def test_whatever_step_breaks_no_cd_is_left(library):
    steps = set()
    for one in breaking.break_steps(library, breaking.spawning(library)):
        assert one.failed, one
        assert one.after == one.before, one
        steps.add(one.method)
    assert {"boot-cd", "blank-root-disk"} <= steps

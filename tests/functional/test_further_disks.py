# SPDX-License-Identifier: Apache-2.0
"""Swap and ephemeral disks, read by programs that know nothing of this project."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from nova import exception as nova_exception

from tests import breaking, builders
from xenapi_driver.formats import mbr
from xenapi_driver.steps import file_system

MIB, GIB = builders.MIB, builders.GIB


def disk_at(rig, instance, device):
    """Return the record of the server's VDI at a position."""
    (vm,) = rig.host.records("VM", name_label=instance.name)
    drives = [rig.host.record("VBD", ref) for ref in vm["VBDs"]]
    (drive,) = [one for one in drives if one["userdevice"] == device]
    return rig.host.record("VDI", drive["VDI"])


def content_of(rig, vdi):
    """Write the disk's content to a raw file and return that."""
    raw = rig.folder / "content.raw"
    leaf = rig.sim.sr_path / f"{vdi['uuid']}.vhd"
    words = ["qemu-img", "convert", "-f", "vpc", "-O", "raw", str(leaf), str(raw)]
    subprocess.run(words, check=True)
    return raw


def partition_of(raw):
    """Return the one partition as sfdisk sees it, and what blkid finds in it."""
    told = subprocess.run(["sfdisk", "-J", str(raw)], check=True, capture_output=True)
    (partition,) = json.loads(told.stdout)["partitiontable"]["partitions"]
    offset = partition["start"] * 512
    words = ["blkid", "-p", "-o", "export", "-O", str(offset), str(raw)]
    found = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return partition, dict(line.split("=", 1) for line in found.split())


def file_system_of(raw):
    """Return a copy of what is in the partition, for a checker."""
    alone = raw.with_suffix(".part")
    with open(raw, "rb") as disk, open(alone, "wb") as out:
        disk.seek(mbr.START)
        shutil.copyfileobj(disk, out)
    return alone


def test_swap_is_disk_c_and_ready(rig):
    instance = builders.instance(rig.image_id, swap=512)
    rig.spawn(instance)
    vdi = disk_at(rig, instance, "2")
    assert (vdi["name_label"], vdi["name_description"]) == (instance.name, "swap")
    assert vdi["other_config"]["nova_disk_type"] == "swap"
    assert vdi["other_config"]["nova_instance_uuid"] == instance.uuid
    assert vdi["virtual_size"] == str(512 * MIB)
    raw = content_of(rig, vdi)
    assert raw.stat().st_size == 512 * MIB
    partition, found = partition_of(raw)
    assert (partition["type"], found["TYPE"]) == ("82", "swap")
    assert (partition["start"], partition["size"]) == (2048, 512 * 2048 - 2048)


def test_swap_of_windows_is_a_volume_for_its_paging_file(rig):
    instance = builders.instance(rig.image_id, swap=64, os_type="windows")
    rig.spawn(instance)
    raw = content_of(rig, disk_at(rig, instance, "2"))
    partition, found = partition_of(raw)
    assert (partition["type"], found["TYPE"]) == ("c", "vfat")
    subprocess.run(["fsck.vfat", "-n", str(file_system_of(raw))], check=True)


@pytest.mark.parametrize("kind", ["ext3", "ext4"])
def test_ephemeral_disks_are_formatted_as_configured(rig, kind):
    rig.set_option("default_ephemeral_format", kind, "DEFAULT")
    instance = builders.instance(rig.image_id, ephemeral_gb=1)
    rig.spawn(instance)
    vdi = disk_at(rig, instance, "4")
    assert vdi["name_label"] == f"{instance.name} ephemeral"
    assert vdi["other_config"]["nova_disk_type"] == "ephemeral"
    raw = content_of(rig, vdi)
    partition, found = partition_of(raw)
    assert (partition["type"], found["TYPE"]) == ("83", kind)
    assert found["LABEL"] == "ephemeral"
    assert partition["size"] * 512 == GIB - MIB
    alone = f"{raw}?offset={partition['start'] * 512}"
    subprocess.run(["fsck.ext4", "-f", "-n", alone], check=True)
    # Hardly more than the file system's own data, however large the disk is.
    assert int(vdi["physical_utilisation"]) < 64 * MIB


def test_an_ephemeral_disk_without_a_format_is_empty(rig):
    instance = builders.instance(rig.image_id, ephemeral_gb=1)
    rig.spawn(instance)
    raw = content_of(rig, disk_at(rig, instance, "4"))
    with open(raw, "rb") as disk:
        assert disk.read(4 * MIB).count(0) == 4 * MIB


def test_what_was_asked_for_wins_over_flavor_and_options(rig):
    rig.set_option("default_ephemeral_format", "ext3", "DEFAULT")
    instance = builders.instance(rig.image_id, ephemeral_gb=3, swap=100)
    asked = [
        {"size": 1, "guest_format": "ext4", "device_name": None},
        {"size": 2, "guest_format": None, "device_name": None},
    ]
    info = {"ephemerals": asked, "swap": {"swap_size": 64, "device_name": None}}
    rig.spawn(instance, block_device_info=info)
    sizes, found = {}, {}
    for device in ("2", "4", "5"):
        vdi = disk_at(rig, instance, device)
        sizes[device] = int(vdi["virtual_size"])
        found[device] = partition_of(content_of(rig, vdi))[1]
    assert sizes == {"2": 64 * MIB, "4": GIB, "5": 2 * GIB}
    assert [found[one]["TYPE"] for one in ("4", "5")] == ["ext4", "ext3"]
    assert [found[one]["LABEL"] for one in ("4", "5")] == ["ephemeral", "ephemeral1"]


@pytest.mark.parametrize(
    ("total", "pieces"), [(3000, [2000, 1000]), (4096, [1024] * 4), (2000, [2000])]
)
def test_large_ephemeral_disks_come_in_pieces(rig, total, pieces):
    """Reference, appendix D."""
    instance = builders.instance(rig.image_id, ephemeral_gb=total)
    rig.spawn(instance)
    disks = [disk_at(rig, instance, str(4 + at)) for at in range(len(pieces))]
    assert [int(one["virtual_size"]) // GIB for one in disks] == pieces
    assert [one["name_label"] for one in disks[:2]] == [
        f"{instance.name} ephemeral",
        f"{instance.name} ephemeral (1)",
    ][: len(disks)]


def test_a_file_system_that_nobody_makes_is_refused(rig):
    rig.set_option("default_ephemeral_format", "hfs", "DEFAULT")
    before = rig.sim.inventory()
    with pytest.raises(nova_exception.BuildAbortException, match="no file system hfs"):
        rig.spawn(builders.instance(rig.image_id, ephemeral_gb=1))
    assert rig.sim.inventory() == before


def test_a_program_that_is_missing_is_named(rig, monkeypatch):
    monkeypatch.setattr("xenapi_driver.steps.programs._PATH", "/nowhere")
    before = rig.sim.inventory()
    with pytest.raises(
        nova_exception.ComputeResourcesUnavailable,
        match="mkswap.* is not installed .*: install the package util-linux",
    ):
        rig.spawn(builders.instance(rig.image_id, swap=64))
    assert rig.sim.inventory() == before


def test_what_each_costs(rig):
    """Issue 6: 2 each, 1 more for a file system, and 1 to destroy."""
    rig.set_option("default_ephemeral_format", "ext4", "DEFAULT")
    plain, full, empty = (
        builders.instance(rig.image_id),
        builders.instance(rig.image_id, swap=64, ephemeral_gb=1),
        builders.instance(rig.image_id, swap=64, ephemeral_gb=4096),
    )
    rig.spawn(builders.instance(rig.image_id))
    costs = {}
    for name, instance in (("plain", plain), ("full", full), ("empty", empty)):
        if name == "empty":
            rig.set_option("default_ephemeral_format", None, "DEFAULT")
        with rig.recording() as made:
            rig.spawn(instance)
        with rig.recording() as unmade:
            rig.destroy(instance)
        costs[name] = len(made), len(unmade)
    spawn, destroy = costs["plain"]
    assert costs["full"] == (spawn + 2 * 3, destroy + 2)
    assert costs["empty"] == (spawn + 3 + 4 * 2, destroy + 5)


def test_destroy_leaves_none_of_them(rig):
    rig.spawn(builders.instance(rig.image_id))
    before = breaking.on_host(rig)
    instance = builders.instance(rig.image_id, swap=64, ephemeral_gb=3000)
    rig.spawn(instance)
    rig.destroy(instance)
    assert breaking.on_host(rig) == before


@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer-lost"])
@pytest.mark.parametrize("method", ["VDI.create", "PUT /import_raw_vdi", "VBD.create"])
def test_a_build_that_breaks_leaves_none_of_them(rig, method, after):
    rig.spawn(builders.instance(rig.image_id))
    before = breaking.on_host(rig)
    instance = builders.instance(rig.image_id, swap=64, ephemeral_gb=1)
    if method.startswith("PUT"):
        rig.sim.faults.add(method, action="cut", bytes=600)
    else:
        rig.sim.faults.add(method, breaking.REFUSAL, after=after, skip=1)
    with pytest.raises(nova_exception.NovaException):
        rig.spawn(instance)
    rig.sim.faults.clear()
    rig.destroy(instance)
    assert breaking.on_host(rig) == before


def test_a_file_system_of_the_largest_piece_is_small_on_the_way(rig):
    """2,000 GiB of ext3 are 150 MB here, and would be 32 GB as a VHD."""
    session = rig.driver.home.session
    record = {
        **{"name_label": "large", "name_description": "", "type": "user"},
        **{"SR": rig.driver.home.sr.ref, "virtual_size": 100 * GIB},
        **{"sharable": False, "read_only": False, "other_config": {}},
        **{"xenstore_data": {}, "sm_config": {}, "tags": []},
    }
    ref = session.call("VDI.create", record)
    with rig.recording() as made:
        file_system.put(session, ref, 100 * GIB, "ext3", "large")
    assert made == ["PUT /import_raw_vdi"]
    assert made.sent < 16 * MIB

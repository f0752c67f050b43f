# SPDX-License-Identifier: Apache-2.0
"""The config drive, read by isoinfo as a guest would."""

from __future__ import annotations

import base64
import json
import subprocess

import pytest
from nova import exception as nova_exception
from nova import objects

from tests import breaking, builders
from tests.functional.test_further_disks import content_of, disk_at
from tests.sim.clients import behave


def read(raw, path):
    """Return a file of the drive by its Rock Ridge name."""
    words = ["isoinfo", "-R", "-i", str(raw), "-x", path]
    return subprocess.run(words, check=True, capture_output=True).stdout


@pytest.fixture(autouse=True)
def asked_elsewhere(monkeypatch):
    """What Nova would ask its database and Neutron for."""
    base = "nova.api.metadata.base"
    monkeypatch.setattr(f"{base}._format_instance_mapping", lambda instance: {})
    monkeypatch.setattr(
        f"{base}.security_group_api.get_instance_security_groups", lambda *_: []
    )


def server(rig, **changes):
    """Return an instance with all that its metadata tells of."""
    values = {
        "config_drive": "True",
        "ec2_ids": objects.EC2Ids(
            instance_id="i-1", ami_id="ami-1", kernel_id=None, ramdisk_id=None
        ),
        "keypairs": objects.KeyPairList(objects=[]),
        "key_name": None,
        "launch_index": 0,
        "root_device_name": "/dev/xvda",
        "default_ephemeral_device": None,
        "default_swap_device": None,
        "kernel_id": "",
        "ramdisk_id": "",
        "reservation_id": "r-1",
        "device_metadata": None,
        "numa_topology": None,
        "user_data": base64.b64encode(b"#cloud-config\n").decode(),
        "availability_zone": "nova",
        "metadata": {"role": "web"},
    }
    return builders.instance(rig.image_id, **(values | changes))


def test_a_guest_finds_a_cd_labelled_config_2(rig):
    instance = server(rig)
    rig.spawn(instance, injected_files=[("/etc/motd", b"hello")])
    vdi = disk_at(rig, instance, "3")
    assert vdi["name_label"] == "config-2"
    assert vdi["other_config"]["nova_disk_type"] == "configdrive"
    assert vdi["other_config"]["nova_instance_uuid"] == instance.uuid
    assert vdi["virtual_size"] == str(64 * builders.MIB)
    (drive,) = (rig.host.record("VBD", ref) for ref in vdi["VBDs"])
    assert (drive["type"], drive["mode"], drive["bootable"]) == ("CD", "RO", False)
    raw = content_of(rig, vdi)
    words = ["blkid", "-p", "-o", "value", "-s", "LABEL", str(raw)]
    label = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert label == "config-2\n"
    told = json.loads(read(raw, "/openstack/latest/meta_data.json"))
    assert (told["uuid"], told["meta"]) == (instance.uuid, {"role": "web"})
    assert told["admin_pass"] == "password"
    assert read(raw, "/openstack/latest/user_data") == b"#cloud-config\n"
    network = json.loads(read(raw, "/openstack/latest/network_data.json"))
    assert set(network) == {"links", "networks", "services"}
    assert read(raw, f"/openstack{told['files'][0]['content_path']}") == b"hello"


def test_tags_of_devices_are_in_it(rig):
    mac = "fa:16:3e:00:00:00"
    rig.tagged_ports.append(objects.VirtualInterface(address=mac, tag="front"))
    disk = objects.BlockDeviceMapping(device_name="/dev/xvde", tag="scratch")
    rig.tagged_disks.append(disk)
    instance = server(rig, ephemeral_gb=1)
    rig.spawn(instance)
    raw = content_of(rig, disk_at(rig, instance, "3"))
    told = json.loads(read(raw, "/openstack/latest/meta_data.json"))["devices"]
    port, scratch = sorted(told, key=lambda one: one["type"], reverse=True)
    assert (port["mac"], port["bus"], port["tags"]) == (mac, "pci", ["front"])
    assert (scratch["tags"], scratch["bus"]) == (["scratch"], "xen")
    # What Linux calls /dev/xvde: major 202, minor 64.
    assert scratch["address"] == str(202 << 8 | 64)


def test_what_it_costs(rig):
    """Issue 6: at most 3 to build, 1 to destroy."""
    costs = []
    rig.spawn(builders.instance(rig.image_id))
    for wish in ("", "True"):
        instance = server(rig, config_drive=wish)
        with rig.recording() as made:
            rig.spawn(instance)
        with rig.recording() as unmade:
            rig.destroy(instance)
        costs.append((len(made), len(unmade)))
    assert costs[1] == (costs[0][0] + 3, costs[0][1] + 1)


def test_a_host_that_forgets_its_tasks_gets_it_too(rig):
    behave(rig.sim, keeps_own_tasks=False)
    instance = server(rig)
    rig.spawn(instance)
    raw = content_of(rig, disk_at(rig, instance, "3"))
    told = json.loads(read(raw, "/openstack/latest/meta_data.json"))
    assert told["uuid"] == instance.uuid


def test_destroy_takes_it_along(rig):
    rig.spawn(builders.instance(rig.image_id))
    before = breaking.on_host(rig)
    instance = server(rig)
    rig.spawn(instance)
    rig.destroy(instance)
    assert breaking.on_host(rig) == before


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ("VDI.create", {"error": breaking.REFUSAL}),
        ("VDI.create", {"error": breaking.REFUSAL, "after": True}),
        ("PUT /import_raw_vdi", {"action": "cut", "bytes": 700}),
        ("PUT /import_raw_vdi", {"error": ["VDI_IO_ERROR", "Device I/O errors"]}),
        ("VM.create", {"error": breaking.REFUSAL}),
    ],
)
def test_a_build_that_breaks_leaves_none(rig, method, rule):
    rig.spawn(builders.instance(rig.image_id))
    before = breaking.on_host(rig)
    instance = server(rig)
    rig.sim.faults.add(method, **rule)
    with pytest.raises(nova_exception.NovaException):
        rig.spawn(instance)
    rig.sim.faults.clear()
    rig.destroy(instance)
    assert breaking.on_host(rig) == before


def test_a_program_that_is_missing_is_named(rig):
    rig.set_option("mkisofs_cmd", "/nowhere/genisoimage", "DEFAULT")
    before = rig.sim.inventory()
    with pytest.raises(
        nova_exception.ComputeResourcesUnavailable,
        match="/nowhere/genisoimage, which makes config drives, is not installed",
    ):
        rig.spawn(server(rig))
    assert rig.sim.inventory() == before


def test_a_program_that_fails_says_why(rig):
    program = rig.folder / "genisoimage"
    program.write_text("#!/bin/sh\necho no room left >&2\nexit 28\n")
    program.chmod(0o755)
    rig.set_option("mkisofs_cmd", str(program), "DEFAULT")
    rig.spawn(builders.instance(rig.image_id))
    before = breaking.on_host(rig)
    with pytest.raises(
        nova_exception.ComputeResourcesUnavailable, match="no room left"
    ):
        rig.spawn(server(rig))
    assert breaking.on_host(rig) == before


def test_a_deployment_can_force_it(rig):
    rig.set_option("force_config_drive", True, "DEFAULT")
    instance = server(rig, config_drive="")
    rig.spawn(instance)
    assert disk_at(rig, instance, "3")["name_label"] == "config-2"


def test_files_need_it(rig):
    before = rig.sim.inventory()
    with pytest.raises(nova_exception.BuildAbortException, match="without a config"):
        rig.spawn(server(rig, config_drive=""), injected_files=[("/a", b"b")])
    assert rig.sim.inventory() == before

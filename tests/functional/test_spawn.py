# SPDX-License-Identifier: Apache-2.0
"""Build and delete: what is on the host afterwards."""

from __future__ import annotations

import pathlib
import subprocess
import threading

import pytest
from nova import exception as nova_exception
from nova import objects

from tests import builders

# Follows a VHD to its parents by libvhdi, which knows nothing of this project.
READER = pathlib.Path(__file__).parents[2] / "demo/vhd_reader.py"
SYSTEM_PYTHON = "/usr/bin/python3"


def root_disk(rig, instance) -> bytes:
    """Return the start of the server's root disk, read by libvhdi."""
    if subprocess.run([SYSTEM_PYTHON, "-c", "import pyvhdi"]).returncode:
        pytest.skip("missing: python3-libvhdi")
    (vm,) = rig.host.records("VM", name_label=instance.name)
    (vbd,) = (rig.host.record("VBD", ref) for ref in vm["VBDs"])
    vdi = rig.host.record("VDI", vbd["VDI"])
    assert int(vdi["virtual_size"]) == builders.GIB
    raw = rig.folder / "read-back.raw"
    leaf = rig.sim.sr_path / f"{vdi['uuid']}.vhd"
    subprocess.run([SYSTEM_PYTHON, str(READER), str(leaf), str(raw)], check=True)
    with open(raw, "rb") as disk:
        return disk.read(len(builders.CONTENT))


def test_a_server_runs_from_the_image(rig):
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    (vm,) = rig.host.records("VM", name_label=instance.name)
    assert vm["power_state"] == "Running"
    assert vm["other_config"]["nova_uuid"] == instance.uuid
    assert vm["memory_static_max"] == vm["memory_dynamic_min"] == str(256 * 2**20)
    assert rig.driver.list_instance_uuids() == [instance.uuid]
    assert rig.driver.get_info(instance).state == 1


def test_the_image_is_in_the_cache_once(rig):
    for _ in range(2):
        rig.spawn(builders.instance(rig.image_id))
    cached = rig.host.records("VDI", name_label=f"Glance Image {rig.image_id}")
    assert len(cached) == 1
    assert rig.images.served == 1


def test_an_entry_that_somebody_removed_is_fetched_again(rig):
    rig.spawn(builders.instance(rig.image_id))
    (entry,) = rig.host.records("VDI", name_label=f"Glance Image {rig.image_id}")
    rig.host.destroy("VDI", entry["uuid"])
    rig.spawn(builders.instance(rig.image_id))
    assert rig.images.served == 2
    assert len(rig.host.records("VDI", name_label=entry["name_label"])) == 1


def test_builds_at_once_download_once(rig):
    servers = [builders.instance(rig.image_id) for _ in range(4)]
    threads = [threading.Thread(target=rig.spawn, args=(s,)) for s in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rig.driver.list_instance_uuids()) == sorted(s.uuid for s in servers)
    assert rig.images.served == 1


def test_without_cache_the_image_is_the_disk(bare_rig, tarball):
    bare_rig.set_option("cache_images", "none")
    bare_rig.start()
    before = bare_rig.sim.inventory()
    instance = builders.instance(bare_rig.add_image(tarball), root_gb=0)
    bare_rig.spawn(instance)
    bare_rig.destroy(instance)
    assert bare_rig.sim.inventory() == before


def test_the_root_disk_holds_the_image_at_the_flavors_size(rig):
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    assert root_disk(rig, instance) == builders.CONTENT


def test_ports_become_vifs_on_the_integration_bridge(rig):
    instance = builders.instance(rig.image_id)
    rig.spawn(instance, ports=2)
    (vm,) = rig.host.records("VM", name_label=instance.name)
    vifs = [rig.host.record("VIF", ref) for ref in vm["VIFs"]]
    assert sorted(v["device"] for v in vifs) == ["0", "1"]
    assert {v["MTU"] for v in vifs} == {"1450"}
    assert all(v["currently_attached"] for v in vifs)
    networks = {rig.host.record("network", v["network"])["bridge"] for v in vifs}
    assert networks == {"br-int"}


def test_the_guest_waits_for_its_ports(rig):
    rig.spawn(builders.instance(rig.image_id), active=False)
    assert [name for name, _ in rig.virtapi.waited_for] == ["network-vif-plugged"]


def test_destroy_leaves_the_cache_entry_only(rig):
    rig.spawn(builders.instance(rig.image_id))
    instance = builders.instance(rig.image_id)
    before = rig.sim.inventory()
    rig.spawn(instance)
    rig.destroy(instance)
    after = rig.sim.inventory()
    # A clone leaves its image with a new parent file until the SR coalesces.
    for found in (before, after):
        found.pop("files")
    assert after == before


def test_destroy_twice_is_quiet(rig):
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    rig.destroy(instance)
    rig.destroy(instance)
    assert rig.host.records("VM", name_label=instance.name) == []
    with pytest.raises(nova_exception.InstanceNotFound):
        rig.driver.get_info(instance)


def test_built_halted_when_not_to_be_powered_on(rig):
    instance = builders.instance(rig.image_id)
    rig.spawn(instance, power_on=False)
    assert rig.driver.get_info(instance).state == 4


def test_a_second_server_of_the_name_is_refused(rig):
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    before = rig.sim.inventory()
    with pytest.raises(nova_exception.InstanceExists):
        rig.spawn(instance)
    assert rig.sim.inventory() == before


def test_progress_grows_to_the_end(rig):
    rig.spawn(builders.instance(rig.image_id))
    assert rig.progress == sorted(set(rig.progress))
    assert rig.progress[-1] == 100
    assert len(rig.progress) >= 5


def test_a_server_deleted_meanwhile_is_not_built(rig, monkeypatch):
    """Nova says so when the progress is saved."""
    before = rig.sim.inventory()["VM"]

    def save(instance, *args, **kwargs):
        raise nova_exception.UnexpectedDeletingTaskStateError(
            instance_uuid=instance.uuid, expected={}, actual={}
        )

    monkeypatch.setattr(objects.Instance, "save", save)
    with pytest.raises(nova_exception.UnexpectedDeletingTaskStateError):
        rig.spawn(builders.instance(rig.image_id))
    assert rig.sim.inventory()["VM"] == before


def test_raw_images_boot(rig):
    image = rig.add_image(
        builders.CONTENT, disk_format="raw", container_format="bare"
    )
    rig.spawn(builders.instance(image))
    (server,) = rig.host.records("VDI", name_label=f"Glance Image {image}")
    assert int(server["virtual_size"]) >= len(builders.CONTENT)


@pytest.mark.parametrize(
    ("said", "text"),
    [({"min_disk": 2}, "min_disk"), ({"virtual_size": 2 * builders.GIB}, "has a disk")],
)
def test_what_glance_says_is_too_large_is_not_fetched(rig, tarball, said, text):
    image = rig.add_image(tarball, **said)
    with pytest.raises(nova_exception.FlavorDiskTooSmall, match=text):
        rig.spawn(builders.instance(image))
    assert rig.images.served == 0

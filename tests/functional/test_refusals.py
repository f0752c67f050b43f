# SPDX-License-Identifier: Apache-2.0
"""Bad configuration, unfit hosts, bad images: one clear sentence, nothing left."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import socket
from unittest import mock

import pytest
from nova import exception as nova_exception

from tests import builders
from xenapi_driver.ops import startup


def refused_start(rig, pattern: str) -> None:
    with pytest.raises(nova_exception.InvalidConfiguration, match=pattern) as refusal:
        rig.start()
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_wrong_password(bare_rig):
    bare_rig.set_option("connection_password", "not-it")
    refused_start(bare_rig, "root.*connection_password")


def test_wrong_certificate_names_the_fingerprint_seen(bare_rig):
    with contextlib.closing(bare_rig.sim.serve(tls=True)) as server:
        bare_rig.set_option("connection_url", server.url)
        bare_rig.set_option("connection_fingerprints", [":".join(["AB"] * 32)])
        refused_start(bare_rig, server.fingerprint.replace(":", ":?"))


def test_the_right_fingerprint_is_enough(bare_rig):
    with contextlib.closing(bare_rig.sim.serve(tls=True)) as server:
        bare_rig.set_option("connection_url", server.url)
        bare_rig.set_option("connection_fingerprints", [server.fingerprint])
        bare_rig.start()
        assert len(bare_rig.driver.get_available_nodes()) == 1


def test_the_certificate_as_ca_file_is_enough(bare_rig):
    with contextlib.closing(bare_rig.sim.serve(tls=True)) as server:
        bare_rig.set_option("connection_url", server.url)
        bare_rig.set_option("connection_ca_file", str(server.cert_file))
        bare_rig.start()
        assert len(bare_rig.driver.get_available_nodes()) == 1


def test_unreachable_host(bare_rig):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        bare_rig.set_option("connection_url", url)
        refused_start(bare_rig, url)


@pytest.mark.parametrize(
    "matching", ["other-config:no-such-key=1", "default-sr", "nonsense"]
)
def test_sr_that_does_not_exist(bare_rig, matching):
    bare_rig.set_option("sr_matching_filter", matching)
    refused_start(bare_rig, "sr_matching_filter")


def test_foreign_compute_vm(bare_rig):
    uuid = "00000000-1111-2222-3333-444444444444"
    bare_rig.set_option("compute_vm_uuid", uuid)
    refused_start(bare_rig, uuid)


def test_compute_vm_that_runs_elsewhere(bare_rig):
    # A halted VM is resident on our host no more than another member's is.
    bare_rig.host.call("VM.hard_shutdown", bare_rig.sim.compute_vm_uuid)
    refused_start(bare_rig, bare_rig.sim.compute_vm_uuid)


def test_an_unfit_sr_is_refused_before_the_bridge_is_made(bare_rig):
    bridges = {"bridge": "br-int"}
    lvm = startup.xapi_home.find_sr

    def as_lvm(session, matching):
        return dataclasses.replace(lvm(session, matching), type="lvm")

    with (
        mock.patch.object(startup.xapi_home, "find_sr", as_lvm),
        mock.patch.object(startup.xapi_home, "sr_path", lambda *args: None),
    ):
        refused_start(bare_rig, "type lvm.*sr_matching_filter")
    assert bare_rig.host.records("network", **bridges) == []


def test_a_bridge_that_another_service_makes_meanwhile_is_taken(bare_rig):
    exists = ["BRIDGE_NAME_EXISTS", "br-int"]
    bare_rig.sim.faults.add("network.create", exists, after=True)
    bare_rig.start()
    assert len(bare_rig.host.records("network", bridge="br-int")) == 1


def test_a_bridge_that_cannot_be_made(bare_rig):
    bare_rig.sim.faults.add("network.create", ["INTERNAL_ERROR", "no bridge today"])
    refused_start(bare_rig, "no bridge today")


def test_missing_plugin(bare_rig):
    for name in ("dom0_plugin_version", "dom0_plugin_version.py"):
        (bare_rig.plugin_dir / name).unlink(missing_ok=True)
    refused_start(bare_rig, "plugin")


def test_plugin_too_old(bare_rig):
    library = bare_rig.plugin_dir / "xenapi_dom0"
    shutil.rmtree(library / "__pycache__", ignore_errors=True)
    changed = 0
    for source in [*library.glob("*.py"), bare_rig.plugin_dir / "dom0_plugin_version"]:
        text = source.read_text()
        if '"3.0"' in text:
            source.write_text(text.replace('"3.0"', '"2.1"'))
            changed += 1
    for twin in bare_rig.plugin_dir.glob("dom0_plugin_version.py"):
        shutil.copy(bare_rig.plugin_dir / "dom0_plugin_version", twin)
    assert changed
    refused_start(bare_rig, r"2\.1.*3\.0|3\.0.*2\.1")


def refused_build(rig, kind: type, pattern: str, image_id: str, **changes) -> None:
    before = rig.sim.inventory()
    with pytest.raises(kind, match=pattern):
        rig.spawn(builders.instance(image_id, **changes))
    assert rig.sim.inventory() == before


def test_damaged_image(rig, tarball, tmp_path):
    damaged = bytearray(builders.vhd_bytes(tmp_path))
    damaged[-500] ^= 0xFF  # the footer's checksum no longer holds
    damaged[20] ^= 0xFF
    image_id = rig.add_image(builders.vhd_tarball(bytes(damaged)))
    refused_build(rig, nova_exception.ImageUnacceptable, image_id, image_id)


def test_image_that_is_no_tarball(rig):
    image_id = rig.add_image(b"not an archive" * 1000)
    refused_build(rig, nova_exception.ImageUnacceptable, image_id, image_id)


def test_image_of_another_format(rig, tarball):
    image_id = rig.add_image(tarball, disk_format="qcow2")
    refused_build(rig, nova_exception.ImageUnacceptable, "qcow2", image_id)


def test_image_larger_than_the_flavor(rig, tmp_path):
    vhd = builders.vhd_bytes(tmp_path, size=2 * builders.GIB)
    image_id = rig.add_image(builders.vhd_tarball(vhd))
    # The image itself is good, and stays cached for a larger flavor.
    with pytest.raises(nova_exception.FlavorDiskTooSmall):
        rig.spawn(builders.instance(image_id))
    assert len(rig.host.records("VDI", name_label=f"Glance Image {image_id}")) == 1
    assert rig.driver.list_instances() == []


def test_image_that_glance_lost(rig, tarball):
    image_id = rig.add_image(tarball)
    del rig.images.images[image_id]
    refused_build(rig, nova_exception.ImageNotFound, image_id, image_id)


def test_transfer_that_always_breaks_off(rig, tarball, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    rig.images.cut_after = 1000
    image_id = rig.add_image(tarball)
    refused_build(rig, nova_exception.InstanceDeployFailure, image_id, image_id)
    assert rig.images.served > 1


def test_full_sr(rig, tarball):
    image_id = rig.add_image(tarball)
    rig.sim.faults.add("VDI.clone", ["SR_BACKEND_FAILURE_44", "", "no space", ""])
    with pytest.raises(nova_exception.ComputeResourcesUnavailable, match="space"):
        rig.spawn(builders.instance(image_id))
    assert rig.driver.list_instances() == []


def test_full_file_system_in_dom0(bare_rig, tarball):
    bare_rig.start()
    bare_rig.sim.faults.add("host.call_plugin", ["NO_SPACE", "the disk is full"])
    image_id = bare_rig.add_image(tarball)
    refused_build(
        bare_rig, nova_exception.ComputeResourcesUnavailable, "full", image_id
    )


def test_too_little_memory_is_refused_before_the_download(rig, tarball):
    instance = builders.instance(rig.add_image(tarball))
    instance.flavor.memory_mb = 2**24
    with pytest.raises(
        nova_exception.ComputeResourcesUnavailable, match=r"memory.*MiB\.$"
    ):
        rig.spawn(instance)
    assert rig.images.served == 0

# SPDX-License-Identifier: Apache-2.0
"""Bad configuration, unfit hosts, bad images: one clear sentence, nothing left."""

from __future__ import annotations

import contextlib
import re
import socket
from unittest import mock

import nova.conf
import pytest
from nova import exception as nova_exception

from tests import builders, fixtures
from tests.functional import doctoring
from xenapi_driver.ops import startup
from xenapi_driver.xapi import plugins, transport
from xenapi_driver.xapi.host import HostRecord

CONF = nova.conf.CONF


def refused_start(rig, pattern: str, check: str = "") -> None:
    """The driver refuses in one sentence, and the doctor says the same.

    :param check: the doctor's check; "" where it does not look
    """
    with pytest.raises(nova_exception.InvalidConfiguration, match=pattern) as refusal:
        rig.start()
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert "secret" not in sentence
    # Nova's log shows what an exception came from.
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__
    if check:
        told = doctoring.consult(rig.nova_conf())
        assert told.status == 1
        [row] = told.of(check, "failed")
        shown = f"{row['Seen'].removesuffix('.')}: {row['Remedy']}"
        assert shown.lower() == sentence.lower()


def test_wrong_password(bare_rig):
    bare_rig.set_option("connection_password", "not-it")
    refused_start(bare_rig, "root.*connection_password", "login")


@pytest.mark.parametrize(
    ("option", "value", "pattern"),
    [
        ("connection_url", None, "connection_url is not set: .*https://"),
        ("connection_password", None, "connection_password is not set"),
        ("connection_url", "192.0.2.10", "no scheme: set it to https://192.0.2.10"),
        ("connection_url", "192.0.2.10:443", "no scheme: set it to https://192.0"),
        ("connection_url", "root:secret@192.0.2.10", "= 192.0.2.10 has no scheme"),
        ("connection_url", "https:/192.0.2.10", "set it to https://192.0.2.10."),
        ("connection_url", "https://::1", "understood: .*in brackets"),
        ("connection_url", "ssh://192.0.2.10", "understood: .*unix://local"),
        ("connection_url", "ftp://root:secret@192.0.2.10", "= ftp://192.0.2.10 is not"),
        ("connection_url", "https://", "is not understood"),
        ("connection_url", "https://192.0.2.10:port", "is not understood"),
        ("connection_url", "unix://elsewhere", "is not understood"),
    ],
)
def test_an_option_that_cannot_work(bare_rig, option, value, pattern):
    bare_rig.set_option(option, value)
    refused_start(bare_rig, pattern, "options")


def test_independent_compute_that_checks_its_host(bare_rig):
    bare_rig.set_option("independent_compute", True)
    refused_start(bare_rig, "set check_host = false", "options")


@pytest.mark.parametrize(
    ("group", "option", "value"),
    [
        ("DEFAULT", "flat_injected", True),
        ("xenserver", "image_handler", "vdi_local_dev"),
    ],
)
def test_what_an_independent_compute_cannot_do(bare_rig, group, option, value):
    bare_rig.set_option("independent_compute", True)
    bare_rig.set_option("check_host", False)
    bare_rig.set_option(option, value, group)
    with pytest.raises(nova_exception.InvalidConfiguration, match=option):
        bare_rig.start()
    told = doctoring.consult(bare_rig.nova_conf())
    assert told.status == 1
    assert [row for row in told.of("options", "failed") if option in row["Seen"]]


def test_independent_compute(bare_rig):
    bare_rig.set_option("independent_compute", True)
    bare_rig.set_option("check_host", False)
    bare_rig.set_option("compute_vm_uuid", None)
    bare_rig.set_option("default_ephemeral_format", "ext4", "DEFAULT")
    bare_rig.start()
    assert len(bare_rig.driver.get_available_nodes()) == 1


def test_a_file_system_that_nobody_makes(bare_rig):
    bare_rig.set_option("default_ephemeral_format", "hfs", "DEFAULT")
    refused_start(bare_rig, "hfs is no file system .*: set it to one of swap, ext2")


def test_a_value_that_an_option_cannot_have(bare_rig, tmp_path):
    path = bare_rig.nova_conf()
    with path.open("a") as file:
        file.write("[xenserver]\nconnection_fingerprints = 12:34\n")
    [row] = doctoring.consult(path).of("options", "failed")
    assert "connection_fingerprints" in row["Seen"]
    CONF(["--config-file", str(path)], project="nova")
    try:
        with pytest.raises(
            nova_exception.InvalidConfiguration, match="connection_fingerprints"
        ):
            bare_rig.start()
    finally:
        fixtures.prepare_nova()


@pytest.mark.parametrize(
    ("group", "line", "pattern", "remedy"),
    [
        ("xenserver", "connection_fingerprints = 12:34", "12:34", "64 hexadecimal"),
        ("xenserver", "login_timeout = soon", "soon", "Correct it"),
        ("DEFAULT", "reserved_host_memory_mb = some", "some", "Correct it"),
        ("DEFAULT", "host = a b", "host address", "Correct it"),
        ("xenserver", "connection_password = pa$hidden", "dollar sign", r"write \$\$"),
    ],
)
def test_a_value_is_told_as_the_operator_wrote_it(
    bare_rig, group, line, pattern, remedy
):
    name = line.partition(" ")[0]
    if name == "connection_password":
        del bare_rig.options[group, name]
        CONF.clear_override(name, group)
    path = bare_rig.nova_conf()
    path.write_text(f"{path.read_text()}[{group}]\n{line}\n")
    told = doctoring.consult(path)
    [row] = told.of("options", "failed")
    assert row["Seen"].startswith(f"[{group}] {name} ")
    assert re.search(pattern, row["Seen"])
    assert re.search(remedy, row["Remedy"], re.IGNORECASE)
    assert not re.search("LocationInfo|hidden", str(told.rows))
    CONF(["--config-file", str(path)], project="nova")
    try:
        refused_start(bare_rig, pattern)
    finally:
        fixtures.prepare_nova()


def test_credentials_in_the_url_are_not_told_with_a_foreign_vm(bare_rig):
    url = bare_rig.host.server.url.replace("//", "//root:secret@")
    bare_rig.set_option("connection_url", url)
    bare_rig.set_option("compute_vm_uuid", "00000000-1111-2222-3333-444444444444")
    refused_start(bare_rig, "is not on the host at http://127", "compute VM")


def test_the_compute_vm_in_capitals_is_the_same(bare_rig):
    bare_rig.set_option("compute_vm_uuid", bare_rig.sim.compute_vm_uuid.upper())
    bare_rig.start()
    assert len(bare_rig.driver.get_available_nodes()) == 1


def test_dom0_s_socket_outside_of_dom0(bare_rig, monkeypatch, tmp_path):
    monkeypatch.setattr(transport, "LOCAL_SOCKET", str(tmp_path / "none"))
    bare_rig.set_option("connection_url", "unix://local")
    refused_start(
        bare_rig, "/none cannot.*outside of dom0 set .*https://ADDRESS", "connection"
    )


def test_wrong_certificate_names_the_fingerprint_seen(bare_rig):
    with contextlib.closing(bare_rig.sim.serve(tls=True)) as server:
        bare_rig.set_option("connection_url", server.url)
        bare_rig.set_option("connection_fingerprints", [":".join(["AB"] * 32)])
        seen = server.fingerprint.replace(":", ":?")
        refused_start(bare_rig, seen, "certificate")


def test_a_certificate_that_nobody_vouches_for(bare_rig):
    with contextlib.closing(bare_rig.sim.serve(tls=True)) as server:
        bare_rig.set_option("connection_url", server.url)
        refused_start(bare_rig, "connection_fingerprints", "certificate")


def test_a_certificate_that_has_ended(secured):
    file = doctoring.show_certificate(secured, days=-1)
    secured.set_option("connection_fingerprints", None)
    secured.set_option("connection_ca_file", str(file))
    refused_start(secured, "expired.*: .*new certificate", "certificate")


def test_an_address_that_no_host_of_the_pool_has(pool_rig):
    port = int(pool_rig.options["xenserver", "connection_url"].rpartition(":")[2])
    with contextlib.closing(
        pool_rig.sim.serve(host="127.0.0.4", port=port, machine=1)
    ) as gateway:
        pool_rig.set_option("connection_url", gateway.url)
        refused_start(pool_rig, "address 127.0.0.4: .*our host's", "login")


def test_a_ca_file_that_is_not_there(bare_rig):
    with contextlib.closing(bare_rig.sim.serve(tls=True)) as server:
        bare_rig.set_option("connection_url", server.url)
        bare_rig.set_option("connection_ca_file", "/nowhere/ca.pem")
        refused_start(bare_rig, "/nowhere/ca.pem", "certificate")


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


@pytest.mark.parametrize(
    ("scheme", "advice"),
    [("http", r"connection_url = https://127\.0\.0\.1\."), ("https", "firewall")],
)
def test_a_port_where_nobody_listens(bare_rig, scheme, advice):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{unused.getsockname()[1]}"
        bare_rig.set_option("connection_url", url)
        refused_start(bare_rig, rf"{url} cannot be reached.*: .*{advice}", "connection")


@pytest.mark.parametrize(
    "matching", ["other-config:no-such-key=1", "default-sr", "nonsense"]
)
def test_sr_that_does_not_exist(bare_rig, matching):
    bare_rig.set_option("sr_matching_filter", matching)
    refused_start(bare_rig, "sr_matching_filter", "storage")


def test_an_sr_that_is_not_plugged(bare_rig):
    [pool] = bare_rig.host.records("pool")
    sr = bare_rig.host.record("SR", pool["default_SR"])
    bare_rig.host.xenapi.PBD.unplug(sr["PBDs"][0])
    refused_start(bare_rig, f"SR {sr['uuid']} .* plugged.*: plug it", "storage")


def test_a_pool_without_a_default_sr(bare_rig):
    api = bare_rig.host.xenapi
    api.pool.set_default_SR(api.pool.get_all()[0], "OpaqueRef:NULL")
    refused_start(bare_rig, "no default SR.*: choose one with xe", "storage")


def test_foreign_compute_vm(bare_rig):
    uuid = "00000000-1111-2222-3333-444444444444"
    bare_rig.set_option("compute_vm_uuid", uuid)
    refused_start(bare_rig, uuid, "compute VM")


def test_compute_vm_that_does_not_run(bare_rig):
    bare_rig.host.call("VM.hard_shutdown", bare_rig.sim.compute_vm_uuid)
    refused_start(bare_rig, bare_rig.sim.compute_vm_uuid, "compute VM")


def test_compute_vm_on_another_host_of_the_pool(pool_rig):
    pool_rig.set_option("independent_compute", False)
    pool_rig.set_option("check_host", True)
    refused_start(pool_rig, "is not on the host at http://127.0.0.3", "compute VM")


def test_no_compute_vm_is_known(bare_rig, monkeypatch, tmp_path):
    monkeypatch.setattr(startup, "HYPERVISOR_UUID", tmp_path / "uuid")
    bare_rig.set_option("compute_vm_uuid", None)
    refused_start(bare_rig, "compute_vm_uuid.*check_host", "compute VM")


def test_an_unfit_sr_is_refused_before_the_bridge_is_made(bare_rig):
    uuid = bare_rig.host.create_sr("lvm", purpose="openstack")
    bare_rig.set_option("sr_matching_filter", "other-config:purpose=openstack")
    pattern = f"{uuid}.*type lvm.*: set .*vdi_remote_stream.* type ext"
    refused_start(bare_rig, pattern, "storage")
    assert bare_rig.host.records("network", bridge="br-int") == []


def test_a_host_without_hardware_virtualization(bare_rig):
    known = HostRecord.from_xapi

    def without(ref, rec):
        return known(ref, {**rec, "capabilities": ["xen-3.0-x86_64"]})

    with mock.patch.object(HostRecord, "from_xapi", without):
        refused_start(bare_rig, "HVM.*firmware", "guests")


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
    refused_start(bare_rig, "plugin", "plugins")


def test_plugin_too_old(bare_rig):
    needed = plugins.version_text(plugins.REQUIRED)
    for name in ("dom0_plugin_version", "dom0_plugin_version.py"):
        source = bare_rig.plugin_dir / name
        if source.exists():
            text, changed = re.subn(
                r'^VERSION = ".*"$', 'VERSION = "2.1"', source.read_text(), flags=re.M
            )
            assert changed == 1
            source.write_text(text)
    refused_start(
        bare_rig, rf"2\.1.*{re.escape(needed)}|{re.escape(needed)}.*2\.1", "plugins"
    )


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
    image_id = rig.add_image(tarball, disk_format="vmdk")
    refused_build(rig, nova_exception.ImageUnacceptable, "vmdk.*qcow2", image_id)


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

# SPDX-License-Identifier: Apache-2.0
"""The VM that a server becomes: what the host has of flavor and image."""

from __future__ import annotations

import contextlib
import json

import os_traits
import pytest
from nova import exception as nova_exception
from nova import objects
from nova.compute import provider_tree

from tests import breaking, builders
from xenapi_driver.sim.start import graphics as cards
from xenapi_driver.steps.build import VM_INSTANCE_KEY

# As the tests of requests hold it; each device adds what is said here.
SPAWN_CACHED_ONE_VIF = 10
VTPM = 1
VGPU = 1
HOSTNAME = 1

SECURE = {"hw_firmware_type": "uefi", "os_secure_boot": "required"}
TPM = {"hw_tpm_version": "2.0", "hw_tpm_model": "tpm-crb"}


def vm_of(rig, instance):
    (found,) = rig.host.records("VM", name_label=instance.name)
    return found


def built(rig, properties=None, specs=None, **changes):
    """Build a server and return its VM."""
    instance = builders.instance(rig.image_id, **changes)
    instance.flavor.extra_specs = specs or {}
    rig.spawn(instance, image_meta=builders.image_meta(**(properties or {})))
    return vm_of(rig, instance)


def install_certificates(rig):
    api = rig.host.xenapi
    api.pool.set_custom_uefi_certificates(api.pool.get_all()[0], "Y2VydA==")
    rig.driver.cleanup_host("compute1")
    rig.start()


def test_the_whole_record_of_a_plain_server(rig):
    instance = builders.instance(rig.image_id, metadata={"role": "db"})
    rig.spawn(instance)
    found = vm_of(rig, instance)
    memory = str(256 * builders.MIB)
    expected = {
        "power_state": "Running",
        "domain_type": "hvm",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "dc", "firmware": "bios"},
        "memory_static_min": "0",
        "memory_static_max": memory,
        "memory_dynamic_min": memory,
        "memory_dynamic_max": memory,
        "VCPUs_max": "1",
        "VCPUs_params": {},
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "destroy",
        "has_vendor_device": False,
        "VTPMs": [],
        "platform": {
            "acpi": "true",
            "apic": "true",
            "pae": "true",
            "nx": "true",
            "viridian": "false",
            "timeoffset": "0",
        },
    }
    assert {name: found[name] for name in expected} == expected
    assert found["other_config"][VM_INSTANCE_KEY] == instance.uuid
    told = dict(found["xenstore_data"])
    ports = [key for key in told if key.startswith("vm-data/networking/")]
    assert [json.loads(told.pop(key))["label"] for key in ports] == ["net"]
    assert told == {
        "vm-data/allowvssprovider": "false",
        "vm-data/auto-disk-config": "False",
        "vm-data/user-metadata/role": '"db"',
    }
    assert instance.vm_mode == "hvm"


def test_processors_as_asked(rig):
    rig.set_option("cpu_shared_set", "1-3,^2", "compute")
    rig.driver.cleanup_host("compute1")
    rig.start()
    specs = {"quota:cpu_shares": "512", "hw:cpu_max_sockets": "1"}
    found = built(rig, specs=specs)
    assert found["VCPUs_params"] == {"weight": "512", "cap": "0", "mask": "1,3"}
    assert found["platform"]["cores-per-socket"] == "1"
    (node,) = rig.driver.get_available_nodes()
    assert rig.driver.get_available_resource(node)["vcpus"] == 2


def test_uefi_with_secure_boot_and_a_tpm(rig):
    install_certificates(rig)
    built(rig)
    with rig.recording() as made:
        found = built(rig, {**SECURE, **TPM})
    assert found["power_state"] == "Running"
    assert found["HVM_boot_params"]["firmware"] == "uefi"
    assert found["platform"]["secureboot"] == "true"
    assert found["platform"]["device-model"] == "qemu-upstream-uefi"
    assert len(found["VTPMs"]) == 1
    assert len(made) <= SPAWN_CACHED_ONE_VIF + VTPM, made
    assert rig.driver.capabilities["supports_secure_boot"]


def test_traits_of_what_guests_can_have(rig):
    (node,) = rig.driver.get_available_nodes()
    tree = provider_tree.ProviderTree()
    tree.new_root(node, "00000000-0000-0000-0000-00000000000a", generation=0)
    rig.driver.update_provider_tree(tree, node)
    found = tree.data(node).traits
    assert {
        "COMPUTE_FIRMWARE_UEFI",
        "COMPUTE_SECURITY_TPM_2_0",
        "COMPUTE_SECURITY_TPM_CRB",
        "COMPUTE_NET_VIF_MODEL_NETFRONT",
    } <= found
    assert found <= set(os_traits.get_traits())


def test_a_tpm_goes_with_its_server(rig):
    instance = builders.instance(rig.image_id)
    meta = builders.image_meta(hw_firmware_type="uefi", **TPM)
    rig.spawn(instance, image_meta=meta)
    assert rig.host.records("VTPM")
    rig.destroy(instance)
    assert rig.host.records("VTPM") == []


def test_windows(rig):
    built(rig)
    changes = {"os_type": "windows", "hostname": "a-very-long-hostname"}
    with rig.recording() as made:
        found = built(rig, {"hw_device_id": 2}, **changes)
    assert found["platform"]["viridian"] == "true"
    assert found["platform"]["device_id"] == "0002"
    # It has its name at this boot, and is not renamed at the next.
    assert "vm-data/hostname" not in found["xenstore_data"]
    path = f"/local/domain/{found['domid']}/vm-data/hostname"
    assert rig.sim.world.dom0.xenstore.read(path) == b"a-very-long-hos"
    assert len(made) <= SPAWN_CACHED_ONE_VIF + HOSTNAME, made


@pytest.mark.parametrize(
    ("properties", "error", "word"),
    [
        (SECURE, nova_exception.ComputeResourcesUnavailable, "certificates"),
        ({"hw_vm_mode": "xen"}, nova_exception.ComputeResourcesUnavailable, "hvm"),
        ({"hw_vif_model": "virtio"}, nova_exception.BuildAbortException, "vif_model"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_done(
    rig, properties, error, word
):
    instance = builders.instance(rig.image_id)
    meta = builders.image_meta(**properties)
    with rig.recording() as made, pytest.raises(error, match=word):
        rig.spawn(instance, image_meta=meta)
    assert made == []
    assert rig.host.records("VM", name_label=instance.name) == []


def test_paravirtual_servers_on_hosts_that_run_them(rig):
    db = rig.sim.world.db
    (host,) = db.refs("host")
    software = {**db.row("host", host)["software_version"]}
    software["platform_version"] = "3.2.1"
    db.update("host", host, software_version=software)
    rig.driver.cleanup_host("compute1")
    rig.start()
    (node,) = rig.driver.get_available_nodes()
    found = rig.driver.get_available_resource(node)["supported_instances"]
    assert ("x86_64", "xen", "xen") in found
    instance = builders.instance(rig.image_id)
    rig.spawn(instance, image_meta=builders.image_meta(hw_vm_mode="xen"))
    made = vm_of(rig, instance)
    assert (made["domain_type"], made["PV_bootloader"]) == ("pv", "pygrub")
    assert (made["HVM_boot_policy"], made["HVM_boot_params"]) == ("", {})
    assert made["platform"]["nx"] == "false"
    assert made["power_state"] == "Running"
    assert instance.vm_mode == "xen"


def test_processors_that_the_host_lacks_keep_the_service_from_starting(bare_rig):
    bare_rig.set_option("cpu_shared_set", "0-500", "compute")
    said = "cpu_shared_set names processor"
    with pytest.raises(nova_exception.InvalidConfiguration, match=said):
        bare_rig.start()


# Devices of the host's


@pytest.fixture
def split_card(bare_rig, tarball):
    """A rig whose host has a graphics card for two servers."""
    db = bare_rig.sim.world.db
    (host,) = db.refs("host")
    cards.put_card(db, host, "GRID K1", {"GRID K100": 2, "GRID K140Q": 1})
    bare_rig.set_option("enabled_mdev_types", ["GRID K100"], "devices")
    bare_rig.start()
    bare_rig.image_id = bare_rig.add_image(tarball)
    return bare_rig


GRANT = {"00000000-0000-0000-0000-00000000000a": {"resources": {"VGPU": 1}}}


def test_a_server_has_its_share_of_a_card(split_card):
    rig = split_card
    (node,) = rig.driver.get_available_nodes()
    tree = provider_tree.ProviderTree()
    tree.new_root(node, "00000000-0000-0000-0000-00000000000a", generation=0)
    rig.driver.update_provider_tree(tree, node)
    found = tree.data(node).inventory["VGPU"]
    assert (found["total"], found["max_unit"]) == (2, 1)

    servers = [builders.instance(rig.image_id) for _number in range(2)]
    rig.spawn(servers[0], allocations=GRANT)
    with rig.recording() as made:
        rig.spawn(servers[1], allocations=GRANT)
    assert len(made) <= SPAWN_CACHED_ONE_VIF + VGPU, made
    devices = rig.host.records("VGPU")
    assert {one["VM"] for one in devices} == {
        rig.host.xenapi.VM.get_by_name_label(one.name)[0] for one in servers
    }
    assert all(one["currently_attached"] for one in devices)
    owners = {one["other_config"]["nova-instance-uuid"] for one in devices}
    assert owners == {one.uuid for one in servers}

    third = builders.instance(rig.image_id)
    with pytest.raises(nova_exception.ComputeResourcesUnavailable, match="GRID K100"):
        rig.spawn(third, allocations=GRANT)
    assert rig.host.records("VM", name_label=third.name) == []
    rig.destroy(servers[0])
    assert len(rig.host.records("VGPU")) == 1
    rig.spawn(third, allocations=GRANT)


@pytest.mark.parametrize("trouble", breaking.TROUBLES)
def test_a_build_that_breaks_at_a_device_leaves_nothing(split_card, trouble):
    rig = split_card
    rig.spawn(builders.instance(rig.image_id))
    before = breaking.on_host(rig)
    meta = builders.image_meta(hw_firmware_type="uefi", **TPM)
    calls = ("VGPU.create", "VTPM.create", "VM.remove_from_xenstore_data")
    for method in calls:
        instance = builders.instance(rig.image_id, os_type="windows")
        rig.sim.faults.add(method, **breaking.TROUBLES[trouble])
        # What a session survives is no failure.
        with contextlib.suppress(nova_exception.NovaException):
            rig.spawn(instance, image_meta=meta, allocations=GRANT)
        assert rig.sim.faults.rules() == []
        rig.destroy(instance)
        assert breaking.on_host(rig) == before
        assert rig.host.records("VTPM") + rig.host.records("VGPU") == []


def test_a_type_that_no_card_has_keeps_the_service_from_starting(bare_rig):
    bare_rig.set_option("enabled_mdev_types", ["GRID K999"], "devices")
    with pytest.raises(nova_exception.InvalidConfiguration, match="leave it out"):
        bare_rig.start()


def test_a_pci_device_goes_to_its_server(rig):
    db = rig.sim.world.db
    (device,) = db.find("PCI", pci_id="0000:02:00.0")
    db.update("PCI", device, driver_name="pciback")
    request = "00000000-0000-0000-0000-0000000000aa"
    asked = objects.InstancePCIRequest(request_id=request, alias_name="nic")
    one = objects.PciDevice(address="0000:02:00.0", request_id=request)
    instance = builders.instance(
        rig.image_id,
        pci_devices=objects.PciDeviceList(objects=[one]),
        pci_requests=objects.InstancePCIRequests(requests=[asked]),
    )
    rig.spawn(instance)
    found = vm_of(rig, instance)
    assert found["other_config"]["pci"] == "0/0000:02:00.0"
    assert found["attached_PCIs"] == [device]

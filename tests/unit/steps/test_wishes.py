# SPDX-License-Identifier: Apache-2.0
"""Which guest Nova's flavor and image make, and what is refused in words."""

from __future__ import annotations

import dataclasses

import pytest
from nova import exception as nova_exception
from nova import objects

from tests import builders
from xenapi_driver import exceptions
from xenapi_driver.steps import wishes
from xenapi_driver.steps.guest import Guest
from xenapi_driver.xapi.release import Abilities

TODAY = Abilities(secure_boot=True, cpus=8)
OLD = Abilities(pv=True, uefi=False, vtpm=False, one_node=False, cpus=8)
UEFI = {"hw_firmware_type": "uefi"}


def instance(specs=None, **changes):
    vcpus = changes.pop("vcpus", 1)
    weight = changes.pop("vcpu_weight", None)
    made = builders.instance("11111111-2222-3333-4444-555555555555", **changes)
    made.flavor.vcpus, made.flavor.vcpu_weight = vcpus, weight
    made.flavor.extra_specs = specs or {}
    return made


def guest(specs=None, can=TODAY, properties=None, cpus=frozenset(), **changes):
    meta = builders.image_meta(**(properties or {}))
    return wishes.guest_of(instance(specs, **changes), meta, can, cpus)


def test_a_plain_linux_server_is_an_hvm_guest_with_a_bios():
    assert guest() == Guest(os_type="linux")


@pytest.mark.parametrize(
    ("mode", "kernel", "can", "expected"),
    [
        (None, False, TODAY, "hvm"),
        (None, False, OLD, "hvm"),
        ("hvm", False, OLD, "hvm"),
        ("xen", False, OLD, "pv"),
        ("xen", True, OLD, "pv"),
        (None, True, OLD, "pv"),
        (None, True, TODAY, "pvh"),
        ("xen", True, TODAY, "pvh"),
    ],
)
def test_kind_of_domain(mode, kernel, can, expected):
    assert wishes.domain_type(mode, kernel, can) == expected


@pytest.mark.parametrize(
    ("mode", "kernel", "can", "error", "word"),
    [
        ("xen", False, TODAY, exceptions.UnfitHost, "hw_vm_mode=hvm"),
        ("hvm", True, OLD, exceptions.NotSupportedYet, "kernel_id"),
        ("uml", False, TODAY, exceptions.NotSupportedYet, "not uml"),
        (None, True, Abilities(pvh=False), exceptions.UnfitHost, "kernel_id"),
    ],
)
def test_kinds_of_domain_that_are_refused(mode, kernel, can, error, word):
    with pytest.raises(error, match=word):
        wishes.domain_type(mode, kernel, can)


def test_the_instance_s_mode_counts_before_the_image_s():
    properties = {"hw_vm_mode": "hvm"}
    assert guest(vm_mode="xen", can=OLD, properties=properties).domain_type == "pv"
    assert guest(can=OLD, properties={"vm_mode": "pv"}).domain_type == "pv"


def test_uefi_with_secure_boot_and_a_tpm():
    asked = {**UEFI, "os_secure_boot": "required", "hw_tpm_version": "2.0"}
    asked["hw_tpm_model"] = "tpm-crb"
    found = guest(properties=asked)
    assert (found.firmware, found.secure_boot, found.vtpm) == ("uefi", "true", True)


@pytest.mark.parametrize(
    ("policy", "firmware", "expected"),
    [
        ("optional", "uefi", "auto"),
        ("optional", "bios", "false"),
        ("disabled", "uefi", "false"),
        (None, "uefi", "false"),
    ],
)
def test_secure_boot_that_is_not_required(policy, firmware, expected):
    specs = {} if policy is None else {"os:secure_boot": policy}
    properties = {"hw_firmware_type": firmware}
    assert guest(specs, Abilities(), properties).secure_boot == expected


TPM = {"hw_tpm_version": "2.0", "hw_tpm_model": "tpm-crb"}


@pytest.mark.parametrize(
    ("properties", "can", "error", "word"),
    [
        (UEFI, OLD, exceptions.UnfitHost, "8.0"),
        ({**UEFI, "hw_vm_mode": "xen"}, OLD, exceptions.NotSupportedYet, "firmware"),
        ({"os_secure_boot": "required"}, TODAY, exceptions.NotSupportedYet, "uefi"),
        (
            {**UEFI, "os_secure_boot": "required"},
            Abilities(),
            exceptions.UnfitHost,
            "secureboot-certs",
        ),
        (TPM, TODAY, exceptions.NotSupportedYet, "hw_firmware_type=uefi"),
        ({**UEFI, **TPM}, Abilities(vtpm=False), exceptions.UnfitHost, "TPM"),
        (
            {**UEFI, "hw_tpm_version": "2.0"},
            TODAY,
            exceptions.NotSupportedYet,
            "tpm-crb",
        ),
        (
            {**UEFI, "hw_tpm_version": "1.2"},
            TODAY,
            exceptions.NotSupportedYet,
            "version 1.2",
        ),
    ],
)
def test_firmware_that_cannot_be_had(properties, can, error, word):
    with pytest.raises(error, match=word):
        guest(properties=properties, can=can)


@pytest.mark.parametrize(
    ("properties", "specs", "word"),
    [
        ({"hw_vif_model": "virtio"}, {}, "vif_model virtio"),
        ({"hw_disk_bus": "scsi"}, {}, "disk_bus scsi"),
        ({"hw_watchdog_action": "reset"}, {}, "watchdog_action reset"),
        ({"hw_video_model": "qxl"}, {}, "video_model qxl"),
        ({"img_hide_hypervisor_id": "true"}, {}, "hidden hypervisor"),
        ({}, {"hw:cpu_policy": "dedicated"}, "cpu_policy dedicated"),
        ({}, {"hw:mem_page_size": "large"}, "mem_page_size large"),
        ({}, {"hw:boot_menu": "true"}, "boot_menu true"),
        ({}, {"hw:numa_nodes": "2"}, "one NUMA node"),
        ({}, {"hw:numa_nodes": "1", "hw:numa_cpus.0": "0"}, "hw:numa_cpus"),
        ({"hw_numa_nodes": 2}, {}, "one NUMA node"),
        ({}, {"quota:cpu_shares": "100000"}, "65535"),
        ({"hw_device_id": 12345}, {}, "12345"),
    ],
)
def test_what_no_host_gives_is_refused(properties, specs, word):
    with pytest.raises(exceptions.NotSupportedYet, match=word):
        guest(specs, properties=properties)


def test_all_that_is_refused_is_named_at_once():
    properties = {"hw_vif_model": "virtio", "hw_pmu": True}
    with pytest.raises(exceptions.NotSupportedYet, match="pmu.*, vif_model"):
        guest(properties=properties)


def test_what_every_guest_has_is_not_refused():
    properties = {
        "hw_vif_model": "netfront",
        "hw_disk_bus": "xen",
        "hw_boot_menu": "no",
        "hw_pointer_model": "usbtablet",
        "hw_vif_multiqueue_enabled": "true",
        "hw_watchdog_action": "disabled",
    }
    specs = {"hw:cpu_policy": "shared", "hw:mem_page_size": "small"}
    assert guest(specs, properties=properties) == Guest(os_type="linux")


def test_one_numa_node_where_the_host_keeps_to_it():
    specs = {"hw:numa_nodes": "1"}
    assert guest(specs) == Guest(os_type="linux")
    with pytest.raises(exceptions.UnfitHost, match="numa-affinity-policy"):
        guest(specs, dataclasses.replace(TODAY, one_node=False))


def test_weight_cap_and_mask():
    specs = {"quota:cpu_quota": "50000", "quota:cpu_period": "100000"}
    found = guest(specs, vcpus=3, vcpu_weight=512, cpus=frozenset({3, 1}))
    assert (found.vcpu_weight, found.vcpu_cap, found.cpus) == (512, 150, (1, 3))
    assert guest({"quota:cpu_shares": "64"}, vcpu_weight=512).vcpu_weight == 64
    assert guest({"quota:cpu_quota": "-1"}).vcpu_cap == 0
    # What Nova's API makes of a flavor for which nobody said a weight.
    assert guest(vcpu_weight=0).vcpu_weight is None


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ({}, None),
        ({"hw:cpu_cores": "2"}, 2),
        ({"hw:cpu_sockets": "1"}, 4),
        ({"hw:cpu_max_sockets": "2"}, 2),
    ],
)
def test_cores_per_socket_as_asked(specs, expected):
    found = guest(specs, vcpus=4).cores_per_socket
    assert found == expected


def test_windows_with_the_number_of_its_drivers():
    found = guest(os_type="windows", properties={"hw_device_id": 2})
    assert found.windows
    assert found.device_id == 2


def test_video_as_the_image_asks_and_the_flavor_allows():
    asked = {"hw_video_model": "vga", "hw_video_ram": 8}
    found = guest({"hw_video:ram_max_mb": "16"}, properties=asked)
    assert (found.vga, found.video_mb) == ("std", 8)
    with pytest.raises(nova_exception.RequestedVRamTooHigh):
        guest(properties=asked)


def pci(*addresses, of_port=False):
    request = "00000000-0000-0000-0000-0000000000aa"
    about = {"alias_name": None if of_port else "gpu"}
    devices = [objects.PciDevice(address=one, request_id=request) for one in addresses]
    asked = objects.InstancePCIRequest(request_id=request, **about)
    return {
        "pci_devices": objects.PciDeviceList(objects=devices),
        "pci_requests": objects.InstancePCIRequests(requests=[asked]),
    }


def test_devices_of_the_flavor_s_alias():
    found = guest(**pci("0000:04:00.1", "05:10.0")).pci
    assert found == ("0000:04:00.1", "0000:05:10.0")


def test_devices_of_ports_are_refused():
    with pytest.raises(exceptions.NotSupportedYet, match="SR-IOV"):
        guest(**pci("0000:04:00.1", of_port=True))


def test_what_a_guest_does_without_is_left_out():
    """Images that were made for other hypervisors say so, and boot all the same."""
    hints = {"hw_qemu_guest_agent": "yes", "hw_rng_model": "virtio"}
    assert guest(properties=hints) == guest()

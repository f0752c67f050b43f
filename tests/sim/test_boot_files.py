# SPDX-License-Identifier: Apache-2.0
"""Guests that are started from a kernel in dom0."""

import pytest

from tests.sim.clients import refusal, vm_record

FOLDER = "/var/lib/xcp/guest"


@pytest.fixture
def guests(sim):
    """The folder of the kernels, with one in it."""
    folder = sim.world.dom0.root / FOLDER.lstrip("/")
    (folder / "kernel").write_bytes(b"kernel")
    return folder


def guest(client, **changes):
    changes = {"domain_type": "pvh", "PV_kernel": f"{FOLDER}/kernel", **changes}
    return client.call("VM.create", vm_record(**changes))


@pytest.mark.parametrize("kind", ["pvh", "pv_in_pvh", "pv"])
def test_a_guest_starts_from_a_kernel_in_dom0(local, guests, kind):
    (guests / "ramdisk").write_bytes(b"ramdisk")
    vm = guest(local, domain_type=kind, PV_ramdisk=f"{FOLDER}/ramdisk")
    local.call("VM.start", vm, False, False)
    assert local.call("VM.get_power_state", vm) == "Running"


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"PV_kernel": ""}, "kernel"),
        ({"PV_kernel": f"{FOLDER}/other"}, "kernel"),
        ({"PV_kernel": f"{FOLDER}/"}, "kernel"),
        ({"PV_kernel": f"{FOLDER}/away"}, "kernel"),
        ({"PV_kernel": "/boot/guest/kernel"}, "kernel"),
        ({"PV_kernel": f"{FOLDER}/../../../../tmp/kernel"}, "kernel"),
        ({"PV_ramdisk": f"{FOLDER}/other"}, "ramdisk"),
    ],
)
def test_a_boot_file_that_is_not_there_is_refused(local, guests, changes, label):
    root = guests.parents[3]
    for name in ("boot/guest/kernel", "tmp/kernel"):
        (root / name).write_bytes(b"kernel")
    (guests / "away").symlink_to(root / "tmp/kernel")
    vm = guest(local, **changes)
    found = refusal(local, "VM.start", vm, False, False)
    (path,) = changes.values()
    assert found[:3] == ["INVALID_VALUE", label, path]
    assert local.call("VM.get_power_state", vm) == "Halted"


def test_firmware_and_a_boot_loader_need_no_kernel(local, guests):
    gone = {"PV_kernel": f"{FOLDER}/other"}
    for changes in ({"domain_type": "hvm"}, {"PV_bootloader": "pygrub"}):
        vm = guest(local, **gone, **changes)
        local.call("VM.start", vm, False, False)


def test_a_guest_whose_kernel_went_does_not_come_back_from_a_reboot(local, guests):
    vm = guest(local)
    local.call("VM.start", vm, False, False)
    (guests / "kernel").unlink()
    assert refusal(local, "VM.hard_reboot", vm)[:2] == ["INVALID_VALUE", "kernel"]
    assert local.call("VM.get_power_state", vm) == "Halted"

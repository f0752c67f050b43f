# SPDX-License-Identifier: Apache-2.0
"""Drives of guests: positions, media, hot plug and who may share a disk."""

import pytest

from tests.sim.clients import (
    NULL,
    XmlClient,
    refusal,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)
from xenapi_driver.sim import Behaviour, Simulator

SIZE = str(8 << 20)
CD = {"type": "CD", "mode": "RO", "bootable": False}


@pytest.fixture
def vm(local):
    return local.call("VM.create", vm_record())


@pytest.fixture
def image(local):
    return local.call("VDI.get_by_name_label", "guest-tools.iso")[0]


def disk(client, sr, **changes):
    return client.call("VDI.create", vdi_record(sr, virtual_size=SIZE, **changes))


def start(client, vm):
    client.call("VM.start", vm, False, False)


def test_media_go_in_and_out_of_a_running_guest(sim, client):
    vm = client.call("VM.create", vm_record())
    (image, *_) = client.call("VDI.get_by_name_label", "guest-tools.iso")
    cd = client.call("VBD.create", vbd_record(vm, NULL, empty=True, **CD))
    client.call("VM.start", vm, False, False)
    assert refusal(client, "VBD.eject", cd) == ["VBD_IS_EMPTY", cd]
    client.call("VBD.insert", cd, image)
    assert refusal(client, "VBD.insert", cd, image) == ["VBD_NOT_EMPTY", cd]
    record = client.call("VBD.get_record", cd)
    assert (record["VDI"], record["empty"]) == (image, False)
    assert record["currently_attached"] is True
    assert "eject" in record["allowed_operations"]
    client.call("VBD.eject", cd)
    record = client.call("VBD.get_record", cd)
    assert (record["VDI"], record["empty"]) == (NULL, True)


def test_nobody_touches_the_drive_of_a_suspended_guest(local, vm, image):
    cd = local.call("VBD.create", vbd_record(vm, NULL, empty=True, **CD))
    start(local, vm)
    local.call("VM.suspend", vm)
    refused = ["VM_BAD_POWER_STATE", vm, "halted, running", "suspended"]
    assert refusal(local, "VBD.insert", cd, image) == refused
    assert refusal(local, "VBD.eject", cd) == ["VBD_IS_EMPTY", cd]
    local.call("VM.resume", vm, False, False)
    local.call("VBD.insert", cd, image)


def test_media_stay_out_of_disks(local, sr, vm, image):
    drive = local.call("VBD.create", vbd_record(vm, disk(local, sr)))
    for method, *params in (("VBD.insert", image), ("VBD.eject",)):
        refused = refusal(local, method, drive, *params)
        assert refused == ["VBD_NOT_REMOVABLE_MEDIA", drive]


def test_a_position_is_taken_once_however_it_is_spelt(local, sr, vm):
    local.call("VBD.create", vbd_record(vm, disk(local, sr), userdevice="1"))
    for name in ("1", "xvdb", "hdb", "sdb"):
        record = vbd_record(vm, disk(local, sr), userdevice=name)
        assert refusal(local, "VBD.create", record) == ["DEVICE_ALREADY_EXISTS", name]
    assert "1" not in local.call("VM.get_allowed_VBD_devices", vm)
    record = vbd_record(vm, disk(local, sr), userdevice="autodetect")
    assert local.call("VBD.get_userdevice", local.call("VBD.create", record)) == "0"


def test_a_guest_has_so_many_positions(sim, local, sr, vm):
    shared = disk(local, sr)
    for number in range(255):
        record = vbd_record(vm, shared, userdevice=str(number))
        local.call("VBD.create", record)
    assert local.call("VM.get_allowed_VBD_devices", vm) == []
    record = vbd_record(vm, shared, userdevice="autodetect")
    assert refusal(local, "VBD.create", record) == ["INVALID_DEVICE", "autodetect"]


@pytest.mark.parametrize(
    ("first", "second", "sharable", "allowed"),
    [
        ("RW", "RW", False, False),
        ("RW", "RO", False, False),
        ("RO", "RW", False, False),
        ("RO", "RO", False, True),
        ("RW", "RW", True, True),
    ],
)
def test_who_may_share_a_disk(local, sr, first, second, sharable, allowed):
    shared = disk(local, sr, sharable=sharable)
    vms = [local.call("VM.create", vm_record()) for _ in range(2)]
    for vm, mode in zip(vms, (first, second), strict=True):
        local.call("VBD.create", vbd_record(vm, shared, mode=mode))
    start(local, vms[0])
    if allowed:
        start(local, vms[1])
        assert local.call("VM.get_power_state", vms[1]) == "Running"
    else:
        assert refusal(local, "VM.start", vms[1], False, False) == [
            "VDI_IN_USE",
            shared,
        ]
        assert local.call("VM.get_power_state", vms[1]) == "Halted"


def test_a_disk_is_plugged_and_unplugged_while_the_guest_runs(local, sr, vm):
    start(local, vm)
    drive = local.call("VBD.create", vbd_record(vm, disk(local, sr), userdevice="5"))
    assert "plug" in local.call("VBD.get_allowed_operations", drive)
    local.call("VBD.plug", drive)
    record = local.call("VBD.get_record", drive)
    assert (record["currently_attached"], record["device"]) == (True, "xvdf")
    assert refusal(local, "VBD.plug", drive) == ["DEVICE_ALREADY_ATTACHED", drive]
    assert refusal(local, "VBD.destroy", drive)[0] == "OPERATION_NOT_ALLOWED"
    assert refusal(local, "VDI.destroy", record["VDI"])[0] == "VDI_IN_USE"
    local.call("VBD.unplug", drive)
    assert refusal(local, "VBD.unplug", drive) == ["DEVICE_ALREADY_DETACHED", drive]
    local.call("VDI.destroy", record["VDI"])
    assert refusal(local, "VBD.get_record", drive) == ["HANDLE_INVALID", "VBD", drive]


def test_hot_plug_needs_drivers(tmp_path):
    sim = Simulator(tmp_path / "state", behaviour=Behaviour(agents=False))
    try:
        local = XmlClient(sim.handle)
        sr = local.call("SR.get_by_uuid", sim.default_sr_uuid)
        vm = local.call("VM.create", vm_record())
        start(local, vm)
        drive = local.call("VBD.create", vbd_record(vm, disk(local, sr)))
        assert refusal(local, "VBD.plug", drive) == ["VM_MISSING_PV_DRIVERS", vm]
        assert local.call("VBD.get_currently_attached", drive) is False
    finally:
        sim.close()


def test_hot_plug_needs_a_disk_that_can_be_written(local, sr):
    other = local.call("VM.create", vm_record())
    start(local, other)
    reader = local.call("VBD.create", vbd_record(other, disk(local, sr), mode="RO"))
    assert refusal(local, "VBD.plug", reader) == [
        "DISK_VBD_MUST_BE_READWRITE_FOR_HVM",
        reader,
    ]
    cd = local.call(
        "VBD.create", vbd_record(other, NULL, userdevice="3", empty=True, **CD)
    )
    assert refusal(local, "VBD.plug", cd)[0] == "OPERATION_NOT_ALLOWED"
    local.call("VM.pause", other)
    writer = local.call(
        "VBD.create", vbd_record(other, disk(local, sr), userdevice="4")
    )
    assert refusal(local, "VBD.plug", writer) == [
        "VM_BAD_POWER_STATE",
        other,
        "running",
        "paused",
    ]


def test_a_guest_can_refuse_to_let_go(sim, local, sr, vm):
    drive = local.call("VBD.create", vbd_record(vm, disk(local, sr)))
    start(local, vm)
    error = ["DEVICE_DETACH_REJECTED", "VBD", drive, "busy"]
    sim.faults.add("VBD.unplug", error)
    assert refusal(local, "VBD.unplug", drive) == error
    assert local.call("VBD.get_currently_attached", drive) is True
    local.call("VBD.unplug", drive)
    assert local.call("VBD.get_currently_attached", drive) is False


STEPS = {
    "Halted": (),
    "Running": (("start", False, False),),
    "Paused": (("start", True, False),),
    "Suspended": (("start", False, False), ("suspend",)),
}
DRIVES = {
    "a disk": {},
    "a disk that stays": {"unpluggable": False},
    "a disk to read": {"mode": "RO"},
    "a full drive": CD,
    "an empty drive": {"empty": True, **CD},
}


@pytest.mark.parametrize("state", STEPS)
@pytest.mark.parametrize("plugged", [True, False])
@pytest.mark.parametrize("kind", DRIVES)
def test_what_is_told_of_a_drive_is_what_is_taken(
    local, sr, image, state, plugged, kind
):
    arguments = {"insert": (image,)}
    medium = image if DRIVES[kind].get("type") == "CD" else disk(local, sr)
    seen = set()
    for name in ("plug", "unplug", "unplug_force", "insert", "eject", "pause"):
        # A guest for each: what is done changes what is allowed.
        guest = local.call("VM.create", vm_record())
        record = vbd_record(guest, medium, **DRIVES[kind])
        drive = local.call("VBD.create", record) if plugged else ""
        for step, *more in STEPS[state]:
            local.call(f"VM.{step}", guest, *more)
        drive = drive or local.call("VBD.create", record)
        told = name in local.call("VBD.get_allowed_operations", drive)
        seen.add(told)
        if told:
            local.call(f"VBD.{name}", drive, *arguments.get(name, ()))
        else:
            assert refusal(local, f"VBD.{name}", drive, *arguments.get(name, ()))
        if state != "Halted":
            local.call("VM.hard_shutdown", guest)
    assert seen == {True, False} or state in ("Halted", "Suspended")


def test_a_drive_that_stays_is_told_first(local, sr, vm):
    record = vbd_record(vm, disk(local, sr), unpluggable=False)
    drive = local.call("VBD.create", record)
    for method in ("VBD.unplug", "VBD.unplug_force"):
        assert refusal(local, method, drive) == ["VBD_NOT_UNPLUGGABLE", drive]


def test_caching_is_not_changed_under_a_guest(local, sr, vm):
    vdi = disk(local, sr)
    local.call("VBD.create", vbd_record(vm, vdi))
    start(local, vm)
    refused = ["VM_BAD_POWER_STATE", vm, "halted", "running"]
    assert refusal(local, "VDI.set_allow_caching", vdi, True) == refused
    assert refusal(local, "VDI.set_on_boot", vdi, "reset") == refused
    assert local.call("VDI.get_allow_caching", vdi) is False


def test_a_base_copy_is_left_alone(local, sr):
    vdi = disk(local, sr)
    local.call("VDI.snapshot", vdi)
    parent = local.call("VDI.get_sm_config", vdi)["vhd-parent"]
    base = local.call("VDI.get_by_uuid", parent)
    before = local.call("VDI.get_record", base)
    for method, *more in (
        ("VDI.set_on_boot", "reset"),
        ("VDI.copy", sr),
        ("VDI.resize", str(16 << 20)),
        ("VDI.clone",),
    ):
        assert refusal(local, method, base, *more) == ["VDI_NOT_MANAGED", base]
    assert local.call("VDI.get_record", base) == before


def test_an_interface_moves_while_its_guest_sleeps(local, vm):
    first, second = local.call("network.get_all")[:2]
    vif = local.call("VIF.create", vif_record(vm, first))
    start(local, vm)
    local.call("VM.suspend", vm)
    local.call("VIF.move", vif, second)
    assert local.call("VIF.get_network", vif) == second
    local.call("VM.resume", vm, False, False)
    assert local.call("VIF.get_currently_attached", vif) is True


def test_no_two_drives_start_at_one_position(local, sr, vm):
    local.call("VBD.create", vbd_record(vm, disk(local, sr)))
    other = local.call("VBD.create", vbd_record(vm, disk(local, sr), userdevice="1"))
    local.call("VBD.set_userdevice", other, "xvda")
    refused = ["VM_DUPLICATE_VBD_DEVICE", vm, other, "xvda"]
    assert refusal(local, "VM.start", vm, False, False) == refused
    assert local.call("VM.get_power_state", vm) == "Halted"
    local.call("VBD.set_userdevice", other, "xvdb")
    start(local, vm)
